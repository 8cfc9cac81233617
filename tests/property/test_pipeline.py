"""Pipelines: simulator, recurrence and closed forms against each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.schedule.pipeline.check import in_flight, validate_order
from hwsim.schedule.pipeline.play import play_order
from hwsim.schedule.pipeline.schedules import pipeline_order
from hwsim.schedule.pipeline.time import peak_in_flight, pipeline_time
from hwsim.sim.pipeline.play import PipelineCosts, PipelineOptions, play_pipeline
from hwsim.sim.pipeline.replicas import replicate_pipeline

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "dualpipe")


@st.composite
def layouts(draw, schedules=SCHEDULES, least_groups=0):
    """Draw (schedule, pp, microbatches, vpp) that can be run."""
    schedule = draw(st.sampled_from(schedules))
    vpp = 1
    if schedule == "interleaved":
        pp, vpp = draw(st.integers(2, 5)), draw(st.integers(2, 4))
        count = pp * draw(st.integers(1, 4))
    elif schedule == "dualpipe":
        pp = 2 * draw(st.integers(1, 4))
        count = 2 * pp + 2 * draw(st.integers(0, 8))
    else:
        pp = draw(st.integers(1, 8))
        count = draw(st.integers(max(1, least_groups * pp), 24))
    return schedule, pp, count, vpp


def order_of(layout):
    schedule, pp, count, vpp = layout
    return pipeline_order(schedule, pp=pp, num_microbatches=count, vpp=vpp)


seeds = st.integers(0, 2**32 - 1)


def uneven(order, seed, top=2.0):
    """Times of forward, backward and weight gradient, and sends."""
    rng = np.random.default_rng(seed)
    shape = (len(order), order.chunks)
    times = [rng.uniform(0.0, top, shape) for _ in range(3)]
    return times, rng.uniform(0.0, 1.0, len(order))


class SlowPlay:
    """Longest path, by relaxing every dependency until nothing moves."""

    def __init__(self, order, times, send, blocking):
        self.order, self.times, self.send = order, times, send
        self.blocking = blocking
        self.two_ways = order.placement == "bidirectional"
        self.last = len(order) * (1 if self.two_ways else order.chunks) - 1
        self.where = {
            (order.stage(r, c), c if self.two_ways else 0): (r, c)
            for r in range(len(order))
            for c in range(order.chunks)
        }
        self.split = {
            (r, t.chunk, t.microbatch)
            for r in range(len(order))
            for t in order[r]
            if t.kind == "weight"
        }
        self.arrival = {}

    def feed(self, rank, task):
        """Rank and chunk of the stage that feeds a task, and the link's time."""
        stage = self.order.stage(rank, task.chunk)
        other = stage - 1 if task.kind == "forward" else stage + 1
        if task.kind == "weight" or not 0 <= other <= self.last:
            return None
        r, c = self.where[other, task.chunk if self.two_ways else 0]
        link = min(stage, other) % len(self.order)
        if self.two_ways:
            link = min(rank, r)
        return r, c, (self.send[link] if r != rank else 0.0)

    def sent_over(self, rank, task):
        """Time of the send that follows a task, or None."""
        if task.kind == "weight":
            return None
        # The result goes where the opposite pass of the same stage comes from.
        opposite = "backward" if task.kind == "forward" else "forward"
        feed = self.feed(rank, task._replace(kind=opposite))
        return None if feed is None or feed[0] == rank else feed[2]

    def duration(self, rank, task):
        forward, backward, weight = (t[rank, task.chunk] for t in self.times)
        whole = (rank, task.chunk, task.microbatch) not in self.split
        return {
            "forward": forward,
            "weight": weight,
            "backward": backward + (weight if whole else 0.0),
        }[task.kind]

    def run(self, rank):
        """Play one rank with the arrivals known so far; return its end."""
        free = port = end = 0.0
        index, tasks = 0, self.order[rank]
        joined = self.order.joined[rank] if self.order.joined else ()
        while index < len(tasks):
            group = tasks[index : index + (2 if index in joined else 1)]
            index += len(group)
            feeds = [(self.feed(rank, task), task) for task in group]
            ready = [
                self.arrival.get((f[0], task.kind, f[1], task.microbatch), 0.0)
                for f, task in feeds
                if f is not None
            ]
            end = max([free, *ready]) + sum(self.duration(rank, t) for t in group)
            free = end
            for task in group:
                send, arrives = self.sent_over(rank, task), end
                if send is not None:
                    arrives = port = max(port, end) + send
                    free = port if self.blocking else end
                self.arrival[rank, task.kind, task.chunk, task.microbatch] = arrives
        return end

    def makespan(self):
        for _ in range(10_000):
            before = dict(self.arrival)
            latest = max(self.run(rank) for rank in range(len(self.order)))
            if self.arrival == before:
                return latest
        raise AssertionError("the relaxation does not settle")


@settings(max_examples=40, deadline=None)
@given(layouts(), seeds, st.booleans())
def test_recurrence_is_the_longest_path(layout, seed, blocking):
    order = order_of(layout)
    times, send = uneven(order, seed)
    played = play_order(order, *times, send, blocking=blocking)
    slow = SlowPlay(order, times, send, blocking).makespan()
    assert math.isclose(played.makespan, slow, rel_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(layouts(), seeds, st.booleans(), st.booleans())
def test_simulator_equals_recurrence(layout, seed, blocking, shared):
    order = order_of(layout)
    (forward, backward, weight), send = uneven(order, seed)
    saving = np.random.default_rng(seed).uniform(0.0, 0.5, forward.shape)
    costs = PipelineCosts(
        forward=forward, backward=backward, weight=weight, saving=saving,
        latency=0.25 * send, transfer=0.75 * send,
    )  # fmt: skip
    exact = play_order(
        order, forward, backward, weight, send, saving=saving, blocking=blocking
    )
    options = PipelineOptions(blocking=blocking, shared_port=shared)
    played = play_pipeline(order, costs, options)
    assert math.isclose(played.makespan, exact.makespan, rel_tol=1e-9)
    for mine, theirs in zip(played.starts, exact.starts, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(played.busy, exact.busy, rtol=1e-9, atol=1e-12)
    assert not played.contended
    spent = played.busy + played.exposed_p2p + played.bubble
    np.testing.assert_allclose(spent, played.makespan, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(layouts(), seeds, st.booleans(), st.booleans(), st.booleans())
def test_replications_equal_single_plays(layout, seed, blocking, overlap, sync):
    order = order_of(layout)
    (forward, backward, weight), send = uneven(order, seed)
    costs = PipelineCosts(
        forward=forward, backward=backward, weight=weight, transfer=send,
        gradients=2.0 * weight, optimizer=send, gather=0.5 * send,
    )  # fmt: skip
    options = PipelineOptions(
        blocking=blocking, overlap_gradients=overlap, sync_optimizer=sync, jitter=0.3
    )
    many = replicate_pipeline(
        order, costs, options, np.random.default_rng(seed), replications=3
    )
    for made, child in zip(
        many.makespans, np.random.default_rng(seed).spawn(3), strict=True
    ):
        alone = play_pipeline(order, costs, options, child)
        assert math.isclose(alone.makespan, made, rel_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(layouts(), seeds)
def test_one_input_gives_one_timeline_bit_for_bit(layout, seed):
    order = order_of(layout)
    (forward, backward, weight), send = uneven(order, seed)
    costs = PipelineCosts(
        forward=forward, backward=backward, weight=weight, transfer=send,
        gradients=0.7, optimizer=0.2,
    )  # fmt: skip
    options = PipelineOptions(jitter=0.1, shared_port=seed % 2 == 0)
    first, second = (
        play_pipeline(order, costs, options, np.random.default_rng(seed))
        for _ in range(2)
    )
    assert first.records == second.records
    assert first.makespan == second.makespan


@settings(max_examples=60, deadline=None)
@given(layouts(), seeds)
def test_every_schedule_is_complete_and_cannot_deadlock(layout, seed):
    order = validate_order(order_of(layout))
    times, send = uneven(order, seed)
    played = play_order(order, *times, send)
    longest = play_order(order, *times, send, blocking=True)
    # A path through the ranks' serial work bounds the makespan from both sides.
    assert played.makespan >= played.busy.max() - 1e-9
    assert played.makespan <= longest.makespan + 1e-9
    assert longest.makespan <= played.busy.sum() + len(order.plan.rank) * send.sum()


@settings(max_examples=40, deadline=None)
@given(layouts(), seeds, st.floats(0.1, 10.0))
def test_rates_scale_and_slower_tasks_never_help(layout, seed, factor):
    order = order_of(layout)
    times, send = uneven(order, seed)
    base = play_order(order, *times, send).makespan
    scaled = play_order(order, *(factor * t for t in times), factor * send).makespan
    assert math.isclose(scaled, factor * base, rel_tol=1e-9)
    slower = [t.copy() for t in times]
    slower[seed % 3][seed % len(order)] *= 1.5
    assert play_order(order, *slower, send).makespan >= base * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(layouts(least_groups=1))
def test_closed_form_of_memory_is_the_order_s(layout):
    schedule, pp, count, vpp = layout
    held = in_flight(order_of(layout)).sum(axis=1)
    assert math.isclose(peak_in_flight(schedule, pp, count, vpp), held.max() / vpp)


def closed_and_exact(layout, rng, spread, slowest_p2p, *, blocking, head=0.0):
    """Closed form and recurrence of stages that differ by up to ``spread``."""
    schedule, pp, count, vpp = layout
    order = order_of(layout)
    split = schedule in ("zero_bubble", "dualpipe")
    forward = rng.uniform(0.8, 1.25)
    backward, weight = (1.0, rng.uniform(0.7, 1.0)) if split else (2.0, 0.0)
    stages = rng.uniform(1.0 - spread, 1.0 + spread, pp * vpp)
    stages[-1] += head * vpp
    scale = np.empty((pp, order.chunks))
    for rank in range(pp):
        for chunk in range(order.chunks):
            scale[rank, chunk] = stages[order.stage(rank, chunk)]
    # A microbatch passes all chunks of a looped rank, one of a two-way rank.
    rank_scale = scale.sum(axis=1) if order.placement == "looped" else scale.mean(1)
    p2p = rng.uniform(0.0, slowest_p2p)
    exact = play_order(
        order, forward * scale, backward * scale, weight * scale, p2p,
        blocking=blocking,
    ).makespan  # fmt: skip
    slowest = rank_scale.max()
    closed = pipeline_time(
        schedule, pp, count, vpp, forward * slowest, backward * slowest, p2p,
        weight=weight * slowest, blocking=blocking,
        total=(forward + backward + weight) * rank_scale.sum(),
    )  # fmt: skip
    return float(closed), exact


@settings(max_examples=80, deadline=None)
@given(layouts(("gpipe", "1f1b")), seeds, st.booleans())
def test_closed_forms_of_flushed_schedules_are_exact(layout, seed, blocking):
    rng = np.random.default_rng(seed)
    closed, exact = closed_and_exact(layout, rng, 0.0, 0.5, blocking=blocking)
    assert math.isclose(closed, exact, rel_tol=1e-9)


@settings(max_examples=100, deadline=None)
@given(layouts(("1f1b", "gpipe")), seeds)
def test_a_head_on_the_last_stage_keeps_the_closed_form_exact(layout, seed):
    rng = np.random.default_rng(seed)
    closed, exact = closed_and_exact(layout, rng, 0.0, 0.0, blocking=False, head=0.3)
    assert math.isclose(closed, exact, rel_tol=1e-9)


# (schedule, spread of stages, slowest transfer, largest error)
ERRORS = [
    ("interleaved", 0.0, 0.1, 0.01),
    ("zero_bubble", 0.0, 0.0, 1e-9),
    ("zero_bubble", 0.0, 0.1, 0.04),
    ("dualpipe", 0.0, 0.1, 0.03),
    ("gpipe", 0.1, 0.1, 0.05),
    ("1f1b", 0.1, 0.1, 0.08),
    ("interleaved", 0.1, 0.1, 0.12),
    ("zero_bubble", 0.1, 0.1, 0.09),
    ("dualpipe", 0.1, 0.1, 0.09),
]


@pytest.mark.parametrize(("schedule", "spread", "p2p", "bound"), ERRORS)
@pytest.mark.parametrize("blocking", [False, True])
def test_closed_forms_err_by_no_more_than_documented(
    schedule, spread, p2p, bound, blocking
):
    @settings(max_examples=30, deadline=None)
    @given(layouts((schedule,), least_groups=1), seeds)
    def check(layout, seed):
        rng = np.random.default_rng(seed)
        closed, exact = closed_and_exact(layout, rng, spread, p2p, blocking=blocking)
        assert abs(closed / exact - 1.0) <= bound

    check()


def test_closed_forms_rank_layouts_as_the_recurrence_does():
    rng = np.random.default_rng(7)
    closed, exact = [], []
    for schedule in SCHEDULES:
        for pp in (2, 4, 8):
            for groups in (2, 4, 8):
                layout = (
                    schedule,
                    pp,
                    groups * pp,
                    2 if schedule == "interleaved" else 1,
                )
                pair = closed_and_exact(layout, rng, 0.1, 0.1, blocking=False)
                closed.append(pair[0])
                exact.append(pair[1])
    ranks = [np.argsort(np.argsort(values)) for values in (closed, exact)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.99
