"""What a serving run keeps: compact columns of requests, sums over steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwsim.sim.serving.prefixes import Prefixes

FloatArray = npt.NDArray[np.float64]
_FLUSH = 1 << 15
_BIN = 0.001  # relative width of a bin of token gaps
_LEAST = 1e-9


class Requests:
    """Columns of all requests of a run, one entry each.

    Attributes
    ----------
    inputs, outputs : list of int
        Tokens of the prompt, and to generate.
    arrival, ready, first, finish : array of float
        When it arrives, enters the queue, has its first and its last token;
        NaN until then. [s]
    scheduled : array of float
        When it was first chosen to join a step: with an engine that looks ahead,
        while the step before that one began. [s]
    generated : array of int
        Tokens it had when it was last preempted, or came from elsewhere.
    handed : bytearray
        1: its keys and values came over a network; 2: they are in the host's
        memory. It decodes as soon as it is admitted.
    status : bytearray
        0 if it was not given up; else why.
    retries : array of int
        How often it began anew because its replica failed.
    prefixes : Prefixes or None
        What prompts begin with, where it is known.
    cached : array of int
        Tokens of the prompt that were not computed; empty without prefixes.
    moving : array of float
        How long its keys and values were on their way. [s]
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        arrival: FloatArray | None,
        overhead: float = 0.0,
        prefixes: Prefixes | None = None,
    ) -> None:
        size = len(inputs)
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.overhead, self.prefixes = overhead, prefixes
        unknown = np.full(size, math.nan)
        start = unknown if arrival is None else arrival
        self.arrival = array("d", start.tobytes())
        self.ready = array("d", (start + overhead).tobytes())
        self.first = array("d", unknown.tobytes())
        self.finish = array("d", unknown.tobytes())
        self.scheduled = array("d", unknown.tobytes())
        zeros = np.zeros(size, dtype=np.int64).tobytes()
        self.generated = array("q", zeros)
        self.handed, self.status = bytearray(size), bytearray(size)
        self.retries = array("q", zeros)
        self.moving = array("d", np.zeros(size).tobytes())
        self.preemptions = array("q", zeros)
        self.replica = array("q", zeros)
        self.cached = array("q", zeros if prefixes is not None else b"")

    def __len__(self) -> int:
        return len(self.inputs)

    def restart(self, request: int, time: float) -> None:
        """Let a request that lost everything enter a queue again."""
        self.generated[request] = self.handed[request] = 0
        self.first[request] = self.finish[request] = math.nan
        self.ready[request] = time + self.overhead

    def arrive(self, request: int, time: float) -> None:
        """Set the arrival of a request that was waiting for another."""
        self.arrival[request] = time
        self.ready[request] = time + self.overhead


@dataclass(slots=True)
class StepSums:
    """Sums over the steps of one replica.

    Attributes
    ----------
    busy_time, decode_slots, block_time : float
        Time in steps; integrals of running requests that decode, and of
        blocks in use, over time. [s]
    steps, events, prefill_tokens, decode_tokens : float
        Engine steps; events that they took; tokens processed.
    peak_blocks : float
        Most blocks in use in a step.
    gaps : ndarray
        Token gaps by logarithmic bin.
    """

    busy_time: float = 0.0
    decode_slots: float = 0.0
    block_time: float = 0.0
    steps: float = 0.0
    events: int = 0
    prefill_tokens: float = 0.0
    decode_tokens: float = 0.0
    peak_blocks: float = 0.0
    gap_time: float = 0.0
    energy: float = 0.0
    gaps: FloatArray = field(
        default_factory=lambda: np.zeros(int(math.log(1e15) / _BIN) + 2)
    )

    def merge(self, other: StepSums) -> None:
        """Add the sums of another replica."""
        self.busy_time += other.busy_time
        self.decode_slots += other.decode_slots
        self.block_time += other.block_time
        self.steps += other.steps
        self.events += other.events
        self.prefill_tokens += other.prefill_tokens
        self.decode_tokens += other.decode_tokens
        self.peak_blocks = max(self.peak_blocks, other.peak_blocks)
        self.gap_time += other.gap_time
        self.energy += other.energy
        self.gaps += other.gaps

    def add_gaps(self, gap: FloatArray, count: FloatArray) -> None:
        """Add gaps between tokens, so many of each. [s]"""
        where = np.log(np.maximum(gap, _LEAST) / _LEAST) / _BIN
        index = np.clip(where.astype(np.int64), 0, self.gaps.size - 1)
        self.gaps += np.bincount(index, weights=count, minlength=self.gaps.size)
        self.gap_time += float(gap @ count)


def gap_quantiles(gaps: FloatArray, shares: Sequence[float]) -> list[float]:
    """Return quantiles of token gaps, each to a thousandth. [s]"""
    total = np.cumsum(gaps)
    if not total[-1]:
        return [math.nan] * len(shares)
    index = np.searchsorted(total, np.asarray(shares) * total[-1])
    centre: list[float] = (_LEAST * np.exp((index + 0.5) * _BIN)).tolist()
    return centre


class StepLog:
    """Rows of steps, summed up when there are many.

    A row is (duration, steps, decoding, prompt tokens, blocks, gap, gaps):
    a stretch of equal steps in one row.
    """

    def __init__(self, power: StepPower | None = None) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.extra: list[tuple[float, float]] = []
        self.sums = StepSums()
        self.peak_blocks = 0
        self._power = power

    def add(self, row: tuple[float, ...]) -> None:
        """Keep one row."""
        self.rows.append(row)
        if len(self.rows) >= _FLUSH:
            self.flush()

    def flush(self) -> StepSums:
        """Sum up the rows kept so far and return the sums."""
        if self.extra:
            gap, count = np.array(self.extra).T
            self.sums.add_gaps(gap, count)
            self.extra.clear()
        if not self.rows:
            return self.sums
        table = np.array(self.rows).T
        duration, steps, decoding, prompt, blocks, gap, gaps = table
        s = self.sums
        s.busy_time += float(duration.sum())
        s.decode_slots += float(duration @ decoding)
        s.block_time += float(duration @ blocks)
        s.steps += float(steps.sum())
        s.events += duration.size
        s.prefill_tokens += float(prompt.sum())
        s.decode_tokens += float(steps @ decoding)
        s.peak_blocks = float(self.peak_blocks)
        s.add_gaps(gap, gaps)
        if self._power is not None:
            s.energy += self._power.energy(duration, steps, decoding, prompt)
        self.rows.clear()
        return s


class StepPower(ABC):
    """Energy of steps of one replica, or group."""

    @property
    @abstractmethod
    def idle(self) -> float:
        """Power between steps. [W]"""

    @abstractmethod
    def energy(
        self,
        duration: FloatArray,
        steps: FloatArray,
        decoding: FloatArray,
        prompt: FloatArray,
    ) -> float:
        """Return the energy of rows of steps. [J]"""
