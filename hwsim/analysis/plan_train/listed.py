"""Layouts as columns of integers, written down batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.plan_train.choices import DEGREES, RECOMPUTE

IntArray = NDArray[np.int32]
FIELDS = (
    *DEGREES, "zero_stage", "recompute", "schedule", "offload_optimizer",
    "offload_activations", "dp_shard",
)  # fmt: skip
_GROWS = 4


@dataclass(frozen=True)
class Space:
    """Layouts of one device count, one entry of each column per layout.

    Attributes
    ----------
    columns : dict of str to ndarray of int32
        By name of ``FIELDS``; ``recompute`` and ``schedule`` are indices of
        ``RECOMPUTE`` and ``schedules``. ``dp_shard`` 0: all ranks share.
    invalid : int
        Combinations that were passed over because a rule forbids them.
    """

    devices: int
    global_batch: int
    schedules: tuple[str, ...]
    columns: dict[str, IntArray]
    invalid: int
    why: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["tp"])

    def __getitem__(self, name: str) -> IntArray:
        return self.columns[name]

    @property
    def num_microbatches(self) -> IntArray:
        """Microbatches that each data-parallel rank accumulates."""
        return self.global_batch // (self["micro_batch"] * self["dp"])

    def taken(self, where: Any) -> Space:
        """Return the layouts at some places."""
        columns = {name: column[where] for name, column in self.columns.items()}
        return Space(
            self.devices, self.global_batch, self.schedules, columns, self.invalid,
            self.why,
        )  # fmt: skip

    def row(self, index: int) -> dict[str, Any]:
        """Return one layout as :func:`hwsim.train` takes it."""
        row: dict[str, Any] = {k: int(v[index]) for k, v in self.columns.items()}
        row["recompute"] = RECOMPUTE[row["recompute"]]
        row["schedule"] = self.schedules[row["schedule"]]
        for name in ("offload_optimizer", "offload_activations"):
            row[name] = bool(row[name])
        row["dp_shard"] = row["dp_shard"] or None
        return row


@dataclass(frozen=True)
class Listed:
    """A space whose layouts are written down batch by batch."""

    empty: Space
    parts: Sequence[Part]

    def __len__(self) -> int:
        return sum(part.size for part in self.parts)

    def batches(self, most: int, first: int | None = None) -> Iterator[Space]:
        """Yield all layouts, at most so many at once; at least one batch.

        Batches grow from ``first`` on, so that something is known soon.
        """
        size = min(first or most, most)
        rows = np.zeros((0, len(FIELDS)), dtype=np.int32)
        waiting: list[IntArray] = []
        held = 0
        for part in self.parts:
            waiting.append(part.rows())
            held += part.size
            if held < size:
                continue
            rows = np.concatenate(waiting)
            while len(rows) >= size:
                yield self._space(rows[:size])
                rows, size = rows[size:], min(_GROWS * size, most)
            waiting, held = [rows], len(rows)
        if held or not self.parts:
            yield self._space(np.concatenate([rows[:0], *waiting]))

    def _space(self, rows: IntArray) -> Space:
        columns = {name: rows[:, i].copy() for i, name in enumerate(FIELDS)}
        return replace(self.empty, columns=columns)


@dataclass(frozen=True)
class Part:
    """Layouts that share tp, cp, pp and dp: all rows of three tables, crossed."""

    degrees: tuple[int, int, int, int]
    experts: tuple[int, ...]
    runs: IntArray
    rest: IntArray
    dp_shard: int = 0

    @property
    def size(self) -> int:
        """Number of layouts."""
        return len(self.experts) * len(self.runs) * len(self.rest)

    def rows(self) -> IntArray:
        """Return them, one row each, columns as ``FIELDS``."""
        experts = np.array(self.experts, dtype=np.int32)[:, None]
        table = _crossed(experts, self.runs, self.rest)
        tp, cp, pp, dp = self.degrees
        made = np.empty((len(table), len(FIELDS)), dtype=np.int32)
        made[:, :3] = tp, cp, pp
        made[:, 3], made[:, 4], made[:, 5] = table[:, 2], table[:, 0], dp
        made[:, 6], made[:, 9] = table[:, 1], table[:, 3]
        made[:, 7:9], made[:, 10:12] = table[:, 4:6], table[:, 6:8]
        made[:, 12] = self.dp_shard
        return made


def _crossed(*tables: IntArray) -> IntArray:
    """Return every row of each table beside every row of the others."""
    sizes = [len(t) for t in tables]
    places = np.indices(sizes).reshape(len(sizes), -1)
    return np.concatenate(
        [t[p] for t, p in zip(tables, places, strict=True)], axis=1
    )  # fmt: skip
