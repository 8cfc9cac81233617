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
from hwsim.specs.huggingface.read import FAMILIES
from hwsim.specs.load import dump_json
from tests.strategies.huggingface_configs import CONFIGS, rms

SHAPE = (
    "kind", "layers", "encoder_layers", "hidden", "heads", "kv_heads", "head_dim",
    "gated_ffn", "activation", "vocab", "norm", "norm_bias", "qkv_bias", "out_bias",
    "ffn_bias", "position", "position_rows", "rotary_fraction", "tied_embeddings",
    "output_head", "head_bias", "parallel_block", "norms_per_layer", "final_norm",
    "embedding_norm", "qk_norm", "token_types", "pooler", "moe", "mla",
    "attention_sinks", "pattern", "ssm", "full_attention",
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


def test_hybrids_with_two_branches_a_layer(tmp_path: Path) -> None:
    """Counts of the published checkpoints (Bamba 9B, Granite 4.0 H-Tiny)."""
    bamba = {
        **rms("bamba", 32, 4096, 32, 14336, 128256), "num_key_value_heads": 8,
        "attn_layer_indices": [9, 18, 27], "mamba_n_heads": 128,
        "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1,
        "mamba_expand": 2,
    }  # fmt: skip
    model = load_model(write(tmp_path, bamba))
    assert model.num_parameters == pytest.approx(9.78e9, rel=1e-3)
    assert model.pattern.count("a") == 3
    types = ["attention" if i in {5, 15, 25, 35} else "mamba" for i in range(40)]
    granite = {
        **rms("granitemoehybrid", 40, 1536, 12, 512, 100352), "num_key_value_heads": 4,
        "layer_types": types, "mamba_n_heads": 48, "mamba_d_head": 64,
        "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_expand": 2,
        "num_local_experts": 64, "num_experts_per_tok": 6,
        "shared_intermediate_size": 1024, "position_embedding_type": "nope",
        "tie_word_embeddings": True,
    }  # fmt: skip
    tiny = load_model(write(tmp_path, granite))
    assert tiny.num_parameters == pytest.approx(6.9e9, rel=0.02)
    dense = load_model(write(tmp_path, granite | {"num_local_experts": 0}))
    assert dense.moe is None
    assert dense.ffn == 1024


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers_block_type": ["mamba", "gru"]}, "layers_block_type.*unknown type"),
        ({"num_hidden_layers": 51}, "has 52 entries for 51 layers"),
        ({"hybrid_override_pattern": "MX*"}, "entries for 52 layers"),
        ({"mamba_num_heads": None}, "mamba_num_heads.*is missing"),
        ({"mamba_num_heads": 63}, "groups"),
    ],
)
def test_faults_of_hybrids(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        variant(tmp_path, "nemotron-3-nano", **change)


@pytest.mark.parametrize("key", ["hidden_size_per_layer_input", "num_kv_shared_layers"])
def test_small_gemma4_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}.*not supported"):
        variant(tmp_path, "gemma-4-31b", **{key: 4})


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
    ({"model_type": "rwkv"}, "model_type: unknown architecture 'rwkv'"),
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


def test_selective_scans_are_read_from_their_configs(tmp_path):
    falcon = {
        "model_type": "falcon_mamba", "hidden_size": 4096, "intermediate_size": 8192,
        "expand": 16, "state_size": 16, "num_hidden_layers": 64, "conv_kernel": 4,
        "time_step_rank": 256, "use_bias": False, "use_conv_bias": True,
        "vocab_size": 65024, "tie_word_embeddings": False, "hidden_act": "silu",
    }  # fmt: skip
    assert load_model(write(tmp_path, falcon)).num_parameters == 7_272_665_088
    small = {
        "model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24,
        "expand": 2, "time_step_rank": "auto", "vocab_size": 50280,
    }  # fmt: skip
    model = load_model(write(tmp_path, small))
    assert model.ssm.step_rank == 48
    assert model.num_parameters == 129_135_360
