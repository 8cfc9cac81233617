"""Commands that show the catalog: devices, systems, models, stacks, show, schema."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from hwsim.cli.options import Json, Set
from hwsim.cli.output import console, print_json, table
from hwsim.errors import HwsimError, UnknownNameError
from hwsim.report import format as fmt
from hwsim.specs.base import CatalogSpec, iter_figures
from hwsim.units import format_quantity

T = TypeVar("T")
Filter = Annotated[
    str | None,
    typer.Argument(help="Show only entries whose id, name or kind contains this."),
]


class Kind(StrEnum):
    """What can be shown."""

    device = "device"
    system = "system"
    model = "model"
    stack = "stack"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("devices", epilog="Example: hwsim devices hopper")(devices)
    app.command("systems", epilog="Example: hwsim systems h100 --json")(systems)
    app.command("models", epilog="Example: hwsim models llama")(models)
    app.command("stacks")(stacks)
    app.command("show", epilog="Example: hwsim show device h100-80gb-sxm")(show)
    app.command("schema", epilog="Example: hwsim schema device")(schema)


def _loaded(names: Iterable[str], load: Callable[[str], T]) -> list[T]:
    return [load(name) for name in names]


def _matches(text: str | None, *fields: object) -> bool:
    return text is None or any(text.casefold() in str(f).casefold() for f in fields)


def _print(
    kind: str,
    rows: list[dict[str, Any]],
    json: bool,
    columns: dict[str, Callable[[dict[str, Any]], str]],
    filter_: str | None,
) -> None:
    if json:
        print_json(rows)
        return
    if not rows:
        raise HwsimError(f"no {kind} matches {filter_!r}; hwsim {kind}s lists all")
    right = [name for name in columns if name not in {"id", "name", "kind", "device"}]
    cells = [[escape(cell(row)) for cell in columns.values()] for row in rows]
    console().print(table(None, list(columns), cells, right=right))


def _size(value: float | None) -> str:
    return "" if not value else format_quantity(value, "B", 3)


def _rate(value: float | None, unit: str) -> str:
    return "" if not value else format_quantity(value, unit, 4)


def devices(
    filter_: Filter = None,
    kind: Annotated[
        str | None, typer.Option(help="cpu, gpu, tpu, asic or fpga.")
    ] = None,
    json: Json = False,
) -> None:
    """List devices with their main figures."""
    from hwsim import api

    rows = []
    for d in _loaded(api.device_ids(), api.load_device):
        if (kind and d.kind != kind) or not _matches(
            filter_, d.id, d.name, d.kind, d.vendor, d.architecture
        ):
            continue
        matrix = d.compute.matrix
        rows.append(
            {
                "id": d.id, "name": d.name, "kind": d.kind, "vendor": d.vendor,
                "architecture": d.architecture, "year": d.year,
                "peak_flop_per_s": {**d.compute.vector, **matrix},
                "memory_bytes": d.main_memory.size, "bandwidth": d.bandwidth,
                "tdp_w": d.power.tdp,
            }
        )  # fmt: skip

    def peak(row: dict[str, Any]) -> str:
        peaks = row["peak_flop_per_s"]
        best = peaks.get("bf16") or peaks.get("fp16") or peaks.get("fp32")
        return _rate(best or max(peaks.values()), "FLOP/s")

    _print(
        "device", rows, json,
        {
            "id": lambda r: r["id"],
            "kind": lambda r: r["kind"],
            "architecture": lambda r: r["architecture"],
            "year": lambda r: str(r["year"]),
            "16-bit peak": peak,
            "memory": lambda r: _size(r["memory_bytes"]),
            "bandwidth": lambda r: _rate(r["bandwidth"], "B/s"),
            "TDP": lambda r: _rate(r["tdp_w"], "W"),
        },
        filter_,
    )  # fmt: skip


def systems(filter_: Filter = None, json: Json = False) -> None:
    """List systems: nodes, clusters and slices."""
    from hwsim import api

    rows = [
        {
            "id": s.id, "name": s.name, "device": s.device.id,
            "devices_per_node": s.devices_per_node, "nodes": s.nodes,
            "num_devices": s.num_devices,
            "networks": [n.model_dump() for n in s.networks],
        }
        for s in _loaded(api.system_ids(), api.load_system)
        if _matches(filter_, s.id, s.name, s.device.id)
    ]  # fmt: skip

    def networks(row: dict[str, Any]) -> str:
        return ", ".join(
            f"{n['name']} {_rate(n['bandwidth'], 'B/s')}" for n in row["networks"]
        )

    _print(
        "system", rows, json,
        {
            "id": lambda r: r["id"],
            "device": lambda r: r["device"],
            "devices": lambda r: f"{r['num_devices']:,}",
            "nodes": lambda r: f"{r['nodes']:,}",
            "networks, per device and direction": networks,
        },
        filter_,
    )  # fmt: skip


def models(filter_: Filter = None, json: Json = False) -> None:
    """List models with their exact parameter counts."""
    from hwsim import api

    rows = [
        {
            "id": m.id, "name": m.name, "kind": m.kind,
            "num_parameters": m.num_parameters,
            "num_active_parameters": m.num_active_parameters, "layers": m.layers,
            "hidden": m.hidden, "heads": m.heads, "kv_heads": m.kv_heads,
            "max_context": m.max_context,
        }
        for m in _loaded(api.model_ids(), api.load_model)
        if _matches(filter_, m.id, m.name, m.kind, m.family)
    ]  # fmt: skip
    _print(
        "model", rows, json,
        {
            "id": lambda r: r["id"],
            "kind": lambda r: r["kind"],
            "parameters": lambda r: f"{r['num_parameters']:,}",
            "layers": lambda r: str(r["layers"]),
            "hidden": lambda r: str(r["hidden"]),
            "heads": lambda r: f"{r['heads']}/{r['kv_heads']}",
            "context": lambda r: f"{r['max_context']:,}" if r["max_context"] else "",
        },
        filter_,
    )  # fmt: skip


def stacks(json: Json = False) -> None:
    """List software stacks: what they fuse, overlap and launch."""
    from hwsim import api

    rows = [s.model_dump(mode="json") for s in _loaded(api.stack_ids(), api.load_stack)]
    _print(
        "stack", rows, json,
        {
            "id": lambda r: r["id"],
            "name": lambda r: r["name"],
            "launch": lambda r: r["launch"]["mode"],
            "attention": lambda r: r["fusion"]["attention"],
            "step overhead": lambda r: fmt.seconds(r["launch"]["step_overhead"]),
        },
        None,
    )  # fmt: skip


def show(
    kind: Kind,
    name: Annotated[str, typer.Argument(help="Id, alias or file.")],
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show every figure of one entry, with unit and source."""
    from hwsim import api
    from hwsim.specs import catalogs

    overrides = set_ or ()
    spec: Any
    if kind is Kind.system:
        spec = api.load_system(name, overrides=overrides)
        if json:
            print_json(spec.model_dump(mode="json"))
            return
        try:
            source = catalogs.load_system_file(name)
        except UnknownNameError:
            source = spec.device
        _show(spec, source)
        return
    loaders: dict[Kind, Callable[..., Any]] = {
        Kind.device: api.load_device,
        Kind.model: api.load_model,
        Kind.stack: api.load_stack,
    }
    spec = loaders[kind](name, overrides=overrides)
    if json:
        extra = {"num_parameters": spec.num_parameters} if kind is Kind.model else {}
        print_json({**spec.model_dump(mode="json"), **extra})
        return
    _show(spec, spec)


def _show(spec: Any, source: CatalogSpec) -> None:
    out = console()
    out.print(f"[bold]{escape(spec.name)}[/bold] ({escape(spec.id)})")
    if getattr(spec, "aliases", ()):
        out.print(f"also called {escape(', '.join(spec.aliases))}")
    if hasattr(spec, "num_parameters"):
        out.print(f"{spec.num_parameters:,} parameters")
    for text in spec.notes:
        out.print(f"note: {escape(text)}")
    rows, used = [], []
    for path, value, dimension in iter_figures(spec):
        found = source.source_of(path)
        if path.startswith("device."):
            found = spec.device.source_of(path.removeprefix("device."))
        if found is not None and found not in used:
            used.append(found)
        shown = f"{value:,}" if dimension is None else ""
        if dimension is not None:
            shown = format_quantity(value, dimension.unit, 5)
        label = f"{found.kind} [{used.index(found) + 1}]" if found else "derived"
        rows.append((path, shown, escape(label)))
    out.print(table(None, ("figure", "value", "source"), rows, right=("value",)))
    for number, item in enumerate(used, 1):
        parts = [item.title, item.url or "", str(item.date), item.note or ""]
        out.print(
            escape(f"[{number}] {item.kind}: " + "; ".join(p for p in parts if p))
        )


def schema(
    kind: Annotated[
        str,
        typer.Argument(
            help="device, system, model, stack, scenario, published or calibration."
        ),
    ],
) -> None:
    """Print the JSON Schema of a kind of spec."""
    from hwsim.specs.calibration import Calibration
    from hwsim.specs.device import DeviceSpec
    from hwsim.specs.model import ModelSpec
    from hwsim.specs.published import PublishedFile
    from hwsim.specs.scenario import Scenario
    from hwsim.specs.stack import StackSpec
    from hwsim.specs.system import SystemFile

    kinds: dict[str, Any] = {
        "device": DeviceSpec, "system": SystemFile, "model": ModelSpec,
        "stack": StackSpec, "scenario": Scenario, "published": PublishedFile,
        "calibration": Calibration,
    }  # fmt: skip
    if kind not in kinds:
        raise UnknownNameError("kind of spec", kind, kinds)
    typer.echo(json_module.dumps(kinds[kind].model_json_schema(), indent=2))
