"""Runs behind published inference figures: fixed batches and loaded services."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.published_setting import Precisions
from hwsim.analysis.serving import ServeResult, run_serving
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published_inference import InferenceRow
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Lengths, Traffic

# Sigma of the logarithm of lengths in a data set of conversations as benchmarks
# filter it: of 500 answers the longest is about five times the mean.
CONVERSATIONS = 0.6
# Requests where a source does not say how many it sent.
QUEUED, PER_CLIENT, LEAST = 1000, 8, 64


@dataclass(frozen=True)
class Work:
    """What a row asks for, resolved.

    Attributes
    ----------
    row : InferenceRow
        Degrees, load and size filled.
    spread : float or None
        Sigma of log-normal answers, where it is known; 0 is equal ones.
    microbatch : int or None
        Tokens of a pass through a pipeline's stages.
    assumed : tuple of str
        What the row left open.
    """

    row: InferenceRow
    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    precise: Precisions
    spread: float | None
    microbatch: int | None
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """The prediction of a row, in its metric, SI.

    Attributes
    ----------
    op : str
        ``prefill``, ``decode``, ``generate``, ``forward`` or ``serve``.
    lower, upper : float or None
        90 % interval.
    """

    work: Work
    op: str
    value: float
    lower: float | None
    upper: float | None
    fits: bool
    bound: str

    def cells(self) -> dict[str, Any]:
        """Return the cells of a record."""
        work, rate = self.work, self.work.row.kind == "throughput"
        published = work.row.published or math.nan
        return {
            "op": self.op, "predicted": self.value, "lower": self.lower,
            "upper": self.upper, "stack": work.stack.id, "system": work.system.id,
            "devices": work.row.num_devices, "fits": self.fits, "bound": self.bound,
            "assumed": "; ".join(work.assumed),
            "published_step_s": 1.0 / published if rate else published,
            "step_s": 1.0 / self.value if rate else self.value,
        }  # fmt: skip


class InferenceRuns:
    """Runs; equal ones once."""

    def __init__(self, fidelity: Fidelity) -> None:
        self.fidelity: Fidelity = fidelity
        self._done: dict[tuple[Any, ...], Any] = {}

    def figure(self, work: Work) -> Figure:
        """Return the figure of a row.

        Raises
        ------
        InputError
            If the row cannot be run.
        """
        if work.row.load == "fixed":
            return _fixed_figure(work, self._batch(work))
        return _served_figure(work, self._service(work))

    def _batch(self, work: Work) -> InferResult:
        row = work.row
        prompt, output = _lengths(row)
        if work.model.kind == "encoder":
            output = 0
        batch = max(round((row.size or 1.0) / (row.dp or 1)), 1)
        key = ("batch", *_identity(work), batch, prompt, output)
        if key not in self._done:
            self._done[key] = run_inference(
                work.model, work.system, work.stack, batch=batch, prompt=prompt,
                output=output, tp=row.tp or 1, fidelity=self.fidelity,
                engine="closed_form", **vars(work.precise),
            )  # fmt: skip
        found: InferResult = self._done[key]
        return found

    def _service(self, work: Work) -> ServeResult:
        traffic = _traffic(work)
        key = ("service", *_identity(work), work.engine, traffic)
        if key not in self._done:
            row = work.row
            self._done[key] = run_serving(
                work.model, work.system, work.stack, work.engine, traffic,
                tp=row.tp or 1, replicas=row.dp or 1, fidelity=self.fidelity,
                **vars(work.precise),
            )  # fmt: skip
        found: ServeResult = self._done[key]
        return found


def _identity(work: Work) -> tuple[Any, ...]:
    return (work.model, work.system.id, work.stack.id, work.row.tp, work.precise)


def _lengths(row: InferenceRow) -> tuple[int, int]:
    prompt, output = round(row.isl or 0), round(row.osl or 0)
    if row.phase == "prefill":
        output = 0 if not prompt else 1
    if row.kind == "ttft" and row.load == "fixed":
        output = 1
    return prompt, max(output, 1) if not prompt else output


def _traffic(work: Work) -> Traffic:
    row = work.row
    prompt, output = _lengths(row)
    inputs = Lengths("fixed", float(max(prompt, 1)))
    outputs = _spread(output, work.spread)
    requests, size = row.requests, row.size or 1.0
    if row.load == "closed":
        clients = round(size)
        count = requests or max(PER_CLIENT * clients, LEAST)
        return Traffic(
            max(count, clients), concurrency=clients, inputs=inputs, outputs=outputs
        )
    rate = math.inf if row.load == "max" else size
    return Traffic(requests or QUEUED, rate=rate, inputs=inputs, outputs=outputs)


def _spread(tokens: int, sigma: float | None) -> Lengths:
    """Return the lengths of answers behind a mean.

    Round numbers are set by a benchmark; others are means of a data set. Work on
    prompts goes with their mean, so that their spread is left out.
    """
    mean = float(max(tokens, 1))
    set_by_hand = tokens < 32 or tokens % 8 == 0 or tokens % 10 == 0
    if sigma is None:
        sigma = 0.0 if set_by_hand else CONVERSATIONS
    return Lengths("lognormal", mean, sigma) if sigma else Lengths("fixed", mean)


def _fixed_figure(work: Work, result: InferResult) -> Figure:
    row, intervals = work.row, result.interval_90 or {}
    rate = row.kind == "throughput"
    if row.kind == "tpot" or (row.kind == "throughput" and row.phase == "decode"):
        seconds, around = result.tpot_s, intervals.get("tpot_s")
        op, bound = "decode", result.decode.bound if result.decode else ""
    elif row.kind == "ttft" or row.phase == "prefill":
        seconds, around = result.ttft_s, intervals.get("ttft_s")
        op, bound = "prefill", result.graphs[0].bound
    elif row.phase == "decode":
        seconds = result.latency_s - result.prefill_s
        around, op, bound = intervals.get("tpot_s"), "decode", result.bound
        around = _scaled(around, seconds, result.tpot_s)
    else:
        seconds, around = result.latency_s, intervals.get("latency_s")
        op, bound = "generate", result.bound
    if work.model.kind == "encoder":
        op = "forward"
    if not seconds:
        raise InputError("nothing is generated: osl is too short for this figure")
    low, high = around or (None, None)
    if rate:
        count = _counted(work, op)
        return Figure(
            work, op, count / seconds, count / high if high else None,
            count / low if low else None, result.fits, bound,
        )  # fmt: skip
    return Figure(work, op, seconds, low, high, result.fits, bound)


def _scaled(
    around: tuple[float, float] | None, seconds: float, base: float | None
) -> tuple[float, float] | None:
    if around is None or not base:
        return None
    return around[0] * seconds / base, around[1] * seconds / base


def _counted(work: Work, op: str) -> float:
    """Return what a throughput counts in the time of a fixed batch."""
    row = work.row
    batch = row.size or 1.0
    prompt, output = _lengths(row)
    if op == "decode":
        count = batch
    elif op in {"prefill", "forward"}:
        count = batch if row.counts == "requests" else batch * prompt
    else:
        per = {
            "requests": 1, "input": prompt, "output": output, "total": prompt + output,
        }  # fmt: skip
        count = batch * per[row.counts or "output"]
    return count / (row.num_devices or 1) if row.per_device else count


def _served_figure(work: Work, result: ServeResult) -> Figure:
    row = work.row
    if row.kind == "throughput":
        value = _rate(work, result)
    else:
        run = result.run
        values = {"ttft": run.ttft, "tpot": run.tpot, "latency": run.e2e}[row.kind]
        values = values[~np.isnan(values)]
        if not values.size:
            raise InputError("every answer has a single token: there is no gap to time")
        if row.quantile is None:
            value = float(values.mean())
        else:
            value = float(np.quantile(values, row.quantile))
    return Figure(work, "serve", value, None, None, True, "")


def _rate(work: Work, result: ServeResult) -> float:
    row, run = work.row, result.run
    rates = {
        "requests": float(run.outputs.size), "input": float(run.inputs.sum()),
        "output": float(run.outputs.sum()),
    }  # fmt: skip
    rates["total"] = rates["input"] + rates["output"]
    rate = rates[row.counts or "output"] / result.duration_s
    return rate / (row.num_devices or 1) if row.per_device else rate
