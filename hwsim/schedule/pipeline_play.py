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
from hwsim.schedule.pipeline_tasks import FloatArray, PipelineOrder, StageTask


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
    >>> from hwsim.schedule.pipeline import pipeline_order
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
