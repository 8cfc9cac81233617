"""Closed forms of pipeline schedules, over arrays of layouts.

With equal stages and transfers shorter than a task they are the exact time for
``gpipe`` and ``1f1b``; ``docs/models/pipelines.md`` gives the error of the
others, and with uneven stages. :func:`hwsim.schedule.pipeline.play.play_order`
is exact for all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.schedule.pipeline.schedules import PipelineLoad, pipeline_schedule
from hwsim.schedule.pipeline.tasks import FloatArray, PipelineShape


def pipeline_time(
    schedule: str,
    pp: ArrayLike,
    num_microbatches: ArrayLike,
    vpp: ArrayLike,
    forward: ArrayLike,
    backward: ArrayLike,
    p2p: ArrayLike = 0.0,
    *,
    weight: ArrayLike = 0.0,
    total: ArrayLike | None = None,
    saving: ArrayLike = 0.0,
    blocking: bool = False,
) -> FloatArray:
    """Return the makespan of many layouts of one schedule; arrays broadcast.

    Parameters
    ----------
    schedule : str
        Name of a schedule.
    pp, num_microbatches, vpp : array
        Pipeline ranks, microbatches of a step, chunks per rank.
    forward, backward, weight : array
        Time of one microbatch on the slowest rank, all its chunks together:
        forward, gradient of the input, gradient of the weights (a backward
        that is not split: their sum in ``backward``, 0 in ``weight``). [s]
    p2p : array
        Time of one transfer between two ranks. [s]
    total : array, optional
        Time of one microbatch on all ranks together, forward and backward; by
        default pp times the slowest rank (equal stages). [s]
    saving : array
        What a forward and a backward save when they run joined (``dualpipe``). [s]
    blocking : bool
        Whether a rank computes nothing while it sends.

    Returns
    -------
    ndarray of float64
        Time from the first forward to the last backward. [s]

    References
    ----------
    .. [1] D. Narayanan et al., SC 2021, arXiv:2104.04473, section 2.2.
    .. [2] P. Qi et al., ICLR 2024, arXiv:2401.10241, section 2.

    Examples
    --------
    >>> pipeline_time("interleaved", 4, [8, 16], 2, 1.0, 2.0)
    array([28.5, 52.5])
    """
    ranks, ahead, back = _floats(pp), _floats(forward), _floats(backward)
    gradient = _floats(weight)
    load = PipelineLoad(
        pp=ranks,
        num_microbatches=_floats(num_microbatches),
        vpp=_floats(vpp),
        forward=ahead,
        backward=back,
        weight=gradient,
        p2p=_floats(p2p),
        total=ranks * (ahead + back + gradient) if total is None else _floats(total),
        saving=_floats(saving),
        blocking=blocking,
    )
    return pipeline_schedule(schedule).time(load)


def bubble_fraction(
    schedule: str,
    pp: ArrayLike,
    num_microbatches: ArrayLike,
    vpp: ArrayLike = 1,
    forward: ArrayLike = 1.0,
    backward: ArrayLike = 2.0,
    *,
    weight: ArrayLike = 0.0,
) -> FloatArray:
    """Return the idle share of a step with equal stages and free transfers.

    (p−1)/(m+p−1) for ``gpipe`` and ``1f1b``.

    Examples
    --------
    >>> bubble_fraction("1f1b", 4, [1, 9])
    array([0.75, 0.25])
    """
    time = pipeline_time(
        schedule, pp, num_microbatches, vpp, forward, backward, weight=weight
    )
    work = _floats(forward) + _floats(backward) + _floats(weight)
    return 1.0 - _floats(num_microbatches) * work / time


def peak_in_flight(
    schedule: str, pp: ArrayLike, num_microbatches: ArrayLike, vpp: ArrayLike = 1
) -> FloatArray:
    """Return the most microbatches that the fullest rank holds; arrays broadcast.

    One microbatch in all chunks of a rank counts as one (``dualpipe``: in one
    of its two), so that activations are this number times those of one
    microbatch on the rank.

    Examples
    --------
    >>> peak_in_flight("1f1b", 4, [2, 64])
    array([2., 4.])
    """
    shape = PipelineShape(_floats(pp), _floats(num_microbatches), _floats(vpp))
    return pipeline_schedule(schedule).held(shape)


def _floats(value: ArrayLike) -> FloatArray:
    return np.asarray(value, dtype=np.float64)
