"""The sections that pages of runs share: memory, time, pictures, operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.analysis.packing import unpack_records
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Picture, Section, Table, picture, slug, table
from hwsim.report.figures.graphs import breakdown_figure, timeline_figure
from hwsim.report.figures.roofline import roofline_figure

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedGraph, SavedResult
    from hwsim.sim.records import Record
    from hwsim.specs.device import DeviceSpec

TOP_OPS = 15
_ROOFLINE = (
    "The slope is what memory can deliver, the flat lines what arithmetic can; an "
    "operator well under both loses time to something else."
)


def memory_section(saved: SavedResult) -> Section:
    """Return what is held in memory, and whether it fits."""
    sizes = {k: float(v) for k, v in saved.need("memory_bytes").items()}
    needed, usable = sizes.pop("total"), float(saved.need("memory_usable_bytes"))

    def row(label: str, size: float, *, bar: bool = False, tone: str = "") -> Any:
        share = size / usable
        return (
            Cell(label),
            Cell(fmt.nbytes(size), number=True, tone=tone),
            Cell(fmt.percent(share), number=True, bar=min(share, 1.0) if bar else None),
        )

    rows = [row(_words(k), v, bar=True) for k, v in sizes.items() if v]
    tone = "good" if saved.need("fits") else "bad"
    rows.append(row("needed", needed, bar=True, tone=tone))
    rows.append(row("usable", usable))
    device = device_of(saved)
    name = ""
    if device is not None:
        rows.append(row("capacity", device.main_memory.size))
        name = f" ({device.main_memory_name})"
    sizes_table = table(
        f"Memory of one device{name}", "What|#Size|#Of the usable", rows
    )
    text = [f"It {saved.need('memory_verdict')}."]
    return Section("memory", "Memory", tuple(text), (sizes_table,))


def device_of(saved: SavedResult) -> DeviceSpec | None:
    """Return the device of a result, where its file holds it."""
    return getattr(saved.specs().get("system"), "device", None)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("kv cache", "KV cache")


def breakdown_section(
    phases: Mapping[str, Mapping[str, float]], graphs: Sequence[SavedGraph]
) -> Section:
    """Return where the time goes, by phase and part."""
    names = list(dict.fromkeys(n for parts in phases.values() for n in parts))
    rows = []
    for name in names:
        cells = [Cell(name)]
        for parts in phases.values():
            share = parts.get(name, 0.0) / sum(parts.values())
            cells += [
                Cell(fmt.seconds(parts.get(name, 0.0)), number=True),
                Cell(fmt.percent(share), number=True, bar=max(share, 0.0)),
            ]
        rows.append(cells)
    totals = [Cell("all")]
    for parts in phases.values():
        totals += [
            Cell(fmt.seconds(sum(parts.values())), number=True),
            Cell("100 %", number=True),
        ]
    rows.append(totals)
    heads = ["Part", *(h for p in phases for h in (f"#{p}", "#Share"))]
    drawn = picture(
        "breakdown", "Where the time goes",
        lambda width: breakdown_figure(phases, width=width),
    )  # fmt: skip
    items: list[Table | Picture] = [
        drawn, table("Time by what it is spent on", heads, rows),
    ]  # fmt: skip
    levels = _levels(graphs)
    if levels:
        items.append(levels)
    note = (
        "Interconnect is communication that nothing hides; idle is the device "
        "waiting: for the host or, in a pipeline, for other stages."
    )
    return Section("breakdown", "Where the time goes", (note,), tuple(items))


def _levels(graphs: Sequence[SavedGraph]) -> Table | None:
    names = list(dict.fromkeys(n for g in graphs for n in g.memory_levels))
    if len(names) < 2:
        return None
    rows = [
        [Cell(name)]
        + [
            Cell(fmt.seconds(g.memory_levels.get(name, 0.0)), number=True)
            for g in graphs
        ]
        for name in names
    ]
    heads = ["Level", *(f"#{g.name}" for g in graphs)]
    return table("Memory time by level", heads, rows)


def picture_sections(saved: SavedResult, note: str = "") -> list[Section]:
    """Return the roofline and, where simulated, the timelines."""
    graphs, device = saved.graphs, device_of(saved)
    if not graphs:
        return []
    text = (note,) if note else ()
    sections = []
    if device is not None:
        drawn = picture(
            "roofline", f"Operators under the ceilings of {device.name}",
            lambda width: roofline_figure(graphs, device, width=width),
        )  # fmt: skip
        sections.append(Section("roofline", "Roofline", (_ROOFLINE, *text), (drawn,)))
    played = [_timeline(g.name, g.records) for g in graphs if g.records]
    whole = (saved.data.get("detail") or {}).get("timeline")
    if whole is not None:
        played.insert(0, _timeline("pipeline", unpack_records(whole)))
    if played:
        sections.append(Section("timeline", "Timeline", text, tuple(played)))
    return sections


def _timeline(name: str, records: Sequence[Record]) -> Picture:
    return picture(
        f"timeline-{slug(name)}",
        f"Simulated timeline: {name}",
        lambda width: timeline_figure(records, width=width),
    )


def operator_section(
    graphs: Sequence[SavedGraph], note: str = ""
) -> tuple[Section, ...]:
    """Return the operators that take the most time; none where none were kept."""
    if not graphs:
        return ()
    rows: list[dict[str, Any]] = []
    for graph in graphs:
        every = graph.op_rows()
        total = sum(row["total_s"] for row in every) or 1.0
        rows += [
            {**row, "graph": graph.name, "share": row["total_s"] / total}
            for row in every
        ]
    rows.sort(key=lambda row: -row["share"])
    caption = "Operators that take the most time"
    if len(graphs) > 1:
        caption += ", each beside the whole of its phase"
    heads = "Operator|#Share|Phase|#Calls|#One call|#All calls|#Rate|#Intensity|Bound"
    top = [_operator_row(row) for row in rows[:TOP_OPS]]
    text = f"{fmt.count(len(rows))} distinct operators; the first {len(top)} are shown."
    text = f"{text} {note}".strip()
    made = table(caption, heads, top)
    return (Section("operators", "Operators", (text,), (made,)),)


def _operator_row(row: Mapping[str, Any]) -> list[Cell]:
    time, flop, nbytes = row["time_s"], row["flop"], row["nbytes"]
    rate = fmt.rate(flop / time, digits=3) if flop and time else fmt.NONE
    intensity = f"{fmt.count(flop / nbytes, 3)}" if flop and nbytes else fmt.NONE
    phase = row["graph"]
    if row["phase"] != "forward":
        phase = f"{phase}, {row['phase']}"
    return [
        Cell(row["name"], note=f"{row['block']} · {row['kind']} · {row['dtype']}"),
        Cell(fmt.percent(row["share"]), number=True, bar=row["share"]),
        Cell(phase),
        Cell(fmt.count(row["calls"]), number=True),
        Cell(fmt.seconds(time), number=True),
        Cell(fmt.seconds(row["total_s"]), number=True),
        Cell(rate, number=True),
        Cell(intensity, number=True),
        Cell(row["bound"]),
    ]
