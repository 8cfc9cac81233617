"""One graph on one system: costs, closed form or simulation, breakdown."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwsim.analysis.launches import launches_of, step_overhead
from hwsim.analysis.packing import pack_records, pack_rows
from hwsim.analysis.result import Result
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity, OpCosts, cost_graph
from hwsim.cost.interval import LogInterval, beside, family_of, graph_interval
from hwsim.cost.sharing import op_use
from hwsim.errors import InputError
from hwsim.graph.opgraph import COMPUTE, OpGraph
from hwsim.graph.verify import verify
from hwsim.registry import draw
from hwsim.schedule.inorder import Playback, play_inorder
from hwsim.schedule.inorder_points import PointsPlayback
from hwsim.sim.records import PlayedGraph, Record
from hwsim.specs.calibration import (
    Calibration,
    calibration_for,
    load_intervals,
    resolved_fidelity,
)
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    import pandas as pd

Engine = Literal["closed_form", "simulate"]
PARTS = ("compute", "memory", "interconnect", "overhead", "idle")


@dataclass(frozen=True, repr=False)
class GraphResult(Result):
    """A graph's time on a system and how it splits.

    Attributes
    ----------
    time_s : float
        Makespan plus the host time per step that nothing hides. [s]
    parts : dict of str to float
        compute, memory, interconnect (exposed), overhead and idle (the device
        waits for the host); they add up to ``time_s``. [s]
    memory_levels : dict of str to float
        The memory part by level. [s]
    fidelity : str
        What the costs rest on: ``roofline``, ``structured`` or ``calibrated``.
    serial_sum : float
        All operators one after another, whatever could overlap. [s]
    """

    graph: OpGraph
    system: SystemSpec
    stack: StackSpec
    fidelity: Fidelity
    engine: Engine
    costs: OpCosts
    played: Playback | PlayedGraph
    time_s: float
    parts: dict[str, float]
    memory_levels: dict[str, float]

    kind = "graph"

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.graph.name

    @property
    def breakdown_s(self) -> dict[str, float]:
        """As ``parts``. [s]"""
        return dict(self.parts)

    @property
    def bound(self) -> str:
        """What most of the time goes to; ``launch`` is waiting for the host."""
        return largest_part(self.parts)

    @property
    def serial_sum(self) -> float:
        """All operators one after another. [s]"""
        return float(self.costs.time @ self.repeats)

    @property
    def calibration(self) -> Calibration:
        """Parameters and spreads of the families that hwsim's own models predict."""
        known = calibration_for(self.system.device, self.fidelity)
        return known.without(self.stack.replaced)

    @functools.cached_property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family in the graph rest on."""
        used = dict.fromkeys(family_of(op) for op in self.costs.ops)
        if self.fidelity == "roofline":
            return dict.fromkeys(used, self.fidelity)
        known = self.calibration.fidelities()
        return {family: known.get(family, "structured") for family in used}

    @functools.cached_property
    def log_interval(self) -> LogInterval | None:
        """90 % interval as logarithms around ``time_s``; a bound has none."""
        inside = self.operator_interval
        if inside is None:
            return None
        return beside(inside, outside(self.graph))

    @functools.cached_property
    def operator_interval(self) -> LogInterval | None:
        """As ``log_interval``, of errors of the operators alone."""
        if self.fidelity == "roofline":
            return None
        return graph_interval(
            self.costs.ops,
            self.costs.time,
            self.exposed_calls,
            self.time_s,
            self.calibration,
            None,
        )

    @functools.cached_property
    def exposed_calls(self) -> FloatArray:
        """Calls of each distinct operator whose time nothing hides."""
        sent = self._on_link()
        exposed = self.played.exposed_comm_time / sent if sent > 0 else 1.0
        shown = [
            1.0 if node.stream == COMPUTE else exposed
            for _, _, node, _ in self.graph.distinct()
        ]
        return np.asarray(self.repeats * np.array(shown), dtype=np.float64)

    def _on_link(self) -> float:
        beside = np.array(
            [node.stream != COMPUTE for _, _, node, _ in self.graph.distinct()]
        )
        return float(self.costs.time @ (self.repeats * beside))

    @property
    def interval_90(self) -> dict[str, tuple[float, float]] | None:
        """90 % prediction interval of ``time_s``. [s]"""
        found = self.log_interval
        return None if found is None else {"time_s": found.around(self.time_s)}

    @functools.cached_property
    def repeats(self) -> Any:
        """How often each distinct operator runs."""
        return np.array([float(r) for _, _, _, r in self.graph.distinct()])

    @property
    def records(self) -> tuple[Record, ...]:
        """The simulated timeline.

        Raises
        ------
        InputError
            If the result came from the closed form.
        """
        if isinstance(self.played, PlayedGraph):
            return self.played.records
        raise InputError(
            "a closed-form estimate has no timeline; use hwsim.simulate or "
            'engine="simulate"'
        )

    @property
    def timeline(self) -> pd.DataFrame:
        """One row per simulated operator: rank, stream, name, start, end. [s]"""
        import pandas as pd

        return pd.DataFrame(list(self.records), columns=list(Record._fields))

    @property
    def ops(self) -> pd.DataFrame:
        """One row per distinct operator: work, traffic, time and what binds."""
        import pandas as pd

        return pd.DataFrame(self.op_rows())

    def op_rows(self) -> list[dict[str, Any]]:
        """Return ``ops`` as dicts; times are of one call. [s]"""
        costs, bounds = self.costs, self.costs.bound()
        rows = []
        for i, (b, _, node, repeat) in enumerate(self.graph.distinct()):
            op = node.op
            rows.append(
                {
                    "block": self.graph.blocks[b].name, "name": op.name,
                    "kind": op.kind, "phase": op.phase, "stream": node.stream,
                    "dtype": op.dtype, "calls": repeat, "flop": op.flop,
                    "nbytes": op.nbytes, "time_s": float(costs.time[i]),
                    "total_s": float(costs.time[i]) * repeat,
                    "compute_s": float(costs.compute[i]),
                    "memory_s": float(costs.memory[i]),
                    "interconnect_s": float(costs.interconnect[i]),
                    "overhead_s": float(costs.overhead[i]), "bound": bounds[i],
                }
            )  # fmt: skip
        return rows

    @property
    def breakdown(self) -> pd.DataFrame:
        """One row per part: seconds and share of the time."""
        return breakdown_frame(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return time, work, traffic, breakdown and bound, in SI."""
        return {
            **self.header(),
            "graph": self.graph.name,
            "system": self.system.id,
            "stack": self.stack.id,
            "fidelity": self.fidelity,
            "fidelity_by_family": self.fidelity_by_family,
            "engine": self.engine,
            "time_s": self.time_s,
            "interval_90": self.interval_90,
            "flop": self.graph.flop,
            "nbytes": self.graph.nbytes,
            "breakdown": dict(self.parts),
            "memory_levels": dict(self.memory_levels),
            "bound": self.bound,
        }

    def details(self) -> dict[str, Any]:
        """Return the graph itself: operators and timeline."""
        return {"graphs": [self.packed()]}

    def packed(self) -> dict[str, Any]:
        """Return what a saved file keeps of the graph, in SI."""
        played = self.played
        return {
            "name": self.graph.name,
            "engine": self.engine,
            "fidelity": self.fidelity,
            "time_s": self.time_s,
            "flop": self.graph.flop,
            "nbytes": self.graph.nbytes,
            "parts": dict(self.parts),
            "memory_levels": dict(self.memory_levels),
            "ops": pack_rows(self.op_rows()),
            "timeline": pack_records(played.records)
            if isinstance(played, PlayedGraph) and played.records
            else None,
        }

    def plot_roofline(self, path: str | None = None) -> Any:
        """Draw the operators under the device's ceilings; return the figure."""
        return draw("roofline", [self], path=path)

    def plot_timeline(self, path: str | None = None) -> Any:
        """Draw the simulated timeline; return the figure."""
        return draw("timeline", self.records, path=path)

    def plot_breakdown(self, path: str | None = None) -> Any:
        """Draw the breakdown; return the figure."""
        return draw("breakdown", {self.graph.name: self.parts}, path=path)


def outside(graph: OpGraph) -> LogInterval:
    """Return what operators do not explain of a step: host, framework."""
    train = any(node.op.phase == "backward" for _, _, node, _ in graph.distinct())
    known = load_intervals().end_to_end
    term = known.get("train" if train else "infer", known["every"])
    return LogInterval(-term.low, term.high)


def breakdown_frame(parts: dict[str, float]) -> pd.DataFrame:
    """Return parts as a table with shares."""
    import pandas as pd

    total = sum(parts.values())
    return pd.DataFrame(
        {
            "part": list(parts),
            "time_s": list(parts.values()),
            "share": [v / total if total else 0.0 for v in parts.values()],
        }
    )


def largest_part(parts: dict[str, float]) -> str:
    """Return what most of the time goes to; idle means waiting for the host."""
    name = max(parts, key=lambda key: parts[key])
    return "launch" if name == "idle" else name


def run_graph(
    graph: OpGraph,
    system: SystemSpec,
    stack: StackSpec,
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "closed_form",
    ranks: int = 1,
    slowdown: Sequence[float] = (),
    in_step: int = 1,
) -> GraphResult:
    """Cost a graph and play it, in closed form or in SimPy.

    Parameters
    ----------
    graph : OpGraph
        What one device of the group runs; all run the same.
    system : SystemSpec
        Device and networks.
    stack : StackSpec
        Launch policy and kernel quality.
    ranks : int
        Simulation only: devices played; one stands for all, which are alike.
    slowdown : sequence of float
        Simulation only: factor on each rank's kernel times.
    in_step : int
        Devices that wait for each other: matrix work is as long as on the
        slowest of them.
    """
    verify(graph)
    fidelity = resolved_fidelity(system.device, fidelity)
    costs = cost_graph(graph, system, stack, fidelity, in_step=in_step)
    times = _by_block(graph, costs.time)
    launches, start = launches_of(graph, system, stack, fidelity)
    played: Playback | PlayedGraph
    if engine == "closed_form":
        played = play_inorder(graph, times, launches, start=start)
    elif engine == "simulate":
        from hwsim.sim.engine import play

        transfers = _by_block(graph, costs.interconnect)
        calibration = calibration_for(system.device, fidelity)
        played = play(
            graph, times, transfers, launches, start=start, ranks=ranks,
            use=lambda op: op_use(op, system, calibration), slowdown=slowdown,
        )  # fmt: skip
    else:
        raise InputError(f"engine {engine!r} is not closed_form or simulate")
    step = step_overhead(graph, stack, fidelity)
    parts, levels = parts_of(graph, costs, played, step)
    return GraphResult(
        graph, system, stack, fidelity, engine, costs, played,
        played.makespan + step,
        {name: float(part) for name, part in parts.items()},
        {name: float(part) for name, part in levels.items()},
    )  # fmt: skip


def _by_block(graph: OpGraph, values: Any) -> list[list[float]]:
    flat, rows, at = values.tolist(), [], 0
    for block in graph.blocks:
        rows.append(flat[at : at + len(block.nodes)])
        at += len(block.nodes)
    return rows


def parts_of(
    graph: OpGraph,
    costs: OpCosts,
    played: Playback | PlayedGraph | PointsPlayback,
    step: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a time by part, and its memory part by level; of each point. [s]"""
    weights = np.array(
        [float(r) * (n.stream == COMPUTE) for _, _, n, r in graph.distinct()]
    )
    levels = {name: weights @ part for name, part in costs.levels.items()}
    parts = {
        "compute": weights @ costs.compute,
        "memory": sum(levels.values()),
        "interconnect": weights @ costs.interconnect + played.exposed_comm_time,
        "overhead": weights @ costs.overhead + step,
        "idle": played.idle,
    }
    return parts, levels
