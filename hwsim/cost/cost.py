"""What a cost function returns: a time and how it splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Times of any number of operators, split into what they are spent on.

    The parts add up to ``time``: where mechanisms overlap, the overlapped
    time is shared out among them.

    Attributes
    ----------
    time : ndarray of float64
        Device time of each operator, host launch not included. [s]
    compute : ndarray of float64
        Part spent on arithmetic. [s]
    levels : dict of str to ndarray
        Part spent on each memory level, by its name in the device spec. [s]
    interconnect : ndarray of float64
        Part spent on links between devices. [s]
    overhead : ndarray of float64
        Part spent on starting, draining and synchronising. [s]
    """

    time: FloatArray
    compute: FloatArray
    levels: Mapping[str, FloatArray]
    interconnect: FloatArray
    overhead: FloatArray

    @property
    def memory(self) -> FloatArray:
        """Part spent on all memory levels together. [s]"""
        total = np.zeros_like(self.time)
        for part in self.levels.values():
            total = total + part
        return total

    def bound(self) -> NDArray[np.str_]:
        """Return the name of the largest part of each operator."""
        names = ["compute", *self.levels, "interconnect", "overhead"]
        parts = [self.compute, *self.levels.values(), self.interconnect, self.overhead]
        stacked = np.stack([np.broadcast_to(p, self.time.shape) for p in parts])
        found: NDArray[np.str_] = np.asarray(names)[np.argmax(stacked, axis=0)]
        return found


def combine(
    *,
    compute: ArrayLike = 0.0,
    levels: Mapping[str, ArrayLike] | None = None,
    interconnect: ArrayLike = 0.0,
    overhead: ArrayLike = 0.0,
    exponent: float = np.inf,
) -> Cost:
    """Return the cost of mechanisms that overlap, plus what nothing hides.

    Parameters
    ----------
    compute, interconnect : array_like of float64
        Time of each mechanism alone. [s]
    levels : dict of str to array_like
        Time of each memory level alone. [s]
    overhead : array_like of float64
        Added on top. [s]
    exponent : float
        p of (sum t_i^p)^(1/p): inf is perfect overlap (a hard maximum), 1 is
        none (a sum).

    Returns
    -------
    Cost
        The overlapped time is shared among mechanisms in proportion to
        t_i^p; under a hard maximum all of it goes to the largest, ties to
        the first of compute, levels in order, interconnect.
    """
    names = list(levels or {})
    parts = np.broadcast_arrays(
        *(
            np.asarray(p, dtype=np.float64)
            for p in (compute, *(levels or {}).values(), interconnect, overhead)
        )
    )
    stacked, extra = np.stack(parts[:-1]), parts[-1]
    largest = stacked.max(axis=0)
    if np.isinf(exponent):
        first = np.argmax(stacked, axis=0)
        share = np.zeros_like(stacked)
        np.put_along_axis(share, first[np.newaxis], 1.0, axis=0)
        total = largest
    else:
        scale = np.where(largest > 0, largest, 1.0)
        powered = (stacked / scale) ** exponent
        summed = powered.sum(axis=0)
        share = powered / np.where(summed > 0, summed, 1.0)
        total = scale * summed ** (1.0 / exponent) * (largest > 0)
    spent = share * total
    return Cost(
        time=total + extra,
        compute=spent[0],
        levels=dict(zip(names, spent[1:-1], strict=True)),
        interconnect=spent[-1],
        overhead=np.array(extra),
    )
