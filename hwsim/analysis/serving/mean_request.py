"""The mean request of a service, and the graphs behind it."""

from __future__ import annotations

from typing import Any

from hwsim.analysis.graph_result import GraphResult
from hwsim.analysis.serving.step_cost import Deployment


def mean_request(result: Any) -> tuple[int, int, int, float]:
    """Return prompt, output and context of a service's mean request, and batch."""
    run = result.run
    prompt = max(round(float(run.inputs.mean())), 1)
    output = max(round(float(run.outputs.mean())), 1)
    busy = run.sums.busy_time
    batch = run.sums.decode_slots / busy if busy > 0 else 1.0
    return prompt, output, prompt + output // 2, max(batch, 1.0)


def request_graphs(
    result: Any, prompt: int, output: int, context: int, batch: float
) -> list[tuple[GraphResult, float]]:
    """Return the graphs of one request of a service and its share of each."""
    c = result.config
    d = Deployment(
        result.model, result.system, result.stack, result.engine, c.layout, c.dtype,
        c.weight_dtype, c.kv_dtype, result.fidelity, context,
    )  # fmt: skip
    size = max(round(batch), 1)
    first, step = d.run(d.prefill(prompt)), d.run(d.decode(size, context))
    stages = c.layout.pp  # graphs are those of one stage
    return [(first, stages), (step, stages * (output - 1) / size)]


def request_runs(result: Any) -> list[tuple[GraphResult, float]]:
    """Return the graphs of a mean request and how often each runs for it."""
    return request_graphs(result, *mean_request(result))
