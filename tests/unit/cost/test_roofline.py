from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.roofline import roofline_cost, three_constant_cost
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec


def test_each_side_of_the_ridge(gpu: DeviceSpec) -> None:
    cost = roofline_cost([989.4e9, 1.0], [1.0, 3.35e9], device=gpu, dtype="bf16")
    np.testing.assert_allclose(cost.time, [1e-3, 1e-3])
    assert cost.bound().tolist() == ["compute", "hbm"]


def test_levels_bind_separately(gpu: DeviceSpec) -> None:
    traffic = {"shared": 1e15, "l2": [7e12, 7e12], "hbm": [3.35e12, 6.7e12]}
    cost = roofline_cost(1.0, traffic, device=gpu, dtype="bf16")
    np.testing.assert_allclose(cost.time, [1.0, 2.0])
    assert cost.bound().tolist() == ["l2", "hbm"]  # shared quotes no bandwidth


def test_vector_work_runs_on_vector_units(gpu: DeviceSpec) -> None:
    cost = roofline_cost(67e12, 0.0, device=gpu, dtype="fp32", unit="vector")
    assert cost.time == pytest.approx(1.0)


def test_three_constants(gpu: DeviceSpec) -> None:
    cost = three_constant_cost(
        [989.4e12, 0.0],
        [0.0, 3.35e12],
        device=gpu,
        dtype="bf16",
        compute_efficiency=0.5,
        memory_efficiency=0.8,
        overhead=0.25,
    )
    np.testing.assert_allclose(cost.time, [2.25, 1.5])
    np.testing.assert_allclose(cost.overhead, 0.25)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.2, float("nan")])
def test_refuses_a_share_that_is_none(gpu: DeviceSpec, share: float) -> None:
    with pytest.raises(InputError, match="memory_efficiency"):
        three_constant_cost(
            1.0,
            1.0,
            device=gpu,
            dtype="bf16",
            compute_efficiency=1.0,
            memory_efficiency=share,
            overhead=0.0,
        )


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_refuses_bad_amounts(gpu: DeviceSpec, bad: float) -> None:
    with pytest.raises(InputError, match="flop"):
        roofline_cost(bad, 1.0, device=gpu, dtype="bf16")
    with pytest.raises(InputError, match="nbytes"):
        roofline_cost(1.0, bad, device=gpu, dtype="bf16")


def test_names_the_levels_there_are(gpu: DeviceSpec) -> None:
    with pytest.raises(InputError, match=r"'l9'.*shared, l2, hbm"):
        roofline_cost(1.0, {"l9": 1.0}, device=gpu, dtype="bf16")
