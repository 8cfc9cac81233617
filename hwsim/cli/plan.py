"""Commands that plan: the best layout of a training job."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli import plan_serve
from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Csv,
    Dtype,
    Fidelity,
    FidelityChoice,
    Json,
    Model,
    Out,
    Parquet,
    Price,
    Pue,
    Set,
    Stack,
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
from hwsim.cli.quantity import (
    integers,
    quantity_of,
    time_of,
    token_count,
    whole_number,
    words,
)
from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from hwsim.analysis.plan_train.plan import TrainPlan

_DEVICES = re.compile(r"^(\d+)-(\d+)(?:/(\d+))?$")
_LAYOUT = "Layout: hold parts of it to some values"
_LIMITS = "Limits"
_SELDOM = ("cp", "vpp", "ep")  # not shown where they are 1 throughout
_AWAY = {"optimizer": "optim.", "activations": "act."}

plan_app = typer.Typer(
    name="plan",
    help="Find the best layout of a job, or deployment of a service.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    plan_app.command(
        "train",
        epilog=examples("plan train"),
    )(train)
    plan_serve.register(plan_app)
    app.add_typer(plan_app)


def _some(text: str) -> Any:
    """Return an option that holds a part of the layout to some values."""
    return typer.Option(help=text, metavar="A,B,…", rich_help_panel=_LAYOUT)


def train(
    model: Model,
    system: Systems,
    global_batch: Annotated[int, typer.Option(help="Sequences per step.")],
    seq: Annotated[int, typer.Option(help="Tokens per sequence.")],
    devices: Annotated[
        str | None,
        typer.Option(
            help="Device counts: 512, a list 256,512, doublings 64-512, or steps "
            "64-512/64.  [default: all of the system]"
        ),
    ] = None,
    dtype: Dtype = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adafactor, …")] = "adamw",
    sequence_parallel: Annotated[
        bool, typer.Option(help="Shard norms and dropout over tp where it goes.")
    ] = True,
    objective: Annotated[
        str, typer.Option(help="What is least at the best: time, energy, money, memory")
    ] = "time",
    memory: Annotated[
        str | None,
        typer.Option(help="Of a device, at most: 70GiB.", rich_help_panel=_LIMITS),
    ] = None,
    step_time: Annotated[
        str | None, typer.Option(help="Longest step: 10s.", rich_help_panel=_LIMITS)
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Tokens of the whole run: 15T.", rich_help_panel=_LIMITS),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help="Longest run, no failures: 30days.", rich_help_panel=_LIMITS),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Dearest run. [USD]", rich_help_panel=_LIMITS),
    ] = None,
    power: Annotated[
        str | None,
        typer.Option(help="Of the job at the wall: 10MW.", rich_help_panel=_LIMITS),
    ] = None,
    price: Price = None,
    pue: Pue = None,
    tp: Annotated[str | None, _some("Tensor-parallel degrees.")] = None,
    cp: Annotated[str | None, _some("Context-parallel degrees.")] = None,
    pp: Annotated[str | None, _some("Pipeline stages.")] = None,
    vpp: Annotated[str | None, _some("Chunks per pipeline rank.")] = None,
    ep: Annotated[str | None, _some("Expert-parallel ranks.")] = None,
    dp: Annotated[str | None, _some("Data-parallel degrees.")] = None,
    micro_batch: Annotated[str | None, _some("Sequences per pass.")] = None,
    zero_stage: Annotated[str | None, _some("0, 1, 2, 3.")] = None,
    dp_shard: Annotated[str | None, _some("HSDP: ranks that share states out.")] = None,
    recompute: Annotated[
        str | None, _some("none, selective, full; operators if asked.")
    ] = None,
    schedule: Annotated[str | None, _some("1f1b, interleaved, …")] = None,
    offload: Annotated[
        bool, typer.Option(help="Try host offloading too.", rich_help_panel=_LAYOUT)
    ] = True,
    simulate: Annotated[int, typer.Option(help="How many of the best to play.")] = 5,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Search on the workers of a Dask scheduler: tcp://host:8786.",
            metavar="ADDRESS",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of the ranking to print.")] = 10,
    stack: Stack = "default-training",
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    csv: Csv = None,
    parquet: Parquet = None,
) -> None:
    """Find the fastest (cheapest, …) layout among all valid ones.

    Ctrl-C ends the search and answers with the best so far.
    """
    import hwsim.api.plan as api

    check_outputs(out, csv, parquet)
    check_parquet(parquet)
    choices: dict[str, Any] = {
        "tp": tp, "cp": cp, "pp": pp, "vpp": vpp, "ep": ep, "dp": dp,
        "micro_batch": micro_batch, "zero_stage": zero_stage,
        "dp_shard": dp_shard,
    }  # fmt: skip
    choices = {name: integers(name, text) for name, text in choices.items()}
    choices["recompute"] = None if recompute is None else words(recompute)
    choices["schedule"] = None if schedule is None else words(schedule)
    for name in ("offload_optimizer", "offload_activations"):
        choices[name] = None if offload else (False,)
    with Meter("layouts") as meter:
        plan = api.plan_train(
            model, system, devices=_counts(devices), global_batch=global_batch,
            seq=seq, dtype=dtype, optimizer=optimizer,
            sequence_parallel=sequence_parallel, objective=objective,  # type: ignore[arg-type]
            memory=quantity_of("memory", memory, "bytes"),
            step_time=time_of("step_time", step_time),
            tokens=None if tokens is None else token_count(tokens),
            deadline=time_of("deadline", deadline), budget=budget,
            power=quantity_of("power", power, "power"), price=price, pue=pue,
            simulate=simulate, cluster=cluster, stack=stack, fidelity=fidelity.value,
            overrides=set_ or (), progress=_told(meter), **choices,
        )  # fmt: skip
    _answer(plan, json=json, top=top)
    note_unread(set_)
    save(plan, out)
    save_table(plan.table, csv, parquet, "layout")
    end_if_interrupted(plan.tally.interrupted, "the best of what was looked at so far")


def _told(meter: Meter) -> Callable[[int, int, float], None]:
    """Return what shows how far a search is, and its best step so far."""

    def show(done: int, whole: int, step: float) -> None:
        best = f", best step {fmt.seconds(step)}" if step < float("inf") else ""
        meter.show(done, whole, f"layouts{best}")

    return show


def _counts(text: str | None) -> list[int] | None:
    """Return device counts from ``512``, ``256,512``, ``64-512`` or ``64-512/64``."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = _DEVICES.match(part.strip())
        if match is None:
            found.append(whole_number("devices", part))
            continue
        low, high = int(match[1]), int(match[2])
        if low < 1 or high < low or match[3] == "0":
            raise InputError(f"--devices {part!r} is empty; write 64-512 or 64-512/64")
        if match[3]:
            found += range(low, high + 1, int(match[3]))
            continue
        while low <= high:
            found.append(low)
            low *= 2
    return found


def _answer(plan: TrainPlan, *, json: bool, top: int) -> None:
    for fault in plan.passed_over:
        note(f"note: passed over: {fault}")
    if json:
        sys.stdout.write(plan.to_json() + "\n")
        return
    _summary(plan)
    _ranking(plan, top)
    console().print("[bold]Its step by itself[/bold]")
    console().print(plan.commands[0], markup=False, soft_wrap=True)
    for line in plan.reasons.why:
        console().print(f"• {line}", markup=False)
    if plan.reasons.lacks:
        console().print("[bold]What the runner-up lacks[/bold]")
        for line in plan.reasons.lacks:
            console().print(f"• {line}", markup=False)


def _summary(plan: TrainPlan) -> None:
    tally = plan.tally
    rate = tally.layouts / tally.search_s if tally.search_s else 0.0
    best = plan.best.config
    told = (
        f"tp {best.tp}, cp {best.cp}, pp {best.pp}, vpp {best.vpp}, ep {best.ep}, "
        f"dp {best.dp}, micro-batch {best.micro_batch}, ZeRO {best.zero_stage}, "
        f"recompute {best.recompute}, {best.schedule}"
    )
    if best.dp_shard is not None:
        told += f", states shared by {best.dp_shard} of {best.dp}"
    for name in ("offload_optimizer", "offload_activations"):
        if getattr(best, name):
            told += f", {name.replace('_', ' ')}"
    rows = [
        ("best layout", told, f"{best.devices} x {plan.best.system.device.id}"),
        ("step", fmt.seconds(plan.best.step_s),
         f"{_ends(plan)}MFU {plan.best.mfu:.1%}, simulated"),
        (
            "layouts", f"{tally.layouts:,}",
            f"{tally.no_memory:,} do not fit, {tally.broken:,} break a limit, "
            f"{tally.invalid:,} more are invalid",
        ),
        ("search", fmt.seconds(tally.search_s), f"{rate:,.0f} layouts/s"),
        ("Pareto front", f"{len(plan.pareto):,}", "layouts that no other beats"),
    ]  # fmt: skip
    console().print(f"[bold]plan: {plan.model.id}[/bold]")
    console().print(table(None, None, rows))


def _ends(plan: TrainPlan) -> str:
    ends = (plan.best.interval_90 or {}).get("step_s")
    return f"90 %: {' – '.join(map(fmt.seconds, ends))}; " if ends else ""


def _ranking(plan: TrainPlan, top: int) -> None:
    cells = [
        _cells(place, row)
        for place, row in enumerate(plan.ranking.head(top).to_dict("records"), start=1)
    ]
    several = {
        "system": len({c.system.id for c in plan.candidates}) > 1,
        "devices": len({c.devices for c in plan.candidates}) > 1,
        "offload": any(row["offload"] != "–" for row in cells),
        **{name: any(row[name] != "1" for row in cells) for name in _SELDOM},
    }
    columns = [name for name in cells[0] if several.get(name, True)]
    rows = [[row[name] for name in columns] for row in cells]
    title = "Ranking, those simulated first; energy and money of one step"
    console().print(table(title, columns, rows))


def _cells(place: int, row: dict[Any, Any]) -> dict[str, str]:
    away = [short for name, short in _AWAY.items() if row[f"offload_{name}"]]
    degrees = {name: str(row[name]) for name in ("tp", "cp", "pp", "vpp", "ep", "dp")}
    return {
        "#": str(place),
        "system": row["system"],
        "devices": str(row["devices"]),
        **degrees,
        "mb": str(row["micro_batch"]),
        "zero": _zero(row),
        "recompute": row["recompute"],
        "schedule": row["schedule"] if row["pp"] > 1 else "–",
        "offload": ", ".join(away) or "–",
        "simulated": _known(row["simulated_step_s"], fmt.seconds),
        "formula": fmt.seconds(row["step_s"]),
        "memory": format_quantity(row["memory_bytes"], "B", 3),
        "energy": _known(row["energy_j"], lambda v: format_quantity(v, "J", 3)),
        "USD": _known(row["cost_usd"], lambda v: f"{v:.3g}"),
    }


def _zero(row: dict[Any, Any]) -> str:
    """Return the ZeRO stage, and the ranks that share where not all do."""
    shared = f" ({row['dp_shard']})" if row["dp_shard"] else ""
    return f"{row['zero_stage']}{shared}"


def _known(value: float, shown: Any) -> str:
    return "–" if value != value else str(shown(value))
