"""``hwsim plan serve``: the deployment of a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Csv,
    Fidelity,
    FidelityChoice,
    Json,
    Model,
    Out,
    Parquet,
    Price,
    Set,
    Systems,
)
from hwsim.cli.output import (
    check_outputs,
    check_parquet,
    console,
    end_if_interrupted,
    note,
    note_unread,
    save,
    save_table,
    table,
)
from hwsim.cli.progress import Meter
from hwsim.cli.quantity import integers, limits_of, words
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.plan_serve.answer import ServePlan
    from hwsim.analysis.plan_serve.confirm import Confirmed

_TRAFFIC = "Traffic"
_CHOICES = "What to choose from"
_SHOWN_REASONS = 6


def register(plan_app: typer.Typer) -> None:
    """Add the command to those that plan."""
    plan_app.command(
        "serve",
        epilog=examples("plan serve"),
    )(serve)


def _some(text: str) -> Any:
    return typer.Option(help=text, metavar="A,B,…", rich_help_panel=_CHOICES)


def serve(
    model: Model,
    system: Systems,
    slo: Annotated[
        str,
        typer.Option(
            help="Limits: ttft.p99=500ms,tpot.p99=40ms; of ttft, tpot, itl, e2e; "
            "mean, p50, p90, p99."
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests per second, all together.", rich_help_panel=_TRAFFIC
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Trace to replay, CSV or JSONL.", rich_help_panel=_TRAFFIC),
    ] = None,
    input_len: Annotated[
        str, typer.Option(help="Tokens of prompts.", rich_help_panel=_TRAFFIC)
    ] = "lognormal:1000",
    output_len: Annotated[
        str, typer.Option(help="Tokens of answers.", rich_help_panel=_TRAFFIC)
    ] = "lognormal:250",
    arrival: Annotated[
        str,
        typer.Option(help="poisson, gamma, deterministic.", rich_help_panel=_TRAFFIC),
    ] = "poisson",
    burstiness: Annotated[
        float,
        typer.Option(
            help="gamma: squared variation of gaps.", rich_help_panel=_TRAFFIC
        ),
    ] = 1.0,
    engine: Annotated[str, _some("Serving engines.")] = "vllm-v1",
    precision: Annotated[
        str | None,
        _some(
            "DTYPE, DTYPE/WEIGHTS or DTYPE/WEIGHTS/KV: bf16,fp8,bf16/int4.  "
            "[default: bf16 if it has it]"
        ),
    ] = None,
    tp: Annotated[str | None, _some("Tensor-parallel degrees.")] = None,
    pp: Annotated[str | None, _some("Pipeline stages.")] = None,
    ep: Annotated[str | None, _some("Expert-parallel ranks.")] = None,
    attention_dp: Annotated[str | None, _some("Attention-parallel groups.")] = None,
    max_num_seqs: Annotated[str | None, _some("Limits on running requests.")] = None,
    disaggregated: Annotated[
        bool,
        typer.Option(
            help="Try replicas of their own for prompts too.", rich_help_panel=_CHOICES
        ),
    ] = True,
    max_replicas: Annotated[
        int, typer.Option(help="Most replicas.", rich_help_panel=_CHOICES)
    ] = 1000,
    router: Annotated[
        str, typer.Option(help="How requests go to replicas.")
    ] = "least_outstanding",
    margin: Annotated[
        float, typer.Option(help="Share of each limit to leave unused: 0.1.")
    ] = 0.0,
    price: Price = None,
    simulate: Annotated[
        int, typer.Option(help="How many to simulate for each objective.")
    ] = 6,
    requests: Annotated[
        int, typer.Option(help="Least requests of a simulation.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Of arrivals and lengths.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Work on a Dask scheduler's workers: tcp://host:8786.",
            metavar="ADDRESS",
        ),
    ] = None,
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    csv: Csv = None,
    parquet: Parquet = None,
) -> None:
    """Find the cheapest, fastest and most frugal deployment that meets limits.

    Ctrl-C ends the search and answers with the best so far.
    """
    import hwsim

    check_outputs(out, csv, parquet)
    check_parquet(parquet)
    degrees: dict[str, Any] = {
        "tp": tp, "pp": pp, "ep": ep, "attention_dp": attention_dp,
        "max_num_seqs": max_num_seqs,
    }  # fmt: skip
    held: dict[str, Any] = {name: integers(name, t) for name, t in degrees.items()}
    with Meter("deployments") as meter:
        plan = hwsim.plan_serve(
            model, system, slo=limits_of(slo), rate=rate, trace=trace,
            input_len=input_len, output_len=output_len, arrival=arrival,
            burstiness=burstiness, engine=words(engine),
            precision=None if precision is None else words(precision),
            disaggregated=disaggregated, router=router, margin=margin,
            max_replicas=max_replicas,
            simulate=simulate, requests=requests, price=price, fidelity=fidelity.value,
            seed=seed, cluster=cluster, overrides=set_ or (),
            progress=lambda what, done, all_: meter.show(done, all_, what),
            **held,
        )  # fmt: skip
    for fault in plan.passed_over:
        note(f"note: passed over: {fault}")
    if json:
        sys.stdout.write(plan.to_json() + "\n")
    else:
        _answer(plan)
    note_unread(set_)
    save(plan, out)
    save_table(plan.table, csv, parquet, "deployment")
    end_if_interrupted(plan.interrupted, "the best of what was simulated so far")


def _answer(plan: ServePlan) -> None:
    limits = ", ".join(
        f"{key}.{stat} {fmt.seconds(limit)}" for (key, stat), limit in plan.slo.items()
    )
    console().print(
        f"[bold]plan: {plan.model.id}, {plan.demand.rate:g} requests/s, {limits}[/bold]"
    )
    console().print(table(None, None, _headline(plan)))
    _ranking(plan)
    _curve(plan)
    for line in _rejections(plan):
        console().print(f"• {line}", markup=False)


def _headline(plan: ServePlan) -> list[tuple[str, str, str]]:
    named = "cheapest" if plan.priced else "fewest devices"
    rows = [_deployment(named, plan.cheapest), _deployment("fastest", plan.fastest)]
    if plan.frugal is not None:
        rows.append(_deployment("least energy", plan.frugal))
    for check in plan.cheapest.checks:
        told = f"limit {fmt.seconds(check.limit)}, {check.margin:.0%} left"
        if check.model_upper is not None:
            told += (
                f"; {'also' if check.holds else 'not'} at the upper end of the 90 % "
                f"interval ({fmt.seconds(check.model_upper)})"
            )
        rows.append(
            (f"{named}: {check.key}.{check.stat}", fmt.seconds(check.value), told)
        )
    rows.append(
        ("looked at", fmt.plural(plan.candidates, "deployment"),
         f"{len(plan.steady):,} fit in memory, {len(plan.confirmed)} confirmed; "
         f"closed form {fmt.seconds(plan.search_s)}, "
         f"simulation {fmt.seconds(plan.simulate_s)}")
    )  # fmt: skip
    return rows


def _deployment(name: str, c: Confirmed) -> tuple[str, str, str]:
    money = "" if c.hourly != c.hourly else (
        f"{c.hourly:,.2f} USD/h, {c.usd_per_million_tokens:.3g} USD per million tokens"
    )  # fmt: skip
    energy = c.result.energy_j_per_token
    drawn = "" if energy is None else f"{energy:.3g} J per token"
    told = f"{c.replicas} x ({c.choice})"
    if c.prompt_replicas is not None:
        told = f"{c.prompt_replicas} for prompts and {told}"
    return name, told, ", ".join(part for part in (money, drawn) if part)


def _ranking(plan: ServePlan) -> None:
    split = any(c.prompt_replicas is not None for c in plan.confirmed)
    columns = (
        "system", "engine", "precision", "tp", "pp", "ep", "adp", "seqs", "replicas",
        *(("prompts on",) if split else ()), "devices", "USD/h", "ttft p99",
        "tpot p99", "J/token", "busy",
    )  # fmt: skip
    rows = []
    for c in plan.confirmed:
        layout, result = c.choice.layout, c.result
        energy = result.energy_j_per_token
        rows.append(
            [c.choice.system.id, c.choice.engine.id, str(c.choice.precision)]
            + [str(v) for v in (layout.tp, layout.pp, layout.ep, layout.attention_dp,
                                c.choice.engine.max_num_seqs, c.replicas)]
            + ([_prompts(c)] if split else []) + [str(c.devices)]
            + ["–" if c.hourly != c.hourly else f"{c.hourly:,.2f}"]
            + [fmt.seconds(result.ttft_s["p99"]), fmt.seconds(result.tpot_s["p99"])]
            + ["–" if energy is None else f"{energy:.3g}", f"{result.utilisation:.0%}"]
        )  # fmt: skip
    console().print(table("Deployments that meet the limits", columns, rows))


def _prompts(c: Confirmed) -> str:
    """Return the replicas for prompts in short: ``2 x tp 4``."""
    prompts = c.choice.prompts
    return "" if prompts is None else f"{c.prompt_replicas} x {prompts.layout}"


def _curve(plan: ServePlan) -> None:
    if not plan.curve:
        return
    rows = [
        [f"{p['rate_rps']:g}", f"{p['goodput_rps']:.4g}", fmt.seconds(p["ttft_p99_s"]),
         fmt.seconds(p["tpot_p99_s"]), "yes" if p["stable"] else "no"]
        for p in plan.curve
    ]  # fmt: skip
    title = "The first of them at other rates: requests/s that meet the limits"
    columns = ("rate", "goodput", "ttft p99", "tpot p99", "keeps up")
    console().print(table(title, columns, rows))


def _rejections(plan: ServePlan) -> list[str]:
    rows = [f"not {r.choice}: {r.why}" for r in plan.rejected]
    more = len(rows) - _SHOWN_REASONS
    tail = [f"and {more} more (--json has them)"] if more > 0 else []
    return rows[:_SHOWN_REASONS] + tail
