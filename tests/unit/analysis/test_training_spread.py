"""Stragglers and jitter of whole steps."""

import numpy as np
import pytest

import hwsim
from hwsim.errors import InputError

LAYOUTS = (
    {"devices": 8, "global_batch": 32},
    {"devices": 8, "global_batch": 8},
    {"devices": 16, "tp": 2, "pp": 4, "global_batch": 16},
    {"devices": 8, "pp": 4, "vpp": 3, "global_batch": 16},
    {"devices": 8, "global_batch": 32, "zero_stage": 3},
)


def spread(slowdown=(), jitter=0.0, model="gpt2", **layout):
    result = hwsim.train(
        model, "selene", seq=1024, slowdown=slowdown, jitter=jitter, **layout
    )
    return result.step_s, result.spread


@pytest.mark.parametrize("layout", LAYOUTS)
def test_undisturbed_steps_all_take_the_step_time(layout):
    step, found = spread(slowdown=[1.0] * layout.get("pp", 1), **layout)
    np.testing.assert_allclose(found.times, step, rtol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_jitter_slows_a_step_more_the_more_replicas_meet(layout):
    step, found = spread(jitter=0.05, **layout)
    p50, p90, p99 = (found.percentile(p) for p in (50, 90, 99))
    assert step < p50 < p90 < p99 < 1.3 * step
    assert found.replicas == layout["devices"] // (
        layout.get("tp", 1) * layout.get("pp", 1)
    )


def test_a_straggler_with_the_longest_stage_holds_a_pipeline_back_by_its_factor():
    layout = {"devices": 4, "pp": 4, "global_batch": 256, "schedule": "1f1b"}
    step, found = spread(slowdown=(1, 1, 1, 1.3), model="gpt-3-2.7b", **layout)
    assert found.mean / step == pytest.approx(1.3, rel=0.06)


def test_the_same_seed_plays_the_same_steps():
    layout = {"devices": 8, "pp": 2, "global_batch": 16, "jitter": 0.03}
    first, second = (spread(seed=7, **layout)[1] for _ in range(2))
    other = spread(seed=8, **layout)[1]
    np.testing.assert_array_equal(first.times, second.times)
    assert not np.array_equal(first.times, other.times)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"slowdown": (1.0, 1.1)}, "each of the 1 pipeline ranks"),
        ({"jitter": -0.1}, "jitter=-0.1"),
        ({"jitter": float("nan")}, "jitter=nan"),
        ({"replications": 10}, "give jitter"),
        ({"jitter": 0.1, "replications": 0}, "replications"),
    ],
)
def test_what_cannot_be_played_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        hwsim.train("gpt2", "selene", devices=8, **asked)
