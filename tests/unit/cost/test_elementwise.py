from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.roofline import roofline_cost
from hwsim.errors import InputError
from hwsim.specs.calibration import calibration_for
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec


def test_floor_then_bandwidth(any_device: DeviceSpec) -> None:
    calibration = calibration_for(any_device)
    params = calibration.elementwise
    cost = elementwise_cost([1.0, 1e11], device=any_device, calibration=calibration)
    assert cost.time[0] == pytest.approx(params.overhead, rel=1e-2)
    steady = 1e11 / (any_device.bandwidth * params.memory_efficiency)
    assert cost.time[1] == pytest.approx(steady, rel=1e-2)
    assert cost.bound().tolist() == ["overhead", any_device.main_memory_name]


def test_parts_add_up(any_device: DeviceSpec) -> None:
    cost = elementwise_cost(
        np.logspace(2, 10, 9),
        np.logspace(10, 2, 9),
        device=any_device,
        calibration=calibration_for(any_device),
        resident=0.3,
    )
    parts = cost.compute + cost.memory + cost.interconnect + cost.overhead
    np.testing.assert_allclose(parts, cost.time)


def test_the_cache_is_faster_but_not_free(gpu: DeviceSpec) -> None:
    calibration = calibration_for(gpu)
    cost = elementwise_cost(
        2e7, device=gpu, calibration=calibration, resident=[0.0, 0.5, 1.0]
    )
    assert np.all(np.diff(cost.time) < 0)
    least = roofline_cost(0.0, {"l2": 2e7}, device=gpu, dtype="fp32").time
    assert cost.time[-1] >= least


def test_heavy_work_binds_on_the_vector_units(gpu: DeviceSpec) -> None:
    calibration = calibration_for(gpu)
    cost = elementwise_cost(1e6, 67e12, device=gpu, calibration=calibration)
    least = 1.0 / calibration.elementwise.compute_efficiency
    assert cost.time == pytest.approx(least, rel=1e-3)
    assert cost.bound() == "compute"


def test_nothing_costs_nothing(gpu: DeviceSpec) -> None:
    cost = elementwise_cost([0.0, 1.0], device=gpu, calibration=calibration_for(gpu))
    assert cost.time[0] == 0.0
    assert cost.time[1] > 0.0


@pytest.mark.parametrize(
    "arguments",
    [{"nbytes": -1.0}, {"nbytes": float("nan")}, {"nbytes": 1.0, "flop": -1.0}],
)
def test_refuses_bad_amounts(gpu: DeviceSpec, arguments: dict[str, float]) -> None:
    with pytest.raises(InputError):
        elementwise_cost(**arguments, device=gpu, calibration=calibration_for(gpu))


def test_refuses_more_than_all_resident(gpu: DeviceSpec) -> None:
    with pytest.raises(InputError, match="resident"):
        elementwise_cost(
            1.0, device=gpu, calibration=calibration_for(gpu), resident=1.5
        )


# bf16 to fp8 conversion on an H100 SXM in graph replay: bytes moved, seconds
# (aiconfigurator, commit 095f58a, Apache-2.0, (c) NVIDIA Corporation).
MEASURED = [
    (5_033_164_800, 1656.713e-6),
    (402_653_184, 132.806e-6),
    (352_321_536, 116.7e-6),
    (301_989_888, 100.282e-6),
]


def test_meets_measured_conversions(gpu: DeviceSpec) -> None:
    nbytes, measured = np.array(MEASURED).T
    cost = elementwise_cost(nbytes, device=gpu, calibration=calibration_for(gpu))
    np.testing.assert_allclose(cost.time, measured, rtol=0.06)


def test_rows_of_their_own_blocks_take_time(gpu):
    calibration = calibration_for(gpu)
    params = calibration.elementwise
    by_row = {"row_time": 1e-7, "row_rate": 20.0}
    calibration = calibration.model_copy(
        update={"elementwise": params.model_copy(update=by_row)}
    )

    def time(nbytes, rows):
        return float(
            elementwise_cost(
                nbytes, device=gpu, calibration=calibration, rows=rows
            ).time
        )

    many, few = time(1e6, 1e6), time(1e6, 1.0)
    assert many >= 1e6 * 1e-7 / gpu.compute.units
    assert few >= 1e6 / (20.0 * gpu.compute.clock)
    assert time(1e6, 1000.0) < min(many, few)
    assert time(1e6, 0.0) <= time(1e6, 1000.0)
    assert time(0.0, 100.0) == 0.0


# Values over a broadcast operand, passes over each, bytes, seconds: PReLU and a bias
# on H200 (tile-ai/TileOPs 500, 537), rotations on B200 (pytorch 176223) and on H100
# (pytorch/helion 2415).
SINGLY = [
    ("h200-sxm", 1024 * 10240, 1.0, 4.0, 35.5e-6),
    ("h200-sxm", 1e6, 1.0, 4.0, 6.45e-6),
    ("b200-sxm", 4 * 2048 * 32 * 128 * 2, 3.5, 20.0, 867.5e-6),
    ("h100-80gb-sxm", 8192 * 1024 * 1.25, 4.5, 20.0, 230.9e-6),
]


def test_values_taken_one_by_one_are_bound_by_instructions() -> None:
    ratios = []
    for name, values, passes, nbytes, measured in SINGLY:
        gpu = load_device(name)
        cost = elementwise_cost(
            nbytes * values, device=gpu, calibration=calibration_for(gpu),
            singly=passes * values,
        )  # fmt: skip
        ratios.append(float(cost.time) / measured)
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1.0, abs=0.08)
    np.testing.assert_allclose(ratios, 1.0, atol=0.3)


def test_values_taken_one_by_one_beside_bytes(gpu):
    calibration = calibration_for(gpu)

    def time(nbytes, singly):
        return float(
            elementwise_cost(
                nbytes, device=gpu, calibration=calibration, singly=singly
            ).time
        )

    values = 1024 * 10240.0
    assert time(4 * values, 0.0) < 0.6 * time(4 * values, values)
    assert time(40 * values, values) == pytest.approx(time(40 * values, 0.0), rel=0.05)
    assert time(0.0, 0.0) == 0.0
    params = calibration.elementwise.model_copy(update={"singly_rate": None})
    free = calibration.model_copy(update={"elementwise": params})
    cost = elementwise_cost(8.0, device=gpu, calibration=free, singly=1e12)
    assert float(cost.time) < 1e-4
