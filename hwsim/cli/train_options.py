"""Options of training commands: layout, numerics, the whole run, jitter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Tp = Annotated[int, typer.Option(help="Tensor-parallel degree.")]
Cp = Annotated[int, typer.Option(help="Context-parallel degree.")]
Ep = Annotated[int, typer.Option(help="Expert-parallel ranks.")]
Seq = Annotated[
    int | None, typer.Option(help="Tokens per sequence.  [default: up to 2048]")
]
Recompute = Annotated[
    str,
    typer.Option(
        help="Activations: none, selective, operators or full; or modules of "
        "Megatron-Core: layernorm+moe_act, …"
    ),
]
RecomputeEvery = Annotated[
    int, typer.Option(help="Recompute only every so many layers.")
]
Optimizer = Annotated[
    str, typer.Option(help="adamw, adam, lamb, adafactor, adam8bit, sgd, …")
]
OffloadOptimizer = Annotated[
    bool,
    typer.Option(
        help="Keep optimizer states in host memory; on NVMe drives with "
        "--set system.offload_to=drives."
    ),
]
ZeroStage = Annotated[
    int,
    typer.Option(help="Sharded over dp: 1 optimizer, 2 gradients, 3 parameters."),
]
SequenceParallel = Annotated[
    bool, typer.Option(help="Shard norms and dropout over tp.")
]
Etp = Annotated[
    int | None,
    typer.Option(
        help="Ranks that split each expert: tp or 1; with 1, ep counts "
        "tensor-parallel ranks too.  [default: tp]"
    ),
]
DecoderSeq = Annotated[
    int | None,
    typer.Option(
        help="Tokens of the decoder's sequence, of a model with an encoder.  "
        "[default: as many]"
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
RepairTime = Annotated[
    str | None,
    typer.Option(
        help="From failure to a node's return, spare meanwhile: 24h.",
        rich_help_panel=_RUN,
    ),
]
WriteTime = Annotated[
    str | None,
    typer.Option(
        help="Of one checkpoint, nothing computed meanwhile: 30s; by size and "
        "bandwidth by default.",
        rich_help_panel=_RUN,
    ),
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
