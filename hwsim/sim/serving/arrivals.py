"""Requests drawn at random, or read from a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwsim.errors import InputError
from hwsim.sim.serving.prefixes import Prefixes
from hwsim.sim.serving.trace_file import Columns, read_columns, text_lines, token_count
from hwsim.specs.traffic import ARRIVALS, MAX_TOKENS, Lengths, Traffic, parse_profile

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in order of arrival.

    Attributes
    ----------
    arrival : ndarray or None
        When each comes; None where clients decide. [s]
    inputs, outputs : ndarray of int
        Tokens of prompts and answers.
    prefixes : Prefixes or None
        What prompts begin with, where it is known.
    think : ndarray or None
        Time between the answer to the request before in its session and each
        request; None: requests wait for none. [s]
    """

    arrival: FloatArray | None
    inputs: IntArray
    outputs: IntArray
    prefixes: Prefixes | None = None
    think: FloatArray | None = None

    def first(self, count: int) -> Arrivals:
        """Return the requests that come first, at most so many."""
        if self.inputs.size <= count:
            return self
        return Arrivals(
            None if self.arrival is None else self.arrival[:count],
            self.inputs[:count],
            self.outputs[:count],
            None if self.prefixes is None else self.prefixes.first(count),
            None if self.think is None else self.think[:count],
        )


def draw_requests(
    traffic: Traffic, rng: np.random.Generator, longest: int | None = None
) -> Arrivals:
    """Draw the requests that traffic describes, or read its trace.

    Parameters
    ----------
    traffic : Traffic
        What is asked for.
    rng : numpy.random.Generator
        Draws arrivals first, then prompts, then answers.
    longest : int or None
        Log-normal draws whose prompt and answer are beyond it together are
        drawn again: they could not be served.
    """
    if traffic.trace is not None:
        trace = read_trace(traffic.trace, traffic.requests)
        if traffic.concurrency is not None:
            return replace(trace, arrival=None)
        return trace
    count, turns = traffic.requests or 0, traffic.turns
    if longest is not None:
        longest //= turns
    arrival = None
    if traffic.concurrency is None:
        rate = None if traffic.rate is None else traffic.rate / turns
        opened = replace(traffic, rate=rate)
        arrival = _arrival_times(opened, -(-count // turns), rng)
    inputs = _lengths("input_len", traffic.inputs, count, rng)
    outputs = _lengths("output_len", traffic.outputs, count, rng)
    if longest is not None and "lognormal" in (
        traffic.inputs.kind, traffic.outputs.kind
    ):  # fmt: skip
        _draw_again(traffic, inputs, outputs, longest, rng)
    drawn = Arrivals(arrival, inputs, outputs)
    return drawn if turns == 1 else _with_turns(drawn, traffic, rng)


def _with_turns(
    drawn: Arrivals, traffic: Traffic, rng: np.random.Generator
) -> Arrivals:
    """Return sessions, one after the other: a prompt has all that was said before."""
    count, turns = drawn.inputs.size, traffic.turns
    number = np.arange(count)
    first = number - number % turns
    said = np.concatenate([[0], np.cumsum(drawn.inputs + drawn.outputs)])
    history = said[number] - said[first]
    previous = np.where(number == first, -1, number - 1)
    arrival = drawn.arrival
    if arrival is not None:
        arrival = np.where(number == first, arrival[number // turns], np.nan)
    think = rng.exponential(1.0, count) * traffic.think_time
    prefixes = Prefixes(previous.tolist(), first.tolist())
    return Arrivals(arrival, drawn.inputs + history, drawn.outputs, prefixes, think)


def _arrival_times(traffic: Traffic, count: int, rng: np.random.Generator) -> Any:
    rate = traffic.rate
    if rate is None or math.isinf(rate):
        return np.zeros(count)
    even = _even_times(traffic, rate, count, rng)
    if traffic.profile is None:
        return even
    return _bent(even, traffic.profile, count / rate)


def _bent(times: FloatArray, profile: str, span: float) -> FloatArray:
    """Return times at which a rate that changes has let as many requests come.

    The expected number by then is what an even rate has by the given times:
    its inverse, found between points of a fine grid.
    """
    kind, first, second = parse_profile(profile)
    last = float(times[-1]) if times.size else 0.0
    if kind == "ramp":
        mean = 0.5 * (first + second)
        grid = np.linspace(0.0, span, 20_001)
        share = (first * grid + 0.5 * (second - first) * grid**2 / span) / mean
        end = max(second / mean, 1e-3)  # beyond the run it goes on as it ended
        grid = np.append(grid, span + max(last - span, 1.0) / end)
        share = np.append(share, span + max(last - span, 1.0))
        return np.interp(times, share, grid)
    turn = 2.0 * math.pi / second
    points = max(int(200 * (last / second + 2)), 20_001)
    grid = np.linspace(0.0, last + second, points)
    share = grid + first / turn * (1.0 - np.cos(turn * grid))
    return np.interp(times, share, grid)


def _even_times(
    traffic: Traffic, rate: float, count: int, rng: np.random.Generator
) -> Any:
    if traffic.arrival == "deterministic":
        return np.arange(count) / rate
    if traffic.arrival == "gamma":
        shape = 1.0 / traffic.burstiness
        return np.cumsum(rng.gamma(shape, 1.0 / (rate * shape), count))
    if traffic.arrival == "poisson":
        return np.cumsum(rng.exponential(1.0 / rate, count))
    raise InputError(
        f"arrival {traffic.arrival!r} is unknown; choose {', '.join(ARRIVALS)}"
    )


def _lengths(
    name: str, lengths: Lengths, count: int, rng: np.random.Generator
) -> IntArray:
    if lengths.kind == "fixed":
        return np.full(count, int(lengths.first), dtype=np.int64)
    if lengths.kind == "uniform":
        return rng.integers(int(lengths.first), int(lengths.second) + 1, count)
    if lengths.kind == "lognormal":
        sigma = lengths.second
        drawn = rng.lognormal(math.log(lengths.first) - sigma**2 / 2.0, sigma, count)
        return np.clip(np.rint(drawn), 1, MAX_TOKENS).astype(np.int64)
    return rng.choice(_read_lengths(name, lengths.path or Path()), count)


def _draw_again(
    traffic: Traffic,
    inputs: IntArray,
    outputs: IntArray,
    longest: int,
    rng: np.random.Generator,
) -> None:
    """Redraw, in place, the requests that are too long."""
    for _ in range(100):
        where = np.flatnonzero(inputs + outputs > longest)
        if not where.size:
            return
        inputs[where] = _lengths("input_len", traffic.inputs, where.size, rng)
        outputs[where] = _lengths("output_len", traffic.outputs, where.size, rng)
    raise InputError(
        f"input_len and output_len are mostly beyond the {longest} tokens that the "
        "model's context and a replica's KV cache allow; ask for shorter ones"
    )


def _read_lengths(name: str, path: Path) -> IntArray:
    lines = [(n, t) for n, t in enumerate(text_lines(path), 1) if t.strip()]
    if not lines:
        raise InputError(f"{name}: {path} is empty; write one length a line")
    return np.array([token_count(path, n, name, t) for n, t in lines], dtype=np.int64)


def read_trace(path: Path, limit: int | None = None) -> Arrivals:
    """Read arrivals and lengths from a CSV or JSONL file, plain or gzipped.

    Columns are found by name, as public traces call them; times are seconds,
    dates, or milliseconds where Mooncake's columns are. Rows with an answer of
    no tokens (failed requests in BurstGPT) are left out. The first request
    comes at time 0.

    Parameters
    ----------
    path : Path
        The file.
    limit : int or None
        Read so many requests at most.

    Raises
    ------
    InputError
        If it is empty, has no such columns, is not sorted, or a row is faulty;
        the message names file and row.
    """
    found: Columns = read_columns(path, limit)
    start = np.array(found.times)
    return Arrivals(
        start - start[0], np.array(found.inputs), np.array(found.outputs),
        found.prefixes.found(),
    )  # fmt: skip
