"""Matrix products on any device: one entry, one form per kind of hardware."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.cpu import blocked_cost
from hwsim.cost.product import Product, product
from hwsim.cost.residual import corrected, gemm_features
from hwsim.cost.systolic import systolic_cost
from hwsim.cost.terms import (
    cache_name,
    combine_stream,
    memory_levels,
    sustained_derate,
    widen_time,
)
from hwsim.cost.tiles import tile_time
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def matmul_cost(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    batch: ArrayLike = 1.0,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    a_bytes: ArrayLike | None = None,
    b_bytes: ArrayLike | None = None,
    c_bytes: ArrayLike | None = None,
    resident: ArrayLike = 0.0,
    block_scales: bool = False,
    sustained_flop: float | FloatArray = 0.0,
) -> Cost:
    """Return the device time of ``batch`` products out[m, n] = a[m, k] x b[k, n].

    Parameters
    ----------
    m, n, k, batch : array_like of float64
        Sizes; arrays broadcast. A product of no size takes no time.
    dtype : str
        Dtype that is multiplied, on the matrix units where they have it.
    a_bytes, b_bytes, c_bytes : array_like of float64, optional
        Bytes per element as stored, the dtype's unless given. Weights
        narrower than the dtype are widened on the way. [B]
    resident : array_like of float64
        Share of operand bytes found in the last shared cache. [1]
    block_scales : bool
        Operands have a scale per block rather than per row: other kernels.
    sustained_flop : float or ndarray
        Least work to take the clocks of: that of one long product, where other
        work goes on around these without a pause. [FLOP]

    Returns
    -------
    Cost
        Kernel floor included, host launch not.

    Raises
    ------
    InputError
        If a size is negative or not finite, or the device has no rate for
        the dtype.
    """
    work = product(
        m, n, k, batch, dtype, a_bytes, b_bytes, c_bytes, resident, sustained_flop,
        block_scales,
    )  # fmt: skip
    if device.compute.systolic is not None and calibration.matmul.systolic is not None:
        cost = systolic_cost(work, device, calibration, dtype)
    elif device.kind == "cpu" and calibration.matmul.blocked is not None:
        cost = blocked_cost(work, device, calibration, dtype)
    elif device.kind == "gpu":
        cost = _tiled_cost(work, device, calibration, dtype)
    else:
        cost = _fitted_roofline(work, device, calibration, dtype)
    return corrected(
        _shaped(cost, work), calibration, "gemm",
        lambda: gemm_features(m, n, k, batch, work.wide_bytes, block_scales),
    )  # fmt: skip


def _tiled_cost(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> Cost:
    params = calibration.matmul
    tiles = tile_time(work, device, calibration, dtype)
    cost = combine_stream(
        compute=tiles.total,
        levels=memory_levels(work, device, calibration),
        overhead=params.overhead + tiles.start,
        exponent=params.overlap,
    )
    spent = cost.compute / np.where(tiles.total > 0, tiles.total, 1.0)
    levels = dict(cost.levels)
    compute = tiles.compute * spent
    cache = cache_name(device)
    if cache is None:
        compute = compute + tiles.operands * spent
    else:
        levels[cache] = levels[cache] + tiles.operands * spent
    return Cost(
        time=cost.time,
        compute=compute,
        levels=levels,
        interconnect=cost.interconnect,
        overhead=cost.overhead + tiles.overhead * spent,
    )


def _fitted_roofline(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> Cost:
    params = calibration.matmul
    peak = device.peak(dtype) * params.efficiency(dtype)
    compute = work.flop / peak * sustained_derate(work, calibration)
    return combine_stream(
        compute=compute + widen_time(work, device, calibration),
        levels=memory_levels(work, device, calibration),
        overhead=params.overhead,
        exponent=params.overlap,
    )


def _shaped(cost: Cost, work: Product) -> Cost:
    """Return the cost in the caller's shape, nothing where there is no work."""
    some = work.flop > 0

    def shape(part: FloatArray) -> FloatArray:
        return np.where(some, part, 0.0).reshape(work.shape)

    return Cost(
        time=shape(cost.time),
        compute=shape(cost.compute),
        levels={name: shape(part) for name, part in cost.levels.items()},
        interconnect=shape(cost.interconnect),
        overhead=shape(cost.overhead),
    )
