"""The page of predictions beside tables of published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, Table, table
from hwsim.report.pages.validation import summary_of
from hwsim.report.provenance import reproducibility

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult
    from hwsim.analysis.validation.metrics import ErrorSummary

GOOD, BAD = 0.10, 0.25
_GROUPS = (
    ("source", "Source"), ("device", "Device"), ("metric", "Figure"),
    ("model", "Model"), ("stack", "Stack"),
)  # fmt: skip


def published_runs_page(saved: SavedResult) -> Page:
    """Return the page of a comparison with tables of published figures."""
    records = saved.need("table")
    answered = [r for r in records if not r["reason"]]
    missing = [r for r in records if r["reason"]]
    sections = []
    if answered:
        groups = tuple(_group(saved, key, title) for key, title in _GROUPS)
        sections.append(Section("groups", "Errors by group", _rule(), groups))
        sections.append(Section("rows", "Every figure", items=(_rows(answered),)))
    if missing:
        sections.append(_missing(missing))
    sections.append(reproducibility(saved))
    count = len(saved.need("files"))
    return Page(
        title="Predictions beside published runs",
        question=(
            f"How far are hwsim's predictions from the runs of "
            f"{fmt.plural(count, 'table')} (fidelity {saved.need('fidelity')})?"
        ),
        answer=_answer(saved, len(missing)),
        facts=_facts(saved, len(records)),
        sections=tuple(sections),
        notice="" if saved.data.get("complete", True) else (
            "The validation was interrupted: rows that it had not reached are missing."
        ),
    )  # fmt: skip


def _answer(saved: SavedResult, left: int) -> str:
    summary = summary_of(saved.data)
    rest = f"; {fmt.plural(left, 'row')} could not be predicted" if left else ""
    if not summary.rows:
        return f"No published run could be predicted{rest}."
    return (
        f"Over {fmt.plural(summary.rows, 'published run')} the absolute error is "
        f"{fmt.percent(summary.median_ape)} in the median and "
        f"{fmt.percent(summary.mape)} in the mean{rest}."
    )


def _facts(saved: SavedResult, total: int) -> tuple[Fact, ...]:
    summary, bias = summary_of(saved.data), saved.data.get("time_bias")
    facts = [
        Fact("Runs predicted", fmt.count(summary.rows), f"of {fmt.count(total)}"),
        Fact("Median absolute error", fmt.percent(summary.median_ape)),
        Fact("Mean absolute error", fmt.percent(summary.mape)),
        Fact(
            "Bias of the time", fmt.signed_percent(bias),
            "median; above zero is predicted too slow",
        ),
    ]  # fmt: skip
    if np.isfinite(summary.coverage_90):
        facts.append(Fact("In their 90 % interval", fmt.percent(summary.coverage_90)))
    return tuple(facts)


def _rule() -> tuple[str, ...]:
    return (
        "An error is (predicted − published) / published of the figure as it was "
        "published: above zero, a time is predicted too long, a rate too fast.",
    )


def _group(saved: SavedResult, key: str, title: str) -> Table:
    groups: Mapping[str, Any] = saved.need(f"by_{key}")
    rows = [_summary_row(name, summary_of(errors)) for name, errors in groups.items()]
    rows.append(_summary_row("all", summary_of(saved.data)))
    return table(
        f"Errors by {title.lower()}",
        f"{title}|#Runs|#Median absolute|#Mean absolute|#90th percentile|#Bias", rows,
    )  # fmt: skip


def _summary_row(name: str, errors: ErrorSummary) -> list[Cell]:
    return [
        Cell(name or fmt.NONE),
        Cell(fmt.count(errors.rows), number=True),
        Cell(
            fmt.percent(errors.median_ape), number=True,
            bar=min(errors.median_ape, 1.0),
        ),
        Cell(fmt.percent(errors.mape), number=True),
        Cell(fmt.percent(errors.p90_ape), number=True),
        Cell(fmt.signed_percent(errors.bias), number=True),
    ]  # fmt: skip


def _rows(records: Sequence[Mapping[str, Any]]) -> Table:
    return table(
        "Published runs with their prediction",
        "Run|#Error|#Published time|#Predicted time|Setup|Bound",
        [_row(record) for record in records],
    )


def _row(record: Mapping[str, Any]) -> list[Cell]:
    error = record["relative_error"]
    size = abs(error or 0.0)
    tone = "good" if size <= GOOD else "bad" if size > BAD else ""
    return [
        Cell(f"row {record['row']}: {record['model']}", note=record["source"]),
        Cell(fmt.signed_percent(error), number=True, tone=tone, bar=min(size, 1.0)),
        Cell(fmt.seconds(record["published_step_s"], 4), number=True),
        Cell(fmt.seconds(record["step_s"], 4), number=True),
        Cell(
            f"{record['devices']} x {record['device']}",
            note=f"{record['dtype']}, {record['stack']}. {record['assumed']}",
        ),
        Cell(record["bound"]),
    ]


def _missing(records: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        [
            Cell(f"row {r['row']}: {r['model']}", note=r["source"]),
            Cell(f"{r['devices']} x {r['device']}"),
            Cell(r["reason"]),
        ]
        for r in records
    ]
    made = table("Published runs without a prediction", "Run|Devices|Why", rows)
    return Section("missing", "Not predicted", (), (made,))
