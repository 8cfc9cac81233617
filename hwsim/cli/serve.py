"""The command that serves: requests, queues, batches, replicas."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Dtype,
    Fidelity,
    FidelityChoice,
    Json,
    KvDtype,
    Report,
    Set,
    System,
    WeightDtype,
)
from hwsim.cli.output import (
    INTERRUPTED,
    check_outputs,
    check_parquet,
    note,
    note_unread,
    save,
    save_outputs,
    save_table,
)
from hwsim.cli.quantity import limits_of, quantity_of, time_of
from hwsim.cli.serve_options import (
    Acceptance,
    Draft,
    KvBandwidth,
    MaxQueue,
    MaxRetries,
    MinReplicas,
    Mtbf,
    Preemption,
    PrefillAttentionDp,
    PrefillEngine,
    PrefillEp,
    PrefillPp,
    PrefillReplicas,
    PrefillSeqs,
    PrefillSystem,
    PrefillTokens,
    PrefillTp,
    PrefixCaching,
    RateProfile,
    Repair,
    ScaleTarget,
    SpecTokens,
    Startup,
    ThinkTime,
    Timeout,
    TraceOut,
    TraceSeconds,
    Turns,
    Watch,
)
from hwsim.cli.serve_show import serve_notes, show_service
from hwsim.cli.serve_watch import meter
from hwsim.errors import InputError

if TYPE_CHECKING:
    from hwsim.analysis.serving.serve import ServeResult

_TRAFFIC, _ENGINE = "Traffic", "Engine"
UNSTABLE = 2  # what was asked cannot be: more arrives than can be served


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "serve",
        epilog=examples("serve"),
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
            help="fixed:N, uniform:LOW:HIGH, lognormal:MEAN[:SIGMA] or file:PATH.",
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
            help="CSV or JSONL to replay (Azure, BurstGPT, Mooncake, Splitwise, own).",
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
        typer.Option(
            help="round_robin, least_outstanding, power_of_two, session or "
            "longest_prefix.",
            rich_help_panel=_ENGINE,
        ),
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
    rate_profile: RateProfile = None,
    turns: Turns = 1,
    think_time: ThinkTime = None,
    preemption: Preemption = None,
    prefix_caching: PrefixCaching = None,
    timeout: Timeout = None,
    max_queue: MaxQueue = None,
    mtbf: Mtbf = None,
    repair: Repair = None,
    max_retries: MaxRetries = None,
    min_replicas: MinReplicas = None,
    scale_target: ScaleTarget = None,
    startup: Startup = None,
    spec_tokens: SpecTokens = None,
    acceptance: Acceptance = None,
    draft: Draft = None,
    trace_out: TraceOut = None,
    trace_seconds: TraceSeconds = 60.0,
    dtype: Dtype = None,
    weight_dtype: WeightDtype = None,
    kv_dtype: KvDtype = None,
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
    report: Report = None,
    watch: Watch = False,
) -> None:
    """Simulate a service under load: latencies, throughput, goodput, memory."""
    from hwsim.api.serving import serve as ask

    check_outputs(out, trace_out, report)
    if not trace_seconds > 0:
        raise InputError(f"--trace-seconds {trace_seconds}: give seconds above 0")
    _check_table(out)
    prefill = _prefill(
        kv_bandwidth, replicas=prefill_replicas, tp=prefill_tp, pp=prefill_pp,
        ep=prefill_ep, attention_dp=prefill_attention_dp, system=prefill_system,
        engine=prefill_engine, max_num_seqs=prefill_max_num_seqs,
        max_num_batched_tokens=prefill_max_num_batched_tokens,
    )  # fmt: skip
    with meter(watch) as viewer:
        result = ask(
            model, system, rate=rate, input_len=input_len, output_len=output_len,
            requests=10_000 if requests is None and trace is None else requests,
            arrival=arrival, burstiness=burstiness, concurrency=concurrency,
            trace=trace, tp=tp, pp=pp, ep=ep, attention_dp=attention_dp,
            replicas=replicas, router=router, engine=engine, prefill=prefill,
            rate_profile=rate_profile,
            operations={
                "timeout": time_of("timeout", timeout), "max_queue": max_queue,
                "mtbf": time_of("mtbf", mtbf), "repair": time_of("repair", repair),
                "max_retries": max_retries, "min_replicas": min_replicas,
                "target": scale_target, "startup": time_of("startup", startup),
            },
            speculative=_speculative(spec_tokens, acceptance, draft),
            preemption=preemption, prefix_caching=prefix_caching, turns=turns,
            think_time=time_of("think-time", think_time) or 0.0,
            max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens,
            chunked_prefill=chunked_prefill, dtype=dtype, weight_dtype=weight_dtype,
            kv_dtype=kv_dtype, stack=stack, fidelity=fidelity.value, slo=limits_of(slo),
            seed=seed, overrides=set_ or (), progress=viewer.show,
            watch=viewer.look,
        )  # fmt: skip
    if json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        show_service(result)
    serve_notes(result)
    note_unread(set_)
    if trace_out is not None:
        _write_trace(result, trace_out, trace_seconds)
    if out is not None and out.suffix.casefold() == ".json":
        save(result, out)
    elif out is not None:
        csv = out.suffix.casefold() == ".csv"
        save_table(
            result.requests, out if csv else None, None if csv else out, "request"
        )
    save_outputs(result, out=None, trace=None, report=report)
    if not result.complete:
        raise typer.Exit(INTERRUPTED)
    if result.stable is False:
        raise typer.Exit(UNSTABLE)


def _prefill(bandwidth: str | None, **asked: Any) -> dict[str, Any] | None:
    """Return the replicas for prompts; None where there are none."""
    given = {name: value for name, value in asked.items() if value is not None}
    if bandwidth is not None:
        given["kv_bandwidth"] = quantity_of("kv-bandwidth", bandwidth, "bandwidth")
    if not given:
        return None
    if "replicas" not in given:
        first = "kv-bandwidth" if bandwidth else f"prefill-{next(iter(given))}"
        raise InputError(
            f"--{first.replace('_', '-')} is for replicas that run prompts only; say "
            "how many with --prefill-replicas"
        )
    return given


def _speculative(
    tokens: int | None, acceptance: float | None, draft: str | None
) -> dict[str, Any] | None:
    """Return how tokens are drafted; None where they are not."""
    given = {"tokens": tokens, "acceptance": acceptance, "draft": draft}
    found = {name: value for name, value in given.items() if value is not None}
    return found or None


def _check_table(out: Path | None) -> None:
    """Refuse a table that could not be written, before any work is done."""
    if out is None:
        return
    suffix = out.suffix.casefold()
    if suffix not in {".json", ".csv", ".parquet"}:
        raise InputError(
            f"--out {out}: write .json (the result) or .csv or .parquet (requests)"
        )
    check_parquet(out if suffix == ".parquet" else None)


def _write_trace(result: ServeResult, out: Path, seconds: float) -> None:
    from hwsim.report.write import write_atomic
    from hwsim.sim.serving.trace import requests_trace

    run = result.run
    text = requests_trace(
        run.arrival, run.first, run.finish, run.replica, (run.inputs, run.outputs),
        seconds, model=result.model.id, system=result.system.id,
        engine=result.engine.id,
    )  # fmt: skip
    write_atomic(out, text)
    note(f"wrote {out}: open it in ui.perfetto.dev")
