"""What ``hwsim validate`` says of measured rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from hwsim.cli.output import console, note, table
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.validation.metrics import ErrorSummary
    from hwsim.analysis.validation.validate import Validation

_SHOWN = 8  # skipped rows that the terminal spells out
_COLUMNS = (
    "", "Rows", "Median", "Mean", "90th pct", "Bias", "In 90 % interval", "Width",
)  # fmt: skip


def print_validation(result: Validation) -> None:
    """Print errors by part, then why rows were left out."""
    out = console()
    if result.overrides:
        out.print(escape(f"assumed: {', '.join(result.overrides)}"))
    for key, title in (
        ("family", "Family"), ("op", "Operator"), ("device", "Device"),
        ("dtype", "Dtype"), ("regime", "Regime"), ("metric", "Metric"),
    ):  # fmt: skip
        groups = result.by(key)
        if len(groups) > 1 or key == "family":
            everything = {"all": result.summary} if key == "family" else {}
            _print_groups(title, {**groups, **everything})
    if not result.summary.rows:
        out.print("No row could be predicted.")
    _print_skipped(result)


def _print_groups(title: str, groups: Mapping[str, ErrorSummary]) -> None:
    rows = [[escape(name), *_cells(errors)] for name, errors in groups.items()]
    columns = (title, *_COLUMNS[1:])
    console().print(table(None, columns, rows, right=_COLUMNS[1:]))
    console().print()


def _cells(errors: ErrorSummary) -> list[str]:
    return [
        fmt.count(errors.rows),
        fmt.percent(errors.median_ape),
        fmt.percent(errors.mape),
        fmt.percent(errors.p90_ape),
        fmt.signed_percent(errors.bias),
        fmt.percent(errors.coverage_90),
        fmt.percent(errors.interval_width),
    ]


def _print_skipped(result: Validation) -> None:
    total = len(result.skipped)
    if not total:
        return
    note(f"skipped {fmt.plural(total, 'row')}:")
    reasons = result.skipped_reasons()
    for reason, (count, first) in list(reasons.items())[:_SHOWN]:
        where = f"{first.file} row {first.row}"
        note(f"  {fmt.plural(count, 'row')} (first: {where}): {reason}")
    more = len(reasons) - _SHOWN
    if more > 0:
        note(f"  and {fmt.plural(more, 'more reason')}; --json lists all")
