"""Schedules that split the backward pass: ZB-H1 and a DualPipe-like one.

References
----------
.. [1] P. Qi et al., "Zero bubble pipeline parallelism", ICLR 2024,
   arXiv:2401.10241, section 2.
.. [2] DeepSeek-AI, "DeepSeek-V3 technical report", arXiv:2412.19437, section
   3.2.1; published program at github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

import functools
from collections import deque

import numpy as np

from hwsim.errors import InputError
from hwsim.schedule.pipeline.flush import (
    blocking_sends,
    exposed_round_trip,
    one_chunk,
)
from hwsim.schedule.pipeline.schedules import (
    PipelineLoad,
    PipelineSchedule,
    nearest_multiple,
)
from hwsim.schedule.pipeline.tasks import (
    FloatArray,
    PipelineOrder,
    PipelineShape,
    StageTask,
)


def _zero_bubble(shape: PipelineShape[int]) -> PipelineOrder:
    """1F1B in which rank r puts off r weight gradients to the end."""
    pp, num_microbatches, _ = shape
    ranks = []
    for rank in range(pp):
        ahead = min(pp - 1 - rank, num_microbatches)
        tasks = [StageTask("forward", 0, i) for i in range(ahead)]
        for i in range(num_microbatches):
            if i + ahead < num_microbatches:
                tasks.append(StageTask("forward", 0, i + ahead))
            tasks.append(StageTask("backward", 0, i))
            if i >= rank:
                tasks.append(StageTask("weight", 0, i - rank))
        last = max(0, num_microbatches - rank)
        tasks += [StageTask("weight", 0, i) for i in range(last, num_microbatches)]
        ranks.append(tasks)
    return PipelineOrder(ranks)


class _TwoWays:
    """Writes one rank's tasks for microbatches that come from both ends.

    Direction 0 enters at the rank's nearer end of the pipeline, 1 at the other.
    """

    def __init__(self, near_chunk: int, each: int) -> None:
        self._chunk = (near_chunk, 1 - near_chunk)
        self._each = each
        self._forward, self._backward = [0, 0], [0, 0]
        self._owed: deque[tuple[int, int]] = deque()
        self.tasks: list[StageTask] = []
        self.joined: list[int] = []

    def _visit(self, way: int, count: int) -> tuple[int, int]:
        chunk = self._chunk[way]
        return chunk, chunk * self._each + count

    def forward(self, way: int) -> None:
        self.tasks.append(StageTask("forward", *self._visit(way, self._forward[way])))
        self._forward[way] += 1

    def backward(self, way: int, *, split: bool = False) -> None:
        visit = self._visit(way, self._backward[way])
        self.tasks.append(StageTask("backward", *visit))
        self._backward[way] += 1
        if split:
            self._owed.append(visit)

    def both(self, forward: int, backward: int) -> None:
        """Join a forward of one direction with a backward of the other."""
        self.joined.append(len(self.tasks))
        self.forward(forward)
        self.backward(backward)

    def weight(self) -> None:
        self.tasks.append(StageTask("weight", *self._owed.popleft()))


def _dualpipe(shape: PipelineShape[int]) -> PipelineOrder:
    """Half of the microbatches go down the ranks, half go up [2]_."""
    pp, each = shape.pp, shape.num_microbatches // 2
    ranks = [_dualpipe_rank(pp, each, rank) for rank in range(pp)]
    return PipelineOrder(
        [made.tasks for made in ranks],
        "bidirectional",
        [made.joined for made in ranks],
    )


def _dualpipe_rank(pp: int, each: int, rank: int) -> _TwoWays:
    depth = min(rank, pp - 1 - rank)  # ranks to the nearer end
    inner = pp // 2 - 1 - depth  # ranks between this one and the middle
    write = _TwoWays(0 if rank < pp // 2 else 1, each)
    for _ in range(2 * inner):
        write.forward(0)
    for _ in range(depth + 1):
        write.forward(0)
        write.forward(1)
    for _ in range(inner):
        write.backward(1, split=True)
        write.weight()
        write.forward(1)
    for _ in range(each - pp + depth + 1):
        write.both(0, 1)
        write.both(1, 0)
    for _ in range(inner):
        write.backward(1)
        write.both(1, 0)
    # The second half of the drain splits its backwards: weights fill the end.
    for place in range(2 * (depth + 1)):
        write.backward(1 - place % 2, split=place > depth)
    for _ in range(inner):
        write.weight()
        write.backward(0, split=True)
    for _ in range(depth + 1):
        write.weight()
    return write


def _check_dualpipe(shape: PipelineShape[int]) -> None:
    one_chunk("dualpipe", shape)
    pp, num_microbatches = shape.pp, shape.num_microbatches
    if pp % 2:
        raise InputError(
            f"schedule 'dualpipe' pairs ranks from both ends, but pp={pp} is odd; "
            f"use pp={pp + 1}"
        )
    if num_microbatches % 2 or num_microbatches < 2 * pp:
        near = nearest_multiple(2, num_microbatches, 2 * pp)
        raise InputError(
            "schedule 'dualpipe' needs an even number of microbatches, at least "
            f"2*pp={2 * pp}, but num_microbatches={num_microbatches}; use {near}"
        )


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    ratio: FloatArray = part / np.where(whole > 0.0, whole, 1.0)
    return ratio


def _zero_bubble_time(load: PipelineLoad) -> FloatArray:
    """m(f+b+w) + (p−1)(f+b−w) [1]_, and the transfers that stay exposed.

    The gap of a rank is no smaller than a forward or an input gradient.
    """
    count, pp = load.num_microbatches, load.pp
    others = _ratio(load.total, load.slowest) - 1.0
    if load.blocking:
        exposed = blocking_sends(load)
    else:
        sends = 4.0 * (pp - 1.0) - 2.0 * (count <= pp)
        exposed = np.where(pp > 1.0, sends, 0.0) * load.p2p
    forward, backward = load.forward, load.backward
    gap = np.maximum(forward + backward - load.weight, np.maximum(forward, backward))
    # A rank fills no more gaps than it has weight gradients to put off.
    filled = np.minimum(1.0, (count - 1.0) / np.maximum(pp - 1.0, 1.0))
    gap = forward + backward - filled * (forward + backward - gap)
    return count * load.slowest + others * gap + exposed


def _dualpipe_time(load: PipelineLoad) -> FloatArray:
    """m(f+b+w) + (p/2−1)(f+2b−w), and the transfers that stay exposed.

    The gap is that of [2]_: a joined pair, f+b+w, and a whole backward, b+w,
    less three weight gradients. Where these are too short it is 2f.
    """
    count, pp, p2p, forward = load.num_microbatches, load.pp, load.p2p, load.forward
    half = 0.5 * pp - 1.0
    mean = _ratio(load.total, pp * load.slowest)
    gap = forward + np.maximum(2.0 * load.backward - load.weight, forward)
    if load.blocking:
        exposed = np.where(pp > 2.0, 2.0 * count + 1.5 * pp - 6.0, count) * p2p
    else:
        each = exposed_round_trip(load) * (pp - 1.0) / pp
        exposed = count * each + np.maximum(0.0, 1.5 * pp - 5.0) * p2p
    busy = count * load.slowest - (count - half - 2.0) * load.saving
    time: FloatArray = busy + half * mean * gap + exposed
    return time


def _zero_bubble_held(shape: PipelineShape[FloatArray]) -> FloatArray:
    return np.minimum(shape.num_microbatches, shape.pp)


def _dualpipe_held(shape: PipelineShape[FloatArray]) -> FloatArray:
    """One more than the ranks, of both directions together."""
    return shape.pp + 1.0 + 0.0 * shape.num_microbatches


ZERO_BUBBLE = PipelineSchedule(
    "zero_bubble", _zero_bubble, functools.partial(one_chunk, "zero_bubble"),
    _zero_bubble_time, _zero_bubble_held, splits_backward=True,
)  # fmt: skip
DUALPIPE = PipelineSchedule(
    "dualpipe", _dualpipe, _check_dualpipe, _dualpipe_time, _dualpipe_held,
    placement="bidirectional", splits_backward=True,
)  # fmt: skip
