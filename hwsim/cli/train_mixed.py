"""The train-mixed command: a training pipeline over devices of several kinds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hwsim.cli import train_options as layout
from hwsim.cli.compare import entry_of
from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Dtype,
    Fidelity,
    FidelityChoice,
    Json,
    LinkLatency,
    Model,
    Out,
    Pue,
    Report,
    Set,
    Stack,
    Trace,
)
from hwsim.cli.output import check_outputs, console, note_unread, save_outputs, table
from hwsim.cli.quantity import counts, quantity_of, time_of

if TYPE_CHECKING:
    from hwsim.analysis.mixing.train_result import MixedTrainResult

_PLACE = "SYSTEM[,tp=N][,dp=N][,stages=N][,layers=N][,price=USD]"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "train-mixed",
        epilog=examples("train-mixed"),
    )(train_mixed)


def train_mixed(
    model: Model,
    stage: Annotated[
        list[str],
        typer.Option(
            metavar=_PLACE,
            help="Pipeline stages on one kind of device, in order. Repeatable.",
        ),
    ],
    stage_layers: Annotated[
        str | None,
        typer.Option(
            help="Layers of every stage, as 12,12,8,8.  [default: by time, within "
            "memory]"
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            help="Between kinds, a stage's devices together: 100GB/s.  [default: the "
            "slower of their networks]"
        ),
    ] = None,
    link_latency: LinkLatency = None,
    schedule: Annotated[str, typer.Option(help="1f1b, gpipe or zero_bubble.")] = "1f1b",
    micro_batch: Annotated[
        int, typer.Option(help="Sequences per rank and pass, in the first stage.")
    ] = 1,
    global_batch: Annotated[
        int | None,
        typer.Option(help="Sequences per step.  [default: a pass for each stage]"),
    ] = None,
    seq: layout.Seq = None,
    cp: layout.Cp = 1,
    ep: layout.Ep = 1,
    dtype: Dtype = None,
    recompute: layout.Recompute = "none",
    recompute_every: layout.RecomputeEvery = 1,
    optimizer: layout.Optimizer = "adamw",
    offload_optimizer: layout.OffloadOptimizer = False,
    zero_stage: layout.ZeroStage = 0,
    sequence_parallel: layout.SequenceParallel = False,
    pue: Pue = None,
    stack: Stack = "default-training",
    fidelity: Fidelity = FidelityChoice.auto,
    etp: layout.Etp = None,
    imbalance: layout.Imbalance = 1.0,
    capacity_factor: layout.CapacityFactor = None,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    trace: Trace = None,
    report: Report = None,
) -> None:
    """Predict a training step whose pipeline stages are on unlike devices."""
    import hwsim

    check_outputs(out, trace, report)
    result = hwsim.train_mixed(
        model, [entry_of(text) for text in stage],
        link=quantity_of("link", link, "bandwidth"),
        link_latency=time_of("link_latency", link_latency),
        stage_layers=counts("stage-layers", stage_layers), schedule=schedule,
        micro_batch=micro_batch, global_batch=global_batch, seq=seq, cp=cp, ep=ep,
        dtype=dtype, recompute=recompute, recompute_every=recompute_every,
        optimizer=optimizer, offload_optimizer=offload_optimizer,
        zero_stage=zero_stage, sequence_parallel=sequence_parallel, pue=pue,
        stack=stack, fidelity=fidelity.value, etp=etp, imbalance=imbalance,
        capacity_factor=capacity_factor, overrides=set_ or (),
    )  # fmt: skip
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        _answer(result)
    note_unread(set_)
    save_outputs(result, out=out, trace=trace, report=report)


def _answer(result: MixedTrainResult) -> None:
    from hwsim.report import format as fmt
    from hwsim.specs.assumed import labelled

    out, c = console(), result.config
    passes = fmt.plural(c.num_microbatches, "microbatch", "microbatches")
    out.print(
        f"[bold]{escape(result.model.name)} on {result.devices} devices of several "
        f"kinds[/bold]: {c.schedule} of {c.pp} stages, global batch {c.global_batch} "
        f"of {c.seq} tokens ({passes}), {c.dtype}"
    )
    names = ["stages on", "layers", "microbatch", "waits", "memory", ""]
    rows = []
    for place in result.places:
        p, m = place.place, place.memory
        each = "+".join(str(len(part)) for part in place.layers)
        rows.append([
            escape(f"{p.stages} x {place.devices // p.stages} {labelled(p.system)}"),
            each, fmt.seconds(place.busy), fmt.percent(place.idle_share),
            f"{fmt.nbytes(m.needed, 3)} of {fmt.nbytes(m.usable, 3)}",
            "" if m.fits else "DOES NOT FIT",
        ])  # fmt: skip
    out.print(table(None, names, rows, right=names[1:5]))
    out.print(table(None, None, _figures(result)))


def _figures(result: MixedTrainResult) -> list[tuple[str, str, str]]:
    from hwsim.report import format as fmt

    ends = (result.interval_90 or {}).get("step_s")
    interval = "" if ends is None else (
        f"90 %: {fmt.seconds(ends[0])} – {fmt.seconds(ends[1])}"
    )  # fmt: skip
    parts = ", ".join(
        f"{k} {v / result.step_s:.0%}"
        for k, v in result.parts.items() if v >= 0.005 * result.step_s
    )  # fmt: skip
    lines = [
        ("step time", fmt.seconds(result.step_s, 4), interval),
        ("throughput", f"{result.tokens_per_s:,.0f} tokens/s", "all devices"),
        ("MFU", f"{result.mfu:.1%}", f"of the {result.config.dtype} peaks together"),
        ("bubble", f"{result.bubble_fraction:.1%}", "stages wait for each other"),
        ("bound by", result.bound, parts),
    ]
    for link in result.links:
        rate = fmt.rate(link.bandwidth, "B/s")
        each = f"{fmt.seconds(link.fixed + link.transfer)} a microbatch; {link.basis}"
        lines.append(("between kinds", rate, each))
    joules, money = result.energy_j, result.cost_usd
    if joules is not None:
        lines.append(("energy", fmt.quantity(joules, "J"), "a step, at the wall"))
    price = "give price=USD with --stage" if money is None else "a step"
    lines.append(("money", fmt.NONE if money is None else f"USD {money:.4g}", price))
    return lines
