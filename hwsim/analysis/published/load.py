"""Figures of services under load: what counts of a run, and how sure it is."""

from __future__ import annotations

import math

import numpy as np

from hwsim.analysis.published.work import Figure, Work, lengths
from hwsim.analysis.serving.interval import operator_interval
from hwsim.analysis.serving.mean_request import request_runs
from hwsim.analysis.serving.serve import ServeResult
from hwsim.cost.interval import LogInterval, beside
from hwsim.errors import InputError
from hwsim.specs.calibration import load_intervals
from hwsim.specs.traffic import Lengths, Traffic

# Sigma of the logarithm of lengths in a data set of conversations as benchmarks
# filter it: of 500 answers the longest is about five times the mean.
CONVERSATIONS = 0.6
# Requests where a source does not say how many it sent.
# A queue makes more of an error in the steps: power of the interval of a TTFT.
QUEUED_WIDER = 1.5
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
    inside = service_interval(result)
    low, high = _around(work, inside, value)
    return Figure(work, "serve", value, low, high, True, "", inside)


def _steady(work: Work, result: ServeResult) -> slice:
    """Return the requests that count: of clients, those after they fell out of step.

    Clients that begin together ask their first questions at once; benchmarks
    warm up before they count.
    """
    clients = round(work.row.size or 1.0) if work.row.load == "closed" else 0
    size = result.run.arrival.size
    return slice(2 * clients, size - clients) if size > 4 * clients else slice(0, size)


def service_interval(result: ServeResult) -> LogInterval | None:
    """Return the interval of engine time by the errors of operators alone."""
    if result.fidelity == "roofline" or not result.run.outputs.size:
        return None
    return operator_interval(request_runs(result))


def _around(
    work: Work, inside: LogInterval | None, value: float
) -> tuple[float | None, float | None]:
    """Return the 90 % interval: that of the steps, wider where requests queue."""
    if inside is None:
        return None, None
    terms = load_intervals().end_to_end
    term = terms.get("serve", terms["every"])
    both = beside(inside, LogInterval(-term.low, term.high))
    wider = QUEUED_WIDER if work.row.kind == "ttft" else 1.0
    both = LogInterval(both.low * wider, both.high * wider)
    return (both.inverse() if work.row.kind == "throughput" else both).around(value)


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
