"""Terms that the forms of a matrix product share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.product import Product
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def cache_name(device: DeviceSpec) -> str | None:
    """Return the name of the last shared cache, if there is one."""
    cache = device.cache
    for name, level in device.memory.items():
        if level is cache:
            return name
    return None


def cache_rate(
    device: DeviceSpec, efficiency: float, speedup: float, main_rate: float
) -> float:
    """Return the rate of traffic that stays in the last shared cache [B/s].

    It is the quoted bandwidth at a share, else a multiple of main memory's;
    never below main memory's own rate.
    """
    cache = device.cache
    if cache is None or cache.bandwidth is None:
        return main_rate * speedup
    return max(float(cache.bandwidth) * efficiency, main_rate)


def sustained_derate(work: Product, calibration: Calibration) -> FloatArray:
    """Return how many times slower long work runs under its power limit."""
    params = calibration.matmul
    derate: FloatArray = 1.0 + params.sustained_derate * np.log1p(
        np.maximum(work.flop, work.sustained_flop) / params.sustained_work
    )
    return derate


def memory_levels(
    work: Product, device: DeviceSpec, calibration: Calibration
) -> dict[str, FloatArray]:
    """Return the time of moving each operand once, by memory level [s].

    The levels are one stream: their times add up.
    """
    params = calibration.matmul
    nbytes = work.nbytes
    rate = device.bandwidth * params.memory_efficiency
    resident = nbytes * work.resident
    slow = 1.0 + params.memory_mixing * work.m / (work.m + params.mixing_rows)
    main = memory_time((nbytes - resident) * slow, rate, params.memory_ramp)
    cache = cache_name(device)
    if cache is None:
        return {device.main_memory_name: main + resident / rate}
    fast = cache_rate(device, params.memory_efficiency, params.cache_speedup, rate)
    return {cache: resident / fast, device.main_memory_name: main}


def combine_stream(
    compute: FloatArray,
    levels: Mapping[str, FloatArray],
    overhead: ArrayLike,
    exponent: float,
) -> Cost:
    """Return the cost of arithmetic over one memory stream of several levels.

    Bytes found in the cache and bytes from main memory pass one after the
    other, so their times add before they overlap with arithmetic.
    """
    stream = np.zeros_like(compute)
    for part in levels.values():
        stream = stream + part
    cost = combine(
        compute=compute, levels={"all": stream}, overhead=overhead, exponent=exponent
    )
    spent = cost.levels["all"] / np.where(stream > 0, stream, 1.0)
    return Cost(
        time=cost.time,
        compute=cost.compute,
        levels={name: part * spent for name, part in levels.items()},
        interconnect=cost.interconnect,
        overhead=cost.overhead,
    )


def memory_time(nbytes: FloatArray, rate: float, ramp: float) -> FloatArray:
    """Return nbytes / rate plus a ramp that short transfers see little of [s].

    The ramp grows with the transfer to its full length: a transfer shorter
    than it has hardly any queue to fill.
    """
    steady = nbytes / rate
    if ramp <= 0:
        return steady
    ramped: FloatArray = steady + ramp * steady / (steady + ramp)
    return ramped


def widen_time(
    work: Product, device: DeviceSpec, calibration: Calibration
) -> FloatArray:
    """Return the time to widen weights stored narrower than multiplied [s]."""
    per_weight = calibration.matmul.dequantise_flop
    if per_weight <= 0 or not np.any(work.narrow):
        return np.zeros_like(work.m)
    weights = work.n * work.k * work.batch * work.narrow
    return weights * per_weight / device.peak("fp32", "vector")
