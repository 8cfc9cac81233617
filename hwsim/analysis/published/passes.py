"""Prompts that are read in passes, and models whose layers lie on several devices.

Layers split over ``pp`` devices are one after the other for a single pass: the
time is that of all layers on one device, and a hand-over between neighbours.
Several passes follow one another through the stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.graph_result import GraphResult, run_graph
from hwsim.cost.collective import collective_cost
from hwsim.cost.evaluate import Fidelity
from hwsim.graph.inference import prefill_graph
from hwsim.specs.calibration import calibration_for
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


@dataclass(frozen=True)
class Passes:
    """Passes of one prompt batch through a pipeline.

    Attributes
    ----------
    first, last : GraphResult
        Of all layers, on one device.
    count : int
        How many there are.
    time_s : float
        From the first token read to the last logits. [s]
    """

    first: GraphResult
    last: GraphResult
    count: int
    time_s: float


def hand_over(
    model: ModelSpec, system: SystemSpec, tokens: int, fidelity: Fidelity
) -> float:
    """Return the time in which a stage hands its tokens to the next. [s]"""
    if fidelity == "roofline" or system.num_devices < 2:
        return 0.0
    cost = collective_cost(
        "send_recv", 2.0 * tokens * model.hidden, 2, system=system,
        calibration=calibration_for(system.device, fidelity),
    )  # fmt: skip
    return float(cost.time)


def read_prompts(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    *,
    batch: int,
    prompt: int,
    tp: int,
    pp: int,
    microbatch: int | None,
    in_flight: int | None,
    fidelity: Fidelity,
    **dtypes: Any,
) -> Passes:
    """Return the passes in which a batch of prompts is read.

    Parameters
    ----------
    microbatch : int or None
        Most tokens of a pass: whole sequences where one fits, else pieces of a
        prompt. None reads all in one pass.
    in_flight : int or None
        Most passes that are under way at a time.
    **dtypes
        ``dtype``, ``weight_dtype``, ``kv_dtype``.
    """
    tokens = batch * prompt
    limit = tokens if microbatch is None else max(microbatch, 1)
    group = system.subsystem(tp)

    def run(sequences: int, piece: int, history: int = 0) -> GraphResult:
        graph = prefill_graph(
            model, batch=sequences, prompt=piece, history=history, tp=tp,
            stack=stack, **dtypes,
        )  # fmt: skip
        return run_graph(graph, group, stack, fidelity=fidelity)

    if prompt <= limit or model.kind != "decoder":
        sequences = min(max(limit // prompt, 1), batch)
        if pp > 1 and microbatch is not None and batch >= pp:
            sequences = min(sequences, batch // pp)
        count = math.ceil(batch / sequences)
        first = last = run(sequences, prompt)
        size, total = sequences * prompt, count * first.time_s
    else:
        count = batch * math.ceil(prompt / limit)
        first, middle = run(1, limit), run(1, limit, (prompt - limit) // 2)
        last = run(1, limit, prompt - limit)
        mean = (first.time_s + 4.0 * middle.time_s + last.time_s) / 6.0
        # A shorter last piece is charged by its tokens.
        size, total = limit, batch * prompt / limit * mean
    over = hand_over(model, system, size, fidelity) if pp > 1 else 0.0
    # So many passes share the time that one takes through all stages.
    abreast = min(pp, in_flight or pp)
    stages = total / abreast + (abreast - 1) * last.time_s / abreast
    return Passes(first, last, count, stages + (pp - 1) * over)
