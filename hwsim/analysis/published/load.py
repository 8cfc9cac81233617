"""Figures of services under load: what counts of a run, and how sure it is."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from hwsim.analysis.published.work import Figure, Work, lengths
from hwsim.analysis.serving.interval import operator_interval, service_steps
from hwsim.analysis.serving.mean_request import request_runs
from hwsim.analysis.serving.run import Run
from hwsim.analysis.serving.serve import ServeResult
from hwsim.cost.interval import LogInterval, beside
from hwsim.errors import InputError
from hwsim.specs.traffic import Lengths, Traffic

# Sigma of the logarithm of lengths in a data set of conversations as benchmarks
# filter it: of 500 answers the longest is about five times the mean.
CONVERSATIONS = 0.6
# Requests where a source does not say how many it sent.
QUEUED, PER_CLIENT, LEAST, ROUNDS = 1000, 8, 64, 12


def traffic_of(work: Work) -> Traffic:
    """Return the traffic that a row describes."""
    row = work.row
    prompt, output = lengths(row)
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
    if row.load == "max" and requests is None:
        # So many that the last, part-filled batches hardly count.
        requests = max(QUEUED, ROUNDS * work.engine.max_num_seqs * (row.dp or 1))
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


def served_figure(work: Work, result: ServeResult) -> Figure:
    """Return the figure that a row names, with its 90 % interval.

    Raises
    ------
    InputError
        If the row names time per token and answers have one.
    """
    value = _value(work, result.run)
    inside = service_interval(result)
    if inside is None:
        return Figure(work, "serve", value, None, None, True, "")
    steps = service_steps(inside)
    ends = _ends(work, result, steps, value)
    logs = [math.log(end / value) for end in ends]
    around = beside(LogInterval(min(*logs, 0.0), max(*logs, 0.0)), _drawn(work, result))
    low, high = around.around(value)
    stretch = abs(logs[1] - logs[0]) / (steps.high - steps.low)
    return Figure(work, "serve", value, low, high, True, "", inside, stretch)


def _value(work: Work, run: Run) -> float:
    """Return the figure that a row names, of a run. [s or 1/s]"""
    row, steady = work.row, _steady(work, run)
    if row.kind == "throughput":
        return _rate(work, run, steady)
    values = {"ttft": run.ttft, "tpot": run.tpot, "latency": run.e2e}[row.kind]
    values = values[steady]
    values = values[~np.isnan(values)]
    if not values.size:
        raise InputError("every answer has a single token: there is no gap to time")
    if row.quantile is None:
        return float(values.mean())
    return float(np.quantile(values, row.quantile))


def _steady(work: Work, run: Run) -> slice:
    """Return the requests that count: of clients, those after they fell out of step.

    Clients that begin together ask their first questions at once; benchmarks
    warm up before they count.
    """
    clients = round(work.row.size or 1.0) if work.row.load == "closed" else 0
    size = run.arrival.size
    return slice(2 * clients, size - clients) if size > 4 * clients else slice(0, size)


def service_interval(result: ServeResult) -> LogInterval | None:
    """Return the interval of engine time by the errors of operators alone."""
    if result.fidelity == "roofline" or not result.run.outputs.size:
        return None
    return operator_interval(request_runs(result))


def _ends(
    work: Work, result: ServeResult, steps: LogInterval, value: float
) -> tuple[float, float]:
    """Return a figure with all steps at both ends of their interval.

    Where requests wait for each other alone all times go with those of the
    steps; where they come at times of their own, they are played again.
    """
    replay = result.replay
    if work.row.load in {"max", "closed"} or replay is None:
        sign = -1.0 if work.row.kind == "throughput" else 1.0
        return value * math.exp(sign * steps.low), value * math.exp(sign * steps.high)
    slow, fast = (_value(work, replay.at(math.exp(e))) for e in (steps.low, steps.high))
    return slow, fast


def _drawn(work: Work, result: ServeResult) -> LogInterval:
    """Return how far two draws of arrivals differ, in requests per second.

    Of so many requests at random, the time from the first to the last has a
    relative deviation of one over their root; the source drew its own.
    """
    if work.row.kind != "throughput" or work.row.load in {"max", "closed"}:
        return LogInterval(0.0, 0.0)
    reach = NormalDist().inv_cdf(0.95) * math.sqrt(2.0 / result.run.outputs.size)
    return LogInterval(-reach, reach)


def _rate(work: Work, run: Run, steady: slice) -> float:
    """Return requests or tokens per second.

    The decode rate of clients is that between their first tokens and their last.
    """
    row = work.row
    if row.phase == "decode" and row.load == "closed":
        gaps = run.tpot[steady]
        rate = (row.size or 1.0) / float(gaps[~np.isnan(gaps)].mean())
        return rate / (row.num_devices or 1) if row.per_device else rate
    order = np.argsort(run.finish, kind="stable")[steady]
    counts = {
        "requests": float(order.size), "input": float(run.inputs[order].sum()),
        "output": float(run.outputs[order].sum()),
    }  # fmt: skip
    counts["total"] = counts["input"] + counts["output"]
    span = run.duration
    if order.size < run.finish.size:
        before = np.sort(run.finish)[(steady.start or 1) - 1]
        span = float(run.finish[order[-1]] - before)
    rate = counts[row.counts or "output"] / span
    return rate / (row.num_devices or 1) if row.per_device else rate
