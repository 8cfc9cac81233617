"""What a comparison takes as given: figures with their sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.analysis.comparing.error_sources import OTHER_WORK, SAME_GENERATION
from hwsim.specs.assumed import assumed_changes

if TYPE_CHECKING:
    from hwsim.analysis.comparing.cell import CompareCell, Money
    from hwsim.specs.base import Source


def rests_on(cells: Sequence[CompareCell], money: Money) -> list[dict[str, Any]]:
    """Return each figure that the answer leans on, with value, unit, source."""
    rows = [row for cell in _by_device(cells) for row in _device(cell)]
    rows += _economics(cells, money)
    for cell in cells:
        case = cell.case
        specs = (case.model, case.system, case.system.device, case.stack)
        rows += [
            _row(cell.label, change, None, "", None, "assumed")
            for change in assumed_changes(specs)
        ]
    for what, value in (
        ("one generation, the same operators", SAME_GENERATION),
        ("one generation, other shapes", OTHER_WORK),
    ):
        text = f"correlation of errors: {what}"
        rows.append(_row("comparison", text, value, "", None, "measured"))
    return rows


def _by_device(cells: Iterable[CompareCell]) -> list[CompareCell]:
    return list({id(c.case.system.device): c for c in cells}.values())


def _row(
    of: str, what: str, value: float | None, unit: str, source: Source | None, kind: str
) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": kind}
    if source is not None:
        found = {
            "kind": source.kind, "title": source.title, "url": source.url,
            "date": source.date.isoformat(), "note": source.note,
        }  # fmt: skip
    return {"of": of, "figure": what, "value": value, "unit": unit, "source": found}


def _device(cell: CompareCell) -> list[dict[str, Any]]:
    device = cell.case.system.device
    dtype = cell.case.options.get("dtype")
    unit = "matrix" if dtype in device.compute.matrix else "vector"
    main = f"memory.{device.main_memory_name}"
    figures: list[tuple[str, Any, str]] = [
        (f"{main}.bandwidth", device.bandwidth, "B/s"),
        (f"{main}.size", device.main_memory.size, "B"),
        ("power.tdp", device.power.tdp, "W"),
    ]
    if dtype in device.dtypes:
        peak = device.peak(str(dtype))
        figures.insert(0, (f"compute.{unit}.{dtype}", peak, "FLOP/s"))
    return [
        _row(device.id, what, value, unit, device.source_of(what), "assumed")
        for what, value, unit in figures
        if value is not None
    ]


def _economics(cells: Sequence[CompareCell], money: Money) -> list[dict[str, Any]]:
    reference = money.economy.reference
    source = reference.source_of
    own = money.economy.pue != reference.pue
    rows = [
        _row("facility", "pue", money.economy.pue, "",
             None if own else source("pue"), "assumed"),
        _row("facility", "power of hosts and network over the devices'",
             reference.host_share, "", source("host_share"), "assumed"),
        _row("grid", "carbon intensity", money.grid, "g/kWh", source("grids"),
             "assumed"),
    ]  # fmt: skip
    for cell in _by_device(cells):
        if cell.price is None:
            continue
        given = cell.money.economy.price is not None
        found = None if given else source(f"prices.{cell.case.system.device.id}")
        rows.append(
            _row(cell.case.system.device.id, "price", cell.price, "USD/h", found,
                 "given")
        )  # fmt: skip
    return rows
