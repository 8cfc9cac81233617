"""Mappings from a source's rows to models, systems and stacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwsim.analysis.published.rows import RunPredictor
from hwsim.errors import InputError
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.published.model import run_model
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import (
    Condition,
    PublishedMap,
    load_mappings,
    mapped,
)

MAPPINGS = load_mappings()


def run(**cells: Any) -> PublishedRun:
    return PublishedRun("runs.csv", 1, **cells)


def test_every_name_in_the_mappings_is_in_a_catalog() -> None:
    for mapping in MAPPINGS:
        for name in mapping.systems.values():
            assert load_system(name).num_devices >= 1
        for name in mapping.slices.values():
            assert load_system(name).networks[-1].kind == "dcn"
        for rule in mapping.rules:
            if rule.stack:
                load_stack(rule.stack)
            if rule.system:
                load_system(rule.system)
            if rule.model:
                load_model(rule.model)


def test_the_general_mapping_comes_first() -> None:
    assert MAPPINGS[0].id == "any"


def test_conditions_need_every_field() -> None:
    when = Condition(source=("lab",), device=("a100",), min_devices=8, blank=("tp",))
    good = run(source="The LAB", device="A100-SXM", num_devices=8)
    assert when.holds(good)
    assert not when.holds(run(source="lab", device="H100", num_devices=8))
    assert not when.holds(run(source="lab", device="A100", num_devices=4))
    assert not when.holds(run(source="lab", device="A100", num_devices=8, tp=2))


def test_fill_leaves_given_cells_and_change_does_not() -> None:
    mapping = PublishedMap.model_validate(
        {
            "id": "m",
            "name": "m",
            "rules": [
                {"fill": {"seq_len": 1024, "tp": 2}, "change": {"dtype": "fp8"}},
                {"fill": {"seq_len": 512}},
            ],
            "sources": [{"kind": "assumed", "title": "t", "date": "2026-11-22"}],
        }
    )
    found = mapped(run(tp=4, dtype="fp8_full"), (mapping,))
    assert (found.run.tp, found.run.seq_len, found.run.dtype) == (4, 512, "fp8")
    assert set(found.assumed) == {"seq_len = 512", "dtype = fp8"}


@pytest.mark.parametrize(
    ("cells", "stack", "system"),
    [
        (
            {"source": "llm-foundry README", "device": "A100-40GB-SXM"},
            "llm-foundry-2023",
            "a100-40gb-roce-1600",
        ),
        (
            {
                "source": "llm-foundry README",
                "device": "H100-80GB-SXM",
                "notes": "FSDP mixed precision mode DEFAULT; grad accumulation 4",
            },
            "llm-foundry-2023-amp",
            "eos",
        ),
        (
            {"source": "Megatron-Bridge docs 26.02 NeMo Container", "device": "GB200"},
            "nemo-graphs",
            "gb200-nvl72-x8",
        ),
        (
            {"source": "Megatron-Bridge 25.09 NeMo", "device": "H100-80GB-SXM"},
            "nemo",
            "eos",
        ),
        (
            {"source": "bigscience / Megatron + Deepspeed ZeRO", "device": "V100-32GB"},
            "deepspeed-2021",
            "jean-zay-v100",
        ),
        (
            {"source": "some torchtitan page", "device": "H100-80GB-SXM"},
            "torchtitan-eager",
            "grand-teton-h100-500w-64",
        ),
        (
            {"source": "torchtitan", "device": "H100", "notes": "torch.compile"},
            "torchtitan",
            "grand-teton-h100-500w-64",
        ),
        (
            {"source": "torchtitan", "device": "A100-80GB-SXM", "dtype": "float8"},
            "torchtitan",
            "dgx-a100-80gb-hdr-128",
        ),
        (
            {"source": "Nemotron-4, Megatron-LM", "device": "H100-80GB-SXM"},
            "megatron-core-plain",
            "eos",
        ),
        (
            {"source": "Megatron-LM", "device": "H100", "notes": "--tp-comm-overlap"},
            "megatron-core",
            "eos",
        ),
        (
            {"source": "Megatron-LM", "device": "A100-80GB-SXM", "dtype": "bf16"},
            "megatron-2022",
            "dgx-a100-80gb-hdr-128",
        ),
        (
            {"source": "Korthikanti et al. 2022", "device": "A100-80GB-SXM"},
            "megatron-2021",
            "selene",
        ),
        (
            {
                "source": "PaLM (arXiv 2204.02311) footnotes, from Smith et al. 2022",
                "model": "MT-NLG-530B",
                "device": "A100-80GB-SXM",
            },
            "deepspeed-bf16",
            "selene",
        ),
        (
            {"source": "The Llama 3 Herd of Models", "device": "H100-80GB-SXM"},
            "llama-3",
            "meta-24k-roce",
        ),
        ({"source": "a blog", "device": "TPU-v6e"}, "maxtext", "tpu-v6e-256-x4"),
    ],
)
def test_stack_and_system_by_source(
    cells: dict[str, str], stack: str, system: str
) -> None:
    found = mapped(run(**cells), MAPPINGS)
    assert found.stack == stack
    assert found.system == system


def test_hybrid_sharding_said_in_words_is_inside_a_node() -> None:
    cells = {"source": "some fsdp page", "device": "H100", "notes": "HSDP"}
    assert mapped(run(**cells, num_devices=64), MAPPINGS).run.dp_shard == 8
    assert mapped(run(**cells, num_devices=8), MAPPINGS).run.dp_shard is None


def test_selective_recomputation_of_torchtitan_is_every_second_layer() -> None:
    cells = {"source": "torchtitan", "device": "H100", "recompute": "selective op"}
    found = mapped(run(**cells), MAPPINGS).run
    assert (found.recompute, found.recompute_every) == ("full", 2)


@pytest.mark.parametrize(
    ("notes", "slices"),
    [
        ("2 slice(s) of v4-128 (64 chips each)", 2), ("1 slice(s) of v5e-256", 1),
        ("2 slices; per_device_batch_size 1", 2), ("per slice", 1), ("", 1),
        ("0 slices", 1),
    ],
)  # fmt: skip
def test_slices_said_in_words_are_joined_by_the_data_centre(
    notes: str, slices: int
) -> None:
    row = run(device="TPU-v4", num_devices=128, notes=notes, source="maxtext")
    assert row.slices == slices
    found = RunPredictor().predict(mapped(replace(
        row, model="MaxText-22B", global_batch=1664, tp=1, seq_len=2048, dtype="bf16",
        recompute="full", tflops_per_device=150.0,
    ), MAPPINGS))  # fmt: skip
    assert found.result is not None
    kinds = [network.kind for network in found.result.system.networks]
    assert kinds == (["torus", "dcn"] if slices > 1 else ["torus"])
    shard = 128 // slices if slices > 1 else None
    assert found.result.config.dp_shard == shard
    assert found.result.system.num_devices == 128


def test_slices_of_other_devices_are_no_slices_of_pods() -> None:
    row = run(device="H100-SXM", num_devices=16, notes="2 slices of a MIG", tp=1)
    assert row.slices == 1
    assert (
        mapped(row, MAPPINGS).system == mapped(replace(row, notes=""), MAPPINGS).system
    )
    named = run(
        device="TPU-v4", num_devices=128, notes="2 slices", system="tpu-v4-256",
        source="maxtext", model="MaxText-22B", global_batch=1664, tp=1, seq_len=2048,
        dtype="bf16", recompute="full", tflops_per_device=150.0,
    )  # fmt: skip
    found = RunPredictor().predict(mapped(named, MAPPINGS))
    assert found.result is not None, found.reason
    assert found.result.system.id == "tpu-v4-256"


def test_columns_of_the_row_win() -> None:
    cells = {"source": "llm-foundry", "device": "A100-40GB-SXM"}
    found = mapped(run(**cells, stack="llm-c", system="dgx-a100-40gb"), MAPPINGS)
    assert (found.stack, found.system) == ("llm-c", "dgx-a100-40gb")


SHAPE = {"layers": 40, "hidden": 6144, "heads": 48, "kv_heads": 48, "ffn": 24576}


def test_catalog_model_where_the_shape_agrees() -> None:
    found = mapped(run(model="GPT-18B", vocab=51200, seq_len=2048, **SHAPE), MAPPINGS)
    assert run_model(found).id == "megatron-18b"


def test_built_from_the_shape_where_it_does_not() -> None:
    shape = SHAPE | {"heads": 32, "kv_heads": 32}
    found = mapped(
        run(model="GPT-18B", vocab=50257, seq_len=1024, params_b=18.4, **shape),
        MAPPINGS,
    )
    model = run_model(found)
    assert (model.heads, model.vocab, model.position) == (32, 50257, "learned")
    assert model.num_parameters == pytest.approx(18.4e9, rel=0.01)


def test_parameters_tell_a_gated_block() -> None:
    shape = {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 11008}
    found = mapped(run(model="GPT-7x", vocab=32000, params_b=6.74, **shape), MAPPINGS)
    assert run_model(found).gated_ffn
    far = mapped(run(model="GPT-7x", vocab=32000, params_b=70.0, **shape), MAPPINGS)
    with pytest.raises(InputError, match="params_b says 70"):
        run_model(far)


def test_learned_positions_follow_the_sequence() -> None:
    found = mapped(
        run(model="MPT-7b", source="llm-foundry", seq_len=65536, layers=32), MAPPINGS
    )
    model = run_model(found)
    assert model.id == "mpt-7b-foundry"
    assert model.max_context == 65536
    assert model.num_parameters == pytest.approx(6.9189e9, rel=1e-4)


@pytest.mark.parametrize("cell", ["18432 dense / 2048 per expert", "2048 per expert"])
def test_mixture_widths_in_words(cell: str) -> None:
    ffn = int(cell.split()[0])
    found = mapped(run(model="DeepSeek-V3", ffn=ffn, ffn_words=cell), MAPPINGS)
    assert run_model(found).id == "deepseek-v3"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"model": "GPT-next"}, "layers, hidden, heads of it is not given"),
        (
            {"model": "GPT-8x9B", "ffn_words": "2048 per expert", **SHAPE},
            "how many experts",
        ),
    ],
)
def test_what_cannot_be_built_says_why(cells: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_model(mapped(run(**cells), MAPPINGS))


def test_a_name_that_says_nothing_is_a_usual_decoder() -> None:
    """Width four times the hidden size, or none given: no gate."""
    shape = {"layers": 32, "hidden": 4096, "heads": 32, "vocab": 32_000}
    plain = run_model(mapped(run(model="zzz", **shape), MAPPINGS))
    gated = run_model(mapped(run(model="", ffn=11_008, **shape), MAPPINGS))
    assert (plain.ffn, plain.gated_ffn) == (4 * 4096, False)
    assert gated.gated_ffn
    assert gated.num_parameters == pytest.approx(6.74e9, rel=0.01)


def test_rules_know_devices_by_any_name() -> None:
    found = mapped(run(device="v5e-256", num_devices=256), MAPPINGS)
    assert found.stack == "maxtext"
    assert found.system == "tpu-v5e-256-x32"
    lora = mapped(run(model="Llama-2-70B LoRA"), MAPPINGS)
    assert lora.run.lora_rank == 16
    assert run_model(lora).id == "llama-2-70b"


def test_other_networks_are_out_of_scope() -> None:
    assert "convolutional" in mapped(run(model="ResNet-50 v1.5"), MAPPINGS).unanswered


def stack_of(**cells: Any) -> str | None:
    return mapped(run(**{"source": "a lab", "device": "A100", **cells}), MAPPINGS).stack


def test_a_framework_may_be_named_in_the_remarks() -> None:
    assert stack_of(model="Llama-2-7B") == "pytorch-eager"
    assert stack_of(model="Llama-2-7B", notes="FSDP over 8") == "pytorch-fsdp"
    assert stack_of(model="GPT-5B", notes="JAX, FSDP 8") == "xla-gpu"
    assert stack_of(model="GPT-5B", notes="JAX", device="TPU v4") == "maxtext"
    assert stack_of(model="Llama-3-8B", notes="FSDP2, torch.compile") == "torchtitan"
    assert stack_of(model="Llama-2-7B", device="Gaudi 2") == "default-training"


def test_encoders_are_trained_with_mixed_precision_unless_said() -> None:
    assert stack_of(model="BERT-Large") == "nvidia-bert"
    assert stack_of(model="BERT-Large", device="TPU v4") == "maxtext"
    assert stack_of(model="BERT-Large", source="deepspeed") == "deepspeed"


def test_adapters_are_trained_with_activations_recomputed_unless_said() -> None:
    found = mapped(run(model="Llama-2-7B (LoRA)", device="A100"), MAPPINGS)
    assert (found.run.recompute, found.run.lora_rank) == ("full", 16)
    nemo = run(model="Llama-2-7B (LoRA)", device="A100", source="NeMo")
    assert mapped(nemo, MAPPINGS).run.recompute != "full"
    said = run(model="Llama-2-7B (LoRA)", device="A100", recompute="none")
    assert mapped(said, MAPPINGS).run.recompute == "none"


def test_conditions_on_words_look_at_source_and_remarks() -> None:
    when = Condition(words=("mlperf",), not_device=("tpu",))
    assert when.holds(run(source="MLPerf 4.0", device="H100"))
    assert when.holds(run(notes="MLPerf log", device="H100"))
    assert not when.holds(run(notes="MLPerf log", device="TPU v4"))
    assert not when.holds(run(notes="a log", device="H100"))


def test_megatron_core_shares_sequences_out_unless_said() -> None:
    cells: dict[str, Any] = {"source": "Megatron-LM", "model": "GPT", "device": "H100"}
    assert mapped(run(**cells), MAPPINGS).run.sequence_parallel is True
    said = run(**cells, sequence_parallel=False)
    assert mapped(said, MAPPINGS).run.sequence_parallel is False
    older = run(**cells | {"device": "V100"})
    assert mapped(older, MAPPINGS).run.sequence_parallel is None


def test_the_decoder_of_a_t5_reads_the_targets_of_its_spans() -> None:
    cells: dict[str, Any] = {
        "source": "lab", "model": "T5-v1.1-large", "device": "A100-80GB",
        "num_devices": 8, "dp": 8, "global_batch": 256, "micro_batch": 32,
        "seq_len": 512, "dtype": "bf16", "recompute": "none", "zero_stage": 0,
        "tokens_per_s_per_device": 30_000.0,
    }  # fmt: skip
    predictor = RunPredictor()
    found = predictor.predict(mapped(run(**cells), MAPPINGS))
    assert "decoder_seq = 114" in found.assumed
    equal = predictor.predict(mapped(run(**cells, decoder_seq=512), MAPPINGS))
    assert found.value is not None
    assert equal.value is not None
    assert found.value > 1.3 * equal.value
