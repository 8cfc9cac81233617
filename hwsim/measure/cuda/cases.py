"""What a measurement case is, and the order in which cases are worth measuring."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Union

MOST_SPREAD = 60
GOLDEN = 0.6180339887498949
Value = Union[int, float, str]  # noqa: UP007 -- also read at run time on old Pythons


class Skip(Exception):  # noqa: N818 -- a verdict about a case, not a fault
    """The case cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    table : str
        Table that its row belongs to, for example ``gemm``.
    shape : tuple of (column, value)
        Columns that describe the work.
    launch : str
        ``eager``, ``graph`` (captured) or ``compiled``, which the host launches
        kernel by kernel too.
    operands : str
        ``cold``: rotated past the last cache; ``hot``: the same every time.
    seconds : float
        What measuring it is expected to take; not part of its identity. [s]
    """

    table: str
    op: str
    dtype: str
    shape: tuple[tuple[str, Value], ...]
    kernel: str = ""
    launch: str = "eager"
    operands: str = "cold"
    threads: int = 0
    seconds: float = field(default=0.5, compare=False)

    @property
    def key(self) -> str:
        """Identity of the case inside a folder of tables."""
        parts = [self.table, self.op, self.dtype]
        parts += [f"{name}={value}" for name, value in self.shape]
        parts += [self.kernel, self.launch, self.operands]
        if self.threads:
            parts.append(f"threads={self.threads}")
        return "|".join(parts)

    def __getitem__(self, name: str) -> Value:
        return dict(self.shape)[name]

    def number(self, name: str) -> int:
        """Return a whole-number column; 0 where the case does not have it."""
        return int(dict(self.shape).get(name, 0))

    def columns(self) -> dict[str, Value]:
        """Return the columns that the case knows before it is measured."""
        known: dict[str, Value] = {
            "op": self.op, "dtype": self.dtype, **dict(self.shape),
            "kernel": self.kernel, "mode": self.launch, "case": self.key,
            "launch": "graph" if self.launch == "graph" else "eager",
            "hot": "yes" if self.operands == "hot" else "no",
        }  # fmt: skip
        if self.threads:
            known["threads"] = self.threads
        return known


def shape(**values: Value) -> tuple[tuple[str, Value], ...]:
    """Return a case's shape from keywords."""
    return tuple(values.items())


def spread(cases: Sequence[Case]) -> list[Case]:
    """Order cases so that each is as far as can be from those before it.

    Distance is between the logarithms of the numeric columns, so that a
    prefix of the order covers the whole range, its corners first. After
    ``MOST_SPREAD`` of them, where that no longer shows, the rest follows in
    even strides.
    """
    order = _spread(tuple(_place(case) for case in cases))
    return [cases[i] for i in order]


@functools.lru_cache(maxsize=256)
def _spread(points: tuple[tuple[float, ...], ...]) -> list[int]:
    """Return the order of points; grids of several dtypes share it."""
    if len(points) < 3:
        return list(range(len(points)))
    middle = tuple(sum(axis) / len(points) for axis in zip(*points))  # noqa: B905
    far = [_gap(point, middle) for point in points]
    at = max(range(len(points)), key=far.__getitem__)
    nearest = [math.inf] * len(points)
    order: list[int] = []
    while len(order) < min(len(points), MOST_SPREAD):
        order.append(at)
        chosen = points[at]
        nearest[at] = -1.0
        for i, point in enumerate(points):
            if nearest[i] > 0.0:
                nearest[i] = min(nearest[i], _gap(point, chosen))
        at = max(range(len(points)), key=nearest.__getitem__)
    rest = sorted(set(range(len(points))) - set(order))
    rest.sort(key=lambda i: i * GOLDEN % 1.0)
    return order + rest


def _place(case: Case) -> tuple[float, ...]:
    return tuple(
        math.log2(1.0 + abs(float(value)))
        for _, value in case.shape
        if not isinstance(value, str)
    )


def _gap(a: Sequence[float], b: Sequence[float]) -> float:
    return math.dist(a, b)


def interleave(groups: Iterable[tuple[float, Sequence[Case]]]) -> list[Case]:
    """Merge groups so that any prefix holds each in proportion to its weight.

    Cases that a group repeats, or that an earlier group has, are left out.
    """
    lists = [(weight, list(cases)) for weight, cases in groups]
    queue = [(1.0 / w, i, 0) for i, (w, cases) in enumerate(lists) if cases]
    heapq.heapify(queue)
    seen: set[str] = set()
    merged = []
    while queue:
        at, group, index = heapq.heappop(queue)
        weight, cases = lists[group]
        if cases[index].key not in seen:
            seen.add(cases[index].key)
            merged.append(cases[index])
        if index + 1 < len(cases):
            heapq.heappush(queue, (at + 1.0 / weight, group, index + 1))
    return merged
