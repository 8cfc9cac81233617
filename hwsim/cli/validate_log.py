"""What ``hwsim validate --request-log`` prints: replays beside real servers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hwsim.cli.output import console, note, save_outputs, table
from hwsim.errors import InputError
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.validation.request_log import ReplayedRun, RequestLogValidation

_TITLES = {"ttft": "TTFT", "tpot": "TPOT", "latency": "Latency"}


def validate_log(
    logs: Sequence[str],
    others: Sequence[str],
    *,
    device: Sequence[str] | None,
    fidelity: str | None,
    skip_bad: bool,
    json: bool,
    out: Path | None,
    report: Path | None,
) -> None:
    """Replay logs of real servers; print distributions run by run."""
    from hwsim.analysis.validation.request_log import validate_request_log

    if others:
        raise InputError(
            f"{others[0]} is another table than --request-log names; validate them "
            "one after the other"
        )
    if report is not None:
        raise InputError("--request-log writes no report; use --out or --json")
    chosen: Any = fidelity or "auto"
    result = validate_request_log(
        list(logs), fidelity=chosen, device=device, skip_bad=skip_bad
    )
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        _print(result)
    save_outputs(result, out=out, trace=None, report=None)
    if not result.answered:
        first = result.unanswered[0] if result.unanswered else None
        why = f"; {first.run.name}: {first.reason}" if first else ""
        raise InputError(f"no run of the log could be replayed{why}")


def _print(result: RequestLogValidation) -> None:
    for run in result.answered:
        _print_run(run)
    if result.answered:
        _print_means(result)
    for run in result.unanswered:
        note(f"not replayed: {run.run.name}: {run.reason}")
    if result.bad:
        note(f"left out: {fmt.plural(len(result.bad), 'bad row')}; --json lists them")
        note(f"  the first: {result.bad[0]}")


def _print_run(run: ReplayedRun) -> None:
    rows = [
        [
            _TITLES[r["metric"]] if r["statistic"] == "mean" else "", r["statistic"],
            fmt.seconds(r["measured"], 4), fmt.seconds(r["predicted"], 4),
            _between(r["lower"], r["upper"]), fmt.signed_percent(r["relative_error"]),
        ]
        for r in run.statistics()
    ]  # fmt: skip
    columns = ("", "Of requests", "Measured", "Replayed", "90 %", "Error")
    title = f"{escape(run.run.name)}: {fmt.plural(len(run.run), 'request')}"
    console().print(table(title, columns, rows, right=columns[2:]))
    replay = run.replay
    if replay is not None:
        config = replay.settings()
        console().print(
            f"replayed as {config['model']} on {config['system']}, "
            f"{config['engine']}, {config['fidelity']}"
            + (f"; assumed {'; '.join(replay.notes)}" if replay.notes else "")
        )
    console().print()


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    return f"{fmt.seconds(low, 3)} – {fmt.seconds(high, 3)}"


def _print_means(result: RequestLogValidation) -> None:
    means, single = result.means(), result.by_metric()
    rows = [
        [
            _TITLES[m], fmt.count(means[m].rows), fmt.percent(means[m].median_ape),
            fmt.percent(means[m].mape), fmt.count(single[m].rows),
            fmt.percent(single[m].median_ape), fmt.percent(single[m].mape),
            fmt.signed_percent(single[m].bias),
        ]
        for m in _TITLES
    ]  # fmt: skip
    columns = (
        "Metric", "Runs", "Mean: median error", "average", "Requests", "Median error",
        "average", "Bias",
    )  # fmt: skip
    console().print(table("Errors", columns, rows, right=columns[1:]))
