"""Files of measurement tables as columns of raw cells: CSV, gzip, Parquet."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import SpecError
from hwsim.specs.measurement.table import BadRow, Column

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class RawTable:
    """Cells as they stand in a file.

    Attributes
    ----------
    columns : dict of str to ndarray of object
        Text, or what Parquet holds.
    numbers : ndarray of int
        Row numbers, counted from 1 below the heading.
    """

    columns: dict[str, Column]
    numbers: NDArray[np.int64]

    def take(self, mask: Column) -> RawTable:
        """Return some of the rows."""
        return RawTable(
            {name: values[mask] for name, values in self.columns.items()},
            self.numbers[mask],
        )


def raw_table(path: Path, bad: list[BadRow]) -> RawTable:
    """Read a file; rows of another width than the heading join ``bad``.

    Raises
    ------
    SpecError
        If the file is missing, of an unknown kind or broken.
    """
    file = str(path)
    if not path.is_file():
        what = "is no plain file" if path.exists() else "does not exist"
        what = "is a folder" if path.is_dir() else what
        raise SpecError(file, what, f"name a {' or '.join(SUFFIXES)} file")
    if file.endswith(".parquet"):
        return _parquet(path)
    if not file.endswith((".csv", ".csv.gz")):
        raise SpecError(file, "is no known kind of table", f"use {', '.join(SUFFIXES)}")
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""))
        lines = [
            line for line in reader
            if any(cell.strip() for cell in line) and not line[0].startswith("#")
        ]  # fmt: skip
    except csv.Error as error:
        raise SpecError(file, f"is not valid CSV: {error}") from None
    if not lines:
        return RawTable({}, np.zeros(0, dtype=np.int64))
    lines = _without_blank_ends(lines)
    header = [name.strip() for name in lines[0]]
    _check_header(file, header)
    width = len(header)
    good = [(i, line) for i, line in enumerate(lines[1:], 1) if len(line) == width]
    if len(good) < len(lines) - 1:
        sound = {i for i, _ in good}
        bad += [
            BadRow(
                file,
                i,
                "",
                f"has {len(line)} values, the heading {width}",
            )
            for i, line in enumerate(lines[1:], 1)
            if i not in sound
        ]
    cells = np.empty((len(good), width), dtype=object)
    if good:
        cells[:] = [line for _, line in good]
    return RawTable(
        {name: cells[:, i] for i, name in enumerate(header)},
        np.array([i for i, _ in good], dtype=np.int64),
    )


def _without_blank_ends(lines: list[list[str]]) -> list[list[str]]:
    """Return lines without the commas that spreadsheets leave at their ends."""
    width = len(lines[0])
    while width and not lines[0][width - 1].strip():
        width -= 1
    if any(cell.strip() for line in lines for cell in line[width:]):
        return lines
    return [line[:width] for line in lines]


def _text(path: Path) -> str:
    file = str(path)
    try:
        data = path.read_bytes()
        if file.endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(file, "is not UTF-8 text", "save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SpecError(file, f"cannot be read ({error})") from None


def separator_fault(header: Sequence[str]) -> str:
    """Return what is wrong where columns are not separated by commas, else nothing.

    Examples
    --------
    >>> separator_fault(["model;device"]), separator_fault(["model", "device"])
    ("is not separated by commas, but by ';'", '')
    """
    mark = next((c for c in ";\t|" if len(header) == 1 and c in header[0]), None)
    return f"is not separated by commas, but by {mark!r}" if mark else ""


def _check_header(file: str, header: Sequence[str]) -> None:
    if fault := separator_fault(header):
        raise SpecError(file, fault, "save it as plain CSV")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SpecError(file, f"has column {twice[0]!r} twice", "rename one")
    if "" in header:
        raise SpecError(file, "has a column without a name", "name it")


def _parquet(path: Path) -> RawTable:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")  # not a dependency
    except ImportError:
        raise SpecError(
            str(path), "needs pyarrow to be read", "pip install pyarrow, or use CSV"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise SpecError(str(path), f"cannot be read ({error})") from None
    columns = {}
    for name in table.column_names:
        values = np.empty(table.num_rows, dtype=object)
        values[:] = table.column(name).to_pylist()
        columns[name] = values
    return RawTable(columns, np.arange(1, table.num_rows + 1))
