"""How a training step is put together: microbatches, stages, their schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.graph_result import PARTS, Engine, GraphResult, run_graph
from hwsim.analysis.training.config import TrainConfig
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval, weighted
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.partition import activation_message
from hwsim.graph.stage import StageGraphs, stage_graphs
from hwsim.graph.training import training_graph
from hwsim.schedule.pipeline.schedules import pipeline_order
from hwsim.schedule.pipeline.tasks import PipelineOrder
from hwsim.sim.pipeline.costs import PipelineCosts, PipelineOptions
from hwsim.sim.pipeline.play import play_pipeline
from hwsim.sim.pipeline.result import PlayedPipeline
from hwsim.sim.records import Record
from hwsim.specs.calibration import calibration_for, resolved_fidelity
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

_FORWARD = 1.0 / 3.0  # of a microbatch; a backward pass is two products of three
SPLIT = ("zero_bubble", "dualpipe")  # schedules that divide the backward pass


@dataclass(frozen=True)
class PlayedSchedule:
    """What a step's schedule was played with, to play it again."""

    order: PipelineOrder
    costs: PipelineCosts
    options: PipelineOptions


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
    """

    step_s: float
    parts: dict[str, float]
    runs: tuple[tuple[GraphResult, float], ...]
    shown: tuple[GraphResult, ...]
    schedule: PlayedSchedule
    pipeline: PlayedPipeline | None = None

    def work(self, name: str) -> float:
        """Work of a device in the step: ``flop``, ``model_flop``, ``full_flop``."""
        return sum(float(getattr(run.graph, name)) * times for run, times in self.runs)

    @property
    def log_interval(self) -> LogInterval | None:
        """90 % interval as logarithms around ``step_s``; a bound has none."""
        found = [(run.log_interval, run.time_s * times) for run, times in self.runs]
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

    def make(self) -> Step:
        """Return the step."""
        return self._flat() if self.config.pp == 1 else _Pipelined(self).make()

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

    def _flat(self) -> Step:
        options = self.config.graph_options()
        last = self.run(training_graph(self.model, stack=self.stack, **options))
        count = self.config.num_microbatches - 1
        if not count:
            alone = last.time_s - self.overhead
            rest = last.parts["interconnect"]
            schedule = flat_schedule(1, alone - rest, rest)
            return Step(
                last.time_s, dict(last.parts), ((last, 1.0),), (last,), schedule
            )
        graph = training_graph(self.model, stack=self.stack, last=False, **options)
        before = self.run(graph)
        # The host's per-step overhead is paid once, not for each microbatch.
        step_s = last.time_s + count * (before.time_s - self.overhead)
        parts = {p: last.parts[p] + count * before.parts[p] for p in PARTS}
        parts["overhead"] -= count * self.overhead
        runs = ((last, 1.0), (before, float(count)))
        one = before.time_s - self.overhead
        schedule = flat_schedule(count + 1, one, last.time_s - before.time_s)
        return Step(step_s, parts, runs, (last,), schedule)


def flat_schedule(count: int, microbatch: float, rest: float) -> PlayedSchedule:
    """Return a step without pipeline as a pipeline of one rank.

    Parameters
    ----------
    count : int
        Microbatches.
    microbatch : float
        Time of one. [s]
    rest : float
        What the last one takes more: reductions and the update. [s]
    """
    order = pipeline_order("gpipe", pp=1, vpp=1, num_microbatches=count)
    costs = PipelineCosts(
        forward=microbatch * _FORWARD, backward=microbatch * (1.0 - _FORWARD),
        optimizer=rest,
    )  # fmt: skip
    return PlayedSchedule(order, costs, PipelineOptions())


@dataclass(frozen=True)
class _Chunk:
    """Graphs of one chunk of one rank, played."""

    forward: GraphResult
    backward: GraphResult | None
    weight: GraphResult | None
    reduction: GraphResult | None

    @property
    def microbatch(self) -> list[GraphResult]:
        """What one microbatch runs."""
        found = (self.forward, self.backward, self.weight)
        return [graph for graph in found if graph is not None]


class _Pipelined:
    """Builds the stages of a pipeline and plays their schedule."""

    def __init__(self, maker: StepMaker) -> None:
        self.maker, self.config = maker, maker.config
        self.layers = self.config.parts(maker.model)
        self._chunks: dict[Any, _Chunk] = {}
        self._updates: dict[Any, GraphResult] = {}

    def make(self) -> Step:
        config, maker = self.config, self.maker
        order = pipeline_order(
            config.schedule, pp=config.pp, vpp=config.vpp,
            num_microbatches=config.num_microbatches,
        )  # fmt: skip
        chunks = [
            [self._chunk(part) for part in config.rank_parts(rank)]
            for rank in range(config.pp)
        ]
        updates = [self._update(rank) for rank in range(config.pp)]
        schedule = PlayedSchedule(
            order, self._costs(chunks, updates),
            PipelineOptions(overlap_gradients=maker.stack.overlap.dp),
        )  # fmt: skip
        played = play_pipeline(order, schedule.costs, schedule.options)
        busiest = int(np.argmax(played.busy))
        first = chunks[busiest][0]
        return Step(
            played.makespan + maker.overhead,
            self._parts(chunks, updates, played),
            self._runs(chunks, updates),
            (*first.microbatch, updates[busiest]),
            schedule,
            played,
        )

    @property
    def _visits(self) -> float:
        """Microbatches that go through each chunk."""
        return self.config.num_microbatches / (2 if self.config.two_ways else 1)

    def _graphs(self, layers: Sequence[int], first: bool, last: bool) -> StageGraphs:
        return stage_graphs(
            self.maker.model, layers=list(layers), first=first, last=last,
            pp=self.config.pp, stack=self.maker.stack, mirrored=self.config.two_ways,
            **self.config.graph_options(),
        )  # fmt: skip

    def _key(self, layers: Sequence[int], first: bool, last: bool) -> Any:
        """Return what makes two parts alike."""
        kinds = tuple(self.maker.model.layer_kinds[i] for i in layers)
        every = self.config.recompute_every
        recomputed = sum(1 for i in layers if i % every == 0)
        return kinds, first, last, recomputed

    def _chunk(self, part: int) -> _Chunk:
        layers = self.layers[part]
        first, last = part == 0, part == len(self.layers) - 1
        key = self._key(layers, first, last)
        if key not in self._chunks:
            graphs, run = self._graphs(layers, first, last), self.maker.run
            weight = None
            backward = graphs.backward
            if self.config.schedule in SPLIT and graphs.weight_gradients is not None:
                backward = graphs.input_gradients
                weight = run(graphs.weight_gradients, "closed_form")
            # ZeRO 2 and 3 reduce gradients within each microbatch's backward.
            reduction = graphs.reduction if self.config.zero_stage < 2 else None
            # A table alone has no input's gradient; frozen, none at all.
            back = run(backward) if backward.blocks else None
            self._chunks[key] = _Chunk(
                run(graphs.forward), back, weight,
                run(reduction, "closed_form") if reduction else None,
            )  # fmt: skip
        return self._chunks[key]

    def _update(self, rank: int) -> GraphResult:
        parts = self.config.rank_parts(rank)
        layers = sorted(layer for part in parts for layer in self.layers[part])
        first, last = 0 in parts, len(self.layers) - 1 in parts
        key = self._key(layers, first, last)
        if key not in self._updates:
            update = self._graphs(layers, first, last).update
            self._updates[key] = self.maker.run(update)
        return self._updates[key]

    def _costs(
        self, chunks: list[list[_Chunk]], updates: list[GraphResult]
    ) -> PipelineCosts:
        def table(pick: Any) -> FloatArray:
            return np.array([[pick(chunk) for chunk in rank] for rank in chunks])

        latency, transfer = self._message()
        return PipelineCosts(
            forward=table(lambda c: c.forward.played.makespan),
            backward=table(lambda c: c.backward.played.makespan if c.backward else 0.0),
            weight=table(lambda c: c.weight.played.makespan if c.weight else 0.0),
            gradients=table(
                lambda c: c.reduction.played.makespan if c.reduction else 0.0
            ),
            latency=latency,
            transfer=transfer,
            optimizer=np.array([u.played.makespan for u in updates]),
        )

    def _message(self) -> tuple[float, float]:
        """Return fixed and size-dependent time of one send between stages. [s]"""
        from hwsim.cost.collective import collective_cost

        config, maker = self.config, self.maker
        nbytes = activation_message(
            maker.model, config.micro_batch, config.seq, config.tp,
            config.sequence_parallel, config.dtype, cp=config.cp,
            autocast=maker.stack.autocast,
        )  # fmt: skip
        cost = collective_cost(
            "send_recv", nbytes, 2, system=maker.system,
            calibration=calibration_for(maker.system.device, maker.fidelity),
            stride=config.tp * config.cp * config.dp,
        )  # fmt: skip
        return float(cost.overhead), float(cost.time - cost.overhead)

    def _parts(
        self,
        chunks: list[list[_Chunk]],
        updates: list[GraphResult],
        played: PlayedPipeline,
    ) -> dict[str, float]:
        """Return the breakdown, the mean over ranks."""
        count, ranks = self._visits, self.config.pp
        parts = dict.fromkeys(PARTS, 0.0)
        for rank in range(ranks):
            runs = [(g, count) for chunk in chunks[rank] for g in chunk.microbatch]
            for graph, times in [*runs, (updates[rank], 1)]:
                for part in PARTS:
                    parts[part] += times * graph.parts[part] / ranks
                parts["overhead"] -= times * self.maker.overhead / ranks
        parts["interconnect"] += float((played.exposed_p2p + played.exposed_dp).mean())
        parts["idle"] += float(played.bubble.mean())
        parts["overhead"] += self.maker.overhead
        return parts

    def _runs(
        self, chunks: list[list[_Chunk]], updates: list[GraphResult]
    ) -> tuple[tuple[GraphResult, float], ...]:
        times: dict[int, tuple[GraphResult, float]] = {}
        count, ranks = self._visits, self.config.pp
        for rank in range(ranks):
            runs = [(g, count) for chunk in chunks[rank] for g in chunk.microbatch]
            for graph, often in [*runs, (updates[rank], 1)]:
                had = times.get(id(graph), (graph, 0.0))[1]
                times[id(graph)] = (graph, had + often / ranks)
        return tuple(times.values())
