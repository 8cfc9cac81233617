"""Options that commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON with keys in SI.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="What-if: replace a figure, as in device.memory.hbm.bandwidth=4.8TB/s, "
        "=x2 or =+10%. Targets: device, system, model, stack. Repeatable.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(help="Write the simulated timeline here; opens in ui.perfetto.dev."),
]
Report = Annotated[
    Path | None, typer.Option(help="Write one self-contained HTML page here.")
]
Out = Annotated[Path | None, typer.Option(help="Save the result as JSON here.")]


class FidelityChoice(StrEnum):
    """Which costs are used."""

    auto = "auto"
    roofline = "roofline"
    structured = "structured"
    calibrated = "calibrated"


Fidelity = Annotated[
    FidelityChoice,
    typer.Option(
        help="roofline: the datasheet's speed of light; structured: cost models "
        "with the parameters of the device's generation; calibrated: with those "
        "fitted to measurements of the device; auto: the best there is."
    ),
]
System = Annotated[
    str,
    typer.Option(
        "--system", "-s", help="System or device: id, alias or .toml file.",
        show_default=False,
    ),
]  # fmt: skip
