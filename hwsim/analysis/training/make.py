"""Puts a training step together: microbatches in a row, or stages of a pipeline."""

from __future__ import annotations

from hwsim.analysis.graph_result import PARTS
from hwsim.analysis.training.pipelined import Pipelined, next_stage_time
from hwsim.analysis.training.step import PlayedSchedule, Step, StepMaker
from hwsim.graph.training import training_graph
from hwsim.schedule.pipeline.schedules import pipeline_order
from hwsim.sim.pipeline.costs import PipelineCosts, PipelineOptions

_FORWARD = 1.0 / 3.0  # of a microbatch; a backward pass is two products of three


def make_step(maker: StepMaker) -> Step:
    """Return the step of one configuration."""
    if maker.config.pp == 1:
        return _flat(maker)
    ranks, hop = [maker] * maker.config.pp, next_stage_time(maker)
    parts = maker.config.parts(maker.model)
    return Pipelined(ranks, parts, [hop] * len(ranks)).make()


def _flat(maker: StepMaker) -> Step:
    """Return a step without pipeline: all microbatches one after the other."""
    options = maker.config.graph_options()
    last = maker.run(training_graph(maker.model, stack=maker.stack, **options))
    count = maker.config.num_microbatches - 1
    if not count:
        alone = last.time_s - maker.overhead
        rest = last.parts["interconnect"]
        schedule = flat_schedule(1, alone - rest, rest)
        return Step(last.time_s, dict(last.parts), ((last, 1.0),), (last,), schedule)
    graph = training_graph(maker.model, stack=maker.stack, last=False, **options)
    before = maker.run(graph)
    # The host's per-step overhead is paid once, not for each microbatch.
    step_s = last.time_s + count * (before.time_s - maker.overhead)
    parts = {p: last.parts[p] + count * before.parts[p] for p in PARTS}
    parts["overhead"] -= count * maker.overhead
    runs = ((last, 1.0), (before, float(count)))
    one = before.time_s - maker.overhead
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
