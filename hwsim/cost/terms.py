"""Terms that the forms of a matrix product share."""

from __future__ import annotations

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.cost.product import Product
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def sustained_derate(work: Product, calibration: Calibration) -> FloatArray:
    """Return how many times slower long work runs under its power limit. [1]."""
    params = calibration.matmul
    derate: FloatArray = 1.0 + params.sustained_derate * np.log1p(
        work.flop / params.sustained_work
    )
    return derate


def main_memory_time(
    work: Product, device: DeviceSpec, calibration: Calibration
) -> FloatArray:
    """Return the time of moving each operand once to or from main memory. [s]."""
    params = calibration.matmul
    nbytes = work.main_bytes
    rate = device.bandwidth * params.memory_efficiency
    return memory_time(nbytes, rate, params.memory_ramp)


def memory_time(nbytes: FloatArray, rate: float, ramp: float) -> FloatArray:
    """Return nbytes / rate plus a ramp that short transfers see little of. [s].

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
    """Return the time to widen weights stored narrower than multiplied. [s]."""
    per_weight = calibration.matmul.dequantise_flop
    if per_weight <= 0 or not np.any(work.narrow):
        return np.zeros_like(work.m)
    weights = work.n * work.k * work.batch * work.narrow
    return weights * per_weight / device.peak("fp32", "vector")
