"""Reads measurement tables: CSV, gzipped CSV, Parquet; refuses bad rows."""

from __future__ import annotations

import functools
import glob
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hwsim.errors import SpecError, nearest
from hwsim.registry import search_paths
from hwsim.resources import expanded
from hwsim.specs.measurement.file import SUFFIXES, RawTable, raw_table
from hwsim.specs.measurement.names import (
    COLUMN_ALIASES,
    TIME_UNITS,
    family_of,
    folded,
    known_ops,
)
from hwsim.specs.measurement.row import ROWS
from hwsim.specs.measurement.rules import RULES, Rule
from hwsim.specs.measurement.table import (
    MICRO,
    BadRow,
    Column,
    FamilyRows,
    MeasurementTable,
    joined,
)


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
    bad: list[BadRow] = []
    raw = raw_table(Path(path), bad)
    if not raw.columns:
        raise SpecError(file, "is empty", "write a heading and rows")
    if not raw.numbers.size and not bad:
        raise SpecError(file, "has a heading but no rows", "write a row a measurement")
    families = {}
    for family, members in _by_family(file, raw, bad).items():
        rows = _checked(file, family, members, bad)
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


def _by_family(file: str, raw: RawTable, bad: list[BadRow]) -> dict[str, RawTable]:
    """Return rows by family, operators renamed; rows of none are bad."""
    if "op" not in raw.columns and {"model", "metric"} <= raw.columns.keys():
        raw.columns["op"] = _tasks(raw)
    if "op" not in raw.columns:
        reason = "is missing; add a column that names the operator"
        bad += [BadRow(file, int(n), "op", reason) for n in raw.numbers]
        return {}
    ops = raw.columns["op"]
    known = {op: family_of(str(op)) for op in set(ops)}
    found = {}
    for family in dict.fromkeys(hit[0] for hit in known.values() if hit):
        mask = np.array([(known[op] or ("",))[0] == family for op in ops])
        members = _renamed(family, raw.take(mask))
        members.columns["op"] = _objects(
            [(known[op] or ("", ""))[1] for op in members.columns["op"]]
        )
        found[family] = members
    for op, hit in known.items():
        if hit is None:
            reason = _no_family(str(op or ""))
            bad += [BadRow(file, int(n), "op", reason) for n in raw.numbers[ops == op]]
    return found


def _renamed(family: str, raw: RawTable) -> RawTable:
    """Return rows whose columns have the names of their family's schema."""
    for alias, name in COLUMN_ALIASES.get(family, {}).items():
        if alias in raw.columns and name not in raw.columns:
            raw.columns[name] = raw.columns.pop(alias)
    return raw


def _tasks(raw: RawTable) -> Column:
    """Return the operator of end-to-end rows that do not name it."""
    trains = raw.columns.get("global_batch")
    if trains is None:
        return _objects(["infer"] * len(raw.numbers))
    return _objects(["infer" if value in _EMPTY else "train" for value in trains])


def _no_family(op: str) -> str:
    if not op:
        return "is empty; name the operator"
    close = nearest(folded(op), known_ops())
    hint = f"did you mean {', '.join(close)}?" if close else "see docs/measurements.md"
    return f"{op[:60]!r} is no known operator; {hint}"


def _checked(
    file: str, family: str, raw: RawTable, bad: list[BadRow]
) -> FamilyRows | None:
    """Return the sound rows of one family as columns."""
    faults: dict[int, tuple[str, str]] = {}
    columns: dict[str, Column] = {}
    for name, info in ROWS[family].model_fields.items():
        given = raw.columns.get(name)
        if given is None and info.is_required():
            reason = f"is missing; {family} rows need it"
            bad += [BadRow(file, int(n), name, reason) for n in raw.numbers]
            return None
        columns[name] = _column(name, info, given, len(raw.numbers), faults)
    for rule in RULES.get(family, ()):
        _apply(rule, columns, faults)
    bad += [
        BadRow(file, int(raw.numbers[i]), name, reason)
        for i, (name, reason) in faults.items()
    ]
    if len(faults) == len(raw.numbers):
        return None
    extra = {
        name: _objects(["" if v is None else str(v) for v in values])
        for name, values in raw.columns.items()
        if name not in columns
    }
    if family == "end_to_end":
        columns["measured"] = _metric_values(columns)
    if "latency_us" in columns:
        columns["time"] = columns.pop("latency_us") * MICRO
    if "bytes" in columns:
        columns["nbytes"] = columns.pop("bytes")
    files = np.full(len(raw.numbers), file, dtype=object)
    rows = FamilyRows(family, columns, extra, files, raw.numbers)
    if not faults:
        return rows
    sound = np.ones(len(rows), dtype=bool)
    sound[list(faults)] = False
    return rows.take(sound)


def _metric_values(columns: Mapping[str, Column]) -> Column:
    """Return end-to-end metrics in SI: seconds, or units of work a second."""
    factors = np.array([TIME_UNITS.get(unit, 1.0) for unit in columns["unit"]])
    given: Column = columns["value"] * factors
    return np.where(np.isnan(given), columns["latency_us"] * MICRO, given)


def _column(
    name: str,
    info: FieldInfo,
    given: Column | None,
    count: int,
    faults: dict[int, tuple[str, str]],
) -> Column:
    """Return one column, each distinct value checked once by its pydantic type."""
    text = _is_text(info)
    default = "" if text and info.default is None else info.default
    if given is None:
        return _objects([default] * count) if text else np.full(count, _number(default))
    adapter = _adapter(info.rebuild_annotation())
    made: dict[Any, Any] = {}
    wrong: dict[Any, str] = {}
    for value in set(given):
        if value in _EMPTY or value != value:
            made[value] = default
            if info.is_required():
                wrong[value] = "is empty; fill it in"
            continue
        try:
            made[value] = adapter.validate_python(value)
        except ValidationError as error:
            wrong[value] = _reason(error.errors(include_url=False)[0])
    if wrong:
        for index, value in enumerate(given):
            if value in wrong:
                faults.setdefault(index, (name, wrong[value]))
    if text:
        return _objects([made.get(value, "") for value in given])
    return np.array([_number(made.get(value)) for value in given], dtype=np.float64)


_EMPTY = frozenset({"", "nan", "NaN", "None", None})


@functools.lru_cache(maxsize=256)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _objects(values: Sequence[Any]) -> Column:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _apply(
    rule: Rule, columns: Mapping[str, Column], faults: dict[int, tuple[str, str]]
) -> None:
    wrong = rule.broken(columns)
    for index in np.flatnonzero(wrong):
        if int(index) not in faults:
            faults[int(index)] = (rule.column, rule.reason)


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    message = str(fault["msg"])
    return f"{str(fault['input'])[:60]!r}: {message[0].lower()}{message[1:]}"


def _is_text(info: FieldInfo) -> bool:
    """Return whether a field holds text, optional or not."""
    kinds = {info.annotation, *typing.get_args(info.annotation)}
    kinds |= {arg for kind in kinds for arg in typing.get_args(kind)}
    return str in kinds or any(isinstance(kind, str) for kind in kinds)
