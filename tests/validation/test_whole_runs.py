"""Published totals of whole training runs: hours, energy, interruptions."""

import pytest

from hwsim.analysis.published.totals import compare_totals
from hwsim.specs.published.totals import load_totals

# Largest error allowed; layouts of LLaMA, Llama 2 and GPT-3 are not published.
BUDGETS = {
    "bloom-energy": 0.20, "bloom-hours": 0.20, "deepseek-v3-hours": 0.12,
    "llama-3.1-405b-hours": 0.28, "llama-65b-hours": 0.25,
    "llama-3.1-405b-interruptions": 0.05, "llama-2-70b-hours": 0.25,
    "gpt-3-energy": 0.36,
}  # fmt: skip


@pytest.fixture(scope="module")
def compared():
    return {c.published.id: c for c in compare_totals()}


def test_every_total_has_a_budget(compared):
    assert set(compared) == {*BUDGETS, "llama-3.1-405b-goodput"}
    assert len(compared) == len(load_totals())


@pytest.mark.parametrize("name", BUDGETS)
def test_totals_stay_within_budget(compared, name):
    assert abs(compared[name].error) <= BUDGETS[name], compared[name].to_dict()


def test_effective_training_time_is_above_what_was_reported(compared):
    goodput = compared["llama-3.1-405b-goodput"].predicted
    assert 0.9 < goodput < 1.0
