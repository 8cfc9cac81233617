"""Measured rows in memory: one array per column, by operator family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import InputError

Column = NDArray[Any]
MICRO = 1e-6
# Above this share of disturbed samples a time says more about other processes.
DISTURBED = 0.5


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was refused or that has no prediction.

    Attributes
    ----------
    file : str
        Table it stands in.
    row : int
        Counted from 1 below the heading.
    column : str
        Where the fault is; empty where it is in the row as a whole.
    reason : str
        What is wrong.
    """

    file: str
    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}: row {self.row}"
        return (
            f"{where}: {self.column}: {self.reason}"
            if self.column
            else (f"{where}: {self.reason}")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fault for tables."""
        return {
            "file": self.file,
            "row": self.row,
            "column": self.column,
            "reason": self.reason,
        }


def _share(text: Any) -> float:
    try:
        return float(text or 0.0)
    except ValueError:  # not our column
        return 0.0


@dataclass(frozen=True)
class FamilyRows:
    """Rows of one operator family as columns.

    Attributes
    ----------
    family : str
        Which schema the columns follow.
    columns : mapping of str to ndarray
        Numbers as float64 (NaN where not given), text as object arrays (empty
        where not given). ``time`` is the measured time in seconds, ``measured``
        of end-to-end rows the metric in SI, ``power_w`` of power rows watts.
    extra : mapping of str to ndarray
        Columns that the schema does not know, as text.
    file : ndarray of str
        Table that each row comes from.
    row : ndarray of int
        Its number there, counted from 1 below the heading.
    """

    family: str
    columns: Mapping[str, Column]
    extra: Mapping[str, Column]
    file: Column
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, name: str) -> Column:
        try:
            return self.columns[name]
        except KeyError:
            raise InputError(
                f"{self.family} rows have no column {name!r}; they have "
                f"{', '.join(self.columns)}"
            ) from None

    @property
    def measured(self) -> NDArray[np.float64]:
        """What was measured, in SI."""
        names = {"end_to_end": "measured", "power": "power_w"}
        return self[names.get(self.family, "time")]

    @property
    def undisturbed(self) -> NDArray[np.bool_]:
        """Whether a row's time is its own: few samples met other processes."""
        shares = self.extra.get("disturbed", ())
        if not len(shares):
            return np.ones(len(self), dtype=bool)
        return np.array([_share(text) <= DISTURBED for text in shares], dtype=bool)

    def take(self, index: Column) -> FamilyRows:
        """Return some of the rows, by indices or by a mask."""
        return FamilyRows(
            self.family,
            {name: values[index] for name, values in self.columns.items()},
            {name: values[index] for name, values in self.extra.items()},
            self.file[index],
            self.row[index],
        )

    def groups(self, *names: str) -> Iterator[tuple[tuple[Any, ...], FamilyRows]]:
        """Yield (values, rows) for each combination of some columns."""
        for key, index in self.group_indices(*names):
            yield key, self.take(index)

    def group_indices(
        self, *names: str
    ) -> Iterator[tuple[tuple[Any, ...], NDArray[np.int64]]]:
        """Yield (values, row indices) for each combination of some columns."""
        code = np.zeros(len(self), dtype=np.int64)
        values: list[Column] = []
        for name in names:
            found, own = np.unique(self[name], return_inverse=True)
            code = code * len(found) + own
            values.append(self[name])
        order = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        for index in np.split(order, starts[1:]) if len(order) else []:
            yield tuple(column[index[0]] for column in values), index


@dataclass(frozen=True)
class MeasurementTable:
    """Measured rows of any families, from any number of files.

    Attributes
    ----------
    families : mapping of str to FamilyRows
        Rows by operator family.
    bad : tuple of BadRow
        Rows that were left out (``skip_bad``), each with a reason.
    files : tuple of str
        What was read.
    """

    families: Mapping[str, FamilyRows]
    bad: tuple[BadRow, ...] = ()
    files: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.families.values())

    def select(self, keep: Callable[[FamilyRows], Column]) -> MeasurementTable:
        """Return the rows that a function marks in each family."""
        chosen = {name: rows.take(keep(rows)) for name, rows in self.families.items()}
        return MeasurementTable(
            {name: rows for name, rows in chosen.items() if len(rows)},
            self.bad,
            self.files,
        )


def joined(tables: Sequence[MeasurementTable]) -> MeasurementTable:
    """Return several tables as one."""
    names = dict.fromkeys(name for t in tables for name in t.families)
    families = {
        name: _stacked([t.families[name] for t in tables if name in t.families])
        for name in names
    }
    return MeasurementTable(
        families,
        tuple(bad for t in tables for bad in t.bad),
        tuple(file for t in tables for file in t.files),
    )


def _stacked(parts: Sequence[FamilyRows]) -> FamilyRows:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return FamilyRows(
        first.family,
        {n: np.concatenate([p.columns[n] for p in parts]) for n in first.columns},
        _stacked_extra(parts),
        np.concatenate([p.file for p in parts]),
        np.concatenate([p.row for p in parts]),
    )


def _stacked_extra(parts: Iterable[FamilyRows]) -> dict[str, Column]:
    parts = list(parts)
    names = dict.fromkeys(name for part in parts for name in part.extra)
    return {
        name: np.concatenate(
            [part.extra.get(name, np.full(len(part), "", object)) for part in parts]
        )
        for name in names
    }
