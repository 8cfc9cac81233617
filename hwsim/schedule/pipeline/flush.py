"""Schedules with whole backward tasks: GPipe, 1F1B and interleaved 1F1B.

References
----------
.. [1] Y. Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965.
.. [2] D. Narayanan et al., "Efficient large-scale language model training on
   GPU clusters using Megatron-LM", SC 2021, arXiv:2104.04473, section 2.2.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from hwsim.errors import InputError
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


def one_chunk(name: str, shape: PipelineShape[int]) -> None:
    """Raise if a schedule of one chunk per rank is asked for more."""
    if shape.vpp != 1:
        raise InputError(
            f"schedule {name!r} has one chunk per rank, but vpp={shape.vpp}; "
            "use vpp=1, or the schedule 'interleaved'"
        )


def _gpipe(shape: PipelineShape[int]) -> PipelineOrder:
    """All forwards, then all backwards."""
    num_microbatches = shape.num_microbatches
    forwards = [StageTask("forward", 0, i) for i in range(num_microbatches)]
    backwards = [StageTask("backward", 0, i) for i in range(num_microbatches)]
    return PipelineOrder([forwards + backwards] * shape.pp)


def _one_f_one_b(shape: PipelineShape[int]) -> PipelineOrder:
    """Each rank runs ahead by the ranks after it, then alternates."""
    visits = [(0, i) for i in range(shape.num_microbatches)]
    after = reversed(range(shape.pp))
    return PipelineOrder(alternate(visits, visits, count) for count in after)


def _interleaved(shape: PipelineShape[int]) -> PipelineOrder:
    """Groups of pp microbatches go through one chunk after the other [2]_.

    A rank runs ahead by two forwards for each rank after it, and by pp for
    each of its chunks but the last: the count that Megatron-LM uses.
    """
    pp, num_microbatches, vpp = shape
    forwards, backwards = [], []
    for first in range(0, num_microbatches, pp):
        group = range(first, min(first + pp, num_microbatches))
        forwards += [(c, i) for c in range(vpp) for i in group]
        backwards += [(c, i) for c in reversed(range(vpp)) for i in group]
    ahead = [2 * (pp - 1 - rank) + (vpp - 1) * pp for rank in range(pp)]
    return PipelineOrder(alternate(forwards, backwards, count) for count in ahead)


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


def _check_interleaved(shape: PipelineShape[int]) -> None:
    pp, num_microbatches, vpp = shape
    if vpp < 2 or pp < 2:
        raise InputError(
            f"schedule 'interleaved' needs pp and vpp of 2 or more, but pp={pp}, "
            f"vpp={vpp}; use {'vpp=2 or ' if pp > 1 else ''}the schedule '1f1b'"
        )
    if num_microbatches % pp:
        near = nearest_multiple(pp, num_microbatches)
        raise InputError(
            f"schedule 'interleaved' takes microbatches in groups of pp={pp}, but "
            f"num_microbatches={num_microbatches}; use {near}"
        )


def _gpipe_time(load: PipelineLoad) -> FloatArray:
    """(m+p−1)(f+b), transfers that hide only behind the slowest rank."""
    steps, several = load.num_microbatches - 1.0, load.pp > 1.0
    back = load.backward + load.weight
    one = load.total + 2.0 * (load.pp - 1.0) * load.p2p
    if load.blocking:
        return one + steps * (load.forward + back + 2.0 * several * load.p2p)
    slowest = [np.maximum(t, several * load.p2p) for t in (load.forward, back)]
    time: FloatArray = one + steps * (slowest[0] + slowest[1])
    return time


def _one_f_one_b_time(load: PipelineLoad) -> FloatArray:
    """(m+p−1)(f+b), and the transfers that 1F1B leaves exposed.

    A microbatch comes back to the first rank before that one goes on, so that
    p microbatches pay for one round trip, 2(p−1) transfers, less what the
    other ranks wait for the slowest.
    """
    pp, steps = load.pp, load.num_microbatches - 1.0
    if load.blocking:
        return load.total + steps * load.slowest + blocking_sends(load)
    waits = (steps - np.ceil(steps / pp)) * (pp > 1.0)
    fill = load.total + 2.0 * (pp - 1.0) * load.p2p
    time: FloatArray = fill + steps * load.slowest + waits * exposed_round_trip(load)
    return time


def exposed_round_trip(load: PipelineLoad) -> FloatArray:
    """Two transfers, less the time for which a rank waits for the slowest."""
    slack = load.pp * load.slowest - load.total
    each: FloatArray = 2.0 * load.p2p - slack / np.maximum(1.0, load.pp - 1.0)
    return np.maximum(0.0, each)


def blocking_sends(load: PipelineLoad) -> FloatArray:
    """Return what sends cost a rank that waits for each: two per microbatch.

    The last rank sends no activation and the first no gradient: of two ranks,
    each sends once per microbatch.
    """
    pp, steps = load.pp, load.num_microbatches - 1.0
    each = np.where(pp > 2.0, 2.0 * steps - (steps > 0.0), steps)
    sends: FloatArray = np.where(pp > 1.0, 2.0 * (pp - 1.0) + each, 0.0)
    return sends * load.p2p


def _interleaved_time(load: PipelineLoad) -> FloatArray:
    """m(f+b) + (p−1)(f+b)/v, and the transfers that stay exposed."""
    pp, count, vpp, p2p = load.pp, load.num_microbatches, load.vpp, load.p2p
    base = count * load.slowest + (load.total - load.slowest) / vpp
    if load.blocking:
        ends = (2.0 * vpp - 1.0) * count + 2.0 * pp - 3.0
        middle = 2.0 * vpp * count + 2.0 * pp - 6.0
        earlier = (load.backward + load.weight) / vpp
        inner = np.where(pp > 2.0, middle * p2p - earlier, 0.0)
        return base + np.maximum(ends * p2p, inner)
    fill = 2.0 * (pp * vpp - 1.0) * p2p
    busy_port = np.maximum(0.0, 2.0 * vpp * p2p - load.slowest)
    time: FloatArray = base + fill + np.maximum(0.0, count - pp) * busy_port
    return time


def _gpipe_held(shape: PipelineShape[FloatArray]) -> FloatArray:
    return shape.num_microbatches + 0.0 * shape.pp


def _one_f_one_b_held(shape: PipelineShape[FloatArray]) -> FloatArray:
    return np.minimum(shape.num_microbatches, shape.pp)


def _interleaved_held(shape: PipelineShape[FloatArray]) -> FloatArray:
    """Chunks ahead on rank 0, one more in work, over chunks per rank."""
    pp, count, vpp = shape
    ahead = 2.0 * (pp - 1.0) + (vpp - 1.0) * pp
    held: FloatArray = np.minimum(count * vpp, ahead + 1.0) / vpp
    return held


GPIPE = PipelineSchedule(
    "gpipe", _gpipe, functools.partial(one_chunk, "gpipe"), _gpipe_time, _gpipe_held
)
ONE_F_ONE_B = PipelineSchedule(
    "1f1b", _one_f_one_b, functools.partial(one_chunk, "1f1b"), _one_f_one_b_time,
    _one_f_one_b_held,
)  # fmt: skip
INTERLEAVED = PipelineSchedule(
    "interleaved", _interleaved, _check_interleaved, _interleaved_time,
    _interleaved_held,
)  # fmt: skip
