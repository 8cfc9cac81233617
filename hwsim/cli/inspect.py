"""Commands that show one entry, or the form of all: show, schema."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from hwsim.cli.examples import examples
from hwsim.cli.options import Json, Set
from hwsim.cli.output import console, print_json, table
from hwsim.errors import UnknownNameError
from hwsim.specs.base import Source, Spec, iter_figures
from hwsim.units import format_quantity

_IDENTITY = {"schema_version", "id", "name", "aliases", "notes", "sources"}


class Kind(StrEnum):
    """What can be shown."""

    device = "device"
    system = "system"
    model = "model"
    stack = "stack"
    engine = "engine"
    calibration = "calibration"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("show", epilog=examples("show"))(show)
    app.command("schema", epilog=examples("schema"))(schema)


def show(
    kind: Kind,
    name: Annotated[
        str, typer.Argument(help="Id, alias or file; for calibration, a device.")
    ],
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show every figure of one entry, with unit and source.

    calibration shows the cost-model parameters that a device is given.
    """
    spec = _load(kind, name, set_ or ())
    if json:
        extra = {"num_parameters": spec.num_parameters} if kind is Kind.model else {}
        print_json({**spec.model_dump(mode="json"), **extra})
        return
    _show(spec)


def _load(kind: Kind, name: str, overrides: Any) -> Any:
    """Return a spec of any kind."""
    import hwsim
    from hwsim.specs.calibration import calibration_for

    if kind is Kind.calibration:
        return calibration_for(hwsim.load_device(name, overrides=overrides))
    loaders: dict[Kind, Callable[..., Any]] = {
        Kind.device: hwsim.load_device,
        Kind.system: hwsim.load_system,
        Kind.model: hwsim.load_model,
        Kind.stack: hwsim.load_stack,
        Kind.engine: hwsim.load_engine,
    }
    return loaders[kind](name, overrides=overrides)


def _show(spec: Any) -> None:
    out = console()
    out.print(f"[bold]{escape(spec.name)}[/bold] ({escape(spec.id)})")
    for line in _headlines(spec):
        out.print(escape(line))
    settings = list(_settings(spec))
    if settings:
        out.print(table(None, ("setting", "value"), settings))
    rows: list[tuple[str, str, str]] = []
    used: list[Source] = []
    for path, value, dimension in iter_figures(spec):
        if value == 0 and dimension is None:
            continue  # a count of zero is a part that the entry does not have
        shown = f"{value:,}"
        if dimension is not None:
            shown = format_quantity(value, dimension.unit, 5)
        rows.append((path, shown, escape(_source(spec, path, used))))
    out.print(table(None, ("figure", "value", "source"), rows, right=("value",)))
    for number, item in enumerate(used, 1):
        parts = [item.title, item.url or "", str(item.date), item.note or ""]
        text = "; ".join(part for part in parts if part)
        out.print(escape(f"[{number}] {item.kind}: {text}"))


def _headlines(spec: Any) -> Iterator[str]:
    if getattr(spec, "aliases", ()):
        yield f"also called {', '.join(spec.aliases)}"
    if hasattr(spec, "num_parameters"):
        yield f"{spec.num_parameters:,} parameters"
    if hasattr(spec, "architecture"):
        yield _cost_parameters(spec)
    for text in spec.notes:
        yield f"note: {text}"


def _source(spec: Any, path: str, used: list[Source]) -> str:
    """Return the label of a figure's source, numbered in order of use."""
    found = spec.source_of(path)
    if found is None:
        return "derived"
    if found not in used:
        used.append(found)
    return f"{found.kind} [{used.index(found) + 1}]"


def _cost_parameters(device: Any) -> str:
    from hwsim.specs.calibration import calibration_for

    found = calibration_for(device)
    text = f"cost-model parameters: {found.name} (hwsim show calibration {device.id})"
    if found.id == device.kind:
        text += f"; no generation is called {device.architecture!r}"
    return text


def _settings(spec: Spec, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is chosen rather than measured: words and switches."""
    for name in type(spec).model_fields:
        if name in _IDENTITY and not prefix:
            continue
        value = getattr(spec, name)
        if isinstance(value, Spec):
            yield from _settings(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, Spec):
                    yield from _settings(item, f"{prefix}{name}.{key}.")
        elif isinstance(value, bool | str):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{prefix}{name}", escape(shown)


def schema(
    kind: Annotated[
        str,
        typer.Argument(
            help="device, system, model, stack, scenario, published, economics or "
            "calibration."
        ),
    ],
) -> None:
    """Print the JSON Schema of a kind of spec."""
    from hwsim.specs.calibration import Calibration
    from hwsim.specs.device import DeviceSpec
    from hwsim.specs.economics import Economics
    from hwsim.specs.model import ModelSpec
    from hwsim.specs.published.runs import PublishedFile
    from hwsim.specs.scenario import Scenario
    from hwsim.specs.stack import StackSpec
    from hwsim.specs.system import SystemFile

    kinds: dict[str, Any] = {
        "device": DeviceSpec, "system": SystemFile, "model": ModelSpec,
        "stack": StackSpec, "scenario": Scenario, "published": PublishedFile,
        "economics": Economics, "calibration": Calibration,
    }  # fmt: skip
    if kind not in kinds:
        raise UnknownNameError("kind of spec", kind, kinds)
    typer.echo(json_module.dumps(kinds[kind].model_json_schema(), indent=2))
