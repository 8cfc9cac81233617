"""Options that commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hwsim.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON with keys in SI.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="What-if: replace a figure, as in device.memory.hbm.bandwidth=4.8TB/s, "
        "=x2 or =+10%. Targets: device, system, model, stack; of a service, engine. "
        "Repeatable.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(help="Write the simulated timeline here; opens in ui.perfetto.dev."),
]
_PAGES = (".html", ".htm", ".md", ".pdf")


def _page(place: Path | None) -> Path | None:
    """Refuse a page of a form that is not written."""
    if place is not None and place.suffix.casefold() not in _PAGES:
        raise InputError(f"--report {place}: write .html, .md or .pdf")
    return place


Report = Annotated[
    Path | None,
    typer.Option(
        help="Write a page here: .html (self-contained), .md or .pdf.", callback=_page
    ),
]
Out = Annotated[Path | None, typer.Option(help="Save the result as JSON here.")]


class FidelityChoice(StrEnum):
    """Which costs are used."""

    auto = "auto"
    roofline = "roofline"
    structured = "structured"
    borrowed = "borrowed"
    calibrated = "calibrated"


Fidelity = Annotated[
    FidelityChoice,
    typer.Option(
        metavar="LEVEL",
        help="roofline: the datasheet's speed of light; structured: cost models "
        "with the parameters of the device's generation; calibrated: with those "
        "fitted to measurements of the device; auto: the best there is.",
    ),
]


def _systems(typed: str) -> list[str]:
    """Return the systems and devices whose ids begin so, for the shell."""
    from hwsim.api.catalog import device_ids, system_ids

    return [name for name in (*system_ids(), *device_ids()) if name.startswith(typed)]


def _models(typed: str) -> list[str]:
    """Return the models whose ids begin so, for the shell."""
    from hwsim.api.catalog import model_ids

    return [name for name in model_ids() if name.startswith(typed)]


Model = Annotated[
    str,
    typer.Argument(
        help="Model: id, alias, .toml file or Hugging Face config.json.",
        show_default=False,
        autocompletion=_models,
    ),
]
System = Annotated[
    str,
    typer.Option(
        "--system", "-s", help="System or device: id, alias or .toml file.",
        show_default=False, autocompletion=_systems,
    ),
]  # fmt: skip
Systems = Annotated[
    list[str],
    typer.Option(
        "--system", "-s", help="System or device. Repeatable.",
        autocompletion=_systems,
    ),
]  # fmt: skip

Dtype = Annotated[
    str | None,
    typer.Option(help="Arithmetic: bf16, fp16, fp8, …  [default: bf16 if it has it]"),
]
WeightDtype = Annotated[
    str | None, typer.Option(help="Storage of weights.  [default: as --dtype]")
]
KvDtype = Annotated[
    str | None, typer.Option(help="Storage of the KV cache.  [default: 16 bit]")
]
Stack = Annotated[str, typer.Option(help="Software stack.")]
Price = Annotated[float | None, typer.Option(help="USD per device and hour.")]
Pue = Annotated[float | None, typer.Option(help="Facility power over computer power.")]
LinkLatency = Annotated[str | None, typer.Option(help="Of one message: 5us.")]
Csv = Annotated[Path | None, typer.Option(help="Write the whole table here as CSV.")]
Parquet = Annotated[
    Path | None, typer.Option(help="Write it here as Parquet (needs pyarrow).")
]
