"""What-if commands: sweeps, sensitivities, and what would have to be true."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hwsim.cli.compare import task_options, with_task_options
from hwsim.cli.examples import examples
from hwsim.cli.options import Json, Price, Pue, Set
from hwsim.cli.output import (
    check_outputs,
    console,
    end_if_interrupted,
    note,
    note_unread,
    save,
    table,
)
from hwsim.cli.progress import Meter
from hwsim.errors import HwsimError, InputError

if TYPE_CHECKING:
    from hwsim.analysis.varying.sensitivity import SensitivityResult
    from hwsim.analysis.varying.solve import Solution, Solved
    from hwsim.analysis.varying.sweep import WhatIf

Scenario = Annotated[
    str | None,
    typer.Argument(
        help="Scenario file, or the name of a shipped one; or give -m and -s.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Instead of the scenario's.")
]
System = Annotated[
    str | None, typer.Option("--system", "-s", help="Instead of the scenario's.")
]
Task = Annotated[
    str | None,
    typer.Option(help="Without a scenario: infer, train or serve.  [default: infer]"),
]
Stack = Annotated[str | None, typer.Option(help="Software stack.")]
Dtype = Annotated[str | None, typer.Option(help="Arithmetic.")]
Fidelity = Annotated[
    str | None,
    typer.Option(help="auto, roofline, structured, borrowed or calibrated."),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Figure that is told: latency_s, tpot_s, tokens_per_s, usd_per_mtok, …  "
        "[default: the time]"
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print one row per line, as CSV.")]
Out = Annotated[Path | None, typer.Option(help="Save the result as JSON here.")]
Plot = Annotated[Path | None, typer.Option(help="Picture: .svg, .png or .pdf.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "whatif",
        epilog=examples("whatif"),
    )(with_task_options(whatif))
    app.command(
        "sensitivity",
        epilog=examples("sensitivity"),
    )(with_task_options(sensitivity))


def whatif(
    scenario: Scenario = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="One or two: device.memory.hbm.bandwidth=0.5x..4x:33, batch=1,8,64, "
            "link=-50%..+50%. Short: bandwidth, capacity, peak, link.",
        ),
    ] = None,
    metric: Metric = None,
    model: Model = None,
    system: System = None,
    task: Task = None,
    stack: Stack = None,
    dtype: Dtype = None,
    fidelity: Fidelity = None,
    price: Price = None,
    pue: Pue = None,
    grid: Annotated[str, typer.Option(help="Grid whose carbon counts.")] = "world",
    set_: Set = None,
    json: Json = False,
    csv: Csv = False,
    out: Out = None,
    plot: Plot = None,
    *,
    options: Any = None,
) -> None:
    """Vary one or two parameters, and find where the bound changes."""
    import hwsim

    check_outputs(out, plot)
    if not vary:
        raise InputError("nothing to vary; write --vary bandwidth=0.5x..4x")
    case = asked_case(
        scenario, model, system, task, set_,
        {"stack": stack, "dtype": dtype, "fidelity": fidelity, **(options or {})},
    )  # fmt: skip
    with Meter("points") as meter:
        result = hwsim.whatif(
            case, vary, metric=metric, price=price, pue=pue, grid=grid,
            progress=meter.show,
        )  # fmt: skip
    _printed(result, json=json, csv=csv, show=_sweep)
    note_unread([*(set_ or ()), *(f"{a.parameter.key}=x1" for a in result.axes
                                  if not a.parameter.is_option)])  # fmt: skip
    save(result, out)
    _plotted(result, plot)
    _ended(result.complete, f"{len(result.points)} points")


def sensitivity(
    scenario: Scenario = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What would have to be true: tpot_s<=5ms, tokens_per_s>=2000."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="With --target: parameter that may change. Repeatable.  "
            "[default: bandwidth, peak, link, batch]"
        ),
    ] = None,
    metric: Metric = None,
    swing: Annotated[
        float, typer.Option(help="Share that the tornado moves parameters by.")
    ] = 0.2,
    sobol: Annotated[
        int,
        typer.Option(help="Sobol indices with so many base samples: 64. Needs SALib."),
    ] = 0,
    most: Annotated[int, typer.Option(help="Parameters with Sobol indices.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    model: Model = None,
    system: System = None,
    task: Task = None,
    stack: Stack = None,
    dtype: Dtype = None,
    fidelity: Fidelity = None,
    set_: Set = None,
    json: Json = False,
    csv: Csv = False,
    out: Out = None,
    plot: Plot = None,
    *,
    options: Any = None,
) -> None:
    """Say which parameters matter, or what would have to be true for a target."""
    import hwsim

    check_outputs(out, plot)
    case = asked_case(
        scenario, model, system, task, set_,
        {"stack": stack, "dtype": dtype, "fidelity": fidelity, **(options or {})},
    )  # fmt: skip
    if by and target is None:
        raise InputError("--by goes with --target; write --target 'tpot_s<=5ms'")
    if target is not None:
        if csv or plot is not None:
            raise InputError("--target has no --csv and no --plot; leave them out")
        with Meter("answers") as meter:
            solved = hwsim.solve_for(case, target, by or (), progress=meter.show)
        _printed(solved, json=json, csv=False, show=_solved)
        save(solved, out)
        _ended(solved.complete, f"{len(solved.solutions)} parameters")
        return
    with Meter("parameters") as meter:
        result = hwsim.sensitivity(
            case, metric=metric, swing=swing, sobol=sobol, most=most, seed=seed,
            progress=meter.show,
        )  # fmt: skip
    _printed(result, json=json, csv=csv, show=_tornado)
    save(result, out)
    _plotted(result, plot)
    _ended(result.complete, f"{len(result.rows)} parameters that matter")


def asked_case(
    scenario: str | None,
    model: str | None,
    system: str | None,
    task: str | None,
    overrides: list[str] | None,
    options: dict[str, Any],
) -> Any:
    """Return the question of a scenario, or of a model on a system."""
    import hwsim
    from hwsim.api.case import scenario_case
    from hwsim.specs.scenario import load_scenario

    if scenario is not None and model is None and _is_model(scenario):
        scenario, model = None, scenario
    own = None if scenario is None else load_scenario(scenario)
    given = {k: v for k, v in options.items() if v is not None}
    kept = {k: given.pop(k) for k in ("stack", "dtype", "fidelity") if k in given}
    if own is None:
        if model is None or system is None:
            raise InputError("no question; name a scenario, or a model and a system")
        found = task_options(task or "infer", given)
        return hwsim.question(
            model, system, task=task or "infer", overrides=overrides or (),
            **kept, **found,
        )  # fmt: skip
    if task is not None and task != own.task:
        raise InputError(f"--task {task}: {scenario} is of {own.task}; leave it out")
    if given:
        given = task_options(own.task, given)
    return scenario_case(
        own, overrides=overrides or (), model=model, system=system, **kept, **given
    )


def _is_model(name: str) -> bool:
    """Whether a name that is no scenario's is a model's, as other commands take it."""
    from hwsim.specs.catalogs import load_model
    from hwsim.specs.scenario import load_scenario

    for load in (load_scenario, load_model):
        try:
            load(name)
        except HwsimError:
            continue
        return load is load_model
    return False


def _printed(result: Any, *, json: bool, csv: bool, show: Any) -> None:
    if json:
        sys.stdout.write(result.to_json() + "\n")
    elif csv:
        sys.stdout.write(result.table.to_csv(index=False))
    else:
        show(result)


def _ended(complete: bool, done: str) -> None:
    end_if_interrupted(not complete, f"{done} were done")


def _plotted(result: Any, plot: Path | None) -> None:
    if plot is not None:
        result.plot(str(plot))
        note(f"wrote {plot}")


def _sweep(result: WhatIf) -> None:
    from hwsim.report.figures.sweep import interval_text, metric_text

    out = console()
    out.print(f"[bold]{escape(result.title)}[/bold]")
    now = metric_text(result.metric, result.now.metric)
    if len(result.axes) == 1:
        _one(out, result)
    else:
        _two(out, result)
    for knee in result.knees:
        at = result.axes[0].parameter.shown(knee.at)
        factor = result.axes[0].relative(knee.at)
        more = f" ({factor:.3g}x)" if factor else ""
        out.print(f"at {at}{more} the bound changes: {knee.before} → {knee.after}")
    span = interval_text(result.metric, result.now.interval)
    out.print(f"now: {now}{span}, bound by {result.now.bound or result.now.reason}")


def _one(out: Any, result: WhatIf) -> None:
    from hwsim.report import format as fmt
    from hwsim.report.figures.sweep import ends_text, metric_text

    axis, rows = result.axes[0], []
    best = result.now.metric
    for p in result.points:
        factor = axis.relative(p.values[0])
        against = ""
        if p.metric is not None and best:
            against = fmt.signed_percent(p.metric / best - 1)
        shown = p.bound if p.metric is not None else p.reason.partition(":")[0]
        rows.append(
            [axis.parameter.shown(p.values[0]), f"{factor:.3g}x" if factor else "",
             metric_text(result.metric, p.metric, 4), against,
             ends_text(result.metric, p.interval), escape(shown)]
        )  # fmt: skip
    columns = [axis.parameter.key, "", result.metric, "to now", "90 %", "bound by"]
    out.print(table(None, columns, rows, right=columns[1:4]))


def _two(out: Any, result: WhatIf) -> None:
    from hwsim.report.figures.sweep import metric_text

    first, second = result.axes
    names = [first.parameter.key, *(second.parameter.shown(v) for v in second.values)]
    width = len(second.values)
    rows = []
    for i, value in enumerate(first.values):
        points = result.points[i * width : (i + 1) * width]
        cells = [
            metric_text(result.metric, p.metric).removesuffix(" /s")
            + (f" {p.bound[0]}" if p.bound else "")
            for p in points
        ]
        rows.append([first.parameter.shown(value), *cells])
    out.print(f"columns: {second.parameter.key}")
    across = max((out.width - 30) // 11, 2)
    for at in range(0, width, across):
        part = [[row[0], *row[1 + at : 1 + at + across]] for row in rows]
        head = [names[0], *names[1 + at : 1 + at + across]]
        out.print(table(None, head, part, right=head[1:]))
    bounds = dict.fromkeys(p.bound for p in result.points if p.bound)
    out.print("bound by: " + ", ".join(f"{b[0]} {b}" for b in bounds))


def _tornado(result: SensitivityResult) -> None:
    from hwsim.report import format as fmt
    from hwsim.report.figures.sweep import interval_text, metric_text

    out = console()
    out.print(f"[bold]{escape(result.title)}[/bold]")
    swing = fmt.percent(result.swing, 0)
    names = ["parameter", "now", "elasticity", f"−{swing}", f"+{swing}", "source"]
    sobol = any(row.st for row in result.rows)
    names += ["Sobol first", "Sobol total"] if sobol else []
    rows = []
    for row in result.rows:
        p = row.parameter
        cells = [p.key, p.shown(p.value or 0.0), f"{row.elasticity:+.3f}"]
        ends = [None if end is None else end / result.now - 1
                for end in (row.low, row.high)]  # fmt: skip
        cells += [*(fmt.signed_percent(end) for end in ends), row.source]
        if sobol:
            cells += [_index(row.s1), _index(row.st)]
        rows.append(cells)
    out.print(table(None, names, rows, right=[n for n in names[1:] if n != "source"]))
    span = interval_text(result.metric, result.interval)
    text = f"now: {metric_text(result.metric, result.now)}{span}. "
    text += f"{len(result.still)} other parameters have no effect"
    if result.apart:
        text += f"; cannot change alone: {', '.join(result.apart)}"
    out.print(escape(text + "."))


def _index(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}"


def _solved(result: Solved) -> None:
    from hwsim.report.figures.sweep import interval_text, metric_text

    out, target = console(), result.target
    sign = "at most" if target.at_most else "at least"
    wanted = f"{target.key} {sign} {metric_text(target.key, target.value)}"
    case = result.case
    out.print(f"[bold]{escape(case.model.name)} on {escape(case.name)}: "
              f"{escape(wanted)}[/bold]")  # fmt: skip
    state = "met already" if target.met(result.now) else "not met"
    span = interval_text(target.key, result.interval)
    out.print(f"now {metric_text(target.key, result.now)}{span}: {state}")
    rows = []
    for one in result.solutions:
        p = one.parameter
        needed = "none" if one.value is None else p.shown(one.value)
        factor = "" if one.factor is None else f"{one.factor:.3g}x"
        now = "–" if p.value is None else p.shown(p.value)
        sure = [] if result.interval is None else [_sure(one)]
        rows.append([p.key, now, needed, factor, *sure, escape(one.reason)])
    sure = [] if result.interval is None else ["to be 95 % sure"]
    names = ["alone", "now", "would have to be", "", *sure, "why"]
    out.print(table(None, names, rows, right=names[1:-1]))


def _sure(one: Solution) -> str:
    end = None if one.ends is None else one.ends[1]
    return "none" if end is None else one.parameter.shown(end)
