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
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from hwsim.analysis.graph_result import GraphResult, run_graph
from hwsim.analysis.launches import prompt_issue
from hwsim.analysis.serving.layout import ReplicaLayout, slowest_stage
from hwsim.analysis.serving.pipeline import pipelined
from hwsim.analysis.serving.points import PointRuns, Points, run_points, times_of
from hwsim.analysis.serving.table import PrefillTable, StepTable, TablePower
from hwsim.cost.collective import collective_cost
from hwsim.cost.energy import mean_power
from hwsim.cost.evaluate import Fidelity
from hwsim.graph.inference import (
    Part,
    decode_graph,
    points_graph,
    prefill_graph,
)
from hwsim.graph.op import Collective, MoeCombine, MoeDispatch, MoeExperts, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.precision import resolve
from hwsim.graph.setting import Pass
from hwsim.graph.writer import FEW_ROWS
from hwsim.sim.serving.cost import StepCost
from hwsim.sim.serving.records import StepPower
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import calibration_for
from hwsim.specs.economics import load_economics
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

FloatArray = npt.NDArray[np.float64]
#: Times of steps, and their power where the device quotes any.
TableOf = tuple[StepCost, StepPower | None]
_HARDLY = 0.01
_TILE = 64  # products are cut in tiles of such multiples: time steps up there


@dataclass(frozen=True)
class Deployment:
    """What one replica runs on and with.

    Attributes
    ----------
    system : SystemSpec
        Its first devices make a replica.
    layout : ReplicaLayout
        How they share the model.
    longest : int
        Most tokens that a request may have, prompt and output.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    layout: ReplicaLayout
    dtype: str
    weight_dtype: str
    kv_dtype: str
    fidelity: Fidelity
    longest: int

    @property
    def shapes(self) -> dict[str, object]:
        """Arguments that all graphs share."""
        return {
            "tp": self.layout.tp, "dtype": self.dtype, "stack": self.stack,
            "weight_dtype": self.weight_dtype, "kv_dtype": self.kv_dtype,
            "part": self.part, **self.layout.spread,
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
    def group(self) -> SystemSpec:
        """The system of one replica's devices."""
        return self.system.subsystem(self.layout.devices)

    @functools.cached_property
    def part(self) -> Part | None:
        """The layers of the slowest stage, with what stands around them."""
        if self.layout.pp == 1:
            return None
        return Part(slowest_stage(self.model, self.layout))

    @functools.cached_property
    def unbounded(self) -> ModelSpec:
        """The model without its limit: steps hold more tokens than one request."""
        return self.model.model_copy(update={"max_context": None})

    def steps(self, batch: ArrayLike, context: ArrayLike) -> Points:
        """Return decode steps of so many sequences of so much context each."""
        b, c = np.broadcast_arrays(*_floats(batch, context))
        return Points(self._graphs, b.ravel(), np.ones(b.size), c.ravel(), True)

    def chunks(self, prompt: ArrayLike, history: ArrayLike = 0) -> Points:
        """Return chunks of a prompt with so many tokens before each."""
        q, h = (x.ravel() for x in np.broadcast_arrays(*_floats(prompt, history)))
        return Points(self._graphs, np.ones(q.size), q, q + h, False)

    def _graphs(self, seen: Pass) -> OpGraph:
        return points_graph(self.model, seen, **self.shapes)  # type: ignore[arg-type]

    def runs(self, points: Points) -> PointRuns:
        """Return the times of many steps in closed form."""
        return run_points(points, self.group, self.launched, self.fidelity)

    def times(self, points: Points, chosen: Callable[[Op], bool]) -> FloatArray:
        """Return the time of some operators of each of many steps. [s]"""
        return times_of(points, chosen, self.group, self.stack, self.fidelity)

    def issue(self, history: int = 0) -> float:
        """Return the host time to issue a pass over a prompt, or a chunk of one. [s]"""
        graph = self.prefill(2, history)
        return prompt_issue(graph, self.group, self.stack, self.fidelity)

    @functools.cached_property
    def launched(self) -> StackSpec:
        """The stack, with what the engine's steps cost and capture."""
        launch, engine = self.stack.launch, self.engine
        changes: dict[str, float] = {}
        if engine.captured_tokens is not None:
            changes["captured_tokens"] = engine.captured_tokens
        if engine.step_overhead:
            changes["step_overhead"] = launch.step_overhead + engine.step_overhead
        if not changes:
            return self.stack
        return self.stack.model_copy(
            update={"launch": launch.model_copy(update=changes)}
        )

    def run(self, graph: OpGraph) -> GraphResult:
        """Return an exact graph's time in closed form."""
        return run_graph(graph, self.group, self.launched, fidelity=self.fidelity)


class _Key:
    """A deployment that is equal to one of the very same model and system."""

    __slots__ = ("deployment", "fields")

    def __init__(self, d: Deployment) -> None:
        self.deployment = d
        self.fields = (
            id(d.model), id(d.system), d.stack, d.engine, d.layout, d.dtype,
            d.weight_dtype, d.kv_dtype, d.fidelity, d.longest,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)


def step_table(deployment: Deployment) -> TableOf:
    """Tabulate a deployment's steps; power where the device quotes any.

    Tables of the last deployments are kept: a sweep over rates pays once.
    """
    table, power = _tabulated(_Key(deployment))
    if deployment.layout.pp == 1:
        return table, power
    return pipelined(table, power, deployment.model, deployment.engine,
                     deployment.layout)  # fmt: skip


@functools.lru_cache(maxsize=16)
def _tabulated(key: _Key) -> tuple[StepTable, TablePower | None]:
    deployment = key.deployment
    d, engine = deployment, deployment.engine
    most = max(engine.max_num_batched_tokens, d.longest) + engine.max_num_seqs
    padded = _padding(engine)
    batches = _batch_knots(engine, padded[-1])
    longest = max(d.longest, 64)
    windows = [k.window for k in d.model.layer_kinds if k.window is not None]
    contexts = _geometric(1, longest, 1.5)
    contexts = sorted({*contexts, *(w for w in windows if 0 < w < longest)})
    marks = _marked(d.decode(2, 16), d.decode(2, 48))
    grid = d.steps(np.array(batches)[:, np.newaxis], contexts)
    attention = d.times(grid, lambda op: op.name in marks)
    attention = attention.reshape(len(batches), len(contexts))
    # Not the first context: with no earlier token there is no state to read.
    alone = d.runs(d.steps(batches, contexts[1]))
    tokens = _token_knots(most)
    prompts = d.chunks(tokens)
    together = d.runs(prompts)
    seen = _marked(d.prefill(32), d.prefill(32, 16), d.prefill(32, 48))
    dependent = d.times(prompts, lambda op: op.name in seen)
    # A host that issues each kernel is a floor beside the device's own time.
    waits = 1.0 if d.stack.launch.mode == "eager" else 0.0
    alone_linear = alone.time_s - waits * alone.parts["idle"] - attention[:, 1]
    floor = _floor(d, together, tokens)
    rest = together.time_s - (floor > 0.0) * together.parts["idle"] - dependent
    rest = rest - together.head_s + _sent(d, tokens)
    alone_linear = alone_linear + _sent(d, batches)
    span, slots = np.arange(most + 1), np.arange(padded[-1] + 1)
    table = StepTable(
        padded=padded,
        linear=np.interp(span, tokens, rest).tolist(),
        floor=np.interp(span, tokens, floor).tolist(),
        head=np.interp(np.arange(most + 1), batches, alone.head_s).tolist(),
        decode_linear=np.interp(slots, batches, alone_linear).tolist(),
        contexts=np.array(contexts, dtype=np.float64),
        batches=np.array(batches, dtype=np.float64),
        decode_attention=attention, decode_floor=waits * alone.time_s,
        attention=_prefill_table(d, seen, most),
        per_sequence=engine.sequence_overhead, again=d.issue(2) - d.issue(),
        shared=_shared(d, prompts, tokens, span),
    )  # fmt: skip
    return table, _power(d, table, (batches, alone), (tokens, together))


def _floor(d: Deployment, prompts: PointRuns, tokens: list[int]) -> FloatArray:
    """Return the least that steps with prompts take because of the host. [s]"""
    if d.stack.launch.mode == "eager":
        return prompts.time_s
    issued = d.issue()
    if not issued:
        return np.zeros(len(tokens))
    # Where the device hardly waits, its own time is added up prompt by prompt.
    waits = prompts.parts["idle"] > _HARDLY * prompts.time_s
    beyond = np.array(tokens) > d.launched.launch.captured_tokens
    return np.where(beyond, np.where(waits, prompts.time_s, issued), 0.0)


def _sent(d: Deployment, tokens: list[int]) -> FloatArray:
    """Return the time to send a microbatch to the next pipeline stage. [s]"""
    if d.layout.pp == 1:
        return np.zeros(len(tokens))
    row = d.model.hidden * DTYPE_BYTES[resolve(d.dtype).act] / d.layout.tp
    cost = collective_cost(
        "send_recv", row * np.array(tokens), 2, system=d.group,
        calibration=calibration_for(d.system.device, d.fidelity),
        stride=d.layout.tp * d.layout.attention_dp,
    )  # fmt: skip
    return np.asarray(cost.time, dtype=np.float64)


def _shared(
    d: Deployment, prompts: Points, tokens: list[int], span: npt.NDArray[np.int64]
) -> list[float]:
    """Return the time of what groups do together, by tokens of each. [s]"""
    if d.layout.attention_dp == 1:
        return []
    kinds: tuple[type[Op], ...] = (MoeExperts,)
    if d.layout.joint(d.model).expert_mode == "gather":
        kinds = (MoeExperts, MoeDispatch, MoeCombine)

    def together(op: Op) -> bool:
        return isinstance(op, kinds) or (isinstance(op, Collective) and op.axis == "dp")

    shared: list[float] = np.interp(span, tokens, d.times(prompts, together)).tolist()
    return shared


def _padding(engine: EngineSpec) -> list[int]:
    """Return the batch that runs for 0, 1, … sequences."""
    sizes = sorted(engine.captured_batches)
    padded = [0]
    for batch in range(1, engine.max_num_seqs + 1):
        at = bisect_left(sizes, batch)
        padded.append(sizes[at] if at < len(sizes) else batch)
    return padded


def _batch_knots(engine: EngineSpec, most: int) -> list[int]:
    """Return all captured batches, and knots around tiles where none is padded."""
    captured = [b for b in engine.captured_batches if b <= most]
    knots = [1, *captured, most]
    if most > max(captured, default=0) or not captured:
        knots += [2, 3, 4, 6, 8, 12, 16, 20, 24, FEW_ROWS, FEW_ROWS + 1, 40, 48, 56]
        for tile in range(_TILE, most, _TILE):
            knots += [tile, tile + 1]
    return sorted({k for k in knots if k <= most})


def _token_knots(most: int) -> list[int]:
    knots = [1, 2, 3, 4, 6, 8, 11, 14, FEW_ROWS, FEW_ROWS + 1]
    knots += [*range(16, _TILE, 4), *range(80, 256, 16)]
    # Messages of whole powers of two go by other collectives than smaller ones.
    knots += [(1 << power) - 1 for power in range(5, most.bit_length())]
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


def _marked(*graphs: OpGraph) -> set[str]:
    """Return the names of operators that are not the same in all graphs."""
    by_name: dict[str, list[list[Op]]] = {}
    for graph in graphs:
        own: dict[str, list[Op]] = {}
        for _, _, node, _ in graph.distinct():
            own.setdefault(node.op.name, []).append(node.op)
        for name, ops in own.items():
            by_name.setdefault(name, []).append(ops)
    return {
        name
        for name, found in by_name.items()
        if len(found) < len(graphs) or any(ops != found[0] for ops in found)
    }


def _prefill_table(d: Deployment, marks: set[str], most: int) -> PrefillTable:
    tiles = [t + i for t in range(_TILE, 9 * _TILE, _TILE) for i in (0, 1)]
    chunks = [2, 4, 8, *tiles, *_geometric(1, most, 1.25)]
    chunks = sorted({c for c in chunks if c <= most})
    histories = [0, *_geometric(16, max(d.longest, 64), 1.6)]
    grid = d.chunks(np.array(chunks)[:, np.newaxis], histories)
    values = d.times(grid, lambda op: op.name in marks)
    values = values.reshape(len(chunks), len(histories))
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
    decode: tuple[list[int], PointRuns],
    prompt: tuple[list[int], PointRuns],
) -> TablePower | None:
    device = d.system.device
    if device.power.tdp is None:
        return None
    shares = load_economics().power

    def watts(runs: PointRuns) -> list[float]:
        points = range(runs.time_s.size)
        return [
            d.layout.tp * mean_power(device, runs.parts_at(i), shares) for i in points
        ]

    size = len(table.linear)
    longest = d.runs(d.steps(decode[0][-1], max(d.longest, 64)))
    return TablePower(
        table,
        np.interp(np.arange(size), decode[0], watts(decode[1])),
        np.interp(np.arange(size), prompt[0], watts(prompt[1])),
        watts(longest)[0],
        d.layout.tp * mean_power(device, {"idle": 1.0}, shares),
    )


def _floats(*values: ArrayLike) -> list[FloatArray]:
    return [np.asarray(v, dtype=np.float64) for v in values]
