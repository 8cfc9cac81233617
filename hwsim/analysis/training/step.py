"""A training step, and what the steps of one configuration are made with."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.analysis.graph_result import Engine, GraphResult, run_graph
from hwsim.analysis.training.config import TrainConfig
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval, weighted
from hwsim.graph.opgraph import OpGraph
from hwsim.schedule.pipeline.tasks import PipelineOrder
from hwsim.sim.pipeline.costs import PipelineCosts, PipelineOptions
from hwsim.sim.pipeline.result import PlayedPipeline
from hwsim.sim.records import Record
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


@dataclass(frozen=True)
class PlayedSchedule:
    """What a step's schedule was played with, to play it again."""

    order: PipelineOrder
    costs: PipelineCosts
    options: PipelineOptions


@dataclass(frozen=True)
class RankShare:
    """What a device of one pipeline rank does in a step.

    Attributes
    ----------
    runs : tuple of (GraphResult, float)
        Graphs, and how often it runs each.
    parts : dict of str to float
        Breakdown of the step, host time per step left out. [s]
    """

    runs: tuple[tuple[GraphResult, float], ...]
    parts: dict[str, float]


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes
    ----------
    step_s : float
        Its time. [s]
    parts : dict of str to float
        Its breakdown, the mean over pipeline ranks. [s]
    runs : tuple of (GraphResult, float)
        Graphs, and how often a device runs each in a step, the mean over
        pipeline ranks.
    shown : tuple of GraphResult
        Graphs that figures show: those of the busiest rank.
    schedule : PlayedSchedule
        What to play the step with again.
    pipeline : PlayedPipeline or None
        The played schedule.
    by_rank : tuple of RankShare
        What each pipeline rank does; empty where there is no pipeline.
    overhead : float
        Pipelines only: host time of the step that nothing hides. [s]
    """

    step_s: float
    parts: dict[str, float]
    runs: tuple[tuple[GraphResult, float], ...]
    shown: tuple[GraphResult, ...]
    schedule: PlayedSchedule
    pipeline: PlayedPipeline | None = None
    by_rank: tuple[RankShare, ...] = ()
    overhead: float = 0.0

    def work(self, name: str) -> float:
        """Work of a device in the step: ``flop``, ``model_flop``, ``full_flop``."""
        return sum(float(getattr(run.graph, name)) * times for run, times in self.runs)

    @property
    def operator_interval(self) -> LogInterval | None:
        """90 % interval by errors of operators, as logarithms; a bound has none."""
        found = [
            (run.operator_interval, run.time_s * times) for run, times in self.runs
        ]
        known = [(interval, time) for interval, time in found if interval is not None]
        return weighted(known) if known else None

    @property
    def records(self) -> tuple[Record, ...]:
        """The simulated timeline: of the pipeline, or of the last microbatch."""
        if self.pipeline is not None:
            return self.pipeline.records
        return self.shown[0].records


@dataclass(frozen=True)
class StepMaker:
    """What the steps of one configuration are made with."""

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    config: TrainConfig
    fidelity: Fidelity
    engine: Engine

    @property
    def overhead(self) -> float:
        """Host time per step that nothing hides. [s]"""
        bound = resolved_fidelity(self.system.device, self.fidelity) == "roofline"
        return 0.0 if bound else self.stack.launch.step_overhead

    def run(self, graph: OpGraph, engine: Engine | None = None) -> GraphResult:
        """Cost and play one graph."""
        return run_graph(
            graph, self.system, self.stack, fidelity=self.fidelity,
            engine=engine or self.engine, in_step=self.config.devices,
        )  # fmt: skip
