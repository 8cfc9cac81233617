import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.cost.routing import expert_load
from hwsim.errors import InputError


def test_balanced_routing_deals_tokens_out_in_turn():
    few = expert_load(4, 256, 8, routing="balanced")
    assert few.touched == 32
    many = expert_load(48, 256, 8, routing="balanced")
    assert many.touched == 256
    assert many.total == pytest.approx(48 * 8)
    np.testing.assert_allclose(many.rows, [1, 2])
    np.testing.assert_allclose(many.counts, [128, 128])


def test_first_rank_of_a_balanced_routing_always_has_work():
    alone = expert_load(1, 256, 8, 64, routing="balanced")
    assert alone.total == 1
    assert alone.touched == 1


def test_random_routing_meets_some_experts_twice():
    load = expert_load(32, 256, 8)
    assert load.touched < 256
    assert load.total == pytest.approx(256)


def test_a_power_law_gives_most_to_few():
    even = expert_load(1024, 128, 8, routing="balanced")
    steep = expert_load(1024, 128, 8, routing="power_law", exponent=1.2)
    assert steep.rows.max() > 3 * even.rows.max()
    assert steep.rows.max() <= 1024


def test_the_most_loaded_rank_has_more_than_its_share():
    for exponent in (0.6, 1.0, 1.2):
        load = expert_load(4096, 128, 8, 16, routing="power_law", exponent=exponent)
        assert load.total > 1.2 * 4096 * 8 / 16


def test_the_same_question_has_the_same_answer():
    first, second = (
        expert_load([7, 900], 64, 4, 8, routing="power_law", exponent=1.01)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.counts, second.counts)


def test_leftovers_of_few_tokens_may_all_meet_the_first_rank():
    spread, first = (
        expert_load(
            1, 512, 22, 32, routing="power_law", exponent=1.2, leftovers=leftovers
        )
        for leftovers in ("largest", "first")
    )
    assert spread.touched < 4
    assert first.touched > 12


def test_unknown_routing_is_refused():
    with pytest.raises(InputError, match="routing 'uniform' is not one of random"):
        expert_load(1, 8, 2, routing="uniform")


@given(
    st.integers(1, 9999),
    st.sampled_from([8, 64, 128, 512]),
    st.integers(1, 8),
    st.sampled_from([1, 2, 8]),
    st.sampled_from(["random", "balanced", "power_law"]),
)
def test_loads_are_possible(tokens, experts, topk, ep, routing):
    load = expert_load(tokens, experts, topk, ep, routing=routing, exponent=1.1)
    local = experts / ep
    assert load.touched <= local + 1e-9
    assert np.all(load.rows[load.counts > 1e-9] <= tokens + 1e-9)
    assert load.total <= tokens * min(topk, local) * (1 + 1e-9)
    if ep == 1:
        assert load.total == pytest.approx(tokens * topk)
