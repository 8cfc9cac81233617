"""The compare command: systems, precisions, stacks, models side by side."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from hwsim.cli import ask, serve
from hwsim.cli.examples import examples
from hwsim.cli.options import Json, Pue, Set
from hwsim.cli.output import check_outputs, end_if_interrupted, note, note_unread, save
from hwsim.cli.progress import Meter
from hwsim.cli.quantity import counts, factors, limits_of
from hwsim.cli.table import comparison_tables
from hwsim.errors import InputError, UnknownNameError

TASK_OPTIONS: dict[str, Callable[..., None]] = {
    "infer": ask.infer,
    "train": ask.train,
    "serve": serve.serve,
}
_OWN = {
    "model", "system", "systems", "stack", "dtype", "set_", "json", "out", "report",
    "price", "pue", "grid", "fidelity",
}  # fmt: skip
_WHOLE_RUN = {
    "tokens", "spares", "checkpoint_interval", "device_mtbf", "node_mtbf",
    "restart_time", "repair_time", "write_time", "resume",
}  # fmt: skip
_LEFT_OUT = {
    "infer": {"trace"},
    "train": {"trace", "seed"} | _WHOLE_RUN,
    "serve": set(),
}
# Options that are text on the command line alone.
_READ: dict[str, Callable[[str], Any]] = {
    "slo": limits_of,
    "slowdown": lambda text: factors("slowdown", text),
    "stage_layers": lambda text: counts("stage-layers", text),
    "lora_targets": lambda text: tuple(filter(None, map(str.strip, text.split(",")))),
}
_PANELS = {"infer": "Inference", "train": "Training", "serve": "Serving"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "compare",
        epilog=examples("compare"),
    )(with_task_options(compare))


def with_task_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the options of infer, train and serve too.

    They are None unless given, and arrive in the command's ``options``.
    """
    own = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    shared = _task_parameters()
    kept = [p for name, p in own.parameters.items() if name != "options"]
    added = [p for p in shared.values() if p.name not in own.parameters]

    def wrapper(**given: Any) -> None:
        options = {p.name: given.pop(p.name) for p in added}
        command(**given, options={k: v for k, v in options.items() if v is not None})

    wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
    every = [p.replace(annotation=hints[p.name]) for p in kept] + added
    wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in every}
    return wrapper


def _task_parameters() -> dict[str, inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for task, command in TASK_OPTIONS.items():
        hints = get_type_hints(command, include_extras=True)
        for name in inspect.signature(command).parameters:
            if name not in _OWN | _LEFT_OUT[task] and name not in found:
                annotation = _optional(hints[name], _PANELS[task])
                found[name] = inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=None,
                    annotation=annotation,
                )  # fmt: skip
    return found


def _optional(hint: Any, panel: str) -> Any:
    """Return an option's annotation with None for its default."""
    inner, info = hint, typer.Option()
    if get_origin(hint) is Annotated:
        inner, info = get_args(hint)[0], get_args(hint)[1]
    shown = typer.Option(
        *(info.param_decls or ()), help=info.help, rich_help_panel=panel,
        show_default=False,
    )  # fmt: skip
    return Annotated[inner | None, shown]


def task_options(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as the public function takes them.

    Raises
    ------
    InputError
        If one belongs to another task.
    """
    if task not in TASK_OPTIONS:
        raise UnknownNameError("task", task, TASK_OPTIONS)
    known = inspect.signature(TASK_OPTIONS[task]).parameters
    for name in given:
        if name not in known:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is no option of {task}; leave it out")
    found = dict(given)
    for name, read in _READ.items():
        if isinstance(found.get(name), str):
            found[name] = read(found[name])
    if task == "serve" and found.get("requests") is None and not found.get("trace"):
        found["requests"] = 2000
    return found


def entry_of(text: str) -> dict[str, Any]:
    """Return a system with its own options: ``dgx-h100,tp=8,dtype=fp8``.

    Keys with a dot are overrides; ``label`` and ``price`` are the cell's.
    """
    name, *parts = (part.strip() for part in text.split(","))
    found: dict[str, Any] = {"system": name}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(
                f"{text!r}: {part!r} is not key=value; write for example {name},tp=8"
            )
        if "." in key:
            found.setdefault("overrides", []).append(part)
        else:
            found[key.replace("-", "_")] = _value(value)
    if isinstance(found.get("slo"), str):
        raise InputError(f"{text!r}: slo is the same for all; use --slo")
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.casefold(), text)


Several = list[str] | None


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM...",
            help="Systems or devices, each with options of its own: dgx-h100,tp=8.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Several, typer.Option("--model", "-m", help="Model. Repeatable.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="infer, train or serve.  [default: infer]")
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(help="Scenario file or name: gives task, model and options."),
    ] = None,
    stack: Annotated[Several, typer.Option(help="Software stack. Repeatable.")] = None,
    dtype: Annotated[Several, typer.Option(help="Arithmetic. Repeatable.")] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(help="auto, roofline, structured, borrowed or calibrated."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="USD per device and hour, of all.")
    ] = None,
    pue: Pue = None,
    grid: Annotated[str, typer.Option(help="Grid whose carbon counts.")] = "world",
    explain: Annotated[
        bool, typer.Option(help="Break differences down by mechanism.")
    ] = True,
    set_: Set = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print one row per cell.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Save the comparison as JSON here.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the waterfall to the last cell: .svg, .png, .pdf."),
    ] = None,
    *,
    options: Any = None,
) -> None:
    """Put systems side by side on the same work, and say what makes the difference."""
    import hwsim

    check_outputs(out, plot)
    asked = _asked_task(task, scenario)
    given = task_options(asked, options or {})
    if fidelity is not None:
        given["fidelity"] = fidelity
    with Meter("cells") as meter:
        result = hwsim.compare(
            [entry_of(text) for text in systems], model, task=asked,
            scenario=scenario, stack=stack, dtype=dtype, overrides=set_ or (),
            price=price, pue=pue, grid=grid, explain=explain, progress=meter.show,
            **given,
        )  # fmt: skip
    if json:
        sys.stdout.write(result.to_json() + "\n")
    elif csv:
        sys.stdout.write(result.table.to_csv(index=False))
    else:
        comparison_tables(result)
    note_unread(set_)
    save(result, out)
    if plot is not None:
        result.plot(str(plot))
        note(f"wrote {plot}")
    end_if_interrupted(
        not result.complete, f"{len(result.cells)} of the cells were answered"
    )


def _asked_task(task: str | None, scenario: str | None) -> str:
    if scenario is None:
        return task or "infer"
    from hwsim.specs.scenario import load_scenario

    own = load_scenario(scenario).task
    if task is not None and task != own:
        raise InputError(
            f"--task {task}: scenario {scenario} is of {own}; leave it out"
        )
    return own
