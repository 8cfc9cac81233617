"""Memory-bound kernels: elementwise, norms, softmax, copies, optimizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.residual import corrected, elementwise_features
from hwsim.cost.roofline import non_negative
from hwsim.cost.terms import cache_name, cache_rate, combine_stream, memory_time
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.elementwise import ElementwiseParameters


def elementwise_cost(
    nbytes: ArrayLike,
    flop: ArrayLike = 0.0,
    *,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str = "fp32",
    resident: ArrayLike = 0.0,
    rows: ArrayLike = 0.0,
    singly: ArrayLike = 0.0,
) -> Cost:
    """Return the device time of kernels bound by memory.

    Parameters
    ----------
    nbytes : array_like of float64
        Bytes read and written. [B]
    flop : array_like of float64
        Work on the vector units. [FLOP]
    dtype : str
        Dtype of that work.
    resident : array_like of float64
        Share of the bytes that stay in the last shared cache. [1]
    rows : array_like of float64
        Rows that thread blocks of their own work on; 0 where the kernel does
        not go by rows.
    singly : array_like of float64
        Values that threads take one by one, because an operand is strided or
        broadcast.

    Returns
    -------
    Cost
        Kernel floor included, host launch not; nothing where there is
        neither work nor traffic.

    Raises
    ------
    InputError
        If an amount is negative or not finite.
    """
    params = calibration.elementwise
    amount, work, share = np.broadcast_arrays(
        non_negative("nbytes", nbytes),
        non_negative("flop", flop),
        non_negative("resident", resident),
    )
    if np.any(share > 1):
        raise InputError("resident is above 1; give the share of bytes in the cache")
    main_rate = device.bandwidth * params.memory_efficiency
    levels: dict[str, FloatArray] = {}
    cache = cache_name(device)
    some = (amount > 0) | (work > 0)
    if cache is not None:
        rate = cache_rate(
            device, params.cache_efficiency, params.cache_speedup, main_rate
        )
        levels[cache] = amount * share / rate
        amount = amount * (1.0 - share)
    levels[device.main_memory_name] = memory_time(amount, main_rate, params.memory_ramp)
    peak = device.peak(dtype, "vector") * params.compute_efficiency
    by_row = _row_time(np.asarray(nbytes, dtype=np.float64), rows, device, params)
    by_value = _single_time(singly, device, params)
    cost = combine_stream(
        compute=np.maximum(np.maximum(work / peak, by_row), by_value),
        levels=levels,
        overhead=np.where(some, params.overhead, 0.0),
        exponent=params.overlap,
    )
    return corrected(
        cost, calibration, "elementwise",
        lambda: elementwise_features(nbytes, flop, rows),
    )  # fmt: skip


def _row_time(
    nbytes: FloatArray,
    rows: ArrayLike,
    device: DeviceSpec,
    params: ElementwiseParameters,
) -> FloatArray:
    """Return the time of rows on the units: all of them, or one alone. [s]"""
    number = np.where(nbytes > 0, np.asarray(rows, dtype=np.float64), 0.0)
    units = device.compute.units
    every: FloatArray = params.row_time * number / units
    clock = device.compute.clock
    if params.row_rate is None or clock is None:
        return every
    row = np.where(number > 0, nbytes / np.maximum(number, 1.0), 0.0)
    alone = row / (params.row_rate * clock)
    slowest: FloatArray = np.maximum(every, alone)
    return slowest


def _single_time(
    singly: ArrayLike, device: DeviceSpec, params: ElementwiseParameters
) -> FloatArray:
    """Return the time of values that threads take one by one. [s]"""
    values = np.asarray(singly, dtype=np.float64)
    clock = device.compute.clock
    if params.singly_rate is None or clock is None:
        return np.zeros_like(values)
    taken: FloatArray = values / (params.singly_rate * device.compute.units * clock)
    return taken
