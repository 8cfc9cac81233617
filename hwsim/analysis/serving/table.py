"""Tables of step times and power, as the serving engine asks for them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwsim.sim.serving.cost import Part
from hwsim.sim.serving.records import StepPower

FloatArray = npt.NDArray[np.float64]
_INF = float("inf")


@dataclass(frozen=True)
class StepTable:
    """Step times of a deployment; see :class:`hwsim.sim.serving.replica.StepCost`.

    Attributes
    ----------
    padded : list of int
        Batch that runs for each number of sequences.
    linear, floor : list of float
        By tokens: all but attention and head; least the host takes for a step with
        prompts. [s]
    head : list of float
        Last norm and logits, by sequences that get a token. [s]
    rows : callable
        Of a padded batch: knots in context, times, slopes.
    attention : PrefillTable
        Of prompt chunks.
    per_sequence : float
        Host time per sequence of a step. [s]
    again : float
        What the host takes more where tokens before a chunk are read again. [s]
    shared : list of float
        By tokens of each group, of what groups do together; empty where there
        is one group. [s]
    """

    padded: list[int]
    linear: list[float]
    floor: list[float]
    head: list[float]
    decode_linear: list[float]
    contexts: FloatArray
    batches: FloatArray
    decode_attention: FloatArray
    decode_floor: FloatArray
    attention: PrefillTable
    per_sequence: float = 0.0
    again: float = 0.0
    shared: list[float] = field(default_factory=list)
    _rows: dict[int, tuple[list[float], list[float], list[float], list[float]]] = field(
        default_factory=dict
    )

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return time, growth per token of context, and up to where it holds."""
        knots, times, slopes, _ = self._row(batch)
        at = bisect_right(knots, contexts) - 1
        time = times[at] + slopes[at] * (contexts - knots[at])
        limit = knots[at + 1] if at + 1 < len(knots) else _INF
        return time + self.per_sequence * batch, slopes[at], limit

    def check(
        self, batch: int, contexts: float, each: int
    ) -> tuple[float, float, float]:
        """Return as ``decode`` for ``each`` tokens of every sequence at once.

        Keys and values are read once for all of them; the rest is that of as many
        sequences.
        """
        knots, _, slopes, kept = self._row(batch)
        at = bisect_right(knots, contexts) - 1
        attention = kept[at] + slopes[at] * (contexts - knots[at])
        limit = knots[at + 1] if at + 1 < len(knots) else _INF
        tokens = min(self.padded[batch] * each, len(self.linear) - 1)
        last = min(tokens, len(self.decode_linear) - 1)
        less = self.linear[last] + self.head[last] - self.decode_linear[last]
        time = self.linear[tokens] + self.head[tokens] - less + attention
        time += self.per_sequence * batch
        return max(time, self.decode(batch, contexts)[0]), slopes[at], limit

    def one_layer(
        self, batch: int, contexts: float, layers: float
    ) -> tuple[float, float]:
        """Return the time of one of so many layers and the head, and its growth."""
        head = self.head[self.padded[batch]]
        time, slope, _ = self.decode(batch, contexts)
        return (time - head) / layers + head, slope / layers

    def pace(self, batch: int, contexts: float) -> tuple[int, float, float]:
        """Return what runs together, its context, and how often in a step."""
        return batch, contexts, 1.0

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks and decoding sequences."""
        tokens, attention, read = batch, 0.0, 0
        for chunk, before in chunks:
            tokens += chunk
            read += before
            attention += self.attention.time(chunk, before)
        attention -= (len(chunks) - 1) * self.attention.least  # one kernel for all
        sequences = batch + len(chunks)
        if batch:
            knots, _, slopes, kept = self._row(batch)
            at = bisect_right(knots, contexts) - 1
            attention += kept[at] + slopes[at] * (contexts - knots[at])
        time = self.linear[tokens] + self.head[sequences] + attention
        return max(time, self._host(tokens, read)) + self.per_sequence * sequences

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step of groups, each as ``mixed`` has it.

        Experts see the tokens of all; of all else the slowest group counts.
        """
        tokens, every, sequences, attention, read = 0, 0, 0, 0.0, 0
        for chunks, batch, contexts in parts:
            own = self._attention(chunks, batch, contexts)
            attention = max(attention, own)
            seen = batch + sum([chunk for chunk, _ in chunks])
            read += sum([before for _, before in chunks])
            every += seen
            tokens = max(tokens, seen)
            sequences = max(sequences, batch + len(chunks))
        time = self.linear[tokens] + self.head[sequences] + attention
        if self.shared and every < tokens * len(parts):
            time += self.shared[-(-every // len(parts))] - self.shared[tokens]
        return max(time, self._host(tokens, read)) + self.per_sequence * sequences

    def _host(self, tokens: int, read: int) -> float:
        """Return the least a step with prompts takes because of the host. [s]"""
        floor = self.floor[tokens]
        return floor + self.again if floor and read else floor

    def _attention(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        attention = 0.0
        for chunk, before in chunks:
            attention += self.attention.time(chunk, before)
        attention -= max(len(chunks) - 1, 0) * self.attention.least
        if batch:
            knots, _, slopes, kept = self._row(batch)
            at = bisect_right(knots, contexts) - 1
            attention += kept[at] + slopes[at] * (contexts - knots[at])
        return attention

    def _row(
        self, batch: int
    ) -> tuple[list[float], list[float], list[float], list[float]]:
        row = self._rows.get(batch)
        if row is None:
            row = self._rows[batch] = self._make_row(batch)
        return row

    def _make_row(
        self, batch: int
    ) -> tuple[list[float], list[float], list[float], list[float]]:
        """Interpolate the table at the padded batch."""
        size = self.padded[batch]
        attention = np.array(
            [np.interp(size, self.batches, col) for col in self.decode_attention.T]
        )
        floor = float(np.interp(size, self.batches, self.decode_floor))
        times = np.maximum(attention + self.decode_linear[size], floor)
        knots = self.contexts * size
        slopes = np.diff(times) / np.diff(knots)
        slopes = np.append(slopes, slopes[-1])
        knots[0] = 0.0  # fewer tokens than one each: padding
        times[0] -= slopes[0] * self.contexts[0] * size
        kept = times - self.decode_linear[size]
        return knots.tolist(), times.tolist(), slopes.tolist(), kept.tolist()


@dataclass(frozen=True)
class PrefillTable:
    """Attention time of a prompt chunk by its tokens and those before it. [s]"""

    chunks: list[float]
    histories: list[float]
    values: list[list[float]]
    whole: list[float]
    least: float

    def time(self, chunk: int, before: int) -> float:
        """Return the time of a chunk. [s]"""
        if not before:
            return self.whole[chunk]
        q, h = self.chunks, self.histories
        i = min(bisect_left(q, chunk, 1), len(q) - 1)
        j = min(bisect_left(h, before, 1), len(h) - 1)
        x = (chunk - q[i - 1]) / (q[i] - q[i - 1])
        y = (before - h[j - 1]) / (h[j] - h[j - 1])
        low, high = self.values[i - 1], self.values[i]
        first = low[j - 1] + x * (high[j - 1] - low[j - 1])
        second = low[j] + x * (high[j] - low[j])
        return first + y * (second - first)


@dataclass(frozen=True)
class TablePower(StepPower):
    """Energy of the steps of one replica, all its devices together.

    Attributes
    ----------
    decode, prompt : ndarray
        Power of all but attention, by sequences; by tokens. [W]
    attention : float
        Power of attention. [W]
    waiting : float
        Power between steps. [W]
    """

    table: StepTable
    decode: FloatArray
    prompt: FloatArray
    attention: float
    waiting: float

    @property
    def idle(self) -> float:
        """Power between steps. [W]"""
        return self.waiting

    def energy(
        self,
        duration: FloatArray,
        steps: FloatArray,
        decoding: FloatArray,
        prompt: FloatArray,
    ) -> float:
        """Return the energy of rows of steps. [J]"""
        padded = np.array(self.table.padded)[decoding.astype(np.int64)]
        alone = np.array(self.table.decode_linear)[padded] * steps
        tokens = (prompt + decoding).astype(np.int64)
        together = np.array(self.table.linear)[tokens] + self.table.head[1]
        linear = np.minimum(np.where(prompt > 0, together, alone), duration)
        power = np.where(prompt > 0, self.prompt[tokens], self.decode[padded])
        return float(linear @ power + (duration - linear).sum() * self.attention)
