"""Plans: quick divisions of layers equal the search; order does not matter."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.analysis.economy import front
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.graph.partition import layers_per_stage
from hwsim.specs.catalogs import load_model
from hwsim.specs.network import divisors

MODELS = {
    name: load_model(name)
    for name in ("llama-3.1-8b", "gpt-3-350m", "gemma-2-2b", "llama-3.1-70b")
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    pp=st.integers(2, 12),
    vpp=st.integers(1, 3),
    seq=st.sampled_from([128, 1024, 8192]),
)
def test_parts_are_those_of_the_graph(name, pp, vpp, seq):
    model = MODELS[name]
    if pp * vpp > len(model.layer_kinds):
        return
    quick = StageMaker(model, seq).part_sizes(pp, vpp)
    exact = [len(part) for part in layers_per_stage(model, pp, vpp, seq=seq)]
    assert quick == exact


@given(number=st.integers(1, 5000))
def test_divisors_are_all_and_sorted(number):
    assert divisors(number) == [d for d in range(1, number + 1) if not number % d]


@settings(deadline=None)
@given(
    table=st.lists(
        st.tuples(*(st.integers(0, 12) for _ in range(3))), min_size=1, max_size=40
    ),
    seed=st.integers(0, 1000),
)
def test_front_beats_everything_and_nothing_on_it_is_beaten(table, seed):
    rng = np.random.default_rng(seed)
    # Whole steps of 10 %: far apart on the grid of half percents.
    values = 1.1 ** np.array(table, dtype=float)[rng.permutation(len(table))]
    kept = values[front(list(values.T))]
    for one in values:
        assert np.any(np.all(kept <= one * (1 + 1e-9), axis=1))
    for one in kept:
        below = np.all(values <= one, axis=1) & np.any(values < one * 0.999, axis=1)
        assert not below.any()
