from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.matmul import matmul_cost
from hwsim.specs.calibration import Calibration, calibration_for
from hwsim.specs.device import DeviceSpec


def _changed(calibration: Calibration, **fields: object) -> Calibration:
    matmul = calibration.matmul.model_copy(update=fields)
    return calibration.model_copy(update={"matmul": matmul})


@pytest.fixture
def bare(tpu: DeviceSpec) -> Calibration:
    """No overhead, no ramp, full efficiency, perfect overlap."""
    return _changed(
        calibration_for(tpu),
        compute_efficiency={"bf16": 1.0},
        overhead=0.0,
        memory_ramp=0.0,
        overlap=100.0,
    )


def test_counts_cycles_of_padded_tiles(tpu: DeviceSpec, bare: Calibration) -> None:
    # 4096 x 4096 x 4096 on four 256 x 256 arrays: 16 x 16 tiles of 4096 rows.
    cost = matmul_cost(4096, 4096, 4096, device=tpu, calibration=bare, dtype="bf16")
    clock = 918e12 / (2 * 256 * 256 * 4)
    cycles = 16 * 16 * 4096 / 4 + 256 + 256
    assert cost.time == pytest.approx(cycles / clock, rel=1e-3)


@pytest.mark.parametrize("axis", [1, 2])
def test_pads_stationary_dimensions(
    tpu: DeviceSpec, bare: Calibration, axis: int
) -> None:
    shape = [8192, 8192, 8192]
    whole = matmul_cost(*shape, device=tpu, calibration=bare, dtype="bf16").time
    shape[axis] += 1
    padded = matmul_cost(*shape, device=tpu, calibration=bare, dtype="bf16").time
    stream_other = 8200 / 8192 if axis == 1 else 33 / 32
    assert padded / whole == pytest.approx(stream_other, rel=2e-3)


def test_few_rows_wait_for_weights(tpu: DeviceSpec) -> None:
    calibration = calibration_for(tpu)
    args = {"device": tpu, "calibration": calibration, "dtype": "bf16"}
    cost = matmul_cost([1, 8, 64], 8192, 8192, **args)  # type: ignore[arg-type]
    weights = 8192 * 8192 * 2 / tpu.bandwidth
    assert np.all(cost.time > weights)
    assert cost.time[-1] < 1.6 * weights


def test_long_products_approach_the_array_peak(tpu: DeviceSpec) -> None:
    # 8192-cubed bf16 on a TPU v6e: 1.3288 ms device time (AI-Hypercomputer
    # tpu-recipes, microbenchmarks README).
    cost = matmul_cost(
        8192, 8192, 8192, device=tpu, calibration=calibration_for(tpu), dtype="bf16"
    )
    assert cost.time == pytest.approx(1.3288e-3, rel=0.03)
