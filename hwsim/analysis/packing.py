"""Timelines and tables of operators as columns: small in a saved file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwsim.sim.records import Record

_CODED = ("stream", "block", "name", "kind", "phase")
_DIGITS = 9
MAX_RECORDS = 20_000


def pack_records(records: Sequence[Record]) -> dict[str, Any]:
    """Return a timeline as columns; text is kept once and referred to by place.

    A timeline of more than 20,000 records keeps its first ranks, at least one;
    ``left_out`` is how many records that leaves out.
    """
    kept = _first_ranks(records)
    columns: dict[str, list[Any]] = {
        field: [getattr(r, field) for r in kept] for field in Record._fields
    }
    names: dict[str, list[str]] = {}
    for field in _CODED:
        names[field] = list(dict.fromkeys(columns[field]))
        place = {text: i for i, text in enumerate(names[field])}
        columns[field] = [place[text] for text in columns[field]]
    for field in ("start", "end"):
        columns[field] = [float(f"{v:.{_DIGITS}g}") for v in columns[field]]
    return {
        "names": names,
        "columns": columns,
        "left_out": len(records) - len(kept),
    }


def _first_ranks(records: Sequence[Record]) -> Sequence[Record]:
    if len(records) <= MAX_RECORDS:
        return records
    counts: dict[int, int] = {}
    for record in records:
        counts[record.rank] = counts.get(record.rank, 0) + 1
    kept: set[int] = set()
    total = 0
    for rank in sorted(counts):
        total += counts[rank]
        if kept and total > MAX_RECORDS:
            break
        kept.add(rank)
    return [record for record in records if record.rank in kept]


def unpack_records(packed: Mapping[str, Any]) -> tuple[Record, ...]:
    """Return a timeline from its columns."""
    columns = dict(packed["columns"])
    for field in _CODED:
        names = packed["names"][field]
        columns[field] = [names[code] for code in columns[field]]
    rows = zip(*(columns[field] for field in Record._fields), strict=True)
    return tuple(Record(*row) for row in rows)


def pack_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows with equal keys as columns."""
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def unpack_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return columns as rows."""
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
