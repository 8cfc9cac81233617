"""Schedules with whole backward tasks: GPipe, 1F1B and interleaved 1F1B.

References
----------
.. [1] Y. Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965.
.. [2] D. Narayanan et al., "Efficient large-scale language model training on
   GPU clusters using Megatron-LM", SC 2021, arXiv:2104.04473, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwsim.errors import InputError
from hwsim.schedule.pipeline import PipelineLoad, PipelineSchedule, nearest_multiple
from hwsim.schedule.pipeline_tasks import FloatArray, StageTask, Tasks


def one_chunk(name: str, vpp: int) -> None:
    """Raise if a schedule of one chunk per rank is asked for more."""
    if vpp != 1:
        raise InputError(
            f"schedule {name!r} has one chunk per rank, but vpp={vpp}; "
            "use vpp=1, or the schedule 'interleaved'"
        )


def _gpipe(pp: int, num_microbatches: int, vpp: int) -> Tasks:
    """All forwards, then all backwards."""
    forwards = [StageTask("forward", 0, i) for i in range(num_microbatches)]
    backwards = [StageTask("backward", 0, i) for i in range(num_microbatches)]
    return (tuple(forwards + backwards),) * pp


def _one_f_one_b(pp: int, num_microbatches: int, vpp: int) -> Tasks:
    """Each rank runs ahead by the ranks after it, then alternates."""
    visits = [(0, i) for i in range(num_microbatches)]
    return tuple(tuple(alternate(visits, visits, pp - 1 - rank)) for rank in range(pp))


def _interleaved(pp: int, num_microbatches: int, vpp: int) -> Tasks:
    """Groups of pp microbatches go through one chunk after the other [2]_.

    A rank runs ahead by two forwards for each rank after it, and by pp for
    each of its chunks but the last: the count that Megatron-LM uses.
    """
    forwards, backwards = [], []
    for first in range(0, num_microbatches, pp):
        group = range(first, min(first + pp, num_microbatches))
        forwards += [(c, i) for c in range(vpp) for i in group]
        backwards += [(c, i) for c in reversed(range(vpp)) for i in group]
    ahead = [2 * (pp - 1 - rank) + (vpp - 1) * pp for rank in range(pp)]
    return tuple(tuple(alternate(forwards, backwards, count)) for count in ahead)


def alternate(
    forwards: list[tuple[int, int]], backwards: list[tuple[int, int]], ahead: int
) -> Iterator[StageTask]:
    """Yield ``ahead`` forwards, then forward and backward in turn."""
    ahead = min(ahead, len(forwards))
    for chunk, microbatch in forwards[:ahead]:
        yield StageTask("forward", chunk, microbatch)
    for place, (chunk, microbatch) in enumerate(backwards):
        if place + ahead < len(forwards):
            yield StageTask("forward", *forwards[place + ahead])
        yield StageTask("backward", chunk, microbatch)
