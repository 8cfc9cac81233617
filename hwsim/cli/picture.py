"""The roofline command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim.cli.examples import examples
from hwsim.cli.options import Set, System
from hwsim.cli.output import check_outputs, note


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "roofline",
        epilog=examples("roofline"),
    )(roofline)


def roofline(
    system: System,
    model: Annotated[
        str | None, typer.Option(help="Model whose operators are drawn.")
    ] = None,
    phase: Annotated[str, typer.Option(help="prefill, decode or train.")] = "decode",
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    context: Annotated[
        int, typer.Option(help="Tokens: prompt, context or sequence.")
    ] = 1024,
    tp: Annotated[int, typer.Option(help="Tensor-parallel devices.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Arithmetic.")] = None,
    out: Annotated[Path, typer.Option(help="Picture: .svg, .png or .pdf.")] = Path(
        "roofline.svg"
    ),
    set_: Set = None,
) -> None:
    """Draw the ceilings of a device, and a model's operators under them."""
    import hwsim

    check_outputs(out)
    results = []
    if model is not None:
        shapes: dict[str, Any] = {"tp": tp}
        shapes |= {
            "prefill": {"batch": batch, "prompt": context},
            "train": {"micro_batch": batch, "seq": context},
        }.get(phase, {"batch": batch, "context": context})
        if dtype is not None:
            shapes["dtype"] = dtype
        results = [
            hwsim.estimate(model, system, phase=phase, overrides=set_ or (), **shapes)
        ]
    hwsim.roofline(system, results, path=out, overrides=set_ or ())
    note(f"wrote {out}")
