"""Reads measurement tables: CSV, gzipped CSV, Parquet; refuses bad rows."""

from __future__ import annotations

import csv
import functools
import glob
import gzip
import io
import typing
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hwsim.errors import InputError, SpecError, nearest
from hwsim.resources import expanded, search_paths
from hwsim.specs.measurement import ROWS
from hwsim.specs.measurement_names import family_of, folded, known_ops
from hwsim.specs.measurement_table import (
    MICRO,
    BadRow,
    Column,
    FamilyRows,
    MeasurementTable,
    joined,
)

SUFFIXES = (".csv", ".csv.gz", ".parquet")
Raw = dict[str, Any]


def read_measurements(
    paths: Iterable[str | Path], *, skip_bad: bool = False
) -> MeasurementTable:
    """Read measurement tables.

    Parameters
    ----------
    paths : iterable of str or path
        Files (``.csv``, ``.csv.gz``, ``.parquet``); patterns with ``*`` are
        expanded. A file may hold rows of several operator families.
    skip_bad : bool
        Leave bad rows out and list them instead of refusing the table.

    Raises
    ------
    SpecError
        If a file cannot be read, or a row is bad: it names the first one and
        says how many there are.
    """
    return joined([read_table(path, skip_bad=skip_bad) for path in _expand(paths)])


def builtin_measurements() -> list[Path]:
    """Return the tables that stand beside the devices of the catalog."""
    found = []
    for folder in search_paths("devices"):
        for suffix in SUFFIXES:
            found += sorted(Path(folder).glob(f"*/*/measurements/*{suffix}"))
    return found


def _expand(paths: Iterable[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        text = str(expanded(str(path)))
        if glob.has_magic(text) and not Path(text).exists():
            hits = sorted(glob.glob(text))  # noqa: PTH207  a pattern, not a folder
            if not hits:
                raise SpecError(text, "matches no file", "name measurement tables")
            found += map(Path, hits)
        else:
            found.append(Path(text))
    return found


def read_table(path: str | Path, *, skip_bad: bool = False) -> MeasurementTable:
    """Read one measurement table; see :func:`read_measurements`."""
    file = str(path)
    header, raws = _raw_rows(Path(path))
    if not header:
        raise SpecError(file, "is empty", "write a heading and rows")
    bad: list[BadRow] = []
    by_family = _by_family(file, header, raws, bad)
    families = {}
    for family, members in by_family.items():
        rows = _checked(file, family, header, members, bad)
        if rows is not None:
            families[family] = rows
    bad.sort(key=lambda fault: fault.row)
    if bad and not skip_bad:
        _refuse(bad)
    return MeasurementTable(families, tuple(bad), (file,))


def _refuse(bad: Sequence[BadRow]) -> None:
    first = bad[0]
    where = f"{first.file}: row {first.row}"
    if first.column:
        where += f": {first.column}"
    number = len({fault.row for fault in bad})
    more = f" (bad rows: {number} in all)" if number > 1 else ""
    raise SpecError(
        where, first.reason + more, "mend the table, or leave bad rows out (--skip-bad)"
    )


def _raw_rows(path: Path) -> tuple[list[str], list[Raw | None]]:
    """Return the heading and each row as text by column; None for a ragged row."""
    file = str(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise SpecError(file, what, f"name a {' or '.join(SUFFIXES)} file")
    if file.endswith(".parquet"):
        return _parquet(path)
    if not file.endswith((".csv", ".csv.gz")):
        raise SpecError(file, "is no known kind of table", f"use {', '.join(SUFFIXES)}")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if file.endswith(".gz") else data).decode(
            "utf-8-sig"
        )
    except UnicodeDecodeError:
        raise SpecError(file, "is not UTF-8 text", "save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SpecError(file, f"cannot be read ({error})") from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        lines = [line for line in reader if line and not line[0].startswith("#")]
    except csv.Error as error:
        raise SpecError(file, f"is not valid CSV: {error}") from None
    if not lines:
        return [], []
    header = [name.strip() for name in lines[0]]
    _check_header(file, header)
    width = len(header)
    return header, [
        dict(zip(header, line, strict=True)) if len(line) == width else None
        for line in lines[1:]
    ]


def _check_header(file: str, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SpecError(file, f"has column {twice[0]!r} twice", "rename one")
    if "" in header:
        raise SpecError(file, "has a column without a name", "name it")


def _parquet(path: Path) -> tuple[list[str], list[Raw | None]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise SpecError(
            str(path), "needs pyarrow to be read", "pip install pyarrow, or use CSV"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise SpecError(str(path), f"cannot be read ({error})") from None
    return table.column_names, list(table.to_pylist())


def _by_family(
    file: str, header: Sequence[str], raws: Sequence[Raw | None], bad: list[BadRow]
) -> dict[str, list[tuple[int, Raw]]]:
    """Return (row number, row) by family; rows without one are bad."""
    found: dict[str, list[tuple[int, Raw]]] = {}
    families: dict[str, tuple[str, str] | str] = {}
    for number, raw in enumerate(raws, start=1):
        if raw is None:
            bad.append(
                BadRow(file, number, "", f"has not {len(header)} values as the heading")
            )
            continue
        op = str(raw.get("op") or "")
        if op not in families:
            families[op] = family_of(op) or _no_family(op, header)
        family = families[op]
        if isinstance(family, str):
            bad.append(BadRow(file, number, "op", family))
            continue
        raw["op"] = family[1]
        found.setdefault(family[0], []).append((number, raw))
    return found


def _no_family(op: str, header: Sequence[str]) -> str:
    if "op" not in header:
        return "is missing; add a column that names the operator"
    if not op:
        return "is empty; name the operator"
    close = nearest(folded(op), known_ops())
    hint = f"did you mean {', '.join(close)}?" if close else "see docs/measurements.md"
    return f"{op[:60]!r} is no known operator; {hint}"


def _checked(
    file: str,
    family: str,
    header: Sequence[str],
    members: Sequence[tuple[int, Raw]],
    bad: list[BadRow],
) -> FamilyRows | None:
    cls = ROWS[family]
    missing = [
        name
        for name, info in cls.model_fields.items()
        if info.is_required() and name not in header
    ]
    if missing:
        reason = f"is missing; {family} rows need it"
        bad += [BadRow(file, number, missing[0], reason) for number, _ in members]
        return None
    filled = [_filled(raw) for _, raw in members]
    numbers = np.array([number for number, _ in members], dtype=np.int64)
    adapter = _adapter(family)
    try:
        return _columns(file, family, adapter.validate_python(filled), numbers)
    except ValidationError as error:
        wrong = _faults(file, numbers, error)
    bad += wrong
    out = {fault.row for fault in wrong}
    kept = [i for i, number in enumerate(numbers) if number not in out]
    if not kept:
        return None
    rows = adapter.validate_python([filled[i] for i in kept])
    return _columns(file, family, rows, numbers[kept])


def _filled(raw: Mapping[str, Any]) -> Raw:
    """Return a row without its empty cells."""
    return {
        name: value
        for name, value in raw.items()
        if value not in ("", "nan", "NaN", None) and value == value
    }


@functools.cache
def _adapter(family: str) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[ROWS[family]])  # type: ignore[misc]


def _faults(
    file: str, numbers: NDArray[np.int64], error: ValidationError
) -> list[BadRow]:
    """Return the first fault of each bad row."""
    found: dict[int, BadRow] = {}
    for fault in error.errors(include_url=False, include_context=True):
        number = int(numbers[int(fault["loc"][0])])
        column = str(fault["loc"][1]) if len(fault["loc"]) > 1 else ""
        found.setdefault(number, BadRow(file, number, column, _reason(fault)))
    return list(found.values())


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "is empty; fill it in"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    message = str(fault["msg"])
    return f"{str(fault['input'])[:60]!r}: {message[0].lower()}{message[1:]}"


def _columns(
    file: str, family: str, rows: Sequence[BaseModel], numbers: NDArray[np.int64]
) -> FamilyRows:
    records = [row.__dict__ for row in rows]
    columns: dict[str, Column] = {}
    for name, info in ROWS[family].model_fields.items():
        values = [record[name] for record in records]
        columns[name] = _array(values, text=_is_text(info))
    if "latency_us" in columns:
        columns["time"] = columns.pop("latency_us") * MICRO
    if "bytes" in columns:
        columns["nbytes"] = columns.pop("bytes")
    extras = [row.__pydantic_extra__ or {} for row in rows]
    names = dict.fromkeys(name for extra in extras for name in extra)
    extra = {
        name: _array([e.get(name) for e in extras], text=True) for name in names
    }
    return FamilyRows(
        family, columns, extra, np.full(len(rows), file, dtype=object), numbers
    )


def _array(values: Sequence[Any], *, text: bool) -> Column:
    if text:
        array = np.empty(len(values), dtype=object)
        array[:] = ["" if value is None else str(value) for value in values]
        return array
    return np.array(
        [np.nan if value is None else value for value in values], dtype=np.float64
    )


def _is_text(info: FieldInfo) -> bool:
    """Return whether a field holds text, optional or not."""
    kinds = {info.annotation, *typing.get_args(info.annotation)}
    kinds |= {arg for kind in kinds for arg in typing.get_args(kind)}
    return str in kinds or any(isinstance(kind, str) for kind in kinds)


def check_columns(rows: FamilyRows, names: Iterable[str]) -> None:
    """Raise if rows lack a column.

    Raises
    ------
    InputError
        Naming the first column that is missing.
    """
    for name in names:
        if name not in rows.columns:
            raise InputError(f"{rows.family} rows have no column {name!r}")
