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

Etp = Annotated[
    int | None,
    typer.Option(
        help="Ranks that split each expert: tp or 1; with 1, ep counts "
        "tensor-parallel ranks too.  [default: tp]"
    ),
]
DpShard = Annotated[
    int | None,
    typer.Option(
        help="HSDP: data-parallel ranks that share states out; the others hold "
        "copies.  [default: all share]"
    ),
]
StageLayers = Annotated[
    str | None,
    typer.Option(
        help="Layers of each pipeline part, as 7,8,8,7; the first and the last may "
        "have 0.  [default: even]"
    ),
]
CpMode = Annotated[
    str, typer.Option(help="Context parallel: ring, all_to_all or all_gather.")
]
Imbalance = Annotated[
    float, typer.Option(help="Rows of the busiest expert rank over the mean.")
]
CapacityFactor = Annotated[
    float | None,
    typer.Option(help="Rows that each expert is padded or cut to, over the mean."),
]
LoraRank = Annotated[
    int, typer.Option(help="Train adapters of this rank, not the model; 0: the model.")
]
LoraTargets = Annotated[
    str, typer.Option(help="Where adapters stand: qkv, out, up, down, head.")
]

_RUN = "Whole run, with --tokens"
Tokens = Annotated[
    str | None,
    typer.Option(
        help="Training tokens of the whole run: 300e9, 15T.", rich_help_panel=_RUN
    ),
]
Spares = Annotated[
    int | None,
    typer.Option(
        help="Spare nodes.  [default: seldom all in repair]", rich_help_panel=_RUN
    ),
]
CheckpointInterval = Annotated[
    str | None,
    typer.Option(
        help="Work between checkpoints: 1800s, 1h.  [default: Daly's optimum]",
        rich_help_panel=_RUN,
    ),
]
DeviceMtbf = Annotated[
    str | None,
    typer.Option(
        help="Mean time between failures of a device: 50000h.", rich_help_panel=_RUN
    ),
]
NodeMtbf = Annotated[
    str | None,
    typer.Option(help="Mean time between failures of a node.", rich_help_panel=_RUN),
]
RestartTime = Annotated[
    str | None,
    typer.Option(help="From failure to computing again: 600s.", rich_help_panel=_RUN),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Keep how far the simulation is in this file; the same command goes on "
        "from it.",
        rich_help_panel=_RUN,
    ),
]
Grid = Annotated[
    str, typer.Option(help="Grid whose carbon counts: france, …", rich_help_panel=_RUN)
]
Price = Annotated[
    float | None,
    typer.Option(help="USD per device and hour.", rich_help_panel=_RUN),
]
Pue = Annotated[
    float | None,
    typer.Option(help="Facility power over computer power.", rich_help_panel=_RUN),
]
Seed = Annotated[
    int, typer.Option(help="Of random failures and jitter.", rich_help_panel=_RUN)
]
_SPREAD = "Stragglers and jitter"
Jitter = Annotated[
    float,
    typer.Option(
        help="Spread (of the logarithm) of each pass on each rank: 0.02.",
        rich_help_panel=_SPREAD,
    ),
]
Slowdown = Annotated[
    str | None,
    typer.Option(
        help="Factor on each pipeline rank's compute time: 1,1,1.1,1.",
        rich_help_panel=_SPREAD,
    ),
]
Replications = Annotated[
    int | None,
    typer.Option(
        help="Steps to play under jitter.  [default: 100] Of a whole run without: "
        "runs.  [default: 20]",
        rich_help_panel=_SPREAD,
    ),
]
