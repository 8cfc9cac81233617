"""Schedules that split the backward pass: ZB-H1 and a DualPipe-like one.

References
----------
.. [1] P. Qi et al., "Zero bubble pipeline parallelism", ICLR 2024,
   arXiv:2401.10241, section 2.
.. [2] DeepSeek-AI, "DeepSeek-V3 technical report", arXiv:2412.19437, section
   3.2.1; published program at github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from collections import deque

from hwsim.errors import InputError
from hwsim.schedule.pipeline import PipelineLoad, PipelineSchedule
from hwsim.schedule.pipeline_tasks import FloatArray, StageTask, Tasks


def _zero_bubble(pp: int, num_microbatches: int, vpp: int) -> Tasks:
    """1F1B in which rank r puts off r weight gradients to the end."""
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
        ranks.append(tuple(tasks))
    return tuple(ranks)


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

    def weight(self) -> None:
        self.tasks.append(StageTask("weight", *self._owed.popleft()))


def _dualpipe(pp: int, num_microbatches: int, vpp: int) -> Tasks:
    """Half of the microbatches go down the ranks, half go up [2]_."""
    return tuple(_dualpipe_rank(pp, num_microbatches // 2, r) for r in range(pp))


def _dualpipe_rank(pp: int, each: int, rank: int) -> tuple[StageTask, ...]:
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
        write.forward(0)
        write.backward(1)
        write.forward(1)
        write.backward(0)
    for _ in range(inner):
        write.backward(1)
        write.forward(1)
        write.backward(0)
    # The second half of the drain splits its backwards: weights fill the end.
    for place in range(2 * (depth + 1)):
        write.backward(1 - place % 2, split=place > depth)
    for _ in range(inner):
        write.weight()
        write.backward(0, split=True)
    for _ in range(depth + 1):
        write.weight()
    return tuple(write.tasks)
