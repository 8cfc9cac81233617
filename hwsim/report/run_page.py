"""Pages of runs: inference, training, and one graph on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import largest_part
from hwsim.report import format as fmt
from hwsim.report.content import Fact, Page, Section
from hwsim.report.provenance import assumptions, overrides, reproducibility
from hwsim.report.run_sections import (
    breakdown_section,
    memory_section,
    operator_section,
    picture_sections,
)
from hwsim.specs.calibration import calibration_for

if TYPE_CHECKING:
    from hwsim.analysis.graph_result import GraphResult
    from hwsim.analysis.inference import InferResult
    from hwsim.analysis.training import TrainResult

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
            breakdown_section({name: result.parts}, [result]),
            *picture_sections([result]),
            operator_section([result]),
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
        memory_section(result),
        breakdown_section(phases, graphs),
        *picture_sections(graphs, note),
        operator_section(graphs, note),
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
