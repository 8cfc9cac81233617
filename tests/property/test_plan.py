"""Plans: quick divisions of layers equal the search; order does not matter."""

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.analysis.economy import front
from hwsim.analysis.plan_train.crowding import Flow, crowded
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.graph.partition import layers_per_stage
from hwsim.sim.links import FairLink
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


TIMES = st.lists(st.floats(0.0, 10.0), min_size=5, max_size=5)


def fully(time, use):
    """One flow that takes so much of each of two levels."""
    return Flow(np.array([time]), time * np.array([[u] for u in use]))


@given(times=TIMES, uses=st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), min_size=6,
                                  max_size=6))  # fmt: skip
def test_crowded_layers_end_between_full_links_and_one_after_the_other(times, uses):
    compute, sent, hidden, gather, reduce = times
    chain = np.array([compute + sent])
    own = fully(sent + min(hidden, compute), uses[:2])
    one, other = fully(gather, uses[2:4]), fully(reduce, uses[4:])
    lost = crowded(chain, np.array([sent]), own, one, other)[0]
    alone = max(compute + sent, gather, reduce)
    full = (own.load + one.load + other.load).max()
    tiny = 1e-9 * (1.0 + sum(times))
    assert lost >= 0.0
    assert alone + lost >= full - tiny
    assert alone + lost <= max(compute + sent + gather + reduce, full) + tiny
    if max(np.add(uses[:2], np.add(uses[2:4], uses[4:]))) <= 1.0:
        assert lost <= tiny


@given(gather=st.floats(0.01, 5.0), sent=st.floats(0.01, 5.0))
def test_a_layer_of_transfers_shares_one_link_as_the_simulator_does(gather, sent):
    """Two transfers over one link, nothing else: all ends when both are sent."""
    env = simpy.Environment()
    link = FairLink(env)
    env.run(until=env.all_of([link.transfer(gather), link.transfer(sent)]))
    one = np.array([sent])
    none = fully(0.0, (1.0, 0.0))
    lost = crowded(one, one, fully(sent, (1.0, 0.0)), fully(gather, (1.0, 0.0)), none)
    assert max(sent, gather) + lost[0] == pytest.approx(env.now)


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
