"""Requests drawn at random, or read from a trace."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwsim.errors import InputError
from hwsim.sim.serving.prefixes import PrefixColumns, Prefixes
from hwsim.specs.traffic import ARRIVALS, MAX_TOKENS, Lengths, Traffic, parse_profile

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Column names of public traces, folded: Azure LLM inference, BurstGPT,
# Mooncake, Splitwise and our own. Mooncake's timestamps are in milliseconds.
_ARRIVAL = (
    "arrival_s", "arrival", "arrived_at", "arrival_time", "arrival_timestamp",
    "timestamp", "time",
)  # fmt: skip
_INPUT = (
    "input_tokens", "inputtokens", "contexttokens", "request tokens", "input_length",
    "prompt_size", "prompt_tokens", "num_prefill_tokens",
)  # fmt: skip
_OUTPUT = (
    "output_tokens", "outputtokens", "generatedtokens", "response tokens",
    "output_length", "token_size", "completion_tokens", "num_decode_tokens",
)  # fmt: skip


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
    lines = [(n, t) for n, t in enumerate(_lines(path), 1) if t.strip()]
    if not lines:
        raise InputError(f"{name}: {path} is empty; write one length a line")
    return np.array([_tokens(path, n, name, t) for n, t in lines], dtype=np.int64)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8") from None


def _tokens(path: Path, row: int, name: str, text: object, least: int = 1) -> int:
    if text is None:
        raise InputError(f"{path}: row {row}: {name} is missing; give all columns")
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not least <= value <= MAX_TOKENS or value != int(value):
        raise InputError(
            f"{path}: row {row}: {name} is {str(text)[:40]!r}; "
            f"give a whole number from {least} to {MAX_TOKENS}"
        )
    return int(value)


def read_trace(path: Path, limit: int | None = None) -> Arrivals:
    """Read arrivals and lengths from a CSV or JSONL file.

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
    rows = _rows(path)
    try:
        first_row, first = next(rows)
    except StopIteration:
        raise InputError(f"{path}: is empty; a trace has a row per request") from None
    names = {str(key).strip().casefold(): key for key in first}
    return _trace(path, names, _chain((first_row, first), rows), limit)


def _trace(
    path: Path,
    names: dict[str, Any],
    rows: Iterable[tuple[int, dict[str, Any]]],
    limit: int | None,
) -> Arrivals:
    """Read the rows of a trace whose columns have these names."""
    columns = [
        _column(path, names, known, what)
        for known, what in ((_ARRIVAL, "arrival"), (_INPUT, "input tokens"),
                            (_OUTPUT, "output tokens"))
    ]  # fmt: skip
    mooncake = "input_length" in names and "timestamp" in names
    times: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    prefixes = PrefixColumns(path, names)
    for row, fields in rows:
        at, prompt, answer = (fields.get(c) for c in columns)
        time = _time(path, row, at) / (1e3 if mooncake else 1.0)
        if times and time < times[-1]:
            raise InputError(
                f"{path}: row {row}: arrives before the row above it; sort the "
                "trace by arrival"
            )
        tokens = _tokens(path, row, str(columns[1]), prompt)
        generated = _tokens(path, row, str(columns[2]), answer, least=0)
        if generated:
            times.append(time)
            inputs.append(tokens)
            outputs.append(generated)
            prefixes.add(row, fields, tokens, generated)
        if limit is not None and len(times) >= limit:
            break
    if not times:
        raise InputError(f"{path}: no row generates a token; nothing can be served")
    start = np.array(times)
    return Arrivals(
        start - start[0], np.array(inputs), np.array(outputs), prefixes.found()
    )


def _chain(
    first: tuple[int, dict[str, Any]], rest: Iterable[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    yield first
    yield from rest


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number in the file, fields)."""
    lines = _lines(path)
    if path.suffix.casefold() in {".jsonl", ".ndjson", ".json"}:
        for row, line in enumerate(lines, 1):
            if line.strip():
                yield row, _object(path, row, line)
        return
    for row, fields in enumerate(csv.DictReader(lines), 2):
        yield row, fields


def _object(path: Path, row: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}: row {row}: is not a JSON object")
    return value


def _column(
    path: Path, names: dict[str, Any], known: tuple[str, ...], what: str
) -> Any:
    for name in known:
        if name in names:
            return names[name]
    found = ", ".join(str(n) for n in list(names.values())[:8])
    raise InputError(f"{path}: no column of {what} among {found}; name it {known[0]!r}")


def _time(path: Path, row: int, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = _date(str(text))
    if not math.isfinite(value):
        raise InputError(
            f"{path}: row {row}: arrival is {str(text)[:40]!r}; give seconds or a date"
        )
    return value


def _date(text: str) -> float:
    # Azure's traces have seven digits of a second; datetime reads six.
    head, dot, tail = text.strip().partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        tail = tail[: min(digits, 6)].ljust(6, "0") + tail[digits:]
    try:
        moment = datetime.fromisoformat(f"{head}{dot}{tail}")
    except ValueError:
        return math.nan
    epoch = datetime(1970, 1, 1, tzinfo=moment.tzinfo)
    return (moment - epoch).total_seconds()
