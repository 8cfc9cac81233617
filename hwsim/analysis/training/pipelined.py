"""A training step over pipeline ranks, which need not be alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwsim.analysis.graph_result import PARTS, GraphResult
from hwsim.analysis.training.step import (
    PlayedSchedule,
    RankShare,
    Step,
    StepMaker,
)
from hwsim.cost.collective import collective_cost
from hwsim.cost.cost import FloatArray
from hwsim.cost.sharing import level_use, mean_use, op_use
from hwsim.graph.partition import activation_message
from hwsim.graph.stage import StageGraphs, stage_graphs
from hwsim.schedule.pipeline.ahead import exposed_gather
from hwsim.schedule.pipeline.schedules import pipeline_order, pipeline_schedule
from hwsim.sim.links import Use
from hwsim.sim.pipeline.costs import PipelineCosts, PipelineOptions
from hwsim.sim.pipeline.play import play_pipeline
from hwsim.sim.pipeline.result import PlayedPipeline
from hwsim.specs.calibration import calibration_for
from hwsim.specs.system import SystemSpec


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


class Pipelined:
    """Builds the stages of a pipeline and plays their schedule.

    Parameters
    ----------
    makers : sequence of StepMaker
        Of each pipeline rank: system, stack, degrees. What concerns the whole
        pipeline is the same in all.
    layers : sequence of range
        Layers of each part, in order.
    hops : sequence of Send
        One send over the link between each rank and the next one.
    """

    def __init__(
        self,
        makers: Sequence[StepMaker],
        layers: Sequence[Sequence[int]],
        hops: Sequence[Send],
    ) -> None:
        self.makers, self.config = makers, makers[0].config
        self.layers, self.hops = layers, hops
        self._chunks: dict[Any, _Chunk] = {}
        self._stages: dict[Any, StageGraphs] = {}
        self._updates: dict[int, GraphResult] = {}

    @property
    def overhead(self) -> float:
        """Host time per step that nothing hides: the longest of all ranks. [s]"""
        return max(maker.overhead for maker in self.makers)

    def make(self) -> Step:
        """Return the step, played."""
        config, ranks = self.config, range(self.config.pp)
        order = pipeline_order(
            config.schedule, pp=config.pp, vpp=config.vpp,
            num_microbatches=config.num_microbatches,
        )  # fmt: skip
        chunks = [
            [self._chunk(rank, part) for part in config.rank_parts(rank)]
            for rank in ranks
        ]
        updates = [self._update(rank) for rank in ranks]
        overlap = all(maker.stack.overlap.dp for maker in self.makers)
        costs = self._costs(chunks, updates)
        schedule = PlayedSchedule(
            order, costs,
            PipelineOptions(
                overlap_gradients=overlap, shared_port=overlap and _may_meet(costs)
            ),
        )  # fmt: skip
        played = play_pipeline(order, schedule.costs, schedule.options)
        busiest = int(np.argmax(played.busy))
        first = chunks[busiest][0]
        shares = self._shares(chunks, updates, played)
        parts = {p: sum(s.parts[p] for s in shares) / config.pp for p in PARTS}
        parts["overhead"] += self.overhead
        return Step(
            played.makespan + self.overhead,
            parts,
            _mean_runs(shares),
            (*first.microbatch, updates[busiest]),
            schedule,
            played,
            shares,
            self.overhead,
        )

    @property
    def _visits(self) -> float:
        """Microbatches that go through each chunk."""
        return self.config.num_microbatches / (2 if self.config.two_ways else 1)

    def _graphs(
        self, maker: StepMaker, layers: Sequence[int], first: bool, last: bool
    ) -> StageGraphs:
        return stage_graphs(
            maker.model, layers=list(layers), first=first, last=last,
            pp=self.config.pp, stack=maker.stack, mirrored=self.config.two_ways,
            **maker.config.graph_options(),
        )  # fmt: skip

    def _key(
        self, maker: StepMaker, layers: Sequence[int], first: bool, last: bool
    ) -> Any:
        """Return what makes two parts alike."""
        kinds = tuple(maker.model.layer_kinds[i] for i in layers)
        every = self.config.recompute_every
        recomputed = sum(1 for i in layers if i % every == 0)
        return id(maker), kinds, first, last, recomputed

    def _chunk(self, rank: int, part: int) -> _Chunk:
        maker, layers = self.makers[rank], self.layers[part]
        first, last = part == 0, part == len(self.layers) - 1
        key = self._key(maker, layers, first, last)
        if key not in self._chunks:
            graphs, run = self._graphs(maker, layers, first, last), maker.run
            weight = None
            backward = graphs.backward
            splits = pipeline_schedule(self.config.schedule).splits_backward
            if splits and graphs.weight_gradients is not None:
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

    def _stage(self, rank: int) -> StageGraphs:
        """Return the graphs of all that a rank holds."""
        maker, parts = self.makers[rank], self.config.rank_parts(rank)
        layers = sorted(layer for part in parts for layer in self.layers[part])
        first, last = 0 in parts, len(self.layers) - 1 in parts
        key = self._key(maker, layers, first, last)
        if key not in self._stages:
            self._stages[key] = self._graphs(maker, layers, first, last)
        return self._stages[key]

    def _update(self, rank: int) -> GraphResult:
        stage = self._stage(rank)
        if id(stage) not in self._updates:
            self._updates[id(stage)] = self.makers[rank].run(stage.update)
        return self._updates[id(stage)]

    def _gather(self, rank: int, chunks: Sequence[_Chunk]) -> float:
        """Return how long a rank waits for its updated parameters. [s]"""
        maker, parts = self.makers[rank], self.config.rank_parts(rank)
        graph = self._stage(rank).gathering
        if graph is None:
            return 0.0
        forward = sum(c.forward.played.makespan for c in chunks) / len(chunks)
        layers = sum(len(self.layers[part]) for part in parts)
        whole = maker.run(graph, "closed_form").played.makespan
        return float(
            exposed_gather(whole, forward, layers, self.config.pp, len(chunks), rank)
        )

    def _costs(
        self, chunks: list[list[_Chunk]], updates: list[GraphResult]
    ) -> PipelineCosts:
        def table(pick: Any) -> FloatArray:
            return np.array([[pick(chunk) for chunk in rank] for rank in chunks])

        return PipelineCosts(
            forward=table(lambda c: c.forward.played.makespan),
            backward=table(lambda c: c.backward.played.makespan if c.backward else 0.0),
            weight=table(lambda c: c.weight.played.makespan if c.weight else 0.0),
            gradients=table(
                lambda c: c.reduction.played.makespan if c.reduction else 0.0
            ),
            latency=np.array([hop.fixed for hop in self.hops]),
            transfer=np.array([hop.transfer for hop in self.hops]),
            send_use=[hop.use for hop in self.hops],
            gradients_use=[
                _reduction_use(maker, rank)
                for maker, rank in zip(self.makers, chunks, strict=True)
            ],
            optimizer=np.array([u.played.makespan for u in updates]),
            gather=np.array([self._gather(r, c) for r, c in enumerate(chunks)]),
        )

    def _shares(
        self,
        chunks: list[list[_Chunk]],
        updates: list[GraphResult],
        played: PlayedPipeline,
    ) -> tuple[RankShare, ...]:
        """Return what each rank runs, and how its step splits."""
        count, found = self._visits, []
        for rank, maker in enumerate(self.makers):
            runs = [(g, count) for chunk in chunks[rank] for g in chunk.microbatch]
            runs.append((updates[rank], 1.0))
            parts = {p: sum(n * g.parts[p] for g, n in runs) for p in PARTS}
            parts["overhead"] -= sum(n for _, n in runs) * maker.overhead
            parts["interconnect"] += float(
                played.exposed_p2p[rank] + played.exposed_dp[rank]
            )
            parts["idle"] += float(played.bubble[rank])
            found.append(RankShare(tuple(runs), parts))
        return tuple(found)


def _reduction_use(maker: StepMaker, chunks: Sequence[_Chunk]) -> Use:
    """Return what reductions of gradients take of each network level."""
    found = [chunk.reduction for chunk in chunks if chunk.reduction is not None]
    if not found or found[0].played.makespan <= 0.0:
        return {}
    graph = found[0]
    calibration = calibration_for(maker.system.device, maker.fidelity)
    parts = [
        (op_use(op, maker.system, calibration), float(time * repeat))
        for op, time, repeat in zip(
            graph.costs.ops, graph.costs.interconnect, graph.repeats, strict=True
        )
    ]
    return mean_use(parts, graph.played.makespan)


def _may_meet(costs: PipelineCosts) -> bool:
    """Whether a send and a reduction want more of some level than there is."""
    sends = [use for use in costs.send_use if use]
    return any(
        send.get(level, 0.0) + share > 1.0 + 1e-9
        for reduction in costs.gradients_use
        for level, share in reduction.items()
        for send in sends
    )


def _mean_runs(shares: Sequence[RankShare]) -> tuple[tuple[GraphResult, float], ...]:
    """Return how often a device runs each graph, the mean over ranks."""
    times: dict[int, tuple[GraphResult, float]] = {}
    for share in shares:
        for graph, often in share.runs:
            had = times.get(id(graph), (graph, 0.0))[1]
            times[id(graph)] = (graph, had + often / len(shares))
    return tuple(times.values())


class Send(NamedTuple):
    """One send of a microbatch to the next stage.

    Attributes
    ----------
    fixed, transfer : float
        The part that no other traffic touches; the part on a network. [s]
    use : mapping of level to float
        Share of each network level that it takes while it runs alone.
    """

    fixed: float
    transfer: float
    use: Use


def next_stage_time(
    maker: StepMaker, system: SystemSpec | None = None, stride: int | None = None
) -> Send:
    """Return one send between stages.

    Parameters
    ----------
    system : SystemSpec, optional
        Another system than the stages' own to send over.
    stride : int, optional
        Devices from one stage to the next; those of a stage by default.
    """
    config, over = maker.config, system or maker.system
    nbytes = activation_message(
        maker.model, config.micro_batch, config.seq, config.tp,
        config.sequence_parallel, config.dtype, cp=config.cp,
        autocast=maker.stack.autocast,
    )  # fmt: skip
    common: dict[str, Any] = {
        "system": over, "calibration": calibration_for(over.device, maker.fidelity),
        "stride": stride or config.tp * config.cp * config.dp,
    }  # fmt: skip
    cost = collective_cost("send_recv", nbytes, 2, **common)
    use = level_use("send_recv", 2, **common)
    return Send(float(cost.overhead), float(cost.time - cost.overhead), use)
