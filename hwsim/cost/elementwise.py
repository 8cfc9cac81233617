"""Memory-bound kernels: elementwise, norms, softmax, copies, optimizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.residual import corrected, log2
from hwsim.cost.roofline import non_negative
from hwsim.cost.terms import cache_name, cache_rate, combine_stream, memory_time
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def elementwise_cost(
    nbytes: ArrayLike,
    flop: ArrayLike = 0.0,
    *,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str = "fp32",
    resident: ArrayLike = 0.0,
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
    cost = combine_stream(
        compute=work / peak,
        levels=levels,
        overhead=np.where(some, params.overhead, 0.0),
        exponent=params.overlap,
    )
    return corrected(
        cost, calibration, "elementwise",
        lambda: {"bytes": log2(nbytes), "flop": log2(flop)},
    )  # fmt: skip
