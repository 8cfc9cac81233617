"""The exact time of a pipeline order: a max-plus recurrence over its tasks.

A task starts when its rank has ended the one before and what it waits for has
arrived. The transfers of one rank go one after the other, in program order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from hwsim.errors import InputError
from hwsim.schedule.pipeline.tasks import (
    BACKWARD,
    WEIGHT_GRADIENT,
    FloatArray,
    PipelineOrder,
    StageTask,
)


@dataclass(frozen=True, slots=True)
class PipelineTimes:
    """When each task of an order runs.

    Attributes
    ----------
    starts, ends : tuple of ndarray of float64
        Of each rank's tasks, in program order. [s]
    makespan : float
        End of the last task. [s]
    busy : ndarray of float64, shape (pp,)
        Time that each rank computes. [s]
    """

    starts: tuple[FloatArray, ...]
    ends: tuple[FloatArray, ...]
    makespan: float
    busy: FloatArray

    @property
    def bubble_fraction(self) -> float:
        """Share of the ranks' time up to the makespan in which they wait. [1]"""
        if self.makespan <= 0.0:
            return 0.0
        return 1.0 - float(self.busy.mean()) / self.makespan


def stage_table(what: str, value: ArrayLike, pp: int, chunks: int) -> FloatArray:
    """Return times as an array of shape (pp, chunks).

    Parameters
    ----------
    what : str
        Name of the argument, for errors.
    value : float or array of shape (), (pp,) or (pp, chunks)
        One time for all, one for each rank, or one for each chunk. [s]

    Raises
    ------
    InputError
        If the shape fits none of these, or a time is negative or not finite.
    """
    table = np.asarray(value, dtype=np.float64)
    if table.shape == (pp,):
        table = table[:, None]
    elif table.shape not in ((), (pp, chunks)):
        raise InputError(
            f"{what} has shape {table.shape}; give one number, {pp} (one for each "
            f"pipeline rank), or shape ({pp}, {chunks}) for ranks and their chunks"
        )
    table = np.broadcast_to(table, (pp, chunks))
    if not np.all(np.isfinite(table)) or np.any(table < 0.0):
        raise InputError(f"{what} has a time that is negative or not finite")
    return table


def link_times(what: str, value: ArrayLike, pp: int) -> list[float]:
    """Return one time for each link; link r joins rank r and the next one."""
    return [float(t) for t in stage_table(what, value, pp, 1)[:, 0]]


def task_times(
    order: PipelineOrder,
    forward: ArrayLike,
    backward: ArrayLike,
    weight: ArrayLike = 0.0,
    saving: ArrayLike = 0.0,
) -> FloatArray:
    """Return the time of each task, rank by rank in program order. [s]

    What a joined pair saves is taken off its second task.
    """
    pp, chunks, plan = len(order), order.chunks, order.plan
    ahead = stage_table("forward", forward, pp, chunks)
    back = stage_table("backward", backward, pp, chunks)
    gradient = stage_table("weight", weight, pp, chunks)
    table = np.stack([ahead, back + gradient, back, gradient])
    taken: FloatArray = table.ravel()[plan.place]
    saved = stage_table("saving", saving, pp, chunks)
    if order.joined and saved.any():
        partner, place = np.array(plan.partner), plan.place % (pp * chunks)
        second = np.flatnonzero((partner >= 0) & (partner < np.arange(partner.size)))
        first = partner[second]
        less = np.minimum(saved.ravel()[place[second]], taken[first])
        taken[second] = np.maximum(0.0, taken[second] - less)
    return taken


def as_order(order: Sequence[Sequence[StageTask]]) -> PipelineOrder:
    """Return an order as one that knows where its chunks stand (looped)."""
    return order if isinstance(order, PipelineOrder) else PipelineOrder(order)


def play_order(
    order: Sequence[Sequence[StageTask]],
    forward: ArrayLike,
    backward: ArrayLike,
    weight: ArrayLike = 0.0,
    send: ArrayLike = 0.0,
    *,
    saving: ArrayLike = 0.0,
    blocking: bool = False,
) -> PipelineTimes:
    """Return when each task runs; exact for any times.

    Parameters
    ----------
    order : PipelineOrder
        Tasks of each rank; a plain sequence is read as ``looped``.
    forward, backward, weight : float or array, (pp,) or (pp, chunks)
        Time of one microbatch in each chunk: forward, gradient of the input,
        gradient of the weights. A backward task that no weight task follows
        takes ``backward + weight``. [s]
    send : float or array, (pp,)
        Time of a transfer over the link between a rank and the next one
        (the last: between the last rank and rank 0), either way. [s]
    saving : float or array, (pp,) or (pp, chunks)
        What a forward and a backward save when they run joined (``dualpipe``):
        the transfers of the one that hide behind the other. [s]
    blocking : bool
        Whether a rank computes nothing while it sends.

    Raises
    ------
    InputError
        If the order deadlocks or is malformed, or times do not fit it.

    Examples
    --------
    >>> from hwsim.schedule.pipeline.schedules import pipeline_order
    >>> play_order(pipeline_order("1f1b", pp=4, num_microbatches=8), 1, 2).makespan
    33.0
    """
    order = as_order(order)
    durations = task_times(order, forward, backward, weight, saving)
    sends = link_times("send", send, len(order))
    starts = _played(order, durations.tolist(), sends, blocking)
    bounds = list(pairwise(order.plan.first))
    start = np.array(starts, dtype=np.float64)
    end = start + durations
    return PipelineTimes(
        starts=tuple(start[a:b] for a, b in bounds),
        ends=tuple(end[a:b] for a, b in bounds),
        makespan=float(end.max(initial=0.0)),
        busy=np.array([durations[a:b].sum() for a, b in bounds]),
    )


def _played(
    order: PipelineOrder,
    durations: list[float],
    sends: list[float],
    blocking: bool,
) -> list[float]:
    plan = order.plan
    ranks, producers, hops, partners = plan.rank, plan.producer, plan.hop, plan.partner
    starts = [0.0] * len(ranks)
    arrival = [0.0] * len(ranks)
    free, port = [0.0] * len(order), [0.0] * len(order)
    for task in plan.sequence:
        rank, producer, partner = ranks[task], producers[task], partners[task]
        start = free[rank]
        if producer >= 0 and arrival[producer] > start:
            start = arrival[producer]
        if partner > task and producers[partner] >= 0:
            start = max(start, arrival[producers[partner]])
        starts[task] = start
        end = free[rank] = start + durations[task]
        if partner > task:
            continue
        for done in (task,) if partner < 0 else (partner, task):
            if hops[done] < 0:
                arrival[done] = end
            else:
                port[rank] = max(end, port[rank]) + sends[hops[done]]
                arrival[done] = port[rank]
                if blocking:
                    free[rank] = port[rank]
    return starts


@dataclass(frozen=True, slots=True)
class PipelineEnds:
    """When ranks are done, for many draws of task times at once.

    Attributes
    ----------
    free : ndarray of float64, shape (pp, n_draw)
        End of each rank's last task, and of the send that it waits for. [s]
    gradients : dict of (rank, chunk) to ndarray of float64, shape (n_draw,)
        When the gradients of a chunk are complete, in the order in which a
        rank completes them. [s]
    """

    free: FloatArray
    gradients: dict[tuple[int, int], FloatArray]


def play_draws(
    order: PipelineOrder,
    durations: FloatArray,
    send: ArrayLike = 0.0,
    *,
    blocking: bool = False,
) -> PipelineEnds:
    """Play many draws of task times at once; :func:`play_order` plays one.

    Parameters
    ----------
    order : PipelineOrder
        Tasks of each rank.
    durations : ndarray of float64, shape (n_task, n_draw)
        Time of each task, rank by rank in program order. [s]
    send, blocking
        As for :func:`play_order`.
    """
    plan, pp = order.plan, len(order)
    sends, last = link_times("send", send, pp), last_gradients(order)
    gradients: dict[tuple[int, int], FloatArray] = {}
    arrival: dict[int, FloatArray] = {}
    free = np.zeros((pp, durations.shape[1]))
    port = np.zeros_like(free)
    for task in plan.sequence:
        rank, partner = plan.rank[task], plan.partner[task]
        end = free[rank]
        for waiter in (task, partner) if partner > task else (task,):
            # Each result has one reader: what has been read can be dropped.
            ready = arrival.pop(plan.producer[waiter], None)
            if ready is not None:
                np.maximum(end, ready, out=end)
        end += durations[task]
        if partner > task:
            continue
        done = end.copy()
        for sender in (task,) if partner < 0 else (partner, task):
            if sender in last:
                gradients[rank, last[sender]] = done
            if (hop := plan.hop[sender]) >= 0:
                np.maximum(port[rank], done, out=port[rank])
                port[rank] += sends[hop]
                arrival[sender] = port[rank].copy()
                if blocking:
                    end[:] = port[rank]
    return PipelineEnds(free, gradients)


def last_gradients(order: PipelineOrder) -> dict[int, int]:
    """Return the tasks that complete the gradients of a chunk, and the chunk."""
    plan, last = order.plan, dict[tuple[int, int], int]()
    for rank, tasks in enumerate(order):
        for index, task in enumerate(tasks, start=plan.first[rank]):
            if plan.code[index] in (BACKWARD, WEIGHT_GRADIENT):
                last[rank, task.chunk] = index
    return {index: chunk for (_, chunk), index in last.items()}
