"""The mixed command: one model on devices of several kinds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hwsim.cli.compare import entry_of
from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Dtype,
    Fidelity,
    FidelityChoice,
    Json,
    KvDtype,
    LinkLatency,
    Model,
    Out,
    Set,
    Stack,
    WeightDtype,
)
from hwsim.cli.output import check_outputs, console, note_unread, save, table
from hwsim.cli.quantity import quantity_of, time_of

if TYPE_CHECKING:
    from hwsim.analysis.mixing.mixed import MixedResult

_PLACE = "SYSTEM[,tp=N][,layers=N]"
Places = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "mixed",
        epilog=examples("mixed"),
    )(mixed)


def mixed(
    model: Model,
    stage: Annotated[
        Places,
        typer.Option(metavar=_PLACE, help="Pipeline stage of both phases. Repeatable."),
    ] = None,
    prefill: Annotated[
        Places, typer.Option(metavar=_PLACE, help="Where prompts run. Repeatable.")
    ] = None,
    decode: Annotated[
        Places,
        typer.Option(metavar=_PLACE, help="Where tokens are generated. Repeatable."),
    ] = None,
    kv_host: Annotated[
        str | None,
        typer.Option(help="CPU that keeps keys and values, and attends to them."),
    ] = None,
    embedding_host: Annotated[
        str | None, typer.Option(help="CPU that keeps the embedding table.")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(help="Between places: 100GB/s.  [default: 50 GB/s, assumed]"),
    ] = None,
    link_latency: LinkLatency = None,
    batch: Annotated[int, typer.Option(help="Sequences served together.")] = 1,
    prompt: Annotated[int, typer.Option(help="Prompt tokens of each.")] = 1024,
    output: Annotated[int, typer.Option(help="Tokens generated for each.")] = 128,
    dtype: Dtype = None,
    weight_dtype: WeightDtype = None,
    kv_dtype: KvDtype = None,
    stack: Stack = "default-inference",
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predict inference on unlike devices: stages, phases, or a host that helps.

    Training over unlike pipeline stages: hwsim train-mixed.
    """
    import hwsim

    check_outputs(out)
    result = hwsim.mixed(
        model, _entries(stage), prefill=_entries(prefill), decode=_entries(decode),
        kv_host=kv_host, embedding_host=embedding_host,
        link=quantity_of("link", link, "bandwidth"),
        link_latency=time_of("link_latency", link_latency), batch=batch, prompt=prompt,
        output=output, dtype=dtype, weight_dtype=weight_dtype, kv_dtype=kv_dtype,
        stack=stack, fidelity=fidelity.value, overrides=set_ or (),
    )  # fmt: skip
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        _answer(result)
    note_unread(set_)
    save(result, out)


def _entries(texts: Places) -> list[dict[str, Any]] | None:
    return [entry_of(text) for text in texts] if texts else None


def _answer(result: MixedResult) -> None:
    from hwsim.report import format as fmt
    from hwsim.specs.assumed import labelled

    out, w = console(), result.work
    out.print(
        f"[bold]{escape(w.model.name)} on devices of several kinds[/bold]: batch "
        f"{w.batch}, {w.prompt} prompt and {w.output} output tokens, {w.dtype}"
    )
    names = ["place", "layers", "prefill", "decode step", "memory", ""]
    rows = []
    for stage in result.stages:
        p, m = stage.place, stage.memory
        times = [fmt.seconds(x.time_s) if x else fmt.NONE
                 for x in (stage.prefill, stage.decode)]  # fmt: skip
        role = "" if stage.role == "both" else f"{stage.role}: "
        rows.append([
            escape(f"{role}{p.tp} x {labelled(p.system)}"),
            f"{p.layers[0]}–{p.layers[1] - 1}", *times,
            f"{fmt.nbytes(m.needed, 3)} of {fmt.nbytes(m.usable, 3)}",
            "" if m.fits else "DOES NOT FIT",
        ])  # fmt: skip
    out.print(table(None, names, rows, right=names[1:5]))
    ends = (result.interval_90 or {}).get("latency_s")
    interval = "" if ends is None else (
        f"90 %: {fmt.seconds(ends[0])} – {fmt.seconds(ends[1])}"
    )  # fmt: skip
    hops, said = result.hop_s, "assumed; give --link" if result.link.assumed else ""
    parts = ", ".join(
        f"{k} {v / result.latency_s:.0%}"
        for k, v in result.parts.items() if v >= 0.005 * result.latency_s
    )  # fmt: skip
    lines = [
        ("time to first token", fmt.seconds(result.ttft_s), "no queueing"),
        ("time per output token", fmt.seconds(result.tpot_s), ""),
        ("latency", fmt.seconds(result.latency_s), interval),
        ("throughput", f"{result.tokens_per_s:,.1f} tokens/s", "of one batch"),
    ]
    if result.saturated_tokens_per_s and len(result.stages) > 1:
        rate = f"{result.saturated_tokens_per_s:,.1f} tokens/s"
        lines.append(("", rate, "decoding, a batch in every stage"))
    if result.handover_s:
        lines.append(("handover", fmt.seconds(result.handover_s), "keys and values"))
    if hops["decode"]:
        hop = f"{fmt.seconds(hops['prefill'])} for the prompt"
        lines.append(("between stages", fmt.seconds(hops["decode"]), f"a token; {hop}"))
    if hops["decode"] or result.handover_s:
        rate = fmt.rate(result.link.bandwidth, "B/s")
        lines.append(("link", rate, said))
    if result.host_usable is not None:
        full = result.host_bytes > result.host_usable
        room = f"of {fmt.nbytes(result.host_usable)}" + (
            ": DOES NOT FIT" if full else ""
        )
        lines.append(("on the host", fmt.nbytes(result.host_bytes), room))
    lines.append(("bound by", result.bound, parts))
    out.print(table(None, None, lines))
