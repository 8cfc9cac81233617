"""The page of one operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, table
from hwsim.report.pieces import assumed, bound_word, closing, name_of

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_ROWS = 200
_PARTS = ("compute", "memory", "interconnect", "overhead")


def op_page(saved: SavedResult) -> Page:
    """Return the page of one operator, or of an array of them."""
    rows = op_rows(saved)
    name, where = str(saved.need("op")), name_of(saved, "device")
    what = f"{name} in {saved.need('dtype')}"
    first = rows[0]
    if len(rows) == 1:
        answer = (
            f"{_interval(first)}, bound by {bound_word(first['bound'])}: "
            f"{fmt.rate(first['flop'] / first['time_s'])}."
        )
        question = f"How long does {_shape(saved, what)} take on {where}?"
    else:
        slow = max(rows, key=lambda row: float(row["time_s"]))
        fast = min(rows, key=lambda row: float(row["time_s"]))
        question = f"How long do {len(rows)} shapes of {what} take on {where}?"
        answer = (
            f"From {_interval(fast)} for the fastest shape to {_interval(slow)} for "
            "the slowest."
        )
    return Page(
        title=f"{what} on {where}",
        question=question,
        answer=answer,
        facts=_facts(first) if len(rows) == 1 else (),
        sections=(_table(rows), *closing(saved)),
        assumed=assumed(saved),
    )


def op_rows(saved: SavedResult) -> list[dict[str, Any]]:
    """Return one dict per shape; times are of one call. [s]"""
    import numpy as np

    columns: dict[str, Any] = {
        key: saved.need(key) for key in ("time_s", "flop", "nbytes", "bound")
    }
    columns |= {part: saved.need("breakdown").get(part, 0.0) for part in _PARTS}
    interval = (saved.data.get("interval_90") or {}).get("time_s")
    if interval:
        columns["low"], columns["high"] = interval
    arrays = np.broadcast_arrays(*(np.asarray(v) for v in columns.values()))
    flat = [array.ravel().tolist() for array in arrays]
    return [
        dict(zip(columns, row, strict=True)) for row in zip(*flat, strict=True)
    ]  # fmt: skip


def _shape(saved: SavedResult, what: str) -> str:
    shape = (saved.data.get("detail") or {}).get("shape") or {}
    told = ", ".join(f"{key} {fmt.count(value)}" for key, value in shape.items())
    return f"{what} ({told})" if told else what


def _interval(row: dict[str, Any]) -> str:
    time = fmt.seconds(row["time_s"], 4)
    if "low" not in row:
        return time
    low, high = fmt.seconds(row["low"]), fmt.seconds(row["high"])
    return f"{time} (90 % interval {low} to {high})"


def _facts(row: dict[str, Any]) -> tuple[Fact, ...]:
    time = row["time_s"]
    return (
        Fact("Time", fmt.seconds(time, 4), _ends(row)),
        Fact("Work", fmt.quantity(row["flop"], "FLOP"), fmt.rate(row["flop"] / time)),
        Fact(
            "Traffic", fmt.nbytes(row["nbytes"]), fmt.rate(row["nbytes"] / time, "B/s")
        ),
    )


def _table(rows: list[dict[str, Any]]) -> Section:
    if len(rows) == 1:
        return _parts(rows[0])
    lines = [
        [
            Cell(str(place)),
            Cell(fmt.seconds(row["time_s"], 4), number=True, note=_ends(row)),
            *(Cell(fmt.seconds(row[part]), number=True) for part in _PARTS),
            Cell(fmt.rate(row["flop"] / row["time_s"]), number=True),
            Cell(bound_word(str(row["bound"]))),
        ]
        for place, row in enumerate(rows[:_ROWS], start=1)
    ]
    heads = "Shape|#Time|#Compute|#Memory|#Interconnect|#Overhead|#Rate|Bound by"
    text = []
    if len(rows) > _ROWS:
        text.append(f"The first {_ROWS} of {fmt.count(len(rows))} shapes are shown.")
    made = table("Time and what it is spent on", heads, lines)
    return Section("shapes", "Where the time goes", tuple(text), (made,))


def _parts(row: dict[str, Any]) -> Section:
    total = sum(row[part] for part in _PARTS) or 1.0
    lines = [
        [
            Cell(part), Cell(fmt.seconds(row[part], 4), number=True),
            Cell(fmt.percent(row[part] / total), number=True, bar=row[part] / total),
        ]
        for part in _PARTS
    ]  # fmt: skip
    made = table("What the time is spent on", "Part|#Time|#Share", lines)
    return Section("shapes", "Where the time goes", (), (made,))


def _ends(row: dict[str, Any]) -> str:
    if "low" not in row:
        return ""
    return f"90 %: {fmt.seconds(row['low'])} to {fmt.seconds(row['high'])}"
