from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.matmul import matmul_cost
from hwsim.specs.calibration import Calibration, calibration_for
from hwsim.specs.device import DeviceSpec


@pytest.fixture
def calibration(cpu: DeviceSpec) -> Calibration:
    return calibration_for(cpu)


def test_large_products_reach_their_share_of_each_peak(
    cpu: DeviceSpec, calibration: Calibration
) -> None:
    for dtype in ("bf16", "fp32"):
        cost = matmul_cost(
            8192, 8192, 8192, device=cpu, calibration=calibration, dtype=dtype
        )
        share = 2 * 8192.0**3 / cost.time / cpu.peak(dtype)
        best = calibration.matmul.efficiency(dtype)
        assert 0.8 * best < share <= best
        assert cost.bound() == "compute"


def test_decode_streams_weights(cpu: DeviceSpec, calibration: Calibration) -> None:
    cost = matmul_cost(
        1, 16384, 16384, device=cpu, calibration=calibration, dtype="bf16"
    )
    nbytes = 16384.0**2 * 2
    assert 1.0 < cost.time / (nbytes / cpu.bandwidth) < 1.6
    assert cost.bound() == "ddr"


def test_small_products_stay_on_one_core(
    cpu: DeviceSpec, calibration: Calibration
) -> None:
    cost = matmul_cost(
        [16, 2048], [16, 2048], [16, 2048], device=cpu, calibration=calibration,
        dtype="fp32",
    )  # fmt: skip
    blocked = calibration.matmul.blocked
    assert blocked is not None
    assert cost.overhead[0] == pytest.approx(calibration.matmul.overhead)
    assert cost.overhead[1] == pytest.approx(
        calibration.matmul.overhead + blocked.thread_sync
    )


def test_a_smaller_cache_reads_more(cpu: DeviceSpec, calibration: Calibration) -> None:
    levels = {
        name: level.model_copy(update={"size": level.size / 400})
        for name, level in cpu.memory.items()
    }
    small = cpu.model_copy(update={"memory": levels})
    args = {"calibration": calibration, "dtype": "bf16"}
    shape = (16384, 16384, 16384)
    big_time = matmul_cost(*shape, device=cpu, **args)  # type: ignore[arg-type]
    small_time = matmul_cost(*shape, device=small, **args)  # type: ignore[arg-type]
    assert small_time.levels["ddr"] > big_time.levels["ddr"]
    assert small_time.time > big_time.time


def test_narrow_weights_save_traffic_and_cost_widening(
    cpu: DeviceSpec, calibration: Calibration
) -> None:
    args = {"device": cpu, "calibration": calibration, "dtype": "bf16"}
    shape = (1, 16384, 16384)
    wide = matmul_cost(*shape, **args)  # type: ignore[arg-type]
    narrow = matmul_cost(*shape, b_bytes=0.5, **args)  # type: ignore[arg-type]
    assert narrow.levels["ddr"] < 0.35 * wide.levels["ddr"]
    assert narrow.compute > wide.compute
    assert np.all(narrow.time < wide.time)


def test_vectors_are_neither_padded_nor_packed(
    cpu: DeviceSpec, calibration: Calibration
) -> None:
    blocked = calibration.matmul.blocked
    assert blocked is not None
    cost = matmul_cost(
        [1, 2], 4096, 4096, device=cpu, calibration=calibration, dtype="fp32"
    )
    vector, two_rows = cost.compute
    assert two_rows > 4 * vector
    slow = blocked.model_copy(update={"pack_time": 1e-9})
    packed = calibration.model_copy(
        update={"matmul": calibration.matmul.model_copy(update={"blocked": slow})}
    )
    more = matmul_cost([1, 2], 4096, 4096, device=cpu, calibration=packed, dtype="fp32")
    assert more.compute[0] == pytest.approx(vector)
    assert more.compute[1] > two_rows


def test_each_product_of_a_batch_starts_anew(
    cpu: DeviceSpec, calibration: Calibration
) -> None:
    blocked = calibration.matmul.blocked
    assert blocked is not None
    cost = matmul_cost(
        8, 8, 8, batch=[1, 5], device=cpu, calibration=calibration, dtype="fp32"
    )
    gap = cost.overhead[1] - cost.overhead[0]
    assert gap == pytest.approx(4 * blocked.batch_time)
