"""What the readers of published tables share: rows of cells, numbers, faults."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hwsim.errors import SpecError, nearest
from hwsim.specs.measurement.file import raw_table
from hwsim.specs.measurement.table import BadRow

T = TypeVar("T")
DIGITS = r"[-+]?\d[\d,_]*(?:\.\d*)?(?:[eE][-+]?\d+)?"
# A letter before a slash is a unit ("3 t/s"), not a multiple.
_NUMBER = re.compile(rf"({DIGITS})\s*([kKmMgGbBtT](?![A-Za-z0-9/]))?")
# Thousands are set apart three digits at a time, or not at all.
_GROUPED = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|[\d_]+)(?:\.\d*)?(?:[eE][-+]?\d+)?$")
_BLANK = {
    "", "na", "n/a", "n.a.", "nan", "-", "–", "—", "none", "null", "nil", "unknown",
    "?", "not stated", "not given", "not reported", "tbd", "auto",
}  # fmt: skip
_SCALE = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


class CellRow(NamedTuple):
    """A row of a table as text.

    Attributes
    ----------
    number : int
        Counted from 1 below the heading.
    cells : mapping of str to str
        By the column's name in lower case; white space folded.
    fault : str
        Why it has no cells; empty where it has.
    """

    number: int
    cells: Mapping[str, str]
    fault: str


def cell_rows(
    path: Path, what: str, required: Sequence[str], one_of: Sequence[str] = ()
) -> Iterator[CellRow]:
    """Yield the rows of a table, those of a wrong width with their fault.

    Parameters
    ----------
    what : str
        What its rows are, in the plural, for errors.
    required, one_of : sequence of str
        Columns that must be there, all of the first and any of the second.

    Raises
    ------
    SpecError
        If the file cannot be read or lacks such a column.
    """
    bad: list[BadRow] = []
    raw = raw_table(path, bad)
    columns = {
        re.sub(r"[\s-]+", "_", name.strip().casefold()): cells
        for name, cells in raw.columns.items()
    }
    missing = [name for name in required if name not in columns]
    if one_of and not any(name in columns for name in one_of):
        missing.append(one_of[0])
    if missing:
        close = nearest(missing[0], list(columns))
        hint = f"; is it {close[0]!r}?" if close else ""
        raise SpecError(
            str(path), f"has no column {missing[0]!r}{hint}",
            f"give the columns of a table of {what}",
        )  # fmt: skip
    faults = {fault.row: fault.reason for fault in bad}
    place = {int(number): i for i, number in enumerate(raw.numbers)}
    for number in sorted({*place, *faults}):
        if number in faults:
            yield CellRow(number, {}, faults[number])
        else:
            i = place[number]
            cells = {name: _text(values[i]) for name, values in columns.items()}
            yield CellRow(number, cells, "")


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return " ".join(str(cell).split())


def is_blank(cell: str) -> bool:
    """Whether a cell says nothing.

    Examples
    --------
    >>> is_blank("n/a"), is_blank("0")
    (True, False)
    """
    return cell.casefold() in _BLANK


def number(cell: str) -> float | None:
    """Return the first number of a cell, suffix applied; words after are remarks.

    Raises
    ------
    ValueError
        If the cell does not begin with a number.

    Examples
    --------
    >>> number("1,024 sequences"), number("4M tokens"), number("n/a")
    (1024.0, 4000000.0, None)
    """
    if is_blank(cell):
        return None
    text = cell.lstrip("~≈<> ")
    found = _NUMBER.match(text)
    if found is None:
        raise ValueError(f"{cell[:60]!r} is not a number")
    if _GROUPED.match(found[1]) is None or re.match(r"[.,]\d", text[found.end(1) :]):
        raise ValueError(f"{cell[:60]!r} may be two numbers: write 1234.5 for 1,234.5")
    value = plain(found[1]) * _SCALE.get((found[2] or "").casefold(), 1.0)
    if not math.isfinite(value):
        raise ValueError(f"{cell[:60]!r} is not finite")
    return value


def tokens(cell: str) -> float | None:
    """Return a number of tokens, which in ``k`` is of powers of two.

    Examples
    --------
    >>> tokens("8k"), tokens("1.5k"), tokens("2000")
    (8192.0, 1500.0, 2000.0)
    """
    value = number(cell)
    thousands = re.search(r"\d\s*[kK](?![A-Za-z])", cell)
    return value * 1.024 if value and thousands and value % 1000 == 0 else value


def plain(digits: str) -> float:
    """Return a number that may have its thousands set apart."""
    return float(digits.replace(",", "").replace("_", ""))


def whole(value: float | None, cell: str, least: int = 1) -> int | None:
    """Return a count, or raise ``ValueError`` if a cell's number is none."""
    if value is None:
        return None
    if not float(value).is_integer() or not least <= value <= 1e12:
        raise ValueError(f"{cell[:60]!r} is not a whole number of at least {least}")
    return int(value)


def positive(value: float | None, cell: str) -> float | None:
    """Return a number, or raise ``ValueError`` if it is not above zero."""
    if value is not None and not value > 0.0:
        raise ValueError(f"{cell[:60]!r} is not above zero")
    return value


@dataclass
class Cells:
    """Reads the cells of a row and notes which cannot be read.

    Attributes
    ----------
    faults : list of str
        What is wrong, with the column's name before it.
    """

    cells: Mapping[str, str]
    faults: list[str] = field(default_factory=list)

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Return what a function makes of a cell; None where it refuses it."""
        try:
            return parse(self.cells.get(name, ""))
        except ValueError as error:
            self.faults.append(f"{name}: {error}")
            return None

    def texts(self, names: Sequence[str]) -> dict[str, Any]:
        """Return cells as they stand, blank words as empty text."""
        found = {name: self.cells.get(name, "") for name in names}
        return {name: "" if is_blank(cell) else cell for name, cell in found.items()}
