"""What ``hwsim validate --published`` prints: predictions beside published runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hwsim.cli.output import console, end_if_interrupted, note, save_outputs, table
from hwsim.cli.progress import Meter
from hwsim.errors import InputError
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.validation.metrics import ErrorSummary
    from hwsim.analysis.validation.published import PublishedValidation

_WORST = 10
_REASONS = 12
_GROUPS = (
    ("source", "Source"), ("device", "Device"), ("op", "Work"), ("metric", "Metric"),
    ("knowledge", "Evidence"),
)  # fmt: skip
_COLUMNS = (
    "Rows", "Median", "Mean", "90th pct", "Bias", "In 90 % interval", "Width",
)  # fmt: skip


def validate_runs(
    published: Sequence[str],
    others: Sequence[str],
    *,
    device: Sequence[str] | None,
    fidelity: str | None,
    json: bool,
    out: Path | None,
    report: Path | None,
    jobs: int | None,
) -> None:
    """Predict tables of published figures; print errors by source."""
    from hwsim.analysis.validation.published import validate_published

    if others:
        raise InputError(
            f"{others[0]} is a table of measured rows, --published names tables of "
            "whole runs; validate them one after the other"
        )
    chosen: Any = fidelity or "auto"
    with Meter("rows") as meter:
        result = validate_published(
            list(published),
            fidelity=chosen,
            device=device,
            progress=meter.show,
            jobs=jobs or os.cpu_count() or 1,
        )
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        _print(result)
    save_outputs(result, out=out, trace=None, report=report)
    end_if_interrupted(not result.complete, "the rows done so far")


def _print(result: PublishedValidation) -> None:
    out = console()
    for key, title in _GROUPS:
        everything = {"all": result.summary} if key == "source" else {}
        if groups := {**result.by(key), **everything}:
            _print_groups(title, groups)
    if not result.answered:
        out.print("No row could be predicted.")
        _print_unanswered(result)
        return
    total, answered = len(result.records), len(result.answered)
    out.print(
        f"{answered} of {fmt.plural(total, 'row')} answered "
        f"({fmt.percent(answered / total)}); the times behind them are predicted "
        f"{fmt.signed_percent(result.time_bias)} off in the median."
    )
    out.print()
    _print_worst(result)
    _print_unanswered(result)


def _print_groups(title: str, groups: Mapping[str, ErrorSummary]) -> None:
    rows = [
        [
            escape(_short(name)), fmt.count(e.rows), fmt.percent(e.median_ape),
            fmt.percent(e.mape), fmt.percent(e.p90_ape), fmt.signed_percent(e.bias),
            fmt.percent(e.coverage_90), fmt.percent(e.interval_width),
        ]
        for name, e in groups.items()
    ]  # fmt: skip
    console().print(table(None, (title, *_COLUMNS), rows, right=_COLUMNS))
    console().print()


def _short(name: str, width: int = 46) -> str:
    """Return a name with its middle left out where it is long."""
    if len(name) <= width:
        return name
    half = (width - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _print_worst(result: PublishedValidation) -> None:
    rows = [
        [
            str(r["row"]), escape(r["model"]), f"{r['devices']} x {r['device']}",
            fmt.seconds(r["published_step_s"], 4), fmt.seconds(r["step_s"], 4),
            fmt.signed_percent(r["step_s"] / r["published_step_s"] - 1.0),
        ]
        for r in result.worst(_WORST)
    ]  # fmt: skip
    columns = ("Row", "Model", "Devices", "Published time", "Predicted", "Error")
    console().print(table("Worst rows", columns, rows, right=columns[3:]))
    console().print()


def _print_unanswered(result: PublishedValidation) -> None:
    left = len(result.unanswered)
    if not left:
        return
    note(f"not answered: {fmt.plural(left, 'row')}:")
    reasons = result.reasons()
    for reason, count in list(reasons.items())[:_REASONS]:
        note(f"  {fmt.plural(count, 'row')}: {reason}")
    more = len(reasons) - _REASONS
    if more > 0:
        note(f"  and {fmt.plural(more, 'more reason')}; --json lists all")
