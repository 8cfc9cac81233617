"""What an answer rests on: figures with their sources, and how to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import platform
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Section, Table, table
from hwsim.specs.base import CatalogSpec, Source, Spec, find_source, iter_figures
from hwsim.specs.calibration import Calibration, calibration_for
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.units import Dimension
from hwsim.version import __version__

ASSUMED = "assumed"
_OVERRIDE = "override "
_INDEX, _LAST_INDEX = re.compile(r"(\.\d+)+$"), re.compile(r"\.\d+$")
_FIDELITIES = {
    "roofline": (
        "Speed of light: every operator takes the larger of its arithmetic at the "
        "datasheet's dense peak and its traffic at the datasheet's bandwidth. No "
        "real run is faster; most are slower."
    ),
    "structured": (
        "Structured: each kind of operator has a cost model of its own (tiles and "
        "waves of matrix products, cache-aware traffic, collectives by algorithm) "
        "with the parameters of the device's generation, listed below."
    ),
}
_ENGINES = {
    "simulate": (
        "The operators are played on the device's streams and links by a "
        "discrete-event simulation; the same input gives the same timeline."
    ),
    "closed_form": (
        "The operators are put together in closed form, which gives what the "
        "simulation gives where nothing contends for a link."
    ),
}


class Sources:
    """Numbers the sources in the order that the page refers to them."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._sources: list[Source] = []

    def number(self, source: Source) -> int:
        """Return the number of a source, a new one where it is new."""
        key = (source.kind, source.title, source.url, source.date, source.note)
        if key not in self._numbers:
            self._sources.append(source)
            self._numbers[key] = len(self._sources)
        return self._numbers[key]

    def cell(self, source: Source | None) -> Cell:
        """Return a cell that refers to a source."""
        if source is None:
            return Cell(fmt.NONE)
        number = self.number(source)
        return Cell(f"{source.kind} [{number}]", href=f"#source-{number}")

    def table(self) -> Table:
        """Return the list of all sources referred to."""
        rows = [
            (
                Cell(f"[{number}]", code=True),
                kind_cell(source.kind),
                Cell(source.title, href=web(source.url), note=source.note or ""),
                Cell(source.date.isoformat()),
            )
            for number, source in enumerate(self._sources, start=1)
        ]
        return table("Sources", "No.|Kind|Title|Date", rows)


def web(url: str | None) -> str:
    """Return an address that a link may lead to, or nothing."""
    return url if url and url.startswith(("https://", "http://")) else ""


def kind_cell(kind: str) -> Cell:
    """Return a source's kind; an assumption stands out."""
    return Cell("", badge=ASSUMED) if kind == ASSUMED else Cell(kind)


def overrides(specs: Iterable[Any]) -> tuple[str, ...]:
    """Return the what-if overrides that are in force, as they were written."""
    found = [
        source.title.removeprefix(_OVERRIDE)
        for spec in specs
        for source in spec.sources
        if source.kind == ASSUMED and source.title.startswith(_OVERRIDE)
    ]
    return tuple(dict.fromkeys(found))


def figure_rows(
    spec: Spec, sources: Sequence[Source], numbers: Sources, prefix: str = ""
) -> list[tuple[Cell, ...]]:
    """Return a row per figure of a spec: key, value with unit, source."""
    rows: list[tuple[Cell, ...]] = []
    # A device has a table of its own; a list of figures is one row.
    every = (f for f in iter_figures(spec) if not f[0].startswith("device."))
    for path, group in itertools.groupby(every, key=lambda f: _INDEX.sub("", f[0])):
        items = list(group)
        source = find_source(sources, items[0][0])
        assumed = source is not None and source.kind == ASSUMED
        rows.append(
            (
                Cell(prefix + path, code=True),
                Cell(
                    _values(items), number=len(items) == 1,
                    badge=ASSUMED if assumed else "",
                ),
                numbers.cell(source),
            )
        )  # fmt: skip
    return rows


def _values(items: Sequence[tuple[str, float, Dimension | None]]) -> str:
    """Return a figure, a list of them, or a list of tuples such as tile shapes."""
    outer = itertools.groupby(items, key=lambda f: _LAST_INDEX.sub("", f[0]))
    lists = [[_value(value, unit) for _, value, unit in group] for _, group in outer]
    if len(lists) == 1:
        return ", ".join(lists[0])
    return ", ".join("×".join(values) for values in lists)


def _value(value: float, dimension: Dimension | None) -> str:
    return fmt.quantity(value, dimension.unit) if dimension else _plain(value)


def _plain(value: float) -> str:
    """Return a number without a unit; a year has no thousands to set apart."""
    if isinstance(value, int) and value < 10_000:
        return str(value)
    return fmt.count(value)


def figures(
    caption: str, spec: Spec, sources: Sequence[Source], numbers: Sources
) -> Table:
    """Return a table of all figures of a spec."""
    rows = figure_rows(spec, sources, numbers)
    return table(caption, "Figure|#Value|Source", rows)


def assumptions(
    system: SystemSpec,
    stack: StackSpec,
    fidelity: str,
    engine: str,
    model: CatalogSpec | None = None,
) -> Section:
    """Return the section of what was taken as given."""
    numbers, device = Sources(), system.device
    items = [figures(f"Device: {device.name}", device, device.sources, numbers)]
    if system.networks:
        items.append(figures(f"System: {system.name}", system, system.sources, numbers))
    items.append(
        figures(f"Software stack: {stack.name}", stack, stack.sources, numbers)
    )
    if fidelity != "roofline":
        items.append(_calibration(calibration_for(device), numbers))
    text = [_FIDELITIES.get(fidelity, fidelity), _ENGINES.get(engine, engine)]
    if model is not None:
        cited = [numbers.cell(source).text for source in model.sources]
        text.append(f"Architecture of {model.name}: {fmt.listed(cited) or 'as given'}.")
    items.append(numbers.table())
    return Section("assumptions", "What this rests on", tuple(text), tuple(items))


def _calibration(calibration: Calibration, numbers: Sources) -> Table:
    return figures(
        f"Cost-model parameters of the generation: {calibration.name}",
        calibration, calibration.sources, numbers,
    )  # fmt: skip


def digest(spec: Spec) -> str:
    """Return the SHA-256 of a spec's JSON in SI."""
    return hashlib.sha256(spec.model_dump_json().encode("utf-8")).hexdigest()


def reproducibility(specs: dict[str, Spec | None], command: str | None) -> Section:
    """Return the section that lets a reader repeat the answer."""
    rows = [
        ("hwsim", Cell(__version__)),
        ("Python", Cell(platform.python_version())),
        *(
            (name, Cell(importlib.metadata.version(name)))
            for name in ("numpy", "simpy", "pydantic")
        ),
        ("Seed", Cell("none: nothing here is random")),
    ]
    if command:
        rows.insert(0, ("Command", Cell(command, code=True)))
    hashes = [
        (what, Cell(str(getattr(spec, "id", ""))), Cell(digest(spec), code=True))
        for what, spec in specs.items()
        if spec is not None
    ]
    items = [table("How to repeat it", "What|Value", rows)]
    if hashes:
        caption = "Specs used: SHA-256 of their JSON in SI"
        items.append(table(caption, "Spec|Id|SHA-256", hashes))
    return Section("reproduce", "Reproducibility", (), tuple(items))
