"""Times of engine steps, tabulated once from exact graphs.

A step's operators are of two sorts: those that depend on how much context the
sequences have (attention), and all others, which see the tokens of the step
together, whoever they belong to. The first are tabulated over batch and
context for decoding, over chunk and history for prompts; the second over the
number of tokens. Tables are linear between their knots, so that stretches of
decode steps sum in closed form.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwsim.analysis.graph_result import GraphResult, run_graph
from hwsim.cost.energy import mean_power
from hwsim.cost.evaluate import Fidelity, cost_ops
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Op
from hwsim.graph.opgraph import OpGraph
from hwsim.sim.serving_records import StepPower
from hwsim.specs.economics import load_economics
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

FloatArray = npt.NDArray[np.float64]
_INF = float("inf")
_TILE = 64  # products are cut in tiles of such multiples: time steps up there


@dataclass(frozen=True)
class Deployment:
    """What one replica runs on and with.

    Attributes
    ----------
    system : SystemSpec
        Of the ``tp`` devices of one replica.
    longest : int
        Most tokens that a request has, prompt and output.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    tp: int
    dtype: str
    weight_dtype: str
    kv_dtype: str
    fidelity: Fidelity
    longest: int

    @property
    def shapes(self) -> dict[str, object]:
        """Arguments that all graphs share."""
        return {
            "tp": self.tp, "dtype": self.dtype, "stack": self.stack,
            "weight_dtype": self.weight_dtype, "kv_dtype": self.kv_dtype,
        }  # fmt: skip

    def decode(self, batch: int, context: int) -> OpGraph:
        """Return the exact graph of a decode step."""
        return decode_graph(
            self.unbounded, batch=batch, context=context, **self.shapes  # type: ignore[arg-type]
        )  # fmt: skip

    def prefill(self, prompt: int, history: int = 0) -> OpGraph:
        """Return the exact graph of one chunk of a prompt."""
        return prefill_graph(
            self.unbounded, batch=1, prompt=prompt, history=history, **self.shapes  # type: ignore[arg-type]
        )  # fmt: skip

    @functools.cached_property
    def unbounded(self) -> ModelSpec:
        """The model without its limit: steps hold more tokens than one request."""
        return self.model.model_copy(update={"max_context": None})

    def run(self, graph: OpGraph) -> GraphResult:
        """Return an exact graph's time in closed form."""
        return run_graph(graph, self.system, self.stack, fidelity=self.fidelity)


@dataclass(frozen=True)
class StepTable:
    """Step times of a deployment; see :class:`hwsim.sim.serving.StepCost`.

    Attributes
    ----------
    padded : list of int
        Batch that runs for each number of sequences.
    linear, floor : list of float
        By tokens: all but attention and head; least the host takes. [s]
    head : list of float
        Last norm and logits, by sequences that get a token. [s]
    rows : callable
        Of a padded batch: knots in context, times, slopes.
    attention : PrefillTable
        Of prompt chunks.
    per_sequence : float
        Host time per sequence of a step. [s]
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

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks and decoding sequences."""
        tokens, attention = batch, 0.0
        for chunk, before in chunks:
            tokens += chunk
            attention += self.attention.time(chunk, before)
        attention -= (len(chunks) - 1) * self.attention.least  # one kernel for all
        sequences = batch + len(chunks)
        if batch:
            knots, _, slopes, kept = self._row(batch)
            at = bisect_right(knots, contexts) - 1
            attention += kept[at] + slopes[at] * (contexts - knots[at])
        time = self.linear[tokens] + self.head[sequences] + attention
        return max(time, self.floor[tokens]) + self.per_sequence * sequences

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
    idle : float
        Power between steps. [W]
    """

    table: StepTable
    decode: FloatArray
    prompt: FloatArray
    attention: float
    idle: float

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


def step_table(deployment: Deployment) -> tuple[StepTable, TablePower | None]:
    """Tabulate a deployment's steps; power where the device quotes any."""
    d, engine = deployment, deployment.engine
    most = max(engine.max_num_batched_tokens, d.longest) + engine.max_num_seqs
    padded = _padding(engine)
    batches = sorted({*_batch_knots(padded)})
    contexts = _geometric(1, max(d.longest, 64), 1.5)
    marks = _marked(d.decode(2, 16), d.decode(2, 48))
    attention = _times(d, [d.decode(b, c) for b in batches for c in contexts], marks)
    attention = attention.reshape(len(batches), len(contexts))
    alone = [d.run(d.decode(b, contexts[0])) for b in batches]
    tokens = _token_knots(most)
    together = [d.run(d.prefill(n)) for n in tokens]
    seen = _marked(d.prefill(32, 16), d.prefill(32, 48))
    dependent = _times(d, [g.graph for g in together], seen)
    alone_linear = _device(alone) - attention[:, 0]
    heads = np.array([_head(g) for g in alone])
    rest = _device(together) - dependent - np.array([_head(g) for g in together])
    span, slots = np.arange(most + 1), np.arange(padded[-1] + 1)
    table = StepTable(
        padded=padded,
        linear=np.interp(span, tokens, rest).tolist(),
        floor=np.interp(span, tokens, _floors(together)).tolist(),
        head=np.interp(np.arange(most + 1), batches, heads).tolist(),
        decode_linear=np.interp(slots, batches, alone_linear).tolist(),
        contexts=np.array(contexts, dtype=np.float64),
        batches=np.array(batches, dtype=np.float64),
        decode_attention=attention, decode_floor=_floors(alone),
        attention=_prefill_table(d, seen, most),
        per_sequence=engine.sequence_overhead,
    )  # fmt: skip
    return table, _power(d, table, (batches, alone), (tokens, together))


def _padding(engine: EngineSpec) -> list[int]:
    """Return the batch that runs for 0, 1, … sequences."""
    sizes = sorted(engine.captured_batches)
    padded = [0]
    for batch in range(1, engine.max_num_seqs + 1):
        at = bisect_left(sizes, batch)
        padded.append(sizes[at] if at < len(sizes) else batch)
    return padded


def _batch_knots(padded: list[int]) -> list[int]:
    """Return all padded batches where they are few; else knots around tiles."""
    used = sorted(set(padded[1:]))
    knots = [1, *(b for b in used if b <= 64), used[-1]]
    for tile in range(_TILE, used[-1], _TILE):
        knots += [tile, tile + 1]
    if len(used) <= 80:
        knots = [1, *used]
    return sorted({k for k in knots if k <= used[-1]})


def _token_knots(most: int) -> list[int]:
    knots = [1, 2, 3, 4, 6, 8, 11, 14, 18, 23, 28, 34, 42, 52, 64]
    at = 64
    while at < most:
        # Steps of a few per cent are told apart; later ones are smaller.
        knots += [at, at + 1]
        at += _TILE if at < 64 * _TILE else 8 * _TILE
    return sorted({k for k in (*knots, most) if k <= most})


def _geometric(first: int, last: int, ratio: float) -> list[int]:
    knots = [first]
    at = 16.0
    while at < last:
        knots.append(round(at))
        at *= ratio
    return sorted({*knots, last})


def _marked(graph: OpGraph, other: OpGraph) -> list[int]:
    """Return which operators differ between two contexts."""
    pairs = zip(graph.distinct(), other.distinct(), strict=True)
    return [i for i, (a, b) in enumerate(pairs) if a[2].op != b[2].op]


def _times(d: Deployment, graphs: list[OpGraph], marks: list[int]) -> FloatArray:
    """Return the time of the marked operators of each graph, in one call. [s]"""
    ops: list[Op] = []
    repeats: list[float] = []
    for graph in graphs:
        nodes = list(graph.distinct())
        ops += [nodes[i][2].op for i in marks]
        repeats += [float(nodes[i][3]) for i in marks]
    costs = cost_ops(ops, d.system, d.stack, d.fidelity)
    times = costs.time * np.array(repeats)
    return np.asarray(times.reshape(len(graphs), len(marks)).sum(axis=1))


def _head(result: GraphResult) -> float:
    """Return the time of the block after the layers. [s]"""
    names = [result.graph.blocks[b].name for b, *_ in result.graph.distinct()]
    mask = np.array([name == "head" for name in names])
    return float(result.costs.time @ (result.repeats * mask))


def _eager(results: list[GraphResult]) -> bool:
    return results[0].stack.launch.mode == "eager"


def _device(results: list[GraphResult]) -> FloatArray:
    """Return times, without waiting for a host that issues each kernel. [s]"""
    waits = 1.0 if _eager(results) else 0.0
    return np.array([r.time_s - waits * r.parts["idle"] for r in results])


def _floors(results: list[GraphResult]) -> FloatArray:
    """Return what a step takes at least because the host issues its kernels. [s]"""
    if not _eager(results):
        return np.zeros(len(results))
    return np.array([r.time_s for r in results])


def _prefill_table(d: Deployment, marks: list[int], most: int) -> PrefillTable:
    chunks = [2, 4, 8, *_geometric(1, most, 1.25)]
    chunks = sorted(set(chunks))
    histories = [0, *_geometric(16, max(d.longest, 64), 1.6)]
    graphs = [d.prefill(q, h) for q in chunks for h in histories]
    values = _times(d, graphs, marks).reshape(len(chunks), len(histories))
    # Between knots a chunk's own pairs grow with its square: divided by its
    # tokens they are nearly straight.
    span = np.arange(most + 1)
    per_token = values[:, 0] / np.array(chunks)
    whole = np.interp(span, chunks, per_token) * span
    small = span <= 64
    whole[small] = np.interp(span[small], chunks, values[:, 0])
    return PrefillTable(
        [float(q) for q in chunks], [float(h) for h in histories], values.tolist(),
        whole.tolist(), float(values[0, 0]),
    )  # fmt: skip


def _power(
    d: Deployment,
    table: StepTable,
    decode: tuple[list[int], list[GraphResult]],
    prompt: tuple[list[int], list[GraphResult]],
) -> TablePower | None:
    device = d.system.device
    if device.power.tdp is None:
        return None
    shares = load_economics().power
    watts: Callable[[GraphResult], float] = lambda g: (  # noqa: E731
        d.tp * mean_power(device, g.parts, shares)
    )
    size = len(table.linear)
    longest = d.run(d.decode(decode[0][-1], max(d.longest, 64)))
    return TablePower(
        table,
        np.interp(np.arange(size), decode[0], [watts(g) for g in decode[1]]),
        np.interp(np.arange(size), prompt[0], [watts(g) for g in prompt[1]]),
        watts(longest),
        d.tp * mean_power(device, {"idle": 1.0}, shares),
    )
