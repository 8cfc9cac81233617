"""Roofline: the speed of light from datasheet peaks, and its fitted form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec


def roofline_cost(
    flop: ArrayLike,
    nbytes: ArrayLike | Mapping[str, ArrayLike],
    *,
    device: DeviceSpec,
    dtype: str,
    unit: Literal["matrix", "vector"] = "matrix",
    overhead: ArrayLike = 0.0,
) -> Cost:
    """Return the least time that datasheet peaks allow.

    Parameters
    ----------
    flop : array_like of float64
        Work. [FLOP]
    nbytes : array_like of float64 or dict of str to array_like
        Main-memory traffic, or traffic of each memory level by name (a
        hierarchical roofline). Levels without a quoted bandwidth bind
        nothing. [B]
    unit : {"matrix", "vector"}
        Units that do the work.
    overhead : array_like of float64
        Added on top. [s]

    Raises
    ------
    InputError
        If work or traffic is negative or not finite, or names no level.

    References
    ----------
    .. [1] S. Williams et al., "Roofline", CACM 52(4), 2009,
       doi:10.1145/1498765.1498785.
    """
    return three_constant_cost(
        flop,
        nbytes,
        device=device,
        dtype=dtype,
        compute_efficiency=1.0,
        memory_efficiency=1.0,
        overhead=overhead,
        unit=unit,
    )


def three_constant_cost(
    flop: ArrayLike,
    nbytes: ArrayLike | Mapping[str, ArrayLike],
    *,
    device: DeviceSpec,
    dtype: str,
    compute_efficiency: float,
    memory_efficiency: float,
    overhead: ArrayLike,
    unit: Literal["matrix", "vector"] = "matrix",
) -> Cost:
    """Return the roofline with peaks taken at a share, plus an overhead.

    Parameters
    ----------
    compute_efficiency, memory_efficiency : float
        Share of the peak and of every level's bandwidth that is reached. [1]
    overhead : array_like of float64
        Time that nothing hides. [s]
    """
    for name, share in (
        ("compute_efficiency", compute_efficiency),
        ("memory_efficiency", memory_efficiency),
    ):
        if not 0.0 < share <= 1.0:
            raise InputError(f"{name} is {share}; give a share of peak in (0, 1]")
    work = non_negative("flop", flop)
    if not isinstance(nbytes, Mapping):
        nbytes = {device.main_memory_name: nbytes}
    levels = {}
    for name, amount in nbytes.items():
        if name not in device.memory:
            raise InputError(
                f"device {device.id} has no memory level {name!r}; "
                f"it has {', '.join(device.memory)}"
            )
        bandwidth = device.memory[name].bandwidth
        read = non_negative(f"nbytes of {name}", amount)
        levels[name] = (
            np.zeros_like(read)
            if bandwidth is None
            else read / (bandwidth * memory_efficiency)
        )
    peak = device.peak(dtype, unit) * compute_efficiency
    return combine(compute=work / peak, levels=levels, overhead=overhead)


def non_negative(name: str, values: ArrayLike) -> FloatArray:
    """Return values as floats, refusing negative ones and NaN."""
    array = np.asarray(values, dtype=np.float64)
    if not np.all((array >= 0) & (array < np.inf)):
        raise InputError(f"{name} is negative or not finite; give values >= 0")
    return array
