"""The systolic-array form of a matrix product (TPU class)."""

from __future__ import annotations

import numpy as np

from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.product import Product
from hwsim.cost.terms import combine_stream, memory_levels, sustained_derate, widen_time
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec, SystolicArray
from hwsim.specs.parameters.matmul import SystolicParameters


def systolic_cost(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> Cost:
    """Return the cost of flat products on systolic arrays.

    A tile of one operand stands still in an array while rows of the other
    stream through it; the compiler keeps whichever operand is cheaper. Every
    dimension is padded to the array, the streamed one to the sublanes. Each
    tile must be loaded, partly hidden behind the streaming of the one before.
    """
    params, array = calibration.matmul, device.compute.systolic
    if array is None or params.systolic is None:
        raise InputError(
            f"device {device.id} has no compute.systolic or calibration "
            f"{calibration.id} no matmul.systolic; the systolic form needs both"
        )
    peak = device.peak(dtype)
    # The clock at which the arrays alone make up the peak of this dtype.
    clock = peak / (2.0 * array.rows * array.columns * array.arrays)
    streamed, loaded = _best_cycles(work, array, params.systolic)
    rate = clock * params.efficiency(dtype) / sustained_derate(work, calibration)
    fill = (array.rows + array.columns) / rate * (work.flop > 0)
    compute = streamed / rate + widen_time(work, device, calibration)
    load = loaded / rate + fill
    overlapped = combine_stream(
        compute=compute + load,
        levels=memory_levels(work, device, calibration),
        overhead=params.overhead,
        exponent=params.overlap,
    )
    share = compute / np.where(compute + load > 0, compute + load, 1.0)
    return Cost(
        time=overlapped.time,
        compute=overlapped.compute * share,
        levels=overlapped.levels,
        interconnect=overlapped.interconnect,
        overhead=overlapped.overhead + overlapped.compute * (1.0 - share),
    )


def _best_cycles(
    work: Product, array: SystolicArray, params: SystolicParameters
) -> tuple[FloatArray, FloatArray]:
    """Return (streaming, exposed loading) cycles of the cheaper orientation."""
    stream_b, load_b = _cycles(work, work.m, work.n, array, params)
    stream_a, load_a = _cycles(work, work.n, work.m, array, params)
    keep_b = stream_b + load_b <= stream_a + load_a
    return np.where(keep_b, stream_b, stream_a), np.where(keep_b, load_b, load_a)


def _cycles(
    work: Product,
    moving: FloatArray,
    standing: FloatArray,
    array: SystolicArray,
    params: SystolicParameters,
) -> tuple[FloatArray, FloatArray]:
    tiles = np.ceil(work.k / array.rows) * np.ceil(standing / array.columns)
    # Tiles are dealt out to the arrays; fewer tiles than arrays share the rows.
    tiles = tiles * work.batch / array.arrays
    multiple = params.row_multiple
    rows = np.ceil(moving / multiple) * multiple
    loading = array.rows * params.load_ratio
    hidden = params.load_overlap * np.minimum(rows, loading)
    return tiles * rows, tiles * (loading - hidden)
