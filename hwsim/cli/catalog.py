"""Commands that list the catalogs: devices, systems, models, stacks, engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from hwsim.cli.examples import examples
from hwsim.cli.options import Json
from hwsim.cli.output import console, note, print_json, table
from hwsim.errors import HwsimError, InputError, SpecError
from hwsim.report import format as fmt
from hwsim.units import format_quantity

T = TypeVar("T")
Filter = Annotated[
    str | None,
    typer.Argument(help="Show only entries whose id, name or kind contains this."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("devices", epilog=examples("devices"))(devices)
    app.command("systems", epilog=examples("systems"))(systems)
    app.command("models", epilog=examples("models"))(models)
    app.command("stacks", epilog=examples("stacks"))(stacks)
    app.command("engines", epilog=examples("engines"))(engines)


def _loaded(names: Iterable[str], load: Callable[[str], T]) -> list[T]:
    """Load what can be loaded; a broken user file must not hide the others."""
    loaded = []
    for name in names:
        try:
            loaded.append(load(name))
        except SpecError as error:
            note(f"hwsim: left out: {error}")
    return loaded


_KINDS = ("cpu", "gpu", "tpu", "asic", "fpga")


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
    import hwsim

    if kind is not None and kind not in _KINDS:
        raise InputError(f"--kind {kind!r} is unknown; choose {', '.join(_KINDS)}")
    rows = []
    for d in _loaded(hwsim.device_ids(), hwsim.load_device):
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
    import hwsim

    rows = [
        {
            "id": s.id, "name": s.name, "device": s.device.id,
            "devices_per_node": s.devices_per_node, "nodes": s.nodes,
            "num_devices": s.num_devices,
            "networks": [n.model_dump() for n in s.networks],
        }
        for s in _loaded(hwsim.system_ids(), hwsim.load_system)
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
    import hwsim

    rows = [
        {
            "id": m.id, "name": m.name, "kind": m.kind,
            "num_parameters": m.num_parameters,
            "num_active_parameters": m.num_active_parameters, "layers": m.layers,
            "hidden": m.hidden, "heads": m.heads, "kv_heads": m.kv_heads,
            "max_context": m.max_context,
        }
        for m in _loaded(hwsim.model_ids(), hwsim.load_model)
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
    import hwsim

    rows = [
        s.model_dump(mode="json") for s in _loaded(hwsim.stack_ids(), hwsim.load_stack)
    ]
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


def engines(json: Json = False) -> None:
    """List serving engines: how they batch, and what they run on."""
    import hwsim

    rows = [
        e.model_dump(mode="json")
        for e in _loaded(hwsim.engine_ids(), hwsim.load_engine)
    ]
    _print(
        "engine", rows, json,
        {
            "id": lambda r: r["id"],
            "name": lambda r: r["name"],
            "policy": lambda r: r["policy"],
            "stack": lambda r: r["stack"],
            "sequences": lambda r: f"{r['max_num_seqs']:,}",
            "tokens of a step": lambda r: f"{r['max_num_batched_tokens']:,}",
            "prompts": lambda r: "cut" if r["chunked_prefill"] else "whole",
        },
        None,
    )  # fmt: skip
