from __future__ import annotations

import time

import numpy as np
import pytest

from hwsim.cost.matmul import matmul_cost
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration, calibration_for, with_parameters
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec


@pytest.fixture
def calibration(gpu: DeviceSpec) -> Calibration:
    return calibration_for(gpu)


# bf16 products on an H100 SXM, CUDA-graph replay: m, n, k, microseconds
# (aiconfigurator, commit 095f58a, sglang 0.5.14 tables, Apache-2.0, (c) NVIDIA
# Corporation): 24 rows drawn at random from those with n, k >= 3000.
MEASURED: list[tuple[int, int, int, float]] = [
    (1, 4096, 3072, 14.054),
    (2, 12288, 4096, 37.043),
    (5, 5120, 4096, 20.235),
    (6, 3584, 10240, 34.061),
    (7, 12288, 51200, 435.511),
    (8, 4096, 7168, 28.884),
    (8, 65536, 12288, 565.642),
    (15, 4096, 3584, 14.49),
    (16, 12288, 4096, 37.815),
    (32, 3072, 4096, 14.338),
    (48, 51200, 5120, 187.819),
    (113, 4096, 3072, 12.283),
    (128, 3584, 10240, 30.274),
    (192, 51200, 7168, 311.324),
    (192, 65536, 7168, 348.92),
    (257, 51200, 51200, 2798.898),
    (512, 3072, 16384, 76.593),
    (1025, 10240, 65536, 2748.199),
    (1536, 5120, 65536, 1456.536),
    (1792, 4096, 12288, 253.264),
    (1792, 10240, 4096, 203.02),
    (3328, 4096, 12288, 438.908),
    (3328, 8192, 12288, 878.2),
    (3328, 65536, 6144, 3749.654),
]


def test_meets_measured_products(gpu: DeviceSpec, calibration: Calibration) -> None:
    m, n, k, microseconds = np.array(MEASURED, dtype=float).T
    cost = matmul_cost(m, n, k, device=gpu, calibration=calibration, dtype="bf16")
    error = np.abs(cost.time / (microseconds * 1e-6) - 1)
    assert np.median(error) < 0.06
    assert error.mean() < 0.08


def test_parts_add_up_and_shapes_broadcast(any_device: DeviceSpec) -> None:
    cost = matmul_cost(
        np.array([[1], [77], [4096]]),
        np.array([64, 4096]),
        4096,
        batch=3,
        device=any_device,
        calibration=calibration_for(any_device),
        dtype="bf16",
        resident=0.25,
    )
    assert cost.time.shape == (3, 2)
    parts = cost.compute + cost.memory + cost.interconnect + cost.overhead
    np.testing.assert_allclose(parts, cost.time, rtol=1e-12)
    for part in (cost.compute, cost.overhead, *cost.levels.values()):
        assert part.shape == (3, 2)
        assert np.all(part >= 0)


def test_a_scalar_stays_a_scalar(any_device: DeviceSpec) -> None:
    cost = matmul_cost(
        8, 8, 8, device=any_device, calibration=calibration_for(any_device),
        dtype="bf16",
    )  # fmt: skip
    assert cost.time.shape == ()
    assert cost.time > 0


def test_no_work_takes_no_time(any_device: DeviceSpec) -> None:
    cost = matmul_cost(
        [0, 4, 4], [4, 4, 0], 4, device=any_device,
        calibration=calibration_for(any_device), dtype="bf16",
    )  # fmt: skip
    assert cost.time[0] == cost.time[2] == 0.0
    assert cost.time[1] > 0


def test_no_rows_at_all(any_device: DeviceSpec) -> None:
    cost = matmul_cost(
        np.zeros(0), 4, 4, device=any_device,
        calibration=calibration_for(any_device), dtype="bf16",
    )  # fmt: skip
    assert cost.time.shape == (0,)


def test_chunks_do_not_show(gpu: DeviceSpec, calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    m, n, k = rng.integers(1, 9000, (3, 9001))
    args = {"device": gpu, "calibration": calibration, "dtype": "bf16"}
    together = matmul_cost(m, n, k, **args).time  # type: ignore[arg-type]
    some = [0, 2082, 2083, 4166, 9000]
    alone = [matmul_cost(m[i], n[i], k[i], **args).time for i in some]  # type: ignore[arg-type]
    np.testing.assert_array_equal(together[some], alone)


def test_decode_is_bound_by_memory_and_prefill_by_compute(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    cost = matmul_cost(
        [1, 8192], 8192, 8192, device=gpu, calibration=calibration, dtype="bf16"
    )
    assert cost.bound().tolist() == ["hbm", "compute"]


def test_split_k_fills_the_device(gpu: DeviceSpec, calibration: Calibration) -> None:
    tiled = calibration.matmul.tiled
    assert tiled is not None
    whole = calibration.matmul.model_copy(
        update={"tiled": tiled.model_copy(update={"splits": (1,)})}
    )
    unsplit = calibration.model_copy(update={"matmul": whole})
    times = [
        matmul_cost(32, 128, 16384, device=gpu, calibration=c, dtype="bf16").time
        for c in (calibration, unsplit)
    ]
    assert times[0] < 0.6 * times[1]


def test_a_last_wave_costs_what_the_calibration_says(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    tiled = calibration.matmul.tiled
    assert tiled is not None

    def ratio(quantisation: float) -> float:
        only = tiled.model_copy(
            update={
                "tiles": ((128, 128),),
                "splits": (1,),
                "wave_quantisation": quantisation,
            }
        )
        matmul = calibration.matmul.model_copy(
            update={"tiled": only, "sustained_derate": 0.0, "overhead": 0.0}
        )
        cost = matmul_cost(
            np.array([165, 167]) * 128, 1024, 32768, device=gpu, dtype="bf16",
            calibration=calibration.model_copy(update={"matmul": matmul}),
        )  # fmt: skip
        return float(cost.time[1] / cost.time[0])

    assert ratio(1.0) == pytest.approx(11 / 10, rel=0.01)
    assert ratio(0.0) == pytest.approx(167 / 165, rel=0.01)


def test_narrow_dtypes_use_their_own_kernels(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    args = {"device": gpu, "calibration": calibration, "c_bytes": 2.0}
    wide = matmul_cost(4096, 8192, 8192, dtype="bf16", **args).time  # type: ignore[arg-type]
    narrow = matmul_cost(4096, 8192, 8192, dtype="fp8", **args).time  # type: ignore[arg-type]
    assert 1.3 < wide / narrow < 2.1


def test_block_scales_use_their_own_kernels(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    def time(block: bool, using: Calibration) -> float:
        cost = matmul_cost(
            64, 4096, 4096, device=gpu, calibration=using, dtype="fp8",
            c_bytes=2, block_scales=block,
        )  # fmt: skip
        return float(cost.time)

    late = with_parameters(calibration, {"matmul.tiled_block.start_time": 1e-3})
    assert time(True, late) > 1e-3 > time(False, late)
    none = with_parameters(calibration, {"matmul.tiled_block": None})
    assert time(True, none) == time(False, none)


def test_weight_only_quantisation(gpu: DeviceSpec, calibration: Calibration) -> None:
    args = {"device": gpu, "calibration": calibration, "dtype": "bf16"}
    shape = (np.array([1, 8192]), 16384, 16384)
    wide = matmul_cost(*shape, **args).time  # type: ignore[arg-type]
    narrow = matmul_cost(*shape, b_bytes=0.5, **args).time  # type: ignore[arg-type]
    assert 2.5 < wide[0] / narrow[0] < 4.0  # a quarter of the weight traffic
    assert narrow[1] > 0.97 * wide[1]  # no more arithmetic is saved


def test_resident_operands_are_faster(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    cost = matmul_cost(
        8, 4096, 4096, device=gpu, calibration=calibration, dtype="bf16",
        resident=[0.0, 0.5, 1.0],
    )  # fmt: skip
    assert np.all(np.diff(cost.time) < 0)
    assert cost.levels["hbm"][-1] == 0.0


@pytest.mark.parametrize(
    ("shape", "extra"),
    [
        ((-1, 4, 4), {}),
        ((4, float("nan"), 4), {}),
        ((4, 4, float("inf")), {}),
        ((4, 4, 4), {"batch": -2}),
        ((4, 4, 4), {"b_bytes": -1}),
        ((4, 4, 4), {"resident": 1.01}),
    ],
)
def test_refuses_bad_sizes(
    any_device: DeviceSpec, shape: tuple[float, ...], extra: dict[str, float]
) -> None:
    with pytest.raises(InputError):
        matmul_cost(
            *shape, device=any_device, calibration=calibration_for(any_device),
            dtype="bf16", **extra,
        )  # fmt: skip


def test_refuses_a_dtype_without_a_rate(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    with pytest.raises(InputError, match="no int4 rate"):
        matmul_cost(4, 4, 4, device=gpu, calibration=calibration, dtype="int4")
    with pytest.raises(InputError, match="'bf17'"):
        matmul_cost(4, 4, 4, device=gpu, calibration=calibration, dtype="bf17")


def test_units_that_multiply_and_widen_take_longer_over_stored_weights() -> None:
    def times(device: DeviceSpec) -> tuple[float, float]:
        shapes = {"device": device, "calibration": calibration_for(device)}
        plain = matmul_cost(512.0, 4096.0, 4096.0, dtype="fp16", **shapes)
        stored = matmul_cost(
            512.0, 4096.0, 4096.0, dtype="fp16", b_bytes=0.5625, **shapes
        )
        return float(plain.time), float(stored.time)

    plain, stored = times(load_device("m2-ultra"))
    assert 1.15 * plain < stored < 1.35 * plain
    plain, stored = times(load_device("rtx-a6000"))
    assert stored < 1.05 * plain


def test_a_gpu_needs_a_tile_table(gpu: DeviceSpec, calibration: Calibration) -> None:
    bare = calibration.matmul.model_copy(update={"tiled": None})
    without = calibration.model_copy(update={"matmul": bare})
    with pytest.raises(InputError, match=r"matmul\.tiled"):
        matmul_cost(4, 4, 4, device=gpu, calibration=without, dtype="bf16")


def test_hundred_thousand_shapes_are_quick(
    gpu: DeviceSpec, calibration: Calibration
) -> None:
    rng = np.random.default_rng(1)
    m, n, k = rng.integers(1, 16384, (3, 100_000))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        matmul_cost(m, n, k, device=gpu, calibration=calibration, dtype="bf16")
        best = min(best, time.perf_counter() - start)
    assert best < 0.5
