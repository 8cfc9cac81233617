"""The calibrate command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwsim.cli.examples import examples
from hwsim.cli.options import Json, Set
from hwsim.cli.output import (
    check_outputs,
    console,
    end_if_interrupted,
    note,
    save,
    table,
)

if TYPE_CHECKING:
    from hwsim.analysis.fitting.calibrate import CalibrateResult


class HoldoutChoice(StrEnum):
    """How honest errors are found."""

    blocks = "blocks"
    none = "none"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "calibrate",
        epilog=examples("calibrate"),
    )(calibrate)


def calibrate(
    device: Annotated[
        str,
        typer.Argument(help="Device: id, alias or .toml file.", show_default=False),
    ],
    measurements: Annotated[
        list[str],
        typer.Option(
            "--measurements",
            "-m",
            help="Table of measurements, or a pattern of "
            "such with *; see hwsim validate. Repeatable.",
            show_default=False,
        ),
    ],
    families: Annotated[
        str | None,
        typer.Option(
            help="Only these, with commas between: elementwise, gemm, "
            "attention_prefill, attention_decode, moe, collective."
        ),
    ] = None,
    holdout: Annotated[
        HoldoutChoice,
        typer.Option(
            help="blocks: judge fits on whole blocks of shapes they did not see; "
            "none: fit once, faster, errors are in-sample."
        ),
    ] = HoldoutChoice.blocks,
    out: Annotated[
        Path,
        typer.Option(
            help="Write here. hwsim uses devices/<kind>/<id>/calibration.json of "
            "the folders in HWSIM_PATH and of its own data."
        ),
    ] = Path("calibration.json"),
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of samples and folds.")] = 0,
    set_: Set = None,
    json: Json = False,
    result_out: Annotated[
        Path | None,
        typer.Option(
            "--result",
            metavar="FILE",
            help="Save errors and coverage as JSON here, for hwsim report.",
        ),
    ] = None,
) -> None:
    """Fit the cost models of a device to measurements of it."""
    from hwsim.analysis.fitting.calibrate import calibrate as fit
    from hwsim.api.catalog import load_device
    from hwsim.report.write import write_atomic

    check_outputs(out, result_out)
    wanted = [f.strip() for f in families.split(",")] if families else None
    spec = load_device(device, overrides=set_ or ())
    result = fit(
        spec, measurements, families=wanted, holdout=holdout.value,
        skip_bad=skip_bad, seed=seed, progress=note,
    )  # fmt: skip
    if result.file.families:
        write_atomic(out, result.file_text())
        note(f"wrote {out}")
    if json:
        typer.echo(result.to_json())
    else:
        _show(result)
    save(result, result_out)
    end_if_interrupted(result.interrupted, "only the families above were fitted")


def _show(result: CalibrateResult) -> None:
    rows = []
    for family, fit in result.file.families.items():
        judged = fit.held_out or fit.in_sample
        rows.append(
            (
                family, str(judged.rows), f"{judged.median_ape:.1%}",
                f"{judged.mape:.1%}", f"{fit.in_sample.mape:.1%}",
                f"{fit.interval.coverage:.0%}", f"{fit.interval.width:.0%}",
                "physics and trees" if fit.residual else "physics",
            )
        )  # fmt: skip
    columns = (
        "family", "rows", "median error", "mean error", "in sample",
        "in 90 % interval", "its width", "form",
    )  # fmt: skip
    title = f"{result.device.name}: errors on blocks of shapes that fits did not see"
    if all(fit.held_out is None for fit in result.file.families.values()):
        title = f"{result.device.name}: errors on the rows fitted to"
    console().print(table(title, columns, rows, right=columns[1:7]))
    for family, why in result.skipped.items():
        note(f"{family}: not fitted ({why})")
