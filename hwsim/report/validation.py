"""The page of predictions beside measured rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

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
from hwsim.report.provenance import reproducibility
from hwsim.report.style import ReportFigure
from hwsim.report.validation_figures import error_figure, measured_figure

if TYPE_CHECKING:
    from hwsim.analysis.validate import FamilyComparison, Validation
    from hwsim.analysis.validate_metrics import ErrorSummary

GOOD, BAD = 0.10, 0.25
WORST = 10
FAMILY_NAMES = {
    "gemm": "Matrix products",
    "attention": "Attention",
    "elementwise": "Elementwise and norms",
    "moe": "Mixture of experts",
    "collective": "Collectives",
    "memory": "Memory and caches",
    "launch": "Kernel launch",
    "host_link": "Host link",
    "power": "Power",
    "end_to_end": "End to end",
}
_GROUPS = (
    ("family", "Operator family"), ("op", "Operator"), ("device", "Device"),
    ("dtype", "Dtype"), ("regime", "Regime"), ("metric", "Metric"),
    ("source", "Source"),
)  # fmt: skip


def validation_page(result: Validation, command: str | None) -> Page:
    """Return the page of a comparison with measured rows."""
    sections = []
    if result.summary.rows:
        sections.append(_pictures(result))
        groups = tuple(_group(result, key, title) for key, title in _GROUPS)
        sections.append(Section("groups", "Errors by group", _rule(), groups))
        sections.append(_worst(result))
    if result.skipped:
        sections.append(_skipped(result))
    sections.append(_tables(result))
    sections.append(reproducibility({}, command))
    return Page(
        title="Predictions beside measurements",
        question=(
            f"How far are hwsim's predictions from {_named(result)} "
            f"(fidelity {result.fidelity or 'the best there is'})?"
        ),
        answer=_answer(result),
        facts=_facts(result),
        sections=tuple(sections),
    )


def _named(result: Validation) -> str:
    count = len(result.files)
    return f"the rows of {fmt.plural(count, 'table')} of measurements"


def _answer(result: Validation) -> str:
    summary, left = result.summary, len(result.skipped)
    rest = f" {fmt.plural(left, 'row')} could not be predicted." if left else ""
    if not summary.rows:
        return f"No row could be predicted.{rest}"
    return (
        f"Over {fmt.plural(summary.rows, 'measured row')} the absolute error is "
        f"{fmt.percent(summary.median_ape)} in the median and "
        f"{fmt.percent(summary.mape)} in the mean; nine in ten rows are within "
        f"{fmt.percent(summary.p90_ape)}.{rest}"
    )


def _facts(result: Validation) -> tuple[Fact, ...]:
    summary = result.summary
    facts = [
        Fact(
            "Rows predicted", fmt.count(summary.rows),
            f"{fmt.count(len(result.skipped))} skipped",
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


def _pictures(result: Validation) -> Section:
    items: list[Table | Picture] = []
    for comparison in result.families:
        if np.any(np.isfinite(comparison.predictions.time)):
            items += _family_pictures(comparison, tuple(result.by("device")))
    return Section("pictures", "Predicted against measured", (), tuple(items))


def _family_pictures(
    comparison: FamilyComparison, devices: tuple[str, ...]
) -> list[Picture]:
    name = comparison.rows.family
    title = FAMILY_NAMES.get(name, name)

    def scatter(width: float) -> ReportFigure:
        return measured_figure(comparison, width=width, devices=devices)

    def spread(width: float) -> ReportFigure:
        return error_figure(comparison, width=width, devices=devices)

    return [
        picture(f"scatter-{name}", f"{title}: predicted against measured", scatter),
        picture(f"errors-{name}", f"{title}: how the errors spread", spread),
    ]


def _group(result: Validation, key: str, title: str) -> Table:
    groups: Mapping[str, ErrorSummary] = result.by(key)
    rows = [_summary_row(name, errors) for name, errors in groups.items()]
    rows.append(_summary_row("all", result.summary))
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


def _worst(result: Validation) -> Section:
    items = tuple(
        table(
            f"{FAMILY_NAMES.get(family, family)}: the {len(frame)} rows farthest off",
            "Row|Device|Operator|#Measured|#Predicted|#Error|Bound",
            [_worst_row(line) for line in frame.to_dict("records")],
        )
        for family, frame in result.worst(WORST).items()
    )
    text = "Half the measured time counts as far off as twice that time."
    return Section("worst", "Worst rows", (text,), items)


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


def _skipped(result: Validation) -> Section:
    rows = [
        [
            Cell(reason),
            Cell(fmt.count(count), number=True),
            Cell(f"{_short(first.file)} {first.row}"),
        ]
        for reason, (count, first) in result.skipped_reasons().items()
    ]
    listed = table("Why rows have no prediction", "Reason|#Rows|First row", rows)
    return Section("skipped", "Rows left out", (), (listed,))


def _tables(result: Validation) -> Section:
    columns = result.columns
    rows = []
    for file in result.files:
        mask = columns["file"] == file
        bad = sum(row.file == file for row in result.bad)
        sources = sorted({str(s) for s in columns["source"][mask] if s})
        rows.append(
            [
                Cell(_short(file), code=True),
                Cell(fmt.count(int(np.sum(mask))), number=True),
                Cell(fmt.count(bad), number=True),
                Cell(", ".join(sources[:6]) or "not said"),
            ]
        )
    used = table("Tables", "File|#Rows read|#Bad rows|Measured by", rows)
    basis = table(
        "What the predictions rest on", "Fidelity|#Rows",
        [[Cell(n), Cell(fmt.count(c), number=True)] for n, c in
         result.fidelities.items()],
    )  # fmt: skip
    return Section("tables", "What was compared", (), (used, basis))
