"""The validate command: predictions beside measured rows."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from hwsim.cli.examples import examples
from hwsim.cli.options import Json, Out, Report, Set
from hwsim.cli.output import check_outputs, note_unread, save_outputs
from hwsim.cli.progress import Meter
from hwsim.cli.validate_rows import print_validation
from hwsim.errors import InputError


class RowFidelityChoice(StrEnum):
    """Which costs are used."""

    roofline = "roofline"
    structured = "structured"
    borrowed = "borrowed"
    calibrated = "calibrated"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("validate", epilog=examples("validate"))(validate)


def validate(
    measurements: Annotated[
        list[str] | None,
        typer.Option(
            "--measurements",
            "-m",
            metavar="FILE",
            help="Table of measured rows: .csv, .csv.gz, .parquet, or a pattern. "
            "Repeatable.  [default: those that ship with hwsim]",
        ),
    ] = None,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="More tables.")
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(
            "--published",
            metavar="FILE",
            help="Table of published training runs, in place of measured rows. "
            "Repeatable.",
        ),
    ] = None,
    request_log: Annotated[
        list[str] | None,
        typer.Option(
            "--request-log",
            metavar="FILE",
            help="Log of a real server, one row per request, in place of measured "
            "rows: its arrivals are replayed. Repeatable.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="Only rows of this device. Repeatable."),
    ] = None,
    fidelity: Annotated[
        RowFidelityChoice | None,
        typer.Option(
            help="roofline: the datasheet's speed of light; structured: parameters of "
            "the device's generation; calibrated: those fitted to the device.  "
            "[default: the best there is]",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave bad rows out and list them, instead of refusing, as tables "
            "of published runs always do.",
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Run a small Transformer on this processor, and models on its CUDA "
            "GPU where PyTorch finds one; predict them from measurements of single "
            "operators.",
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Wall time of --live: 90s, 3m.  [default: 90s; of a GPU 600s]"
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Processes of --published.  [default: all cores]"
        ),
    ] = None,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    report: Report = None,
) -> None:
    """Predict measured rows; print errors by operator, device, dtype and regime."""
    from hwsim.analysis.validation.validate import validate as compare

    paths = [*(measurements or ()), *(files or ())]
    if set_ and (published or request_log or live):
        raise InputError(
            "--set changes what measured rows are predicted with; tables of published "
            "runs, logs and --live are predicted as they are (hwsim demo has --set)"
        )
    check_outputs(out, report)
    if jobs is not None and not published:
        raise InputError("--jobs goes with --published: other rows take one process")
    if live:
        from hwsim.cli.validate_live import validate_live

        refused = {
            "--published": published, "--request-log": request_log,
            "--device": device, "--fidelity": fidelity, "--skip-bad": skip_bad,
            "--report": report,
        }  # fmt: skip
        validate_live(
            paths, budget=budget, json=json, out=out,
            refused=[(name, bool(given)) for name, given in refused.items()],
        )  # fmt: skip
        return
    if budget is not None:
        raise InputError("--budget goes with --live; nothing else takes time")
    if request_log:
        from hwsim.cli.validate_log import validate_log

        validate_log(
            request_log, [*paths, *(published or ())], device=device or None,
            json=json, out=out, report=report, skip_bad=skip_bad,
            fidelity=fidelity.value if fidelity else None,
        )  # fmt: skip
        return
    if published:
        from hwsim.cli.validate_published import validate_runs

        validate_runs(
            published, paths, device=device or None, json=json, out=out, report=report,
            fidelity=fidelity.value if fidelity else None, jobs=jobs,
        )  # fmt: skip
        return
    with Meter("families of operators") as meter:
        result = compare(
            paths or None, device=device or None, skip_bad=skip_bad,
            fidelity=fidelity.value if fidelity else None, overrides=set_ or (),
            progress=meter.show,
        )  # fmt: skip
    note_unread(set_)
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        print_validation(result)
    save_outputs(result, out=out, trace=None, report=report)
