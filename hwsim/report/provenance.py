"""What an answer rests on: figures with their sources, and how to repeat it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.analysis.provenance import ASSUMED
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Section, Table, table
from hwsim.specs.base import Source, Spec, find_source, iter_figures
from hwsim.specs.system import SystemSpec
from hwsim.units import Dimension

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

FAMILY_NAMES = {
    "gemm": "Matrix products",
    "attention": "Attention",
    "attention_prefill": "Attention over prompts",
    "attention_decode": "Attention to a cache",
    "elementwise": "Elementwise and norms",
    "moe": "Mixture of experts",
    "collective": "Collectives",
    "memory": "Memory and caches",
    "launch": "Kernel launch",
    "host_link": "Host link",
    "power": "Power",
    "end_to_end": "End to end",
}
_BASES = {
    "calibrated": "measurements of this device",
    "borrowed": "measurements of a device with the same chip",
    "structured": "its generation's parameters",
    "registered": "a cost model of the stack's own",
    "roofline": "the datasheet",
}
_TITLES = {"python": "Python"}
_FOLDED = "Cost-model parameters"  # many, and few readers want them
_EVIDENCE = (
    "An error is |predicted − measured| / measured of single operators, of shapes that "
    "the fit never saw unless said otherwise. The last columns say how often a "
    "measurement lay in its 90 % interval, and how wide such intervals are."
)
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
    "calibrated": (
        "Calibrated: cost models whose parameters were fitted to measurements of this "
        "very device, where there are any; those of its generation elsewhere."
    ),
    "borrowed": (
        "Borrowed: cost models whose parameters were fitted to measurements of a "
        "device with the same chip."
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


def figure_rows(
    spec: Spec, sources: Sequence[Source], numbers: Sources, body: Any = None
) -> list[tuple[Cell, ...]]:
    """Return a row per figure of a spec: key, value with unit, source.

    Given the ``body`` that the spec was read from, figures that it does not
    have, defaults of a newer hwsim, are left out.
    """
    rows: list[tuple[Cell, ...]] = []
    # A device has a table of its own; a list of figures is one row.
    every = (
        f
        for f in iter_figures(spec)
        if not f[0].startswith("device.") and (body is None or _holds(body, f[0]))
    )
    for path, group in itertools.groupby(every, key=lambda f: _INDEX.sub("", f[0])):
        items = list(group)
        source = find_source(sources, items[0][0])
        assumed = source is not None and source.kind == ASSUMED
        rows.append(
            (
                Cell(path, code=True),
                Cell(
                    _values(items), number=len(items) == 1,
                    badge=ASSUMED if assumed else "",
                ),
                numbers.cell(source),
            )
        )  # fmt: skip
    return rows


def _holds(body: Any, path: str) -> bool:
    """Return whether a spec as JSON has the figure at a dotted path."""
    at, keys = body, path.split(".")
    for place in range(len(keys)):
        if isinstance(at, list):
            return True  # items stand under names or places: all or none
        if not isinstance(at, Mapping):
            return at is not None
        # A key may hold dots itself.
        rest = ".".join(keys[place:])
        if rest in at:
            return True
        if keys[place] not in at:
            return False
        at = at[keys[place]]
    return at is not None


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
    caption: str,
    spec: Spec,
    sources: Sequence[Source],
    numbers: Sources,
    body: Any = None,
) -> Table:
    """Return a table of all figures of a spec; see :func:`figure_rows`."""
    rows = figure_rows(spec, sources, numbers, body)
    return table(caption, "Figure|#Value|Source", rows)


def assumptions(saved: SavedResult) -> Section:
    """Return the section of what was taken as given, every figure with its source."""
    specs, numbers = saved.specs(), Sources()
    if not specs:
        return Section("assumptions", "What this rests on", (_no_specs(saved),))
    items: list[Table] = []
    for role, spec in specs.items():
        items += _spec_tables(role, spec, numbers, saved.data["specs"][role])
    if sum(role.startswith("system") for role in specs) > 1:
        items = [dataclasses.replace(item, folded=True) for item in items]
    text = [t for t in (_basis(saved), _engine(saved)) if t]
    models: list[Any] = [s for r, s in specs.items() if r.startswith("model")]
    for model in models:
        cited = [numbers.cell(source).text for source in model.sources]
        text.append(f"Architecture of {model.name}: {fmt.listed(cited) or 'as given'}.")
    items.append(numbers.table())
    return Section("assumptions", "What this rests on", tuple(text), tuple(items))


def _no_specs(saved: SavedResult) -> str:
    by = saved.data.get("hwsim_version", "an older version")
    return (
        f"The file was written by hwsim {by} without the specs behind it; run the "
        "command again and save its result to see every figure with its source."
    )


def _basis(saved: SavedResult) -> str:
    fidelity = str(saved.data.get("fidelity", ""))
    return _FIDELITIES.get(fidelity, "")


def _engine(saved: SavedResult) -> str:
    engines = {graph.engine for graph in saved.graphs}
    return _ENGINES[engines.pop()] if len(engines) == 1 else ""


def _spec_tables(role: str, spec: Any, numbers: Sources, body: Any) -> list[Table]:
    if role.startswith("model"):
        return []
    captions = {
        "stack": "Software stack", "engine": "Serving engine", "system": "System",
        "device": "Device", "calibration": _FOLDED,
    }  # fmt: skip
    caption = captions.get(role.partition(":")[0], role)
    if not isinstance(spec, SystemSpec):
        only = figures(f"{caption}: {spec.name}", spec, spec.sources, numbers, body)
        return [dataclasses.replace(only, folded=caption == _FOLDED)]
    device, inner = spec.device, body.get("device")
    made = [figures(f"Device: {device.name}", device, device.sources, numbers, inner)]
    if spec.networks:
        made.append(figures(f"System: {spec.name}", spec, spec.sources, numbers, body))
    return made


def reproducibility(saved: SavedResult) -> Section:
    """Return the section that lets a reader repeat the answer."""
    data = saved.data
    rows: list[tuple[str, Cell]] = []
    if data.get("command"):
        rows.append(("Command", Cell(str(data["command"]), code=True)))
    rows.append(("hwsim", Cell(str(data.get("hwsim_version", fmt.NONE)))))
    versions = data.get("environment") or {}
    rows += [(_TITLES.get(name, name), Cell(str(v))) for name, v in versions.items()]
    rows.append(("Seed", Cell(seed_text(data))))
    items = [table("How to repeat it", "What|Value", rows)]
    hashes = [
        (role, Cell(told["id"]), Cell(told["sha256"], code=True))
        for role, told in (data.get("spec_hashes") or {}).items()
    ]
    if hashes:
        caption = "Specs used: SHA-256 of their JSON in SI"
        items.append(table(caption, "Spec|Id|SHA-256", hashes))
    return Section("reproduce", "Reproducibility", (), tuple(items))


def seed_text(data: Mapping[str, Any]) -> str:
    """Return the seed of a result, or that it has none."""
    parts = [
        *(data.get("cells") or []),
        *(data.get("results") or {}).values(),
    ]
    configs = [data.get("config"), *(part.get("config") for part in parts)]
    configs += list((data.get("families") or {}).values())
    seeds = [c.get("seed") for c in configs if isinstance(c, Mapping)]
    if data.get("sobol_samples"):
        seeds.append(data.get("seed"))
    seed = next((s for s in seeds if s is not None), None)
    return "none: nothing here is random" if seed is None else str(seed)


def evidence(saved: SavedResult) -> Section | None:
    """Return how accurate such predictions have been, or nothing where unknown."""
    told = saved.data.get("evidence") or {}
    devices = [told] if "families" in told else list(told.values())
    devices = list({d["device"]: d for d in devices if "families" in d}.values())
    several = len(devices) > 1
    rows = [
        row
        for d in devices
        for row in _evidence_rows(d["families"], d["device"] if several else "")
    ]
    if not rows:
        return None
    heads = (
        "Operator family|Rests on|#Measured rows|#Median error|#Nine in ten within|"
        "#In 90 % interval|#Interval width"
    )
    text = [_EVIDENCE]
    text += [_whole_runs(d["whole_runs"]) for d in devices if d.get("whole_runs")][:1]
    names = fmt.listed(d["device"] for d in devices)
    caption = f"Operator families of this answer, on {names}"
    return Section(
        "evidence", "How accurate such predictions are", tuple(text),
        (table(caption, heads, rows),),
    )  # fmt: skip


def _evidence_rows(
    families: Sequence[Mapping[str, Any]], device: str
) -> list[list[Cell]]:
    """Return a row for each family; those never measured share rows."""
    alike: dict[tuple[str, str], list[str]] = {}
    rows = []
    for family in families:
        if family.get("rows") is None:
            key = (family["basis"], family.get("note") or "")
            alike.setdefault(key, []).append(_family_name(family))
        else:
            rows.append(_measured_row(family, device))
    blank = Cell(fmt.NONE, number=True)
    for (basis, note), names in alike.items():
        told = fmt.listed(
            [names[0], *(name[:1].lower() + name[1:] for name in names[1:])]
        )
        basis_cell = Cell(_BASES.get(basis, basis), note=note, wide=True)
        rows.append([Cell(told, note=device), basis_cell, *[blank] * 5])
    return rows


def _family_name(family: Mapping[str, Any]) -> str:
    return FAMILY_NAMES.get(family["family"], str(family["family"]))


def _measured_row(family: Mapping[str, Any], device: str) -> list[Cell]:
    note = f"{family['measured_device']}, {family['date']}"
    if not family["held_out"]:
        note += "; of the rows fitted"
    return [
        Cell(_family_name(family), note=device),
        Cell(_BASES.get(family["basis"], family["basis"]), note=note, wide=True),
        Cell(fmt.count(family["rows"]), number=True),
        Cell(
            fmt.percent(family["median_ape"]), number=True,
            bar=min(family["median_ape"], 1.0),
        ),
        Cell(fmt.percent(family["p90_ape"]), number=True),
        Cell(fmt.percent(family["coverage_90"]), number=True),
        Cell(fmt.percent(family["interval_width"]), number=True),
    ]  # fmt: skip


def _whole_runs(told: Mapping[str, Any]) -> str:
    kinds = {"train": "training runs", "infer": "inference runs"}
    known = (
        f" What is known of this run ({told['class']}): {told['why']}; these figures "
        "are of runs of which as much is known."
        if "class" in told
        else ""
    )
    return (
        f"Whole {kinds.get(told['task'], 'runs')}: against "
        f"{fmt.plural(told['rows'], 'published figure')} of "
        f"{fmt.plural(told['sources'], 'source')}, "
        f"{fmt.percent(told['coverage_90'], 0)} lay in their 90 % interval when their "
        f"own source was left out of it.{known}"
    )
