"""Checks of a pipeline order, and what it keeps in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hwsim.errors import InputError
from hwsim.schedule.pipeline.play import as_order, stage_table
from hwsim.schedule.pipeline.tasks import FloatArray, PipelineOrder, StageTask


def validate_order(order: Sequence[Sequence[StageTask]]) -> PipelineOrder:
    """Return the order if every rank can run it to the end.

    Parameters
    ----------
    order : sequence of sequences of StageTask
        Tasks of each rank; a plain sequence is read as ``looped``.

    Raises
    ------
    InputError
        If a microbatch misses a stage or passes it twice, a backward comes
        before its forward, a weight gradient before its backward, or ranks
        wait for each other.
    """
    order = as_order(order)
    if not order or not order[0]:
        raise InputError("the pipeline order is empty; give each rank its tasks")
    for rank, tasks in enumerate(order):
        _complete(order, rank, tasks)
    order.plan  # noqa: B018 - resolving it finds all other faults
    return order


def _complete(order: PipelineOrder, rank: int, tasks: Sequence[StageTask]) -> None:
    for kind in ("forward", "backward"):
        visits = sorted((t.microbatch, t.chunk) for t in tasks if t.kind == kind)
        if order.placement == "bidirectional":
            visited = [microbatch for microbatch, _ in visits]
            wanted = list(range(order.num_microbatches))
            if visited != wanted:
                raise InputError(
                    f"pipeline rank {rank} runs {kind} of microbatches {visited[:9]}; "
                    f"each of 0 to {len(wanted) - 1} must pass once, in one chunk"
                )
            continue
        missing = {
            (microbatch, chunk)
            for microbatch in range(order.num_microbatches)
            for chunk in range(order.chunks)
        }.difference(visits)
        if missing:
            microbatch, chunk = min(missing)
            raise InputError(
                f"pipeline rank {rank} never runs {kind} of microbatch {microbatch} "
                f"in chunk {chunk}; add it"
            )


def in_flight(
    order: Sequence[Sequence[StageTask]],
    weights: ArrayLike = 1.0,
    *,
    held_for_weight: float = 1.0,
) -> FloatArray:
    """Return how many microbatches each rank holds at its fullest, per chunk.

    Activations are held from the forward to the end of the backward. Between
    the gradient of the input and that of the weights, a part is held still.

    Parameters
    ----------
    order : PipelineOrder
        Tasks of each rank.
    weights : float or array, (pp,) or (pp, chunks)
        Bytes of one microbatch in each chunk: says when a rank is fullest.
    held_for_weight : float
        Share that the gradient of the weights still needs, 0 to 1.

    Returns
    -------
    ndarray of float64, shape (pp, chunks)
        Microbatches of each chunk, at the moment when their weighted sum over
        the chunks of a rank is largest.

    Examples
    --------
    >>> from hwsim.schedule.pipeline.schedules import pipeline_order
    >>> in_flight(pipeline_order("1f1b", pp=3, num_microbatches=8))[:, 0]
    array([3., 2., 1.])
    """
    order = as_order(order)
    table = stage_table("weights", weights, len(order), order.chunks)
    if not 0.0 <= held_for_weight <= 1.0:
        raise InputError(f"held_for_weight={held_for_weight} is a share; give 0 to 1")
    plan, peaks = order.plan, np.zeros_like(table)
    # What ends with each sort of task: 1, all, the rest, the part for weights.
    change = (1.0, -1.0, held_for_weight - 1.0, -held_for_weight)
    for rank, tasks in enumerate(order):
        codes = plan.code[plan.first[rank] : plan.first[rank + 1]]
        held = np.zeros((len(tasks) + 1, order.chunks))
        for place, (task, code) in enumerate(zip(tasks, codes, strict=True)):
            held[place + 1, task.chunk] = change[code]
        held = held.cumsum(axis=0)
        peaks[rank] = held[int(np.argmax(held @ table[rank]))]
    return peaks
