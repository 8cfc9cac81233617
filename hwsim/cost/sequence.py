"""Costs of steps that run one after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsim.cost.cost import Cost, FloatArray


def add(*costs: Cost) -> Cost:
    """Return the cost of running every one of ``costs`` in turn."""
    levels: dict[str, FloatArray] = {}
    for cost in costs:
        for name, part in cost.levels.items():
            levels[name] = levels[name] + part if name in levels else part
    time = sum((c.time for c in costs), np.float64(0.0))
    shape = np.shape(time)
    return Cost(
        time=np.asarray(time),
        compute=_total([c.compute for c in costs], shape),
        levels={k: np.broadcast_to(v, shape) for k, v in levels.items()},
        interconnect=_total([c.interconnect for c in costs], shape),
        overhead=_total([c.overhead for c in costs], shape),
    )


def repeated(cost: Cost, times: float) -> Cost:
    """Return the cost of ``times`` runs of one cost, one after the other."""
    return Cost(
        time=times * cost.time,
        compute=times * cost.compute,
        levels={name: times * part for name, part in cost.levels.items()},
        interconnect=times * cost.interconnect,
        overhead=times * cost.overhead,
    )


def either(first: ArrayLike, one: Cost, other: Cost) -> Cost:
    """Return one cost where ``first`` holds, the other elsewhere."""

    def pick(a: ArrayLike, b: ArrayLike) -> FloatArray:
        return np.asarray(np.where(first, a, b), dtype=np.float64)

    names = {**one.levels, **other.levels}
    return Cost(
        time=pick(one.time, other.time),
        compute=pick(one.compute, other.compute),
        levels={
            k: pick(one.levels.get(k, 0.0), other.levels.get(k, 0.0)) for k in names
        },
        interconnect=pick(one.interconnect, other.interconnect),
        overhead=pick(one.overhead, other.overhead),
    )


def interconnect_to_overhead(cost: Cost) -> Cost:
    """Return a cost whose interconnect part is counted as overhead.

    ``combine`` overlaps compute, memory and interconnect; this lets a fixed
    time that overlaps with the first two take the third place.
    """
    return Cost(
        time=cost.time,
        compute=cost.compute,
        levels=cost.levels,
        interconnect=np.zeros_like(cost.interconnect),
        overhead=cost.overhead + cost.interconnect,
    )


def select(chosen: NDArray[np.bool_], when_true: Cost, when_false: Cost) -> Cost:
    """Return, shape by shape, one of two costs."""

    def pick(a: FloatArray, b: FloatArray) -> FloatArray:
        return np.where(chosen, a, b)

    zero = np.float64(0.0)
    names = list(dict.fromkeys([*when_true.levels, *when_false.levels]))

    def level(cost: Cost, name: str) -> FloatArray:
        table: Mapping[str, FloatArray] = cost.levels
        return np.asarray(table.get(name, zero))

    return Cost(
        time=pick(when_true.time, when_false.time),
        compute=pick(when_true.compute, when_false.compute),
        levels={n: pick(level(when_true, n), level(when_false, n)) for n in names},
        interconnect=pick(when_true.interconnect, when_false.interconnect),
        overhead=pick(when_true.overhead, when_false.overhead),
    )


def _total(parts: list[FloatArray], shape: tuple[int, ...]) -> FloatArray:
    return np.broadcast_to(sum(parts, np.float64(0.0)), shape)
