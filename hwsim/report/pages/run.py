"""Pages of runs: inference, training, and one graph on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Fact, Page, Section
from hwsim.report.pages.run_sections import (
    breakdown_section,
    memory_section,
    operator_section,
    picture_sections,
)
from hwsim.report.pieces import (
    around,
    assumed,
    bound_clause,
    closing,
    fit_clause,
    interval_note,
    memory_fact,
    memory_warning,
    name_of,
    number,
    parts_of,
)

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

MFU_NOTE = "share of peak arithmetic that the model needs"


def infer_page(saved: SavedResult) -> Page:
    """Return the page of an inference run."""
    phases = {g.name: g.parts for g in saved.graphs}
    if len(phases) != 1:
        phases["whole request"] = parts_of(saved)
    model, where = name_of(saved, "model"), name_of(saved, "system")
    return Page(
        title=f"{model} on {where}",
        question=_infer_question(saved),
        answer=_infer_answer(saved),
        facts=_infer_facts(saved),
        sections=_run_sections(saved, phases),
        warning=memory_warning(saved),
        assumed=assumed(saved),
    )


def train_page(saved: SavedResult) -> Page:
    """Return the page of a training step."""
    model, where = name_of(saved, "model"), name_of(saved, "system")
    return Page(
        title=f"Training {model} on {where}",
        question=f"How long does one training step of {train_question(saved)} take?",
        answer=(
            f"{around(saved, 'step_s')} a step, "
            f"{number(saved.need('tokens_per_s_per_device'))} tokens/s per device at "
            f"an MFU of {fmt.percent(saved.need('mfu'))}; "
            f"{bound_clause(parts_of(saved), saved.data.get('bound'))}, and it "
            f"{fit_clause(saved)}."
        ),
        facts=step_facts(saved),
        sections=step_sections(saved),
        warning=memory_warning(saved),
        assumed=assumed(saved),
    )


def step_facts(saved: SavedResult) -> tuple[Fact, ...]:
    """Return the headline figures of a training step."""
    c = saved.need("config")
    rate = saved.need("model_flop_per_s_per_device")
    pipeline: tuple[Fact, ...] = ()
    if c.get("pp", 1) > 1:
        bubble = fmt.percent(saved.need("bubble_fraction"))
        pipeline = (Fact("Pipeline bubble", bubble, "of the step, stages wait"),)
    return (
        Fact("Step", fmt.seconds(saved.need("step_s")),
             interval_note(saved, "step_s", global_batch(c))),
        Fact("Tokens per second", number(saved.need("tokens_per_s_per_device")),
             "per device"),
        Fact("Model FLOP", fmt.rate(rate, digits=3), "per device"),
        Fact("MFU", fmt.percent(saved.need("mfu")),
             f"{MFU_NOTE}; HFU {fmt.percent(saved.need('hfu'))} with recomputation"),
        *pipeline,
        memory_fact(saved),
    )  # fmt: skip


def step_sections(saved: SavedResult) -> tuple[Section, ...]:
    """Return the sections of a training step."""
    phases = {"training step": parts_of(saved)}
    return _run_sections(saved, phases, _microbatch_note(saved.need("config")))


def train_question(saved: SavedResult) -> str:
    """Return what is trained, on what, and how it is laid out."""
    c = saved.need("config")
    degrees = [("tp", "tensor"), ("cp", "context"), ("pp", "pipeline"), ("dp", "data")]
    layout = [f"{word} parallel {c[k]}" for k, word in degrees if c.get(k, 1) > 1]
    details = [
        global_batch(c), *layout, f"micro-batch {c['micro_batch']}", c["dtype"],
        c["optimizer"],
    ]  # fmt: skip
    if c.get("zero_stage"):
        details.append(f"ZeRO {c['zero_stage']}")
    if c["recompute"] != "none":
        details.append(f"{c['recompute']} recomputation")
    return (
        f"{name_of(saved, 'model')} on {fmt.plural(c['devices'], 'device')} of "
        f"{name_of(saved, 'system')} ({', '.join(map(str, details))})"
    )


def global_batch(config: Mapping[str, Any]) -> str:
    """Return the size of a training step in words."""
    return (
        f"{fmt.plural(config['global_batch'], 'sequence')} of "
        f"{fmt.plural(config['seq'], 'token')}"
    )


def graph_page(saved: SavedResult) -> Page:
    """Return the page of one graph on one system."""
    name, where = str(saved.need("graph")), name_of(saved, "system")
    time, parts = float(saved.need("time_s")), parts_of(saved)
    facts = [
        Fact("Time", fmt.seconds(time), interval_note(saved, "time_s")),
        Fact("Work", fmt.quantity(saved.need("flop"), "FLOP"), "per device"),
        Fact("Traffic", fmt.nbytes(saved.need("nbytes")), "per device"),
        Fact("Rate", fmt.rate(saved.need("flop") / time, digits=3), "per device"),
    ]
    if saved.graphs:
        count = sum(row["calls"] for row in saved.graphs[0].rows)
        facts.append(Fact("Operators", fmt.count(count)))
    return Page(
        title=f"{name} on {where}",
        question=f"How long does the graph {name} take on {where}?",
        answer=f"{around(saved, 'time_s')}; {bound_clause(parts)}.",
        facts=tuple(facts),
        sections=(
            breakdown_section({name: parts}, saved.graphs),
            *picture_sections(saved),
            *operator_section(saved.graphs),
            *closing(saved),
        ),
        assumed=assumed(saved),
    )


def _run_sections(
    saved: SavedResult, phases: Mapping[str, Mapping[str, float]], note: str = ""
) -> tuple[Section, ...]:
    return (
        memory_section(saved),
        breakdown_section(phases, saved.graphs),
        *picture_sections(saved, note),
        *operator_section(saved.graphs, note),
        *closing(saved),
    )


def _infer_question(saved: SavedResult) -> str:
    c = saved.need("config")
    what = f"{fmt.plural(c['batch'], 'sequence')} of {fmt.plural(c['prompt'], 'token')}"
    if c["output"]:
        tokens = f"{fmt.plural(c['prompt'], 'prompt token')} and "
        tokens += fmt.plural(c["output"], "output token")
        what = f"{fmt.plural(c['batch'], 'request')} of {tokens}"
    precision = str(c["dtype"])
    if c["weight_dtype"] != c["dtype"]:
        precision += f" with {c['weight_dtype']} weights"
    if c["output"] and c["kv_dtype"] != c["dtype"]:
        precision += f" and {c['kv_dtype']} cache"
    return (
        f"How long does {name_of(saved, 'model')} take on {name_of(saved, 'system')} "
        f"for {what} together ({precision}, tensor parallel over "
        f"{fmt.plural(c['tp'], 'device')}), and does it fit?"
    )


def _infer_answer(saved: SavedResult) -> str:
    rate = number(saved.need("tokens_per_s"))
    if saved.need("decode_step_s") is None:
        passed = around(saved, "prefill_s")
        text = f"One pass takes {passed}, {rate} tokens/s in all"
    else:
        text = (
            f"The first token comes after {fmt.seconds(saved.need('ttft_s'))} and then "
            f"one every {fmt.seconds(saved.need('tpot_s'))}: "
            f"{around(saved, 'latency_s')} to the last, {rate} tokens/s in all"
        )
    return f"{text}; {bound_clause(parts_of(saved))}, and it {fit_clause(saved)}."


def _infer_facts(saved: SavedResult) -> tuple[Fact, ...]:
    asked = saved.need("config", "output")
    label, key = (
        ("Time to first token", "ttft_s") if asked else ("One pass", "prefill_s")
    )
    note = interval_note(saved, key, "without queueing")
    facts = [Fact(label, fmt.seconds(saved.need(key)), note)]
    if saved.need("decode_step_s") is not None:
        tpot, latency = saved.need("tpot_s"), saved.need("latency_s")
        facts += [
            Fact("Time per output token", fmt.seconds(tpot),
                 interval_note(saved, "tpot_s", "mean")),
            Fact("Whole request", fmt.seconds(latency),
                 interval_note(saved, "latency_s")),
        ]  # fmt: skip
    facts += [
        Fact("Tokens per second", fmt.count(saved.need("tokens_per_s")),
             interval_note(saved, "tokens_per_s", "whole batch", number)),
        Fact("MFU", fmt.percent(saved.need("mfu")), MFU_NOTE),
        memory_fact(saved),
    ]  # fmt: skip
    return tuple(facts)


def _microbatch_note(config: Mapping[str, Any]) -> str:
    count = config["num_microbatches"]
    if count == 1 or config.get("pp", 1) > 1:
        return ""
    return (
        f"This is the last of {fmt.count(count)} microbatches, with the reduction of "
        "gradients and the optimizer."
    )
