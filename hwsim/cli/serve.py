"""The command that serves: requests, queues, batches, replicas."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli.options import Fidelity, FidelityChoice, Json, Set, System
from hwsim.cli.output import check_outputs, console, note, note_unread, save, table
from hwsim.cli.quantity import bandwidth_of, limits_of
from hwsim.cli.serve_options import (
    KvBandwidth,
    PrefillAttentionDp,
    PrefillEngine,
    PrefillEp,
    PrefillPp,
    PrefillReplicas,
    PrefillSeqs,
    PrefillSystem,
    PrefillTokens,
    PrefillTp,
)
from hwsim.errors import InputError
from hwsim.specs.assumed import labelled

if TYPE_CHECKING:
    from hwsim.analysis.serving import ServeResult

_TRAFFIC, _ENGINE = "Traffic", "Engine"
INTERRUPTED = 130
_LATENCIES = {
    "ttft_s": "first token",
    "tpot_s": "per output token",
    "itl_s": "between tokens",
    "e2e_s": "whole answer",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "serve",
        epilog="Example: hwsim serve llama-3.1-8b -s h100 --rate 8 --requests 10000",
    )(serve)


def serve(
    model: Annotated[
        str,
        typer.Argument(help="Model: id, alias, file or config.json.", metavar="MODEL"),
    ],
    system: System,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests per second.", rich_help_panel=_TRAFFIC),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            help="How many; of a trace, at most.  [default: 10000]",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    input_len: Annotated[
        str,
        typer.Option(
            help="fixed:N, uniform:A:B, lognormal:MEAN[:SIGMA] or file:PATH.",
            rich_help_panel=_TRAFFIC,
        ),
    ] = "lognormal:1000",
    output_len: Annotated[
        str, typer.Option(help="As --input-len.", rich_help_panel=_TRAFFIC)
    ] = "lognormal:250",
    arrival: Annotated[
        str,
        typer.Option(help="poisson, gamma or deterministic.", rich_help_panel=_TRAFFIC),
    ] = "poisson",
    burstiness: Annotated[
        float,
        typer.Option(
            help="Gamma: squared coefficient of variation; 1 is Poisson.",
            rich_help_panel=_TRAFFIC,
        ),
    ] = 1.0,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Closed loop: clients that wait for their answers.",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSONL to replay (Azure, BurstGPT, Mooncake, own).",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of arrivals and lengths.", rich_help_panel=_TRAFFIC)
    ] = 1,
    slo: Annotated[
        str | None,
        typer.Option(
            help="What counts as good: ttft=500ms,tpot=40ms,e2e=20s.",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="vllm-v1, vllm-v0, tensorrt-llm, sglang, static, llama-cpp or a "
            ".toml file.",
            rich_help_panel=_ENGINE,
        ),
    ] = "vllm-v1",
    tp: Annotated[
        int,
        typer.Option(
            help="Tensor-parallel devices of a replica.", rich_help_panel=_ENGINE
        ),
    ] = 1,
    pp: Annotated[
        int,
        typer.Option(help="Pipeline stages of a replica.", rich_help_panel=_ENGINE),
    ] = 1,
    ep: Annotated[
        int,
        typer.Option(
            help="Ranks that share experts out, of tp x attention-dp.",
            rich_help_panel=_ENGINE,
        ),
    ] = 1,
    attention_dp: Annotated[
        int,
        typer.Option(
            help="Groups with requests of their own that share the experts.",
            rich_help_panel=_ENGINE,
        ),
    ] = 1,
    replicas: Annotated[
        int, typer.Option(help="Engines side by side.", rich_help_panel=_ENGINE)
    ] = 1,
    router: Annotated[
        str,
        typer.Option(help="round_robin or least_outstanding.", rich_help_panel=_ENGINE),
    ] = "round_robin",
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            help="Most requests that run at a time.  [default: the engine's]",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of a step.  [default: the engine's]",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    chunked_prefill: Annotated[
        bool | None,
        typer.Option(
            help="Cut long prompts up.  [default: the engine's]",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    prefill_replicas: PrefillReplicas = None,
    prefill_tp: PrefillTp = None,
    prefill_pp: PrefillPp = None,
    prefill_ep: PrefillEp = None,
    prefill_attention_dp: PrefillAttentionDp = None,
    prefill_system: PrefillSystem = None,
    prefill_engine: PrefillEngine = None,
    prefill_max_num_seqs: PrefillSeqs = None,
    prefill_max_num_batched_tokens: PrefillTokens = None,
    kv_bandwidth: KvBandwidth = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Arithmetic.  [default: bf16 if it has it]"),
    ] = None,
    weight_dtype: Annotated[
        str | None, typer.Option(help="Storage of weights.  [default: as --dtype]")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="Storage of the KV cache.  [default: 16 bit]")
    ] = None,
    stack: Annotated[
        str | None, typer.Option(help="Software stack.  [default: the engine's]")
    ] = None,
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Save the result here (.json), or a row per request (.csv, .parquet)."
        ),
    ] = None,
) -> None:
    """Simulate a service under load: latencies, throughput, goodput, memory."""
    from hwsim.api.serving import serve as ask

    check_outputs(out)
    _check_table(out)
    meter = _Meter()
    prefill = _prefill(
        kv_bandwidth, replicas=prefill_replicas, tp=prefill_tp, pp=prefill_pp,
        ep=prefill_ep, attention_dp=prefill_attention_dp, system=prefill_system,
        engine=prefill_engine, max_num_seqs=prefill_max_num_seqs,
        max_num_batched_tokens=prefill_max_num_batched_tokens,
    )  # fmt: skip
    result = ask(
        model, system, rate=rate, input_len=input_len, output_len=output_len,
        requests=10_000 if requests is None and trace is None else requests,
        arrival=arrival, burstiness=burstiness, concurrency=concurrency, trace=trace,
        tp=tp, pp=pp, ep=ep, attention_dp=attention_dp, replicas=replicas,
        router=router, engine=engine, prefill=prefill,
        max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens,
        chunked_prefill=chunked_prefill, dtype=dtype, weight_dtype=weight_dtype,
        kv_dtype=kv_dtype, stack=stack, fidelity=fidelity.value, slo=limits_of(slo),
        seed=seed, overrides=set_ or (), progress=meter.show,
    )  # fmt: skip
    meter.close()
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        show_service(result)
    _notes(result)
    note_unread(set_)
    if out is not None and out.suffix.casefold() == ".json":
        save(result, out)
    elif out is not None:
        _write_table(result, out)
    if not result.complete:
        raise typer.Exit(INTERRUPTED)


def _prefill(bandwidth: str | None, **asked: Any) -> dict[str, Any] | None:
    """Return the replicas for prompts; None where there are none."""
    given = {name: value for name, value in asked.items() if value is not None}
    if bandwidth is not None:
        given["kv_bandwidth"] = bandwidth_of("kv-bandwidth", bandwidth)
    if not given:
        return None
    if "replicas" not in given:
        first = "kv-bandwidth" if bandwidth else f"prefill-{next(iter(given))}"
        raise InputError(
            f"--{first.replace('_', '-')} is for replicas that run prompts only; say "
            "how many with --prefill-replicas"
        )
    return given


class _Meter:
    """A line on stderr that grows, where somebody looks on."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        """Say how far it is."""
        if self._live:
            sys.stderr.write(f"\r{done:,} of {total:,} requests")
            sys.stderr.flush()

    def close(self) -> None:
        """Wipe the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")


def _check_table(out: Path | None) -> None:
    """Refuse a table that could not be written, before any work is done."""
    if out is None:
        return
    suffix = out.suffix.casefold()
    if suffix not in {".json", ".csv", ".parquet"}:
        raise InputError(
            f"--out {out}: write .json (the result) or .csv or .parquet (requests)"
        )
    if suffix == ".parquet":
        try:
            importlib.import_module("pyarrow")
        except ImportError:
            raise InputError(
                f"--out {out}: parquet needs pyarrow; install it, or write .csv"
            ) from None


def _write_table(result: ServeResult, out: Path) -> None:
    import io

    from hwsim.report.write import write_atomic

    frame = result.requests
    if out.suffix.casefold() == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomic(out, buffer.getvalue())
    else:
        write_atomic(out, frame.to_csv(index=False))
    note(f"wrote {out}: {len(frame):,} requests")


def _notes(result: ServeResult) -> None:
    if not result.complete:
        note(
            f"interrupted: the figures are of {result.run.outputs.size:,} of "
            f"{result.run.asked:,} requests"
        )
    if result.stable is False:
        note(
            f"unstable: {result.run.rate:.4g} requests/s arrive but at most "
            f"{result.stable_rate:.4g} can be served for long; queues grow, and "
            "latencies depend on how long the run is"
        )


def show_service(result: ServeResult) -> None:
    """Print latencies, throughput, memory and energy as tables."""
    from hwsim.report import format as fmt

    d = result.to_dict()
    arrive = "closed loop" if d["rate_rps"] is None else f"{d['rate_rps']:.4g} /s"
    out = console()
    out.print(
        f"[bold]{result.model.name} on {result.config.replicas} x "
        f"{result.config.layout.devices} x {labelled(result.system)}[/bold]: "
        f"{result.engine.name}"
    )
    rows: list[list[str]] = []
    for key, label in _LATENCIES.items():
        ends = d[key]
        cells = [fmt.seconds(v) if v == v else "–" for v in ends.values()]
        rows.append([label, *cells])
    names = ["", "mean", "p50", "p90", "p99"]
    out.print(table(None, names, rows, right=names[1:]))
    out.print(table(None, None, _lines(d, arrive)))


def _lines(d: dict[str, Any], arrive: str) -> list[tuple[str, str, str]]:
    from hwsim.report import format as fmt

    kv = d["kv_occupancy"]
    busiest = f"at most {kv['max']:.0%} of {d['kv_tokens']:,} tokens per replica"
    lines = [
        ("answered", f"{d['requests']:,} requests", f"arriving: {arrive}"),
        ("throughput", f"{d['tokens_per_s']:,.1f} tokens/s",
         f"{d['requests_per_s']:.4g} requests/s"),
        ("busy", f"{d['utilisation']:.0%}", f"mean batch {d['mean_batch']:.1f}"),
        ("KV cache", f"{kv['mean']:.0%}", busiest),
        ("preemptions", f"{d['preemptions']:,}", ""),
    ]  # fmt: skip
    if d["prefill_pool"] is not None:
        pool = d["prefill_pool"]
        moved = fmt.seconds(pool["kv_transfer_s"]["mean"])
        lines.append(("prefill pool", f"{pool['utilisation']:.0%} busy",
                      f"keys and values move in {moved}"))  # fmt: skip
    if d["goodput_rps"] is not None:
        good = d["goodput_rps"] / d["requests_per_s"]
        lines.append(("goodput", f"{d['goodput_rps']:.4g} /s", f"{good:.1%} of all"))
    if d["stable_rate_rps"] is not None:
        lines.append(("stable up to", f"{d['stable_rate_rps']:.4g} /s", "all replicas"))
    if d["energy_j_per_token"] is not None:
        lines.append(("energy", f"{d['energy_j_per_token']:.3g} J", "per output token"))
    speed = f"{d['simulated_requests_per_wall_s']:,.0f} requests/s"
    lines.append(("simulated at", speed, f"fidelity {d['fidelity']}"))
    return lines
