"""Playing a pipeline: gradients, optimizer, stragglers, jitter, records, speed."""

import json
import time
from itertools import groupby, pairwise

import numpy as np
import pytest
import simpy

from hwsim.errors import InputError
from hwsim.schedule.pipeline.play import play_order
from hwsim.schedule.pipeline.schedules import pipeline_order
from hwsim.sim.pipeline.play import (
    PipelineCosts,
    PipelineOptions,
    PipelinePlayer,
    play_pipeline,
)
from hwsim.sim.pipeline.replicas import replicate_pipeline
from hwsim.sim.trace import trace_json

UNIT = PipelineCosts(forward=1.0, backward=2.0)


@pytest.fixture
def order():
    return pipeline_order("1f1b", pp=4, num_microbatches=9)


def costs(**times):
    return PipelineCosts(**{"forward": 1.0, "backward": 2.0, **times})


def assert_all_time_is_accounted_for(played):
    spent = (
        played.busy + played.optimizer + played.exposed_p2p + played.exposed_dp
        + played.bubble
    )  # fmt: skip
    np.testing.assert_allclose(spent, played.makespan, rtol=1e-12)


def test_equal_stages_take_the_closed_form(order):
    played = play_pipeline(order, UNIT)
    assert played.makespan == 36.0
    assert played.bubble_fraction == 0.25
    assert played.busy.tolist() == [27.0] * 4
    assert not played.exposed_p2p.any()


def test_exposed_transfers_are_told_from_the_bubble(order):
    free = play_pipeline(order, UNIT)
    played = play_pipeline(order, costs(latency=0.05, transfer=0.05))
    assert played.makespan > free.makespan
    assert played.exposed_p2p.min() > 0.0
    # Rank 1's first input is 0.1 on the way, after rank 0 worked for 1.0.
    assert played.starts[1][0] == pytest.approx(1.1)
    assert_all_time_is_accounted_for(played)


def test_a_blocking_sender_is_exposed_to_its_own_sends():
    order = pipeline_order("gpipe", pp=2, num_microbatches=2)
    played = play_pipeline(order, costs(transfer=0.5), PipelineOptions(blocking=True))
    assert played.starts[0][:2].tolist() == [0.0, 1.5]
    # Rank 0 is held by two sends, and waits for two gradients on the way.
    assert played.exposed_p2p[0] == pytest.approx(2 * 0.5 + 2 * 0.5)
    assert_all_time_is_accounted_for(played)


def test_gradients_are_reduced_behind_the_last_backwards(order):
    played = play_pipeline(order, costs(gradients=4.0))
    ends = [end for _, _, _, end in sorted(played.reductions)]
    # Rank r's last backward ends 2 (3 - r) before the end of rank 0's.
    assert ends == pytest.approx([40.0, 38.0, 36.0, 34.0])
    assert played.makespan == 40.0
    assert played.compute_end == 36.0
    assert played.exposed_dp[0] == 4.0
    assert_all_time_is_accounted_for(played)


def test_chunks_reduce_while_other_chunks_still_work():
    order = pipeline_order("interleaved", pp=2, num_microbatches=4, vpp=2)
    times = costs(gradients=[[3.0, 2.0]] * 2)
    hidden = play_pipeline(order, times)
    after = play_pipeline(order, times, PipelineOptions(overlap_gradients=False))
    first, second = sorted(hidden.reductions)[:2]
    # Chunk 1 is done with its backwards first and goes first.
    assert (first[1], second[1]) == (0, 1)
    assert second[2] < hidden.compute_end - 2.0
    assert after.makespan == hidden.makespan + 2.0
    assert after.exposed_dp[0] == 5.0
    assert_all_time_is_accounted_for(after)


def test_gradients_of_a_split_backward_wait_for_the_weights():
    order = pipeline_order("zero_bubble", pp=2, num_microbatches=4)
    played = play_pipeline(order, costs(weight=1.0, gradients=1.0))
    starts = {rank: start for rank, _, start, _ in played.reductions}
    assert starts == {0: played.ends[0][-1], 1: played.ends[1][-1]}


def test_the_optimizer_waits_for_every_rank_when_the_norm_is_global(order):
    times = costs(gradients=[0.0, 0.0, 0.0, 9.0], optimizer=2.0, gather=0.5)
    together = play_pipeline(order, times)
    assert [start for start, _, _ in together.updates] == [39.0] * 4
    assert together.makespan == 41.5
    alone = play_pipeline(order, times, PipelineOptions(sync_optimizer=False))
    assert [start for start, _, _ in alone.updates] == [36.0, 34.0, 32.0, 39.0]
    assert together.optimizer.tolist() == [2.0] * 4
    for played in (together, alone):
        assert_all_time_is_accounted_for(played)


def test_sends_and_gradients_share_a_port():
    order = pipeline_order("interleaved", pp=2, num_microbatches=8, vpp=2)
    times = costs(transfer=0.4, gradients=6.0)
    apart = play_pipeline(order, times)
    shared = play_pipeline(order, times, PipelineOptions(shared_port=True))
    assert shared.contended
    assert not apart.contended
    assert shared.makespan > apart.makespan
    # Sharing loses no work: the port is busy for the same time in all.
    assert shared.makespan <= apart.makespan + 6.0
    assert_all_time_is_accounted_for(shared)


def test_blocking_sends_over_a_shared_port(order):
    times = costs(latency=0.1, transfer=0.2)
    options = [PipelineOptions(blocking=True, shared_port=s) for s in (False, True)]
    plain, shared = (play_pipeline(order, times, o) for o in options)
    assert shared.makespan == pytest.approx(plain.makespan, rel=1e-12)
    np.testing.assert_allclose(shared.exposed_p2p, plain.exposed_p2p)


def test_a_straggler_slows_the_whole_pipeline(order):
    played = play_pipeline(order, UNIT, PipelineOptions(slowdown=[1, 1, 1, 1.5]))
    # The last rank never waits between its first forward and last backward.
    assert played.makespan == pytest.approx(3 + 9 * 4.5 + 6)
    assert played.busy.tolist() == [27.0, 27.0, 27.0, 40.5]


def test_jitter_is_seeded_and_has_mean_one(order):
    options = PipelineOptions(jitter=0.2)
    first, again, other = (
        play_pipeline(order, UNIT, options, np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    assert first.records == again.records
    assert first.makespan != other.makespan
    long = pipeline_order("gpipe", pp=2, num_microbatches=4000)
    played = play_pipeline(long, UNIT, options, np.random.default_rng(1))
    assert played.busy.mean() == pytest.approx(12_000, rel=0.02)


def test_replications_have_percentiles_and_can_be_replayed(order):
    options = PipelineOptions(jitter=0.1)
    many = replicate_pipeline(
        order, UNIT, options, np.random.default_rng(3), replications=30
    )
    assert many.makespans.shape == (30,)
    low, median, high = many.percentile([5, 50, 95])
    assert low < median < high
    # Waiting for the slowest makes the mean worse than the nominal time.
    assert many.mean > 36.0
    assert many.nominal == 36.0
    child = np.random.default_rng(3).spawn(30)[17]
    again = play_pipeline(order, UNIT, options, child)
    assert again.makespan == pytest.approx(many.makespans[17], rel=1e-12)


def test_replications_over_a_shared_port_are_simulated(order):
    options = PipelineOptions(jitter=0.1, shared_port=True)
    many = replicate_pipeline(
        order, costs(transfer=0.1), options, np.random.default_rng(3), replications=3
    )
    child = np.random.default_rng(3).spawn(3)[2]
    again = play_pipeline(order, costs(transfer=0.1), options, child)
    assert again.makespan == many.makespans[2]


def test_more_replicas_wait_longer_for_the_slowest(order):
    options = PipelineOptions(jitter=0.1)
    means = [
        replicate_pipeline(
            order, costs(gradients=1.0), options, np.random.default_rng(3),
            replications=50, replicas=replicas,
        ).mean
        for replicas in (1, 8, 64)
    ]  # fmt: skip
    assert 37.0 < means[0] < means[1] < means[2]
    calm = replicate_pipeline(
        order, costs(gradients=1.0), PipelineOptions(), np.random.default_rng(3),
        replications=2, replicas=4,
    )  # fmt: skip
    assert calm.makespans.tolist() == [37.0, 37.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slowdown": [1.0]}, "each of the 4 pipeline ranks"),
        ({"slowdown": [1.0, 1.0, 1.0, 0.0]}, "a factor above 0"),
        ({"jitter": -0.1}, "jitter=-0.1"),
        ({"jitter": 0.1}, "jitter needs rng"),
    ],
)
def test_wrong_options_are_refused(order, options, said):
    rng = None if options == {"jitter": 0.1} else np.random.default_rng(0)
    with pytest.raises(InputError, match=said):
        play_pipeline(order, UNIT, PipelineOptions(**options), rng)


def test_wrong_costs_are_refused(order):
    with pytest.raises(InputError, match="gradients has shape"):
        play_pipeline(order, costs(gradients=[1.0, 2.0]))
    with pytest.raises(InputError, match="optimizer has a time"):
        play_pipeline(order, costs(optimizer=-1.0))
    with pytest.raises(InputError, match="replications=0"):
        replicate_pipeline(
            order, UNIT, PipelineOptions(), np.random.default_rng(0), replications=0
        )
    with pytest.raises(InputError, match="cannot be played with shared_port"):
        replicate_pipeline(
            order, UNIT, PipelineOptions(shared_port=True), np.random.default_rng(0),
            replicas=2,
        )  # fmt: skip


def test_the_player_shares_a_clock_with_others(order):
    env = simpy.Environment(initial_time=100.0)
    player = PipelinePlayer(env, order, costs(gradients=1.0, transfer=0.1))
    env.run(until=player.done)
    alone = play_pipeline(order, costs(gradients=1.0, transfer=0.1))
    assert env.now == pytest.approx(100.0 + alone.makespan)
    assert player.result().makespan == pytest.approx(alone.makespan)
    assert player.result().starts[0][0] == 0.0


@pytest.mark.parametrize("shared", [False, True])
def test_each_stream_has_a_row_without_overlaps(shared):
    order = pipeline_order("interleaved", pp=2, num_microbatches=4, vpp=2)
    times = costs(transfer=0.9, gradients=0.5, optimizer=0.2, gather=0.1)
    played = play_pipeline(order, times, PipelineOptions(shared_port=shared))
    rows = {
        key: sorted((r.start, r.end) for r in records)
        for key, records in groupby(
            sorted(played.records), key=lambda r: (r.rank, r.stream)
        )
    }
    assert set(rows) == {(r, s) for r in (0, 1) for s in ("compute", "dp", "pp")}
    for spans in rows.values():
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(spans))
    # 4 stages: 3 boundaries, both ways, 4 microbatches.
    assert sum(r.stream == "pp" for r in played.records) == 2 * 3 * 4
    assert max(r.end for r in played.records) == pytest.approx(played.makespan)
    phases = {(r.kind, r.phase) for r in played.records if r.stream == "compute"}
    assert phases == {
        ("forward", "forward"), ("backward", "backward"), ("optimizer", "optimizer")
    }  # fmt: skip
    events = json.loads(trace_json(played.records))["traceEvents"]
    assert sum(e["ph"] == "X" for e in events) == len(played.records)


def best_of(function, rounds=5):
    best = np.inf
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.benchmark_budget
@pytest.mark.parametrize(
    ("schedule", "pp", "vpp", "count", "budget"),
    [("1f1b", 8, 1, 512, 0.1), ("interleaved", 16, 8, 128, 0.5)],
)
def test_a_step_is_played_within_its_budget(schedule, pp, vpp, count, budget):
    order = pipeline_order(schedule, pp=pp, num_microbatches=count, vpp=vpp)
    times = costs(transfer=0.01, gradients=5.0, optimizer=1.0)
    played = play_pipeline(order, times)
    exact = play_order(order, 1.0, 2.0, 0.0, 0.01)
    assert played.compute_end == pytest.approx(exact.makespan, rel=1e-9)
    assert sum(len(s) for s in played.starts) == 2 * pp * vpp * count
    assert best_of(lambda: play_pipeline(order, times)) <= budget


def two_ranks(**uses):
    order = pipeline_order("interleaved", pp=2, num_microbatches=8, vpp=2)
    times = costs(transfer=0.4, gradients=6.0, **uses)
    apart = play_pipeline(order, times)
    return apart, play_pipeline(order, times, PipelineOptions(shared_port=True))


def test_sends_and_gradients_on_other_levels_do_not_meet():
    apart, shared = two_ranks(send_use=[{0: 1.0}] * 2, gradients_use=[{1: 1.0}] * 2)
    assert not shared.contended
    assert shared.makespan == pytest.approx(apart.makespan, rel=1e-12)
    np.testing.assert_allclose(shared.exposed_p2p, apart.exposed_p2p, atol=1e-9)
    np.testing.assert_allclose(shared.exposed_dp, apart.exposed_dp, atol=1e-9)
    assert shared.sends == tuple(pytest.approx(s) for s in apart.sends)


def test_the_more_of_a_level_reductions_take_the_longer_a_step():
    steps = [
        two_ranks(
            send_use=[{0: 1.0}] * 2, gradients_use=[{0: share, 1: 1.0}] * 2
        )[1].makespan
        for share in (0.0, 0.25, 0.5, 1.0)
    ]  # fmt: skip
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]


def test_a_send_waits_at_the_port_of_its_receiver_too():
    # Only the receiver's gradients are large: rank 0 has none to reduce.
    order = pipeline_order("interleaved", pp=2, num_microbatches=8, vpp=2)
    times = costs(transfer=0.4, gradients=[[0.0, 0.0], [6.0, 6.0]])
    shared = play_pipeline(order, times, PipelineOptions(shared_port=True))
    apart = play_pipeline(order, times)
    assert shared.contended

    def longest(played, rank):
        return max(
            end - start
            for task, start, end in played.sends
            if order.plan.rank[task] == rank
        )

    assert longest(apart, 0) == pytest.approx(0.4)
    assert longest(shared, 0) > 0.5
