"""Pages of runs: inference, training, and one graph on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import largest_part
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Picture, Section, Table, picture
from hwsim.report.content import table as make_table
from hwsim.report.figures import breakdown_figure, timeline_figure
from hwsim.report.provenance import assumptions, overrides, reproducibility
from hwsim.report.roofline import roofline_figure
from hwsim.sim.records import PlayedGraph
from hwsim.specs.calibration import calibration_for

if TYPE_CHECKING:
    from hwsim.analysis.graph_result import GraphResult
    from hwsim.analysis.inference import InferResult
    from hwsim.analysis.training import TrainResult

TOP_OPS = 15
_BOUND = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "interconnect": "communication between devices",
    "overhead": "starting and synchronising kernels",
    "launch": "waiting for the host to launch kernels",
    "idle": "waiting",
}


def infer_page(result: InferResult, command: str | None) -> Page:
    """Return the page of an inference run."""
    phases = {g.graph.name: g.parts for g in result.graphs}
    if len(phases) > 1:
        phases["whole request"] = result.parts
    return Page(
        title=f"{result.model.name} on {_where(result)}",
        question=_infer_question(result),
        answer=_infer_answer(result),
        facts=_infer_facts(result),
        sections=_run_sections(result, phases, command),
        warning="" if result.fits else f"It {result.memory.sentence()}.",
        assumed=_assumed(result),
    )


def train_page(result: TrainResult, command: str | None) -> Page:
    """Return the page of a training run."""
    c = result.config
    facts = (
        Fact("Step", fmt.seconds(result.step_s), _global(result)),
        Fact(
            "Tokens per second",
            fmt.count(result.tokens_per_s_per_device),
            "per device",
        ),
        Fact(
            "Model FLOP",
            fmt.rate(result.model_flop_per_s_per_device, digits=3),
            "per device",
        ),
        Fact("MFU", fmt.percent(result.mfu), f"HFU {fmt.percent(result.hfu)}"),
        _memory_fact(result),
    )
    recompute = "" if c.recompute == "none" else f", {c.recompute} recomputation"
    question = (
        f"How long does one training step of {result.model.name} take on "
        f"{fmt.plural(c.devices, 'device')} of {_where(result)} ({_global(result)}, "
        f"tp {c.tp}, dp {c.dp}, micro-batch {c.micro_batch}, {c.dtype}, "
        f"{c.optimizer}{recompute})?"
    )
    answer = (
        f"{fmt.seconds(result.step_s)} a step, "
        f"{fmt.count(result.tokens_per_s_per_device, 4)} tokens/s per device at an MFU "
        f"of {fmt.percent(result.mfu)}; {_bound_clause(result.parts)}, and it "
        f"{_fit_clause(result)}."
    )
    return Page(
        title=f"Training {result.model.name} on {_where(result)}",
        question=question,
        answer=answer,
        facts=facts,
        sections=_run_sections(
            result, {"training step": result.parts}, command, _microbatch_note(result)
        ),
        warning="" if result.fits else f"It {result.memory.sentence()}.",
        assumed=_assumed(result),
    )


def graph_page(result: GraphResult, command: str | None) -> Page:
    """Return the page of one graph on one system."""
    name, system = result.graph.name, result.system
    achieved = result.graph.flop / result.time_s
    facts = (
        Fact("Time", fmt.seconds(result.time_s)),
        Fact("Work", fmt.quantity(result.graph.flop, "FLOP"), "per device"),
        Fact("Traffic", fmt.nbytes(result.graph.nbytes), "per device"),
        Fact("Rate", fmt.rate(achieved, digits=3), "per device"),
        Fact("Operators", fmt.count(len(result.graph))),
    )
    return Page(
        title=f"{name} on {system.name}",
        question=f"How long does the graph {name} take on {system.name}?",
        answer=f"{fmt.seconds(result.time_s)}; {_bound_clause(result.parts)}.",
        facts=facts,
        sections=(
            _breakdown({name: result.parts}, [result]),
            *_pictures([result]),
            _operators([result]),
            assumptions(system, result.stack, result.fidelity, result.engine),
            _repeat(result, command),
        ),
        assumed=_assumed(result),
    )


def _run_sections(
    result: InferResult | TrainResult,
    phases: Mapping[str, Mapping[str, float]],
    command: str | None,
    note: str = "",
) -> tuple[Section, ...]:
    graphs = result.graphs
    engine = graphs[0].engine if graphs else "closed_form"
    return (
        _memory(result),
        _breakdown(phases, graphs),
        *_pictures(graphs, note),
        _operators(graphs, note),
        assumptions(result.system, result.stack, result.fidelity, engine, result.model),
        _repeat(result, command),
    )


def _where(result: Any) -> str:
    return str(result.system.name)


def _assumed(result: Any) -> tuple[str, ...]:
    named = [result.system.device, result.system, result.stack]
    return overrides([*named, *([result.model] if hasattr(result, "model") else [])])


def _infer_question(result: InferResult) -> str:
    c = result.config
    what = f"{fmt.plural(c.batch, 'sequence')} of {fmt.plural(c.prompt, 'token')}"
    if c.output:
        tokens = f"{fmt.plural(c.prompt, 'prompt token')} and "
        tokens += fmt.plural(c.output, "output token")
        what = f"{fmt.plural(c.batch, 'request')} of {tokens}"
    precision = c.dtype
    if c.weight_dtype != c.dtype:
        precision += f" with {c.weight_dtype} weights"
    if c.output and c.kv_dtype != c.dtype:
        precision += f" and {c.kv_dtype} cache"
    return (
        f"How long does {result.model.name} take on {_where(result)} for {what} "
        f"together ({precision}, tensor parallel over "
        f"{fmt.plural(c.tp, 'device')}), and does it fit?"
    )


def _infer_answer(result: InferResult) -> str:
    rate = fmt.count(result.tokens_per_s, 4)
    if result.decode is None:
        text = f"One pass takes {fmt.seconds(result.prefill_s)}, {rate} tokens/s in all"
    else:
        text = (
            f"The first token comes after {fmt.seconds(result.ttft_s)} and then one "
            f"every {fmt.seconds(result.tpot_s)}: {fmt.seconds(result.latency_s)} to "
            f"the last, {rate} tokens/s in all"
        )
    return f"{text}; {_bound_clause(result.parts)}, and it {_fit_clause(result)}."


def _infer_facts(result: InferResult) -> tuple[Fact, ...]:
    label = "Time to first token" if result.config.output else "One pass"
    facts = [Fact(label, fmt.seconds(result.prefill_s), "without queueing")]
    if result.decode is not None:
        facts += [
            Fact("Time per output token", fmt.seconds(result.tpot_s), "mean"),
            Fact("Whole request", fmt.seconds(result.latency_s)),
        ]
    facts += [
        Fact("Tokens per second", fmt.count(result.tokens_per_s), "whole batch"),
        Fact("MFU", fmt.percent(result.mfu)),
        _memory_fact(result),
    ]
    return tuple(facts)


def _global(result: TrainResult) -> str:
    c = result.config
    return f"{fmt.plural(c.global_batch, 'sequence')} of {fmt.plural(c.seq, 'token')}"


def _microbatch_note(result: TrainResult) -> str:
    count = result.config.num_microbatches
    if count == 1:
        return ""
    return (
        f"This is the last of {fmt.count(count)} microbatches, with the reduction of "
        "gradients and the optimizer."
    )


def _bound_clause(parts: Mapping[str, float]) -> str:
    name = largest_part(dict(parts))
    share = parts["idle" if name == "launch" else name] / sum(parts.values())
    return f"{fmt.percent(share, 0)} of the time goes to {_BOUND.get(name, name)}"


def _fit_clause(result: InferResult | TrainResult) -> str:
    memory = result.memory
    have = f"{fmt.nbytes(memory.needed, 3)} of {fmt.nbytes(memory.usable, 3)} usable"
    return f"fits in memory ({have})" if memory.fits else f"does not fit ({have})"


def _memory_fact(result: InferResult | TrainResult) -> Fact:
    memory = result.memory
    return Fact(
        "Memory per device",
        fmt.nbytes(memory.needed, 3),
        f"of {fmt.nbytes(memory.usable, 3)} usable: "
        + ("fits" if memory.fits else "does not fit"),
        "good" if memory.fits else "bad",
    )


def _memory(result: InferResult | TrainResult) -> Section:
    memory = result.memory
    sizes = {k: float(v) for k, v in result.footprint.to_dict().items()}
    sizes.pop("total", None)

    def row(label: str, size: float, *, bar: bool = False, tone: str = "") -> Any:
        share = size / memory.usable
        return (
            Cell(label),
            Cell(fmt.nbytes(size), number=True, tone=tone),
            Cell(fmt.percent(share), number=True, bar=min(share, 1.0) if bar else None),
        )

    rows = [row(_words(k), v, bar=True) for k, v in sizes.items() if v]
    tone = "good" if memory.fits else "bad"
    rows.append(row("needed", memory.needed, bar=True, tone=tone))
    rows.append(row("usable", memory.usable))
    rows.append(row("capacity", memory.capacity))
    caption = f"Memory of one device ({result.system.device.main_memory_name})"
    sizes_table = make_table(caption, "What|#Size|#Of the usable", rows)
    text = [f"It {memory.sentence()}."]
    return Section("memory", "Memory", tuple(text), (sizes_table,))


def _words(name: str) -> str:
    return name.replace("_", " ").replace("kv cache", "KV cache")


def _breakdown(
    phases: Mapping[str, Mapping[str, float]], graphs: Sequence[GraphResult]
) -> Section:
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
    heads = "|".join(["Part", *(f"#{p}|#Share" for p in phases)])
    drawn = picture(
        "breakdown", "Where the time goes",
        lambda width: breakdown_figure(phases, width=width),
    )  # fmt: skip
    items: list[Table | Picture] = [
        drawn, make_table("Time by what it is spent on", heads, rows),
    ]  # fmt: skip
    levels = _levels(graphs)
    if levels:
        items.append(levels)
    note = (
        "Interconnect is communication that nothing hides; idle is the device "
        "waiting for the host."
    )
    return Section("breakdown", "Where the time goes", (note,), tuple(items))


def _levels(graphs: Sequence[GraphResult]) -> Table | None:
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
    heads = "|".join(["Level", *(f"#{g.graph.name}" for g in graphs)])
    return make_table("Memory time by level", heads, rows)


def _pictures(graphs: Sequence[GraphResult], note: str = "") -> list[Section]:
    if not graphs:
        return []
    device, text = graphs[0].system.device, (note,) if note else ()
    sections = [
        Section(
            "roofline", "Roofline", text,
            items=(
                picture(
                    "roofline", f"Operators under the ceilings of {device.name}",
                    lambda width: roofline_figure(graphs, width=width),
                ),
            ),
        )
    ]  # fmt: skip
    played = [g for g in graphs if isinstance(g.played, PlayedGraph) and g.records]
    if played:
        sections.append(
            Section("timeline", "Timeline", text, tuple(map(_timeline, played)))
        )
    return sections


def _timeline(graph: GraphResult) -> Picture:
    return picture(
        f"timeline-{graph.graph.name}".replace(" ", "-"),
        f"Simulated timeline: {graph.graph.name}",
        lambda width: timeline_figure(graph.records, width=width),
    )


def _operators(graphs: Sequence[GraphResult], note: str = "") -> Section:
    rows = []
    for graph in graphs:
        every = graph.op_rows()
        total = sum(row["total_s"] for row in every) or 1.0
        rows += [
            {**row, "graph": graph.graph.name, "share": row["total_s"] / total}
            for row in every
        ]
    rows.sort(key=lambda row: -row["share"])
    caption = "Operators that take the most time"
    if len(graphs) > 1:
        caption += ", each beside the whole of its phase"
    heads = "Operator|Phase|#Calls|#One call|#All calls|#Share|#Rate|#Intensity|Bound"
    top = [_operator_row(row) for row in rows[:TOP_OPS]]
    text = f"{fmt.count(len(rows))} distinct operators; the first {len(top)} are shown."
    text = f"{text} {note}".strip()
    return Section(
        "operators", "Operators", (text,), (make_table(caption, heads, top),)
    )


def _operator_row(row: Mapping[str, Any]) -> list[Cell]:
    time, flop, nbytes = row["time_s"], row["flop"], row["nbytes"]
    rate = fmt.rate(flop / time, digits=3) if flop and time else fmt.NONE
    intensity = f"{fmt.count(flop / nbytes, 3)}" if flop and nbytes else fmt.NONE
    phase = row["graph"]
    if row["phase"] != "forward":
        phase = f"{phase}, {row['phase']}"
    return [
        Cell(row["name"], note=f"{row['block']} · {row['kind']} · {row['dtype']}"),
        Cell(phase),
        Cell(fmt.count(row["calls"]), number=True),
        Cell(fmt.seconds(time), number=True),
        Cell(fmt.seconds(row["total_s"]), number=True),
        Cell(fmt.percent(row["share"]), number=True, bar=row["share"]),
        Cell(rate, number=True),
        Cell(intensity, number=True),
        Cell(row["bound"]),
    ]


def _repeat(result: Any, command: str | None) -> Section:
    calibrated = result.fidelity != "roofline"
    specs = {
        "model": getattr(result, "model", None),
        "device": result.system.device,
        "system": result.system,
        "stack": result.stack,
        "generation": calibration_for(result.system.device) if calibrated else None,
    }
    return reproducibility(specs, command)
