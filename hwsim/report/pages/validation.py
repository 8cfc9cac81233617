"""The page of predictions beside measured rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.analysis.validation.metrics import ErrorSummary
from hwsim.report import format as fmt
from hwsim.report.content import (
    Cell,
    Fact,
    Page,
    Picture,
    Section,
    Table,
    picture,
    table,
)
from hwsim.report.figures.validation import error_figure, measured_figure
from hwsim.report.pieces import assumed
from hwsim.report.provenance import FAMILY_NAMES, reproducibility
from hwsim.report.style import ReportFigure

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

GOOD, BAD = 0.10, 0.25
_GROUPS = (
    ("family", "Operator family"), ("op", "Operator"), ("device", "Device"),
    ("dtype", "Dtype"), ("regime", "Regime"), ("metric", "Metric"),
    ("source", "Source"),
)  # fmt: skip


def validation_page(saved: SavedResult) -> Page:
    """Return the page of a comparison with measured rows."""
    summary = summary_of(saved.data)
    sections = []
    if summary.rows:
        sections += _pictures(saved)
        groups = tuple(_group(saved, key, title) for key, title in _GROUPS)
        sections.append(Section("groups", "Errors by group", _rule(), groups))
        sections += _worst(saved)
    sections += [*_skipped(saved), *_tables(saved), reproducibility(saved)]
    return Page(
        title="Predictions beside measurements",
        question=(
            f"How far are hwsim's predictions from the rows of "
            f"{fmt.plural(len(saved.need('files')), 'table')} of measurements "
            f"(fidelity {_fidelity(saved)})?"
        ),
        answer=_answer(saved, summary),
        facts=_facts(saved, summary),
        sections=tuple(sections),
        assumed=assumed(saved),
    )


def summary_of(figures: Mapping[str, Any]) -> ErrorSummary:
    """Return error figures as a file has them: those that are null do not exist."""
    names = ("median_ape", "mape", "p90_ape", "bias", "coverage_90", "interval_width")
    known = {n: figures.get(n) for n in names}
    return ErrorSummary(
        int(figures.get("rows") or 0),
        **{n: np.nan if v is None else float(v) for n, v in known.items()},
    )


def _detail(saved: SavedResult, key: str) -> Any:
    return (saved.data.get("detail") or {}).get(key)


def _fidelity(saved: SavedResult) -> str:
    told = str(saved.need("fidelity"))
    return "the best there is" if told == "best" else told


def _answer(saved: SavedResult, summary: ErrorSummary) -> str:
    left = int(saved.need("skipped"))
    rest = f" {fmt.plural(left, 'row')} could not be predicted." if left else ""
    if not summary.rows:
        return f"No row could be predicted.{rest}"
    return (
        f"Over {fmt.plural(summary.rows, 'measured row')} the absolute error is "
        f"{fmt.percent(summary.median_ape)} in the median and "
        f"{fmt.percent(summary.mape)} in the mean; nine in ten rows are within "
        f"{fmt.percent(summary.p90_ape)}.{rest}"
    )


def _facts(saved: SavedResult, summary: ErrorSummary) -> tuple[Fact, ...]:
    facts = [
        Fact(
            "Rows predicted", fmt.count(summary.rows),
            f"{fmt.count(saved.need('skipped'))} skipped",
        ),
        Fact("Median absolute error", fmt.percent(summary.median_ape)),
        Fact("Mean absolute error", fmt.percent(summary.mape)),
        Fact("90th percentile", fmt.percent(summary.p90_ape), "of the absolute error"),
        Fact("Bias", fmt.signed_percent(summary.bias), "median signed error"),
    ]  # fmt: skip
    if np.isfinite(summary.coverage_90):
        facts.append(
            Fact(
                "In their 90 % interval", fmt.percent(summary.coverage_90),
                f"mean width {fmt.percent(summary.interval_width)}",
            )
        )  # fmt: skip
    return tuple(facts)


def _rule() -> tuple[str, ...]:
    return (
        "An error is (predicted − measured) / measured: above zero, a time is "
        "predicted too long. Size and bound of a regime are those of the datasheet's "
        "speed of light: below 5 µs is small, from 100 µs large.",
    )


def _pictures(saved: SavedResult) -> list[Section]:
    items: list[Table | Picture] = []
    devices = tuple(saved.need("by_device"))
    for family, points in (_detail(saved, "points") or {}).items():
        items += _family_pictures(family, points, devices)
    if not items:
        return []
    return [Section("pictures", "Predicted against measured", (), tuple(items))]


def _family_pictures(
    name: str, points: Mapping[str, Any], devices: tuple[str, ...]
) -> list[Picture]:
    title = FAMILY_NAMES.get(name, name)

    def scatter(width: float) -> ReportFigure:
        return measured_figure(points, width=width, devices=devices)

    def spread(width: float) -> ReportFigure:
        return error_figure(points, width=width, devices=devices)

    return [
        picture(f"scatter-{name}", f"{title}: predicted against measured", scatter),
        picture(f"errors-{name}", f"{title}: how the errors spread", spread),
    ]


def _group(saved: SavedResult, key: str, title: str) -> Table:
    groups = saved.need(f"by_{key}")
    rows = [_summary_row(name, summary_of(errors)) for name, errors in groups.items()]
    rows.append(_summary_row("all", summary_of(saved.data)))
    return table(
        f"Errors by {title.lower()}",
        f"{title}|#Rows|#Median absolute|#Mean absolute|#90th percentile|#Bias|"
        "#In 90 % interval|#Mean width",
        rows,
    )


def _summary_row(name: str, errors: ErrorSummary) -> list[Cell]:
    median = errors.median_ape
    tone = "good" if median <= GOOD else "bad" if median > BAD else ""
    return [
        Cell(name),
        Cell(fmt.count(errors.rows), number=True),
        Cell(fmt.percent(median), number=True, bar=min(median, 1.0), tone=tone),
        Cell(fmt.percent(errors.mape), number=True),
        Cell(fmt.percent(errors.p90_ape), number=True),
        Cell(fmt.signed_percent(errors.bias), number=True),
        Cell(fmt.percent(errors.coverage_90), number=True),
        Cell(fmt.percent(errors.interval_width), number=True),
    ]


def _worst(saved: SavedResult) -> list[Section]:
    items = tuple(
        table(
            f"{FAMILY_NAMES.get(family, family)}: the {len(rows)} rows farthest off",
            "Row|Device|Operator|#Measured|#Predicted|#Error|Bound",
            [_worst_row(line) for line in rows],
        )
        for family, rows in (_detail(saved, "worst") or {}).items()
    )
    text = "Half the measured time counts as far off as twice that time."
    return [Section("worst", "Worst rows", (text,), items)] if items else []


def _worst_row(line: Mapping[Any, Any]) -> list[Cell]:
    error, unit = float(line["relative_error"]), str(line["unit"])
    return [
        Cell(f"{_short(line['file'])} {line['row']}", note=str(line["shape"])),
        Cell(str(line["device"])),
        Cell(str(line["op"]), note=_dtype_and_kernel(line)),
        Cell(_value(float(line["measured"]), unit), number=True),
        Cell(_value(float(line["predicted"]), unit), number=True),
        Cell(
            fmt.signed_percent(error), number=True, tone="bad", bar=min(abs(error), 1)
        ),
        Cell(str(line["bound"])),
    ]  # fmt: skip


def _dtype_and_kernel(line: Mapping[Any, Any]) -> str:
    return ", ".join(text for text in (line["dtype"], line["kernel"]) if text)


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return fmt.seconds(value, 4)
    return f"{fmt.count(value, 4)} {unit}"


def _short(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _skipped(saved: SavedResult) -> list[Section]:
    told = _detail(saved, "reasons")
    if told is None:
        reasons = saved.need("skipped_reasons").items()
        told = [{"reason": why, "rows": n, "file": "", "row": ""} for why, n in reasons]
    rows = [
        [
            Cell(str(line["reason"])),
            Cell(fmt.count(line["rows"]), number=True),
            Cell(f"{_short(line['file'])} {line['row']}".strip() or fmt.NONE),
        ]
        for line in told
    ]
    listed = table("Why rows have no prediction", "Reason|#Rows|First row", rows)
    return [Section("skipped", "Rows left out", (), (listed,))] if rows else []


def _tables(saved: SavedResult) -> list[Section]:
    rows = [
        [
            Cell(_short(line["file"]), code=True),
            Cell(fmt.count(line["rows"]), number=True),
            Cell(fmt.count(line["bad"]), number=True),
            Cell(", ".join(line["sources"][:6]) or "not said"),
        ]
        for line in _detail(saved, "tables") or ()
    ]
    used = table("Tables", "File|#Rows read|#Bad rows|Measured by", rows)
    basis = table(
        "What the predictions rest on", "Fidelity|#Rows",
        [[Cell(n), Cell(fmt.count(c), number=True)] for n, c in
         saved.need("fidelities").items()],
    )  # fmt: skip
    return [Section("tables", "What was compared", (), (used, basis))]
