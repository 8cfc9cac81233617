"""``hwsim validate --live``: a real model on this processor, predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hwsim.cli.measure import seconds
from hwsim.cli.output import console, note, print_json, save_outputs, table
from hwsim.cli.validate_rows import print_validation
from hwsim.errors import InputError
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.live.check import LiveCheck
    from hwsim.analysis.validation.validate import Validation

DEFAULT_BUDGET = "90s"
_COLUMNS = (
    "Model", "Step", "Batch", "Tokens", "Threads", "Measured", "Predicted", "90 %",
    "Error", "Disturbed",
)  # fmt: skip
_SUMMARY = (
    "", "Steps", "Median", "Mean", "90th pct", "Bias", "In 90 % interval", "Width",
)  # fmt: skip


def validate_live(
    paths: Sequence[str],
    *,
    budget: str | None,
    json: bool,
    out: Path | None,
    refused: Sequence[tuple[str, bool]],
) -> None:
    """Run the live check; print it."""
    from hwsim.api.live import live_check
    from hwsim.api.live_gpu import gpu_present

    for option, given in refused:
        if given:
            raise InputError(f"--live measures this processor: it takes no {option}")
    result = live_check(
        budget=seconds(budget or DEFAULT_BUDGET), measurements=paths or None,
        progress=note,
    )  # fmt: skip
    gpu = _on_gpu(budget, out) if gpu_present() else None
    if json:
        found = result.to_dict() | ({} if gpu is None else {"gpu": gpu.to_dict()})
        print_json(found)
    else:
        print_live(result)
        if gpu is not None:
            print_validation(gpu)
    save_outputs(result, out=out, trace=None, report=None)


def _on_gpu(budget: str | None, out: Path | None) -> Validation:
    """Do the same on the GPU, with PyTorch; save it beside the other result."""
    from hwsim.api.live_gpu import BUDGET, live_check_gpu

    wall = BUDGET if budget is None else seconds(budget)
    result = live_check_gpu(budget=wall, progress=lambda text: note(f"GPU: {text}"))
    if out is not None:
        save_outputs(
            result, out=out.with_name(f"{out.stem}-gpu{out.suffix}"), trace=None,
            report=None,
        )  # fmt: skip
    return result


def print_live(result: LiveCheck) -> None:
    """Print steps, then errors."""
    rows = []
    for row in result.rows:
        p = row.prediction
        rows.append([
            escape(row.model), row.work, str(row.batch), str(row.tokens),
            str(row.threads), fmt.seconds(row.measured), fmt.seconds(p.time),
            f"{fmt.seconds(p.lower)} to {fmt.seconds(p.upper)}",
            fmt.signed_percent(row.relative_error), fmt.percent(row.disturbed, 0),
        ])  # fmt: skip
    shown = console()
    shown.print(table(None, _COLUMNS, rows, right=_COLUMNS[2:]))
    shown.print()
    groups = {"all": result.summary()}
    if len(result.quiet) < len(result.rows):
        groups["undisturbed"] = result.summary(result.quiet)
    for key, name in (("work", "{}"), ("threads", "threads: {}")):
        groups |= {name.format(k): s for k, s in result.by(key).items()}
    lines = [[name, *_cells(errors)] for name, errors in groups.items()]
    shown.print(table(None, _SUMMARY, lines, right=_SUMMARY[1:]))
    note(
        f"{escape(result.device)}, predicted from {result.operators.rows} single "
        f"operators ({result.table})"
    )
    disturbed = len(result.rows) - len(result.quiet)
    if disturbed:
        note(
            f"other processes disturbed {fmt.plural(disturbed, 'step')}: run it on an "
            "idle machine"
        )
    for reason in result.left_out:
        note(f"left out: {reason}")


def _cells(errors: dict[str, Any]) -> list[str]:
    if not errors["rows"]:
        return ["0", *[""] * (len(_SUMMARY) - 2)]
    return [
        fmt.count(errors["rows"]), fmt.percent(errors["median_ape"]),
        fmt.percent(errors["mape"]), fmt.percent(errors["p90_ape"]),
        fmt.signed_percent(errors["bias"]), fmt.percent(errors["coverage_90"]),
        fmt.percent(errors["interval_width"]),
    ]  # fmt: skip
