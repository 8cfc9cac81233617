"""Hugging Face configs: exact counts, defaults, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.errors import HwsimError, SpecError
from hwsim.specs.catalogs import load_model
from hwsim.specs.huggingface import FAMILIES
from hwsim.specs.load import dump_json


def rms(
    kind: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """The keys that configs of the Llama line always carry."""
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


def kv(count: int) -> dict[str, int]:
    return {"num_key_value_heads": count}


TIED = {"tie_word_embeddings": True}
LATENT = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
# Figures of the public config.json files, and the published counts; None where
# only a rounded count is published: the catalog's own must be the same.
CONFIGS: dict[str, tuple[dict[str, Any], int | None]] = {
    "llama-2-7b": (rms("llama", 32, 4096, 32, 11008, 32000), 6_738_415_616),
    "llama-3.1-8b": (
        rms("llama", 32, 4096, 32, 14336, 128256, **kv(8), head_dim=None),
        8_030_261_248,
    ),
    "llama-3.2-1b": (
        rms("llama", 16, 2048, 32, 8192, 128256, **kv(8), head_dim=64, **TIED),
        1_235_814_400,
    ),
    "mistral-7b": (rms("mistral", 32, 4096, 32, 14336, 32000), 7_241_732_096),
    "mistral-nemo": (
        rms("mistral", 40, 5120, 32, 14336, 131072, **kv(8), head_dim=128),
        12_247_782_400,
    ),
    "mixtral-8x7b": (
        rms("mixtral", 32, 4096, 32, 14336, 32000, **kv(8), sliding_window=None),
        46_702_792_704,
    ),
    "qwen2.5-7b": (
        rms("qwen2", 28, 3584, 28, 18944, 152064, **kv(4)),
        7_615_616_512,
    ),
    "qwen2.5-0.5b": (
        rms("qwen2", 24, 896, 14, 4864, 151936, **kv(2), **TIED),
        494_032_768,
    ),
    "qwen3-8b": (
        rms("qwen3", 36, 4096, 32, 12288, 151936, **kv(8)),
        8_190_735_360,
    ),
    "qwen3-30b-a3b": (
        rms(
            "qwen3_moe", 48, 2048, 32, 6144, 151936, **kv(4), head_dim=128,
            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
            decoder_sparse_step=1, mlp_only_layers=[],
        ),
        30_532_122_624,
    ),
    "qwen2-57b-a14b": (
        rms(
            "qwen2_moe", 28, 3584, 28, 18944, 151936, **kv(4), num_experts=64,
            num_experts_per_tok=8, moe_intermediate_size=2560,
            shared_expert_intermediate_size=20480,
        ),
        None,
    ),
    "deepseek-v2-lite": (
        rms(
            "deepseek_v2", 27, 2048, 16, 10944, 102400, **kv(16), **LATENT,
            q_lora_rank=None, n_routed_experts=64, n_shared_experts=2,
            num_experts_per_tok=6, moe_intermediate_size=1408,
            first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy",
        ),
        15_706_484_224,
    ),
    "deepseek-v3": (
        rms(
            "deepseek_v3", 61, 7168, 128, 18432, 129280, **kv(128), **LATENT,
            q_lora_rank=1536, n_routed_experts=256, n_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=2048,
            first_k_dense_replace=3, moe_layer_freq=1, topk_method="noaux_tc",
            num_nextn_predict_layers=1,
        ),
        671_026_419_200,
    ),
    "gpt-oss-20b": (
        rms(
            "gpt_oss", 24, 2880, 64, 2880, 201088, **kv(8), head_dim=64,
            attention_bias=True, num_local_experts=32, num_experts_per_tok=4,
            sliding_window=128,
            layer_types=["sliding_attention", "full_attention"] * 12,
        ),
        20_914_757_184,
    ),
    "gemma-2b": (
        rms("gemma", 18, 2048, 8, 16384, 256000, **kv(1), hidden_act="gelu"),
        2_506_172_416,
    ),
    "gemma-2-9b": (
        rms("gemma2", 42, 3584, 16, 14336, 256000, **kv(8), head_dim=256),
        9_241_705_984,
    ),
    "gemma-3-1b": (
        rms(
            "gemma3_text", 26, 1152, 4, 6912, 262144, **kv(1), head_dim=256,
            sliding_window=512, sliding_window_pattern=6,
        ),
        999_885_952,
    ),
    "phi-2": (
        rms("phi", 32, 2560, 32, 10240, 51200, partial_rotary_factor=0.4),
        2_779_683_840,
    ),
    "phi-3-mini": (
        rms("phi3", 32, 3072, 32, 8192, 32064, sliding_window=2047),
        3_821_079_552,
    ),
    "gpt2": (
        {
            "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
            "vocab_size": 50257, "n_positions": 1024, "n_inner": None,
            "activation_function": "gelu_new",
        },
        124_439_808,
    ),
    "gpt-1": (
        {
            "model_type": "openai-gpt", "n_layer": 12, "n_embd": 768, "n_head": 12,
            "vocab_size": 40478, "n_positions": 512, "afn": "gelu",
        },
        116_534_784,
    ),
    "gpt-j-6b": (
        {
            "model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16,
            "vocab_size": 50400, "rotary_dim": 64, "tie_word_embeddings": False,
        },
        6_050_882_784,
    ),
    "gpt-neox-20b": (
        rms("gpt_neox", 44, 6144, 64, 24576, 50432, rotary_pct=0.25),
        20_554_567_680,
    ),
    "opt-6.7b": (
        {
            "model_type": "opt", "num_hidden_layers": 32, "hidden_size": 4096,
            "num_attention_heads": 32, "ffn_dim": 16384, "vocab_size": 50272,
            "max_position_embeddings": 2048, "word_embed_proj_dim": 4096,
        },
        6_658_473_984,
    ),
    "opt-350m": (
        {
            "model_type": "opt", "num_hidden_layers": 24, "hidden_size": 1024,
            "num_attention_heads": 16, "ffn_dim": 4096, "vocab_size": 50272,
            "word_embed_proj_dim": 512, "do_layer_norm_before": False,
        },
        331_196_416,
    ),
    "bloom": (
        {
            "model_type": "bloom", "n_layer": 70, "n_embed": 14336,
            "num_attention_heads": 112, "vocab_size": 250880,
        },
        176_247_271_424,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon", "num_hidden_layers": 32, "hidden_size": 4544,
            "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True,
            "parallel_attn": True, "new_decoder_architecture": False,
        },
        6_921_720_704,
    ),
    "falcon-40b": (
        {
            "model_type": "falcon", "num_hidden_layers": 60, "hidden_size": 8192,
            "num_attention_heads": 128, "num_kv_heads": 8, "vocab_size": 65024,
            "new_decoder_architecture": True,
        },
        41_303_293_952,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt", "n_layers": 32, "d_model": 4096, "n_heads": 32,
            "vocab_size": 50432, "expansion_ratio": 4, "no_bias": True,
            "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
        },
        6_649_286_656,
    ),
    "glm-4-9b": (
        {
            "model_type": "chatglm", "num_layers": 40, "hidden_size": 4096,
            "num_attention_heads": 32, "ffn_hidden_size": 13696,
            "padded_vocab_size": 151552, "multi_query_attention": True,
            "multi_query_group_num": 2, "kv_channels": 128, "add_qkv_bias": True,
        },
        9_399_951_360,
    ),
    "bert-base": (rms("bert", 12, 768, 12, 3072, 30522), 109_482_240),
    "bert-large": (rms("bert", 24, 1024, 16, 4096, 30522), 335_141_888),
    "roberta-base": (
        rms(
            "roberta", 12, 768, 12, 3072, 50265, max_position_embeddings=514,
            type_vocab_size=1, pad_token_id=1,
        ),
        124_645_632,
    ),
    "distilbert": (
        {
            "model_type": "distilbert", "n_layers": 6, "dim": 768, "n_heads": 12,
            "hidden_dim": 3072, "vocab_size": 30522,
        },
        66_362_880,
    ),
    "t5-base": (
        {
            "model_type": "t5", "num_layers": 12, "d_model": 768, "num_heads": 12,
            "d_kv": 64, "d_ff": 3072, "vocab_size": 32128,
        },
        222_903_552,
    ),
    "flan-t5-xxl": (
        {
            "model_type": "t5", "num_layers": 24, "d_model": 4096, "num_heads": 64,
            "d_kv": 64, "d_ff": 10240, "vocab_size": 32128,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
        11_135_332_352,
    ),
    "glm-4.5": (
        rms(
            "glm4_moe", 92, 5120, 96, 12288, 151552, **kv(8), head_dim=128,
            attention_bias=True, use_qk_norm=True, n_routed_experts=160,
            n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3,
            moe_intermediate_size=1536, partial_rotary_factor=0.5,
        ),
        None,
    ),
    "minimax-m2": (
        rms(
            "minimax_m2", 62, 3072, 48, 1536, 200064, **kv(8), head_dim=128,
            rotary_dim=64, num_local_experts=256, num_experts_per_tok=8,
            use_qk_norm=True, use_routing_bias=True,
        ),
        None,
    ),
    "llama-4-scout": (
        {
            "model_type": "llama4",
            "text_config": rms(
                "llama4_text", 48, 5120, 40, 8192, 202048, **kv(8),
                intermediate_size_mlp=16384, num_local_experts=16,
                num_experts_per_tok=1, no_rope_layers=[1, 1, 1, 0] * 12,
            ),
        },
        107_769_861_120,
    ),
    "nemotron-4-15b": (
        rms("nemotron", 32, 6144, 48, 24576, 256000, **kv(8)),
        None,
    ),
}  # fmt: skip
SHAPE = (
    "kind", "layers", "encoder_layers", "hidden", "heads", "kv_heads", "head_dim",
    "gated_ffn", "activation", "vocab", "norm", "norm_bias", "qkv_bias", "out_bias",
    "ffn_bias", "position", "position_rows", "rotary_fraction", "tied_embeddings",
    "output_head", "head_bias", "parallel_block", "norms_per_layer", "final_norm",
    "embedding_norm", "qk_norm", "token_types", "pooler", "moe", "mla",
    "attention_sinks",
)  # fmt: skip


def write(folder: Path, config: Any, name: str = "config.json") -> str:
    path = folder / name
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_match_the_published_integer(name: str, tmp_path: Path) -> None:
    config, count = CONFIGS[name]
    wanted = count or load_model(name).num_parameters
    assert load_model(write(tmp_path, config)).num_parameters == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_config_and_catalog_agree(name: str, tmp_path: Path) -> None:
    ours = load_model(name)
    theirs = load_model(write(tmp_path, CONFIGS[name][0]))
    assert {k: getattr(theirs, k) for k in SHAPE} == {
        k: getattr(ours, k) for k in SHAPE
    }


@pytest.mark.parametrize(
    "name", ["mistral-7b", "gpt-oss-20b", "gemma-2-9b", "gemma-3-1b", "llama-4-scout"]
)
def test_windows_agree_with_the_catalog(name: str, tmp_path: Path) -> None:
    theirs = load_model(write(tmp_path, CONFIGS[name][0]))
    assert theirs.layer_kinds == load_model(name).layer_kinds


def variant(tmp_path: Path, name: str, **changes: Any) -> Any:
    return load_model(write(tmp_path, CONFIGS[name][0] | changes))


def test_null_window_and_absent_window_differ(tmp_path: Path) -> None:
    assert variant(tmp_path, "mistral-7b").sliding_window == 4096
    assert variant(tmp_path, "mistral-7b", sliding_window=None).sliding_window is None


def test_qwen_windows(tmp_path: Path) -> None:
    on = {"use_sliding_window": True, "sliding_window": 1000, "max_window_layers": 25}
    model = variant(tmp_path, "qwen2.5-7b", **on)
    assert [k.window for k in model.layer_kinds] == [None] * 25 + [1000] * 3
    off = variant(tmp_path, "qwen2.5-7b", **(on | {"use_sliding_window": False}))
    assert off.sliding_window is None
    types = ["full_attention"] + ["sliding_attention"] * 27
    listed = variant(tmp_path, "qwen2.5-7b", **on, layer_types=types)
    assert listed.layer_kinds[0].window is None
    assert listed.layer_kinds[1].window == 1000


def test_biases_and_head_width_of_llama(tmp_path: Path) -> None:
    plain = variant(tmp_path, "llama-2-7b")
    biased = variant(tmp_path, "llama-2-7b", attention_bias=True, mlp_bias=True)
    added = 32 * (4 * 4096 + 2 * 11008 + 4096)
    assert biased.num_parameters - plain.num_parameters == added
    assert variant(tmp_path, "llama-2-7b", head_dim=64).head_dim == 64


def test_falcon_variants(tmp_path: Path) -> None:
    old = variant(
        tmp_path, "falcon-7b", multi_query=False, parallel_attn=False, alibi=True
    )
    assert (old.kv_heads, old.norms_per_layer, old.position) == (71, 2, "alibi")
    assert not old.parallel_block
    one = variant(tmp_path, "falcon-40b", num_ln_in_parallel_attn=1)
    assert (one.norms_per_layer, one.kv_heads) == (1, 8)


def test_mpt_positions(tmp_path: Path) -> None:
    learned = variant(tmp_path, "mpt-7b", attn_config={"alibi": False}, max_seq_len=99)
    assert (learned.position, learned.position_rows) == ("learned", 99)
    rotary = variant(tmp_path, "mpt-7b", attn_config={"alibi": False, "rope": True})
    assert rotary.position == "rotary"
    bare = variant(
        tmp_path, "mpt-7b", attn_config={"alibi": False}, learned_pos_emb=False
    )
    assert bare.position == "none"


def test_deepseek_without_experts_and_with_other_first_layers(tmp_path: Path) -> None:
    dense = variant(tmp_path, "deepseek-v2-lite", n_routed_experts=None)
    assert dense.moe is None
    assert dense.mla is not None
    absent = dict(CONFIGS["deepseek-v2-lite"][0])
    del absent["q_lora_rank"]
    model = load_model(write(tmp_path, absent))
    assert model.mla is not None
    assert model.mla.q_lora_rank == 1536


def test_ernie_counts_its_task_table(tmp_path: Path) -> None:
    config = rms(
        "ernie", 12, 768, 12, 3072, 40000, max_position_embeddings=2048,
        type_vocab_size=4, use_task_id=True, task_type_vocab_size=3,
    )  # fmt: skip
    ours = load_model("ernie-3.0-base")
    assert load_model(write(tmp_path, config)).num_parameters == ours.num_parameters


def test_language_part_of_a_vision_model(tmp_path: Path) -> None:
    inner = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024,
    }  # fmt: skip
    model = load_model(write(tmp_path, {"model_type": "gemma3", "text_config": inner}))
    assert model.num_parameters == 3_880_263_168
    assert "gemma3" in model.notes[0]


def test_folder_and_name(tmp_path: Path) -> None:
    folder = tmp_path / "My Model (v2)"
    folder.mkdir()
    write(folder, CONFIGS["gpt2"][0] | {"quantization_config": {"bits": 4}})
    model = load_model(str(folder))
    assert (model.name, model.id) == ("My Model (v2)", "my-model-v2")
    named = variant(folder, "gpt2", _name_or_path="openai/GPT 2!")
    assert (named.name, named.id) == ("GPT 2!", "gpt-2")


def test_bare_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine", CONFIGS["gpt2"][0])
    monkeypatch.chdir(tmp_path)
    assert load_model("mine").num_parameters == 124_439_808


def test_own_json_spec_is_told_from_a_config(tmp_path: Path) -> None:
    spec = load_model("gpt2")
    path = tmp_path / "config.json"
    path.write_text(dump_json(spec), encoding="utf-8")
    assert load_model(str(path)) == spec


# Each fault of a config, and what the one line says about it.
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "mamba"}, "model_type: unknown architecture 'mamba'"),
    ({"model_type": "lama"}, "did you mean llama"),
    ({"model_type": None, "architectures": ["X"]}, "model_type: is missing"),
    ({"model_type": 3}, "model_type: 3 is not a text"),
    ({"hidden_size": None}, "hidden_size: is missing; add it"),
    ({"hidden_size": "4096"}, "hidden_size: '4096' is not a whole number"),
    ({"hidden_size": 4096.0}, "hidden_size: 4096.0 is not a whole number"),
    ({"hidden_size": True}, "hidden_size: True is not a whole number"),
    ({"hidden_size": -1}, "hidden_size: -1 is not between 1 and 10000000"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000 is not between"),
    ({"vocab_size": 10**30}, "vocab_size: 1000000000000000000000000000000 is not"),
    ({"num_attention_heads": 0}, "num_attention_heads: 0 is not between"),
    ({"num_attention_heads": 31}, "hidden (4096) is not a multiple of heads (31)"),
    ({"num_key_value_heads": 5}, "heads (32) is not a multiple of kv_heads (5)"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings: 'no' is not true or false"),
    ({"hidden_act": "tanh"}, "hidden_act: unknown activation 'tanh'; known: gelu"),
    ({"max_position_embeddings": [1]}, "max_position_embeddings: [1] is not a whole"),
]
OTHER_FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("gpt-neox-20b", {"rotary_pct": 2}, "rotary_pct: 2 is not above 0"),
    ("gpt-neox-20b", {"rotary_pct": "x"}, "rotary_pct: 'x' is not a number"),
    ("gpt-oss-20b", {"layer_types": ["full_attention"]}, "has 1 entries for 24"),
    ("gpt-oss-20b", {"layer_types": "all"}, "'all' is not a list of names"),
    ("gpt-oss-20b", {"layer_types": ["odd"] * 24}, "layer_types: unknown type 'odd'"),
    ("qwen3-30b-a3b", {"mlp_only_layers": [3]}, "mlp_only_layers: [3] are not"),
    ("qwen3-30b-a3b", {"num_experts_per_tok": 999}, "only 128 experts"),
    ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq: only 1 is supported"),
    ("mpt-7b", {"attn_config": 3}, "attn_config: 3 is not a table"),
    ("mpt-7b", {"attn_config": {"alibi": 1}}, "attn_config: alibi: 1 is not true"),
    ("opt-6.7b", {"layer_norm_elementwise_affine": False}, "is not supported"),
    ("bert-base", {"position_embedding_type": "relative_key"}, "is not supported"),
    ("roberta-base", {"max_position_embeddings": 2}, "2 leaves no position"),
    ("t5-base", {"feed_forward_proj": "odd"}, "unknown activation 'odd'"),
]


def refused(path: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(path.removesuffix("/config.json"))
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_faults_name_file_and_key(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refused(write(tmp_path, CONFIGS["llama-2-7b"][0] | changes))


@pytest.mark.parametrize(("name", "changes", "message"), OTHER_FAULTS)
def test_faults_of_other_families(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refused(write(tmp_path, CONFIGS[name][0] | changes))


def test_every_known_architecture_is_named(tmp_path: Path) -> None:
    message = refused(write(tmp_path, {"model_type": "whatever"}))
    assert all(family in message for family in FAMILIES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "is not a table of keys"),
        ("[" * 100_000, "is nested too deeply"),
        ("", "is not valid JSON"),
    ],
)
def test_broken_json(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    assert message in refused(str(path))


def test_folder_without_config(tmp_path: Path) -> None:
    assert "has no config.json" in refused(str(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(data=st.data())
def test_no_value_breaks_the_reader(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config, _ = CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))]
    key = data.draw(st.sampled_from(sorted(config)))
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, config | {key: data.draw(json_values)}, "drawn.json")
    try:
        fine = load_model(path).num_parameters > 0
    except HwsimError as error:
        fine = "drawn.json: " in str(error)
    assert fine
