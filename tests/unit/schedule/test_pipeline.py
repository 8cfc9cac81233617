"""Pipeline schedules: order, checks, memory, closed forms."""

import importlib.metadata
import pickle
import time

import numpy as np
import pytest

from hwsim.errors import HwsimError, InputError, UnknownNameError
from hwsim.schedule.pipeline import schedules as pipeline
from hwsim.schedule.pipeline.ahead import exposed_gather
from hwsim.schedule.pipeline.check import in_flight, validate_order
from hwsim.schedule.pipeline.play import play_order
from hwsim.schedule.pipeline.schedules import (
    PipelineOrder,
    PipelineSchedule,
    StageTask,
    check_pipeline,
    pipeline_order,
    pipeline_schedule,
    pipeline_schedules,
)
from hwsim.schedule.pipeline.time import (
    bubble_fraction,
    peak_in_flight,
    pipeline_time,
)

BUILT_IN = ("1f1b", "dualpipe", "gpipe", "interleaved", "zero_bubble")
F, B, W = "forward", "backward", "weight"


def short(tasks):
    return " ".join(f"{t.kind[0]}{t.microbatch}.{t.chunk}" for t in tasks)


def order_of(text):
    """Parse what ``short`` writes."""
    kinds = {"f": F, "b": B, "w": W}
    return tuple(
        StageTask(kinds[word[0]], int(word[-1]), int(word[1:-2]))
        for word in text.split()
    )


def test_built_in_schedules_come_through_the_entry_point_group():
    found = importlib.metadata.entry_points(group="hwsim.schedules")
    assert set(BUILT_IN) <= {entry.name for entry in found}
    assert set(BUILT_IN) <= set(pipeline_schedules())
    for name in BUILT_IN:
        assert pipeline_schedule(name).name == name


def test_gpipe_runs_all_forwards_first():
    order = pipeline_order("gpipe", pp=2, num_microbatches=3)
    assert [short(t) for t in order] == ["f0.0 f1.0 f2.0 b0.0 b1.0 b2.0"] * 2


def test_1f1b_runs_ahead_by_the_ranks_after_it():
    order = pipeline_order("1f1b", pp=3, num_microbatches=4)
    assert [short(t) for t in order] == [
        "f0.0 f1.0 f2.0 b0.0 f3.0 b1.0 b2.0 b3.0",
        "f0.0 f1.0 b0.0 f2.0 b1.0 f3.0 b2.0 b3.0",
        "f0.0 b0.0 f1.0 b1.0 f2.0 b2.0 f3.0 b3.0",
    ]


def test_interleaved_runs_ahead_as_megatron_does():
    order = pipeline_order("interleaved", pp=2, num_microbatches=4, vpp=2)
    # Warm-up of 2 (pp - rank - 1) + (vpp - 1) pp: four and two forwards.
    assert [short(t) for t in order] == [
        "f0.0 f1.0 f0.1 f1.1 f2.0 b0.1 f3.0 b1.1 f2.1 b0.0 f3.1 b1.0 "
        "b2.1 b3.1 b2.0 b3.0",
        "f0.0 f1.0 f0.1 b0.1 f1.1 b1.1 f2.0 b0.0 f3.0 b1.0 f2.1 b2.1 "
        "f3.1 b3.1 b2.0 b3.0",
    ]


def test_zero_bubble_puts_off_as_many_weight_gradients_as_ranks_before():
    order = pipeline_order("zero_bubble", pp=3, num_microbatches=4)
    assert short(order[0]) == (
        "f0.0 f1.0 f2.0 b0.0 w0.0 f3.0 b1.0 w1.0 b2.0 w2.0 b3.0 w3.0"
    )
    assert short(order[2]) == (
        "f0.0 b0.0 f1.0 b1.0 f2.0 b2.0 w0.0 f3.0 b3.0 w1.0 w2.0 w3.0"
    )


def test_dualpipe_feeds_microbatches_from_both_ends():
    order = pipeline_order("dualpipe", pp=4, num_microbatches=8)
    assert order.placement == "bidirectional"
    assert [order.stage(rank, 0) for rank in range(4)] == [0, 1, 2, 3]
    assert [order.stage(rank, 1) for rank in range(4)] == [3, 2, 1, 0]
    for tasks in order:
        seen = {(t.microbatch, t.chunk) for t in tasks}
        assert seen == {(i, 0 if i < 4 else 1) for i in range(8)}
    # The first and the last rank mirror each other.
    mirrored = [(t.kind, 1 - t.chunk, (t.microbatch + 4) % 8) for t in order[0]]
    assert [tuple(t) for t in order[3]] == mirrored


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("pp", "count"), [(1, 1), (1, 5), (4, 2), (4, 4), (8, 33)])
def test_flushed_pipelines_take_m_plus_p_minus_1_steps(schedule, pp, count):
    order = pipeline_order(schedule, pp=pp, num_microbatches=count)
    forward, backward = 1.25, 2.75
    expected = (count + pp - 1) * (forward + backward)
    played = play_order(order, forward, backward)
    assert played.makespan == pytest.approx(expected, rel=1e-12)
    assert played.bubble_fraction == pytest.approx((pp - 1) / (count + pp - 1))
    assert pipeline_time(schedule, pp, count, 1, forward, backward) == pytest.approx(
        expected, rel=1e-12
    )
    assert bubble_fraction(schedule, pp, count) == pytest.approx(
        (pp - 1) / (count + pp - 1)
    )


@pytest.mark.parametrize(("pp", "count", "vpp"), [(2, 2, 2), (4, 4, 3), (8, 64, 4)])
def test_interleaving_divides_the_bubble_by_the_chunks(pp, count, vpp):
    order = pipeline_order("interleaved", pp=pp, num_microbatches=count, vpp=vpp)
    played = play_order(order, 1.0 / vpp, 2.0 / vpp)
    assert played.makespan == pytest.approx(count * 3.0 + (pp - 1) * 3.0 / vpp)
    assert pipeline_time("interleaved", pp, count, vpp, 1.0, 2.0) == pytest.approx(
        played.makespan
    )


@pytest.mark.parametrize(("pp", "count"), [(1, 3), (4, 4), (8, 40)])
def test_zb_h1_bubble_is_forward_plus_input_minus_weight_gradient(pp, count):
    forward, backward, weight = 1.0, 1.1, 0.9
    order = pipeline_order("zero_bubble", pp=pp, num_microbatches=count)
    work = count * (forward + backward + weight)
    expected = work + (pp - 1) * (forward + backward - weight)
    assert play_order(order, forward, backward, weight).makespan == pytest.approx(
        expected
    )
    assert pipeline_time(
        "zero_bubble", pp, count, 1, forward, backward, weight=weight
    ) == pytest.approx(expected)
    fused = play_order(
        pipeline_order("1f1b", pp=pp, num_microbatches=count),
        forward, backward, weight,
    )  # fmt: skip
    assert pp == 1 or expected < fused.makespan


@pytest.mark.parametrize("pp", [2, 3, 4, 8])
@pytest.mark.parametrize("times", [(1.0, 1.0, 1.0), (1.0, 1.2, 0.8), (2.0, 1.0, 0.5)])
def test_zero_bubble_with_few_microbatches_waits_for_inputs_only(pp, times):
    """Fewer microbatches than ranks: down and up, then one weight gradient.

    The first microbatch goes down all ranks; the last rank works through the
    others without a pause; the last input's gradient comes up again; of weights
    only the last microbatch's on the first rank is left.
    """
    forward, backward, weight = times
    for count in range(1, pp + 1):
        order = pipeline_order("zero_bubble", pp=pp, num_microbatches=count)
        played = play_order(order, forward, backward, weight).makespan
        assert played == pytest.approx(
            (pp + count - 1) * (forward + backward) + weight, rel=1e-12
        )
        closed = pipeline_time(
            "zero_bubble", pp, count, 1, forward, backward, weight=weight
        )
        assert float(closed) == pytest.approx(played, rel=1e-12)
        assert in_flight(order)[0, 0] == count
        weights = [t for tasks in order for t in tasks if t.kind == "weight"]
        assert len(weights) == pp * count


@pytest.mark.parametrize(("pp", "count"), [(2, 4), (4, 8), (8, 20), (16, 64)])
def test_dualpipe_bubble_is_the_published_one(pp, count):
    forward, backward, weight = 1.0, 1.2, 0.8
    order = pipeline_order("dualpipe", pp=pp, num_microbatches=count)
    pair, whole = forward + backward + weight, backward + weight
    # DeepSeek-V3 report, table 2: (PP/2 - 1)(F&B + B - 3W).
    bubble = (pp / 2 - 1) * (pair + whole - 3 * weight)
    played = play_order(order, forward, backward, weight)
    assert played.makespan == pytest.approx(count * pair + bubble)
    assert pipeline_time(
        "dualpipe", pp, count, 1, forward, backward, weight=weight
    ) == pytest.approx(played.makespan)


def test_joined_pairs_save_what_they_hide():
    order = pipeline_order("dualpipe", pp=8, num_microbatches=32)
    plain = play_order(order, 1.0, 1.0, 1.0)
    saved = play_order(order, 1.0, 1.0, 1.0, saving=0.2)
    # Rank 0 joins the fewest pairs.
    assert [len(places) for places in order.joined][:4] == [21, 22, 23, 24]
    assert plain.busy[0] - saved.busy[0] == pytest.approx(21 * 0.2)
    closed = pipeline_time("dualpipe", 8, 32, 1, 1.0, 1.0, weight=1.0, saving=0.2)
    assert closed == pytest.approx(saved.makespan)


def test_transfers_of_1f1b_cost_one_round_trip_for_each_p_microbatches():
    order = pipeline_order("1f1b", pp=4, num_microbatches=8)
    # Fill and drain take 6 transfers, the other 7 microbatches 2 each, of
    # which ceil(7/4) are hidden.
    played = play_order(order, 1.0, 2.0, send=0.1)
    assert played.makespan == pytest.approx(33.0 + 0.1 * (6 + 2 * (7 - 2)))
    blocked = play_order(order, 1.0, 2.0, send=0.1, blocking=True)
    assert blocked.makespan == pytest.approx(33.0 + 0.1 * (2 * 8 + 2 * 4 - 5))


def test_each_link_has_its_own_time():
    order = pipeline_order("1f1b", pp=3, num_microbatches=1)
    played = play_order(order, 1.0, 2.0, send=[0.1, 0.2, 9.0])
    assert played.makespan == pytest.approx(9.0 + 2 * (0.1 + 0.2))
    looped = pipeline_order("interleaved", pp=2, num_microbatches=2, vpp=2)
    free, wrapped = (play_order(looped, 1.0, 1.0, send=[0.0, s]) for s in (0.0, 0.5))
    assert wrapped.makespan == pytest.approx(free.makespan + 2 * 0.5)


def test_sends_of_one_rank_go_one_after_the_other():
    order = pipeline_order("gpipe", pp=2, num_microbatches=3)
    played = play_order(order, 1.0, 1.0, send=4.0)
    assert played.starts[1][:3].tolist() == [5.0, 9.0, 13.0]


def test_a_task_waits_for_its_rank_and_its_input():
    order = pipeline_order("1f1b", pp=2, num_microbatches=2)
    played = play_order(order, [1.0, 3.0], [2.0, 1.0], [0.5, 0.25])
    assert played.starts[0].tolist() == [0.0, 1.0, 5.25, 9.5]
    assert played.ends[1].tolist() == [4.0, 5.25, 8.25, 9.5]
    assert played.makespan == 12.0
    assert played.busy.tolist() == [7.0, 8.5]


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_in_flight_counts_what_each_rank_holds(count):
    def held(schedule):
        order = pipeline_order(schedule, pp=4, num_microbatches=count)
        return in_flight(order)[:, 0].tolist()

    assert held("gpipe") == [count] * 4
    assert held("1f1b") == [min(count, 4 - rank) for rank in range(4)]
    if count >= 4:
        assert held("zero_bubble") == [4.0] * 4


def test_in_flight_of_interleaved_and_dualpipe():
    order = pipeline_order("interleaved", pp=4, num_microbatches=16, vpp=2)
    held = in_flight(order)
    # Rank r: 2 (p - r - 1) + (v - 1) p forwards ahead, and one in work.
    assert held.sum(axis=1).tolist() == [11.0, 9.0, 7.0, 5.0]
    assert peak_in_flight("interleaved", 4, 16, 2) == 5.5
    both = in_flight(pipeline_order("dualpipe", pp=8, num_microbatches=32))
    assert both.sum(axis=1).tolist() == [9.0] * 8
    assert peak_in_flight("dualpipe", 8, 32) == 9.0


def test_in_flight_is_taken_when_the_weighted_sum_is_largest():
    order = PipelineOrder([order_of("f0.0 f0.1 b0.1 b0.0 f1.0 f1.1 b1.1 b1.0")])
    assert in_flight(order).tolist() == [[1.0, 1.0]]
    early = PipelineOrder([order_of("f0.0 f1.0 f0.1 b0.1 b0.0 f1.1 b1.1 b1.0")])
    assert in_flight(early, [[1.0, 5.0]]).tolist() == [[2.0, 1.0]]


def test_a_part_is_held_until_the_weight_gradient():
    order = pipeline_order("zero_bubble", pp=4, num_microbatches=20)
    freed = in_flight(order, held_for_weight=0.0)[:, 0]
    assert freed.tolist() == [4.0, 3.0, 2.0, 1.0]
    half = in_flight(order, held_for_weight=0.5)[:, 0]
    assert half.tolist() == [4.0, 3.5, 3.0, 2.5]
    with pytest.raises(InputError, match="give 0 to 1"):
        in_flight(order, held_for_weight=1.5)


@pytest.mark.parametrize(
    ("schedule", "layout", "said"),
    [
        ("interleaved", (4, 10, 2), "num_microbatches=10; use 12"),
        ("interleaved", (4, 1, 2), "num_microbatches=1; use 4"),
        ("interleaved", (4, 8, 1), "use vpp=2 or the schedule '1f1b'"),
        ("interleaved", (1, 8, 2), "use the schedule '1f1b'"),
        ("1f1b", (4, 8, 2), "use vpp=1, or the schedule 'interleaved'"),
        ("gpipe", (4, 8, 2), "vpp=2"),
        ("zero_bubble", (4, 8, 2), "'zero_bubble'"),
        ("dualpipe", (3, 8, 1), "use pp=4"),
        ("dualpipe", (4, 6, 1), "num_microbatches=6; use 8"),
        ("dualpipe", (4, 11, 1), "use 12"),
        ("1f1b", (0, 8, 1), "pp=0 must be at least 1"),
        ("1f1b", (2, 0, 1), "num_microbatches=0"),
        ("1f1b", (2, 2, -1), "vpp=-1"),
    ],
)
def test_an_impossible_layout_names_the_nearest_valid_one(schedule, layout, said):
    pp, count, vpp = layout
    with pytest.raises(InputError) as caught:
        pipeline_order(schedule, pp=pp, num_microbatches=count, vpp=vpp)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_must_fill_the_stages():
    def check(pp, vpp, layers, *, even=False):
        check_pipeline(
            "interleaved" if vpp > 1 else "1f1b",
            pp=pp, num_microbatches=4 * pp, vpp=vpp, num_layers=layers, even=even,
        )  # fmt: skip

    check(4, 2, 8, even=True)
    check(4, 2, 9)
    with pytest.raises(InputError, match="use pp=3 or fewer"):
        check(4, 1, 3)
    with pytest.raises(InputError, match="use vpp=2 or fewer"):
        check(4, 3, 11)
    with pytest.raises(InputError, match="use pp=4"):
        check(5, 1, 12, even=True)
    with pytest.raises(InputError, match="use vpp=2"):
        check(4, 3, 16, even=True)


def test_an_unknown_schedule_shows_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean interleaved"):
        pipeline_order("interleave", pp=2, num_microbatches=2)


def test_a_plugin_must_be_a_schedule(monkeypatch):
    class Other:
        def get(self, name):
            return object()

    monkeypatch.setattr(pipeline, "_registry", Other)
    with pytest.raises(HwsimError, match="registers object"):
        pipeline_schedule("mine")


def test_a_plugin_schedule_is_played_like_a_built_in_one(monkeypatch):
    built = pipeline_schedule("1f1b")

    def build(shape):
        count = range(shape.num_microbatches)
        tasks = [StageTask(kind, 0, i) for i in count for kind in (F, B)]
        return PipelineOrder([tasks] * shape.pp)

    one_by_one = PipelineSchedule(
        "one_by_one", build, built.check,
        lambda load: load.total * load.num_microbatches,
        lambda shape: 1.0 + 0.0 * shape.pp,
    )  # fmt: skip

    class Fake:
        def get(self, name):
            return one_by_one

    monkeypatch.setattr(pipeline, "_registry", Fake)
    order = pipeline_order("one_by_one", pp=3, num_microbatches=4)
    assert play_order(validate_order(order), 1.0, 2.0).makespan == 36.0
    assert pipeline_time("one_by_one", 3, 4, 1, 1.0, 2.0) == 36.0


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([], "empty"),
        (["f0.0 b0.0", "f0.0 f1.0 b0.0 b1.0"], "rank 0 never runs forward of"),
        (["f0.0 f0.0 b0.0"], "runs forward of microbatch 0 in chunk 0 twice"),
        (["b0.0 f0.0"], "without its forward before it"),
        (["f0.0 w0.0 b0.0"], "without its backward before it"),
        (["f0.0 f1.0 b0.0"], "never runs backward of microbatch 1"),
        (
            ["f0.0 b0.0 f1.0 b1.0", "f1.0 b1.0 f0.0 b0.0"],
            "deadlocks: rank 0 waits at its task 1 (backward of microbatch 0 in "
            "chunk 0) for rank 1",
        ),
    ],
)
def test_a_wrong_order_is_refused(ranks, said):
    with pytest.raises(InputError) as caught:
        validate_order([order_of(text) for text in ranks])
    assert said in str(caught.value)


def test_a_wrong_task_or_pair_is_refused():
    with pytest.raises(InputError, match="is no task"):
        validate_order([[*order_of("f0.0 b0.0"), StageTask("back", 0, 0)]])
    tasks = order_of("f0.0 b0.0")
    for joined in ([1], [-1], [0, 0]):
        with pytest.raises(InputError, match="cannot join"):
            validate_order(PipelineOrder([tasks], joined=[joined]))
    twice = [order_of("f0.0 f0.1 b0.1 b0.0")] * 2
    with pytest.raises(InputError, match="must pass once, in one chunk"):
        validate_order(PipelineOrder(twice, "bidirectional"))


def test_joining_what_waits_for_itself_deadlocks():
    tasks = order_of("f0.0 b0.0")
    order = PipelineOrder([tasks, tasks], joined=[[0], []])
    with pytest.raises(InputError, match="deadlocks: rank 0 waits at its task 1"):
        validate_order(order)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"forward": [1.0, 1.0, 1.0]}, "forward has shape (3,)"),
        ({"forward": -1.0}, "negative or not finite"),
        ({"backward": float("nan")}, "backward has a time"),
        ({"send": [[1.0, 1.0]]}, "send has shape (1, 2)"),
    ],
)
def test_times_must_fit_the_order(times, said):
    order = pipeline_order("1f1b", pp=2, num_microbatches=2)
    with pytest.raises(InputError) as caught:
        play_order(order, **{"forward": 1.0, "backward": 1.0, **times})
    assert said in str(caught.value)


def test_an_order_survives_pickling_with_its_placement():
    order = pipeline_order("dualpipe", pp=4, num_microbatches=8)
    again = pickle.loads(pickle.dumps(order))
    assert again == order
    assert (again.placement, again.joined) == (order.placement, order.joined)


def test_closed_forms_broadcast():
    pp = np.array([[2], [4]])
    times = pipeline_time("1f1b", pp, [4, 8, 16], 1, 1.0, [2.0, 2.0, 3.0])
    assert times.tolist() == [[15.0, 27.0, 68.0], [21.0, 33.0, 76.0]]
    assert peak_in_flight("gpipe", pp, [4, 8]).tolist() == [[4, 8], [4, 8]]


@pytest.mark.benchmark_budget
@pytest.mark.parametrize("schedule", BUILT_IN)
def test_a_million_layouts_take_a_second(schedule):
    pp = np.tile([2, 4, 8, 16], 50_000)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        pipeline_time(schedule, pp, 4 * pp, 2, 1.0, 2.0, 0.01, total=3.1 * pp)
        best = min(best, time.perf_counter() - start)
    assert pp.size / best >= 1e6


def test_parameters_that_come_while_a_pipeline_fills() -> None:
    alone = exposed_gather(8.0, 1.0, 8, 4, [1, 2, 8])
    # One layer, what the first chunk's first pass does not hide; later chunks come
    # while four microbatches go through each one before.
    assert alone == pytest.approx([1 + 7, 1 + 3, 1 + 0])
    assert exposed_gather(0.0, 1.0, 8, 4, 2) == 0.0
    assert exposed_gather(8.0, 1e-9, 8, 4, 2) == pytest.approx(8.0)  # all of it
    assert exposed_gather(8.0, 1.0, 8, 4, 1, [0, 3, 9]) == pytest.approx([8, 5, 0])
