"""Runs behind published inference figures: fixed batches and loaded services."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.published_passes import Passes, hand_over, read_prompts
from hwsim.analysis.published_setting import Precisions
from hwsim.analysis.serving import ServeResult, run_serving
from hwsim.analysis.serving_details import request_runs, step_interval
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
# A queue makes more of an error in the steps: power of the interval of a TTFT.
QUEUED_WIDER = 1.5
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
        Most tokens of a pass.
    in_flight : int or None
        Most passes under way at a time.
    filled : float
        Share of a prompt that is no padding.
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
    in_flight: int | None
    filled: float
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class BatchTimes:
    """Times of a fixed batch.

    Attributes
    ----------
    result : InferResult
        All layers on one group of tensor-parallel devices, in one pass.
    passes : Passes or None
        How the prompts are read where that is not so.
    hand_over_s : float
        Of one decode step, between the stages of a pipeline. [s]
    """

    result: InferResult
    passes: Passes | None
    hand_over_s: float

    @property
    def ttft_s(self) -> float:
        """Time to first token. [s]"""
        if self.passes is None:
            return self.result.ttft_s
        return self.result.ttft_s - self.result.prefill_s + self.passes.time_s

    @property
    def tpot_s(self) -> float:
        """Mean time of a decode step; 0 where there is none. [s]"""
        step = self.result.tpot_s
        return step + self.hand_over_s if step else 0.0

    @property
    def latency_s(self) -> float:
        """First to last token. [s]"""
        prompt = self.result.prefill_s if self.passes is None else self.passes.time_s
        return prompt + self.result.decode_steps * self.tpot_s


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
            return _fixed_figure(work, self._times(work))
        return _served_figure(work, self._service(work))

    def _times(self, work: Work) -> BatchTimes:
        """Return the times of a fixed batch, in passes and stages if so run."""
        result = self._batch(work)
        prompt, _ = _lengths(work.row)
        pp, passes, over = work.row.pp or 1, None, 0.0
        if prompt and (pp > 1 or work.microbatch is not None):
            key = ("passes", *_identity(work), pp, work.microbatch, work.in_flight)
            key = (*key, _batch_size(work), _filled(prompt, work))
            if key not in self._done:
                self._done[key] = read_prompts(
                    work.model, work.system, work.stack, batch=_batch_size(work),
                    prompt=_filled(prompt, work), tp=work.row.tp or 1, pp=pp,
                    microbatch=work.microbatch, in_flight=work.in_flight,
                    fidelity=self.fidelity, **vars(work.precise),
                )  # fmt: skip
            passes = self._done[key]
        if pp > 1:
            over = (pp - 1) * hand_over(
                work.model, work.system, _batch_size(work), self.fidelity
            )
        return BatchTimes(result, passes, over)

    def _batch(self, work: Work) -> InferResult:
        row = work.row
        prompt, output = _lengths(row)
        prompt = _filled(prompt, work)
        if work.model.kind == "encoder":
            output = 0
        batch = _batch_size(work)
        output = _longest(output, batch, work.spread)
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
                tp=row.tp or 1, pp=row.pp or 1, replicas=row.dp or 1,
                fidelity=self.fidelity, **vars(work.precise),
            )  # fmt: skip
        found: ServeResult = self._done[key]
        return found


def _identity(work: Work) -> tuple[Any, ...]:
    row = work.row
    return (work.model, work.system.id, work.stack.id, row.tp, row.pp, work.precise)


def _batch_size(work: Work) -> int:
    return max(round((work.row.size or 1.0) / (work.row.dp or 1)), 1)


def _longest(output: int, batch: int, sigma: float | None) -> int:
    """Return the tokens of a batch's longest answer: it ends the batch.

    The expected largest of some log-normal lengths, by Blom's approximation.
    """
    if not sigma or batch < 2 or output < 2:
        return output
    normal = NormalDist().inv_cdf((batch - 0.375) / (batch + 0.25))
    return round(output * max(math.exp(sigma * normal - sigma**2 / 2.0), 1.0))


def _filled(prompt: int, work: Work) -> int:
    """Return the tokens of a prompt that are no padding."""
    return max(round(prompt * work.filled), 1) if prompt else 0


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


def _fixed_figure(work: Work, times: BatchTimes) -> Figure:
    row, result = work.row, times.result
    op, seconds, share, around = _asked(work, times)
    if not seconds:
        raise InputError("nothing is generated: osl is too short for this figure")
    low, high = _scaled(around, seconds, share) or (None, None)
    bound = result.decode.bound if op == "decode" and result.decode else result.bound
    if row.kind == "throughput":
        count = _counted(work, op)
        return Figure(
            work, op, count / seconds, count / high if high else None,
            count / low if low else None, result.fits, bound,
        )  # fmt: skip
    return Figure(work, op, seconds, low, high, result.fits, bound)


Interval = tuple[float, float] | None


def _asked(work: Work, times: BatchTimes) -> tuple[str, float, float | None, Interval]:
    """Return what a figure is of, its time, and the time an interval is around."""
    row, result = work.row, times.result
    intervals = result.interval_90 or {}
    if work.model.kind == "encoder":
        return "forward", times.ttft_s, result.ttft_s, intervals.get("ttft_s")
    if row.kind == "tpot" or (row.kind == "throughput" and row.phase == "decode"):
        return "decode", times.tpot_s, result.tpot_s, intervals.get("tpot_s")
    if row.kind == "ttft" or row.phase == "prefill":
        return "prefill", times.ttft_s, result.ttft_s, intervals.get("ttft_s")
    if row.phase == "decode":
        decoding = result.decode_steps * times.tpot_s
        return "decode", decoding, result.tpot_s, intervals.get("tpot_s")
    latency = intervals.get("latency_s")
    return "generate", times.latency_s, result.latency_s, latency


def _scaled(around: Interval, seconds: float, base: float | None) -> Interval:
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
    row, steady = work.row, _steady(work, result)
    run = result.run
    if row.kind == "throughput":
        value = _rate(work, result, steady)
    else:
        values = {"ttft": run.ttft, "tpot": run.tpot, "latency": run.e2e}[row.kind]
        values = values[steady]
        values = values[~np.isnan(values)]
        if not values.size:
            raise InputError("every answer has a single token: there is no gap to time")
        if row.quantile is None:
            value = float(values.mean())
        else:
            value = float(np.quantile(values, row.quantile))
    low, high = _around(work, result, value)
    return Figure(work, "serve", value, low, high, True, "")


def _steady(work: Work, result: ServeResult) -> slice:
    """Return the requests that count: of clients, those after they fell out of step.

    Clients that begin together ask their first questions at once; benchmarks
    warm up before they count.
    """
    clients = round(work.row.size or 1.0) if work.row.load == "closed" else 0
    size = result.run.arrival.size
    return slice(2 * clients, size - clients) if size > 4 * clients else slice(0, size)


def _around(
    work: Work, result: ServeResult, value: float
) -> tuple[float | None, float | None]:
    """Return the 90 % interval: that of the steps, wider where requests queue."""
    known = step_interval(request_runs(result)) if result.run.outputs.size else None
    if known is None or result.fidelity == "roofline":
        return None, None
    share = QUEUED_WIDER if work.row.kind == "ttft" else 1.0
    low, high = known[0] ** share, known[1] ** share
    if work.row.kind == "throughput":
        low, high = 1.0 / high, 1.0 / low
    return value * low, value * high


def _rate(work: Work, result: ServeResult, steady: slice) -> float:
    """Return requests or tokens per second."""
    row, run = work.row, result.run
    order = np.argsort(run.finish, kind="stable")[steady]
    counts = {
        "requests": float(order.size), "input": float(run.inputs[order].sum()),
        "output": float(run.outputs[order].sum()),
    }  # fmt: skip
    counts["total"] = counts["input"] + counts["output"]
    span = result.duration_s
    if order.size < run.finish.size:
        before = np.sort(run.finish)[(steady.start or 1) - 1]
        span = float(run.finish[order[-1]] - before)
    rate = counts[row.counts or "output"] / span
    return rate / (row.num_devices or 1) if row.per_device else rate
