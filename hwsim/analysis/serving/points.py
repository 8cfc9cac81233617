"""Steps of a deployment at many points at once: batches, contexts, chunks.

What a graph is made of depends on whether sequences have several new tokens and
whether there are earlier ones; points that are alike in both share one graph,
whose operators have arrays for sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwsim.analysis.graph_result import PARTS, parts_of
from hwsim.analysis.launches import launches_of, step_overhead
from hwsim.cost.evaluate import Fidelity, OpCosts, cost_graph, cost_ops
from hwsim.graph.op import Op
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.setting import Pass
from hwsim.graph.writer import FEW_ROWS
from hwsim.schedule.inorder_points import play_inorder_points
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

FloatArray = npt.NDArray[np.float64]
Graphs = Callable[[Pass], OpGraph]


@dataclass(frozen=True)
class Points:
    """Points of one kind of step.

    Attributes
    ----------
    graphs : callable
        Gives the graph of points that are alike.
    batch, new, seen : ndarray of float64, shape (points,)
        Sequences; new tokens of each, and all tokens that they attend to.
    decode : bool
        Whether it is a decode step.
    """

    graphs: Graphs
    batch: FloatArray
    new: FloatArray
    seen: FloatArray
    decode: bool

    def alike(
        self, captured: float = math.inf, few: float = math.inf
    ) -> Iterator[tuple[npt.NDArray[np.intp], OpGraph]]:
        """Yield points that share a graph, by index, with it.

        Points of more tokens than are ``captured``, or than are ``few``, come apart
        from the others.
        """
        kind = 2 * (self.new > 1) + (self.seen > self.new)
        tokens = self.batch * self.new
        kind = kind + 4 * (tokens > captured) + 8 * (tokens > few)
        for each in np.unique(kind):
            at = np.flatnonzero(kind == each)
            batch, new, seen = (
                _sizes(x[at]) for x in (self.batch, self.new, self.seen)
            )
            mode: Literal["decode", "prefill"] = "decode" if self.decode else "prefill"
            yield at, self.graphs(Pass(batch, new, seen, mode, cached=True))


def _sizes(values: FloatArray) -> Any:
    return values


@dataclass(frozen=True)
class PointRuns:
    """Times of all points.

    Attributes
    ----------
    time_s : ndarray of float64, shape (points,)
        Makespan plus the host time per step that nothing hides. [s]
    parts : dict of str to ndarray
        As :attr:`hwsim.analysis.graph_result.GraphResult.parts`. [s]
    head_s : ndarray of float64
        Of the block after the layers. [s]
    """

    time_s: FloatArray
    parts: dict[str, FloatArray]
    head_s: FloatArray

    def parts_at(self, index: int) -> dict[str, float]:
        """Return the parts of one point. [s]"""
        return {name: float(part[index]) for name, part in self.parts.items()}


def run_points(
    points: Points, system: SystemSpec, stack: StackSpec, fidelity: Fidelity
) -> PointRuns:
    """Return the times of steps, as :func:`run_graph` gives those of one."""
    fidelity = resolved_fidelity(system.device, fidelity)
    size = points.batch.size
    columns = {n: np.empty(size) for n in ("time", "head", *PARTS)}
    for at, graph in points.alike(stack.launch.captured_tokens, _few(stack)):
        costs = cost_graph(graph, system, stack, fidelity, points=at.size)
        for name, values in _played(graph, costs, system, stack, fidelity).items():
            columns[name][at] = values
    return PointRuns(
        columns["time"], {name: columns[name] for name in PARTS}, columns["head"]
    )


def _played(
    graph: OpGraph,
    costs: OpCosts,
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity,
) -> dict[str, Any]:
    launches, start = launches_of(graph, system, stack, fidelity)
    sizes = np.cumsum([len(block.nodes) for block in graph.blocks])
    by_block = np.split(costs.time, sizes[:-1])
    played = play_inorder_points(graph, by_block, launches, start=start)
    step = step_overhead(graph, stack, fidelity)
    parts, _ = parts_of(graph, costs, played, step)
    repeats = np.array([float(r) for *_, r in graph.distinct()])
    head = [graph.blocks[b].name == "head" for b, *_ in graph.distinct()]
    return {
        "time": played.makespan + step, "head": (repeats * head) @ costs.time, **parts
    }  # fmt: skip


def _few(stack: StackSpec) -> float:
    """Return the tokens up to which narrow weights stay as stored in products."""
    return FEW_ROWS if stack.fusion.stored == "copied" else math.inf


def times_of(
    points: Points,
    chosen: Callable[[Op], bool],
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity,
) -> FloatArray:
    """Return the time of some operators of each point, one after another. [s]"""
    total = np.zeros(points.batch.size)
    for at, graph in points.alike(few=_few(stack)):
        found = [(n.op, float(r)) for _, _, n, r in graph.distinct() if chosen(n.op)]
        if not found:
            continue
        ops = [op for op, _ in found]
        costs = cost_ops(ops, system, stack, fidelity, points=at.size)
        total[at] = np.array([repeat for _, repeat in found]) @ costs.time
    return total
