"""Peak memory of training runs as sources measured it, misses included."""

from __future__ import annotations

import statistics

import pytest

import hwsim
from hwsim.analysis.published.peak import PeakMemory, peak_memories
from hwsim.errors import SpecError


@pytest.fixture(scope="module")
def peaks() -> list[PeakMemory]:
    return list(peak_memories())


def test_errors_stay_within_their_budgets(peaks):
    errors = [abs(peak.relative_error) for peak in peaks]
    assert len(errors) >= 20
    assert statistics.median(errors) <= 0.06
    assert statistics.mean(errors) <= 0.10
    # The loss of torchtitan was compiled in 2025: see docs/models/memory.md.
    assert max(errors) <= 0.40


@pytest.mark.parametrize(
    ("words", "budget"),
    [("202412", 0.08), ("Megatron-LM", 0.10), ("litgpt", 0.06), ("bigscience", 0.12)],
)
def test_each_source_stays_within_its_budget(peaks, words, budget):
    errors = [abs(p.relative_error) for p in peaks if words in p.run.source]
    assert statistics.mean(errors) <= budget


LITGPT = {"devices": 1, "seq": 1304, "lora_rank": 8, "stack": "pytorch-eager"}


@pytest.mark.parametrize(
    ("model", "micro_batch", "ran"),
    [
        ("llama-2-7b", 1, True), ("llama-2-7b", 2, True), ("llama-2-7b", 4, False),
        ("llama-2-13b", 1, True), ("llama-2-13b", 2, False),
    ],
)  # fmt: skip
def test_what_ran_and_what_ran_out_of_memory(model, micro_batch, ran):
    """LitGPT's table of LoRA on one A100 of 40 GB (tutorials/resource-tables.md)."""
    found = hwsim.train(model, "a100-40gb-sxm", micro_batch=micro_batch, **LITGPT)
    assert found.fits is ran


def test_a_peak_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "peaks.csv"
    path.write_text(
        "model,device,num_devices,value,peak_memory_gib\nllama-2-7b,A100-40GB,1,,much\n"
    )
    with pytest.raises(SpecError, match="peak_memory_gib is 'much'"):
        list(peak_memories(path))
