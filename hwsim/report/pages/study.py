"""The page of a study: its own words, tables and figures, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.analysis.comparing.waterfall import Waterfall
from hwsim.report import format as fmt
from hwsim.report.content import (
    Cell,
    Page,
    Picture,
    Section,
    Table,
    picture,
    slug,
    table,
)
from hwsim.report.figures.tables import bars_figure, lines_figure, shown
from hwsim.report.figures.waterfall import waterfall_figure
from hwsim.report.pieces import assumed, closing

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult


def study_page(saved: SavedResult) -> Page:
    """Return the page of a study."""
    sections = [
        _section(f"study-{at}", section)
        for at, section in enumerate(saved.need("sections"), start=1)
    ]
    return Page(
        title=str(saved.need("title")),
        question=str(saved.need("question", "text")),
        answer=str(saved.need("answer")),
        facts=(),
        sections=(*sections, *closing(saved)),
        assumed=assumed(saved),
    )


def _section(name: str, told: Mapping[str, Any]) -> Section:
    items: list[Table | Picture] = [_bars(name, bars) for bars in told["bars"]]
    items += [_lines(name, lines) for lines in told["lines"]]
    items += [_waterfall(name, fall) for fall in told["waterfalls"]]
    items += [_table(made) for made in told["tables"]]
    return Section(
        name, str(told["title"]), tuple(map(str, told["text"])), tuple(items)
    )


def _table(told: Mapping[str, Any]) -> Table:
    columns = [(str(title), unit) for title, unit in told["columns"]]
    heads = [f"#{title}" if unit is not None else title for title, unit in columns]
    units = [unit for _, unit in columns]
    rows = [
        [_cell(value, unit) for value, unit in zip(row, units, strict=True)]
        for row in told["rows"]
    ]
    return table(str(told["caption"]), heads, rows)


def _cell(value: Any, unit: str | None) -> Cell:
    if isinstance(value, list):
        middle, low, high = (_figure(float(v), unit) for v in value)
        same = low.rpartition(" ")[2] == high.rpartition(" ")[2] != high
        low = low.rpartition(" ")[0] if same else low
        return Cell(middle, number=True, note=f"{low} to {high}")
    if isinstance(value, str) or value is None:
        return Cell(value or fmt.NONE, number=unit is not None)
    return Cell(_figure(float(value), unit), number=True)


def _figure(value: float, unit: str | None) -> str:
    if unit == "%":
        return fmt.percent(value)
    if unit == "USD":
        return f"USD {fmt.count(float(f'{value:.3g}'), 3)}"
    return shown(value, unit or "", 3)


def _bars(name: str, told: Mapping[str, Any]) -> Picture:
    values = {str(k): float(v) for k, v in told["values"].items()}
    ends = {str(k): (float(a), float(b)) for k, (a, b) in told["ends"].items()}
    title = str(told["title"])
    return picture(
        f"{name}-{slug(title)}", title,
        lambda width: bars_figure(
            values, unit=told["unit"], what=told["what"], ends=ends or None,
            best=told["best"], limit=told["limit"],
            limit_name=told.get("limit_name", "the limit"), width=width,
        ),
    )  # fmt: skip


def _waterfall(name: str, told: Mapping[str, Any]) -> Picture:
    fall = Waterfall(**told)
    return picture(
        f"{name}-{slug(fall.target)}",
        f"From {fall.source} to {fall.target}",
        lambda width: waterfall_figure(fall, width=width),
    )


def _lines(name: str, told: Mapping[str, Any]) -> Picture:
    title = str(told["title"])
    return picture(
        f"{name}-{slug(title)}", title,
        lambda width: lines_figure(
            told["series"], x=told["x"], y=told["y"], log=told["log"], width=width
        ),
    )  # fmt: skip
