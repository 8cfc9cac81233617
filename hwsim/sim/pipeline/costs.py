"""What a pipeline step is made of: times, and how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwsim.errors import InputError
from hwsim.schedule.pipeline.play import task_times
from hwsim.schedule.pipeline.tasks import FloatArray, PipelineOrder
from hwsim.sim.links import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineCosts:
    """Times of one microbatch and of one step, on each pipeline rank.

    Attributes
    ----------
    forward, backward, weight : float or array, (pp,) or (pp, chunks)
        As :func:`hwsim.schedule.pipeline.play.play_order` takes them. [s]
    saving : float or array, (pp,) or (pp, chunks)
        What a forward and a backward save when they run joined. [s]
    latency, transfer : float or array, (pp,)
        Of one send over the link between a rank and the next one: the part
        that no other traffic touches, and the part that shares the port. [s]
    gradients : float or array, (pp,) or (pp, chunks)
        Reduction of a chunk's gradients over the data-parallel group. [s]
    optimizer : float or array, (pp,)
        Optimizer step. [s]
    gather : float or array, (pp,)
        Gathering the new parameters after it. [s]
    send_use, gradients_use : sequence of mapping of level to float
        With a shared port: the share of each network level that a send over
        each link, and the reduction of each rank, takes while it runs alone;
        empty: all of the same one.
    """

    forward: ArrayLike
    backward: ArrayLike
    weight: ArrayLike = 0.0
    saving: ArrayLike = 0.0
    latency: ArrayLike = 0.0
    transfer: ArrayLike = 0.0
    gradients: ArrayLike = 0.0
    optimizer: ArrayLike = 0.0
    gather: ArrayLike = 0.0
    send_use: Sequence[Use] = ()
    gradients_use: Sequence[Use] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """How a step is run.

    Attributes
    ----------
    blocking : bool
        Whether a rank computes nothing while it sends.
    overlap_gradients : bool
        Whether a chunk's gradients are reduced as soon as its last backward is
        done, rather than after all of the rank's.
    shared_port : bool
        Whether sends and the data-parallel traffic of ranks share their ports,
        level by level, each direction by itself.
    sync_optimizer : bool
        Whether the optimizer waits for the gradients of every rank, as
        clipping by the global norm does.
    slowdown : sequence of float
        Factor on the compute times of each rank (stragglers); 1 is nominal.
    jitter : float
        Standard deviation of the logarithm of a random factor, of mean 1, on
        each compute time.
    """

    blocking: bool = False
    overlap_gradients: bool = True
    shared_port: bool = False
    sync_optimizer: bool = True
    slowdown: Sequence[float] = ()
    jitter: float = 0.0


def drawn_times(
    order: PipelineOrder,
    costs: PipelineCosts,
    options: PipelineOptions,
    rng: np.random.Generator | None,
) -> FloatArray:
    """Return the time of each task, stragglers and jitter included."""
    times = task_times(order, costs.forward, costs.backward, costs.weight, costs.saving)
    pp = len(order)
    if len(options.slowdown):
        factors = np.asarray(options.slowdown, dtype=np.float64)
        if factors.shape != (pp,) or not np.all(np.isfinite(factors) & (factors > 0)):
            raise InputError(
                f"slowdown={tuple(options.slowdown)}; give a factor above 0 for each "
                f"of the {pp} pipeline ranks"
            )
        times = times * factors[np.array(order.plan.rank)]
    if options.jitter == 0.0:
        return times
    if rng is None:
        raise InputError("jitter needs rng, a seeded numpy.random.Generator")
    return times * jitter_factors(options.jitter, rng, times.shape)


MOST_JITTER = 2.0  # two thirds of passes then differ up to 7-fold from the median


def jitter_factors(
    sigma: float, rng: np.random.Generator, shape: tuple[int, ...]
) -> FloatArray:
    """Draw log-normal factors of mean 1."""
    if not 0.0 <= sigma <= MOST_JITTER:
        raise InputError(
            f"jitter={sigma} must be a spread of the logarithm from 0 to {MOST_JITTER}"
        )
    if sigma == 0.0:
        return np.ones(shape)
    drawn: FloatArray = rng.lognormal(-0.5 * sigma**2, sigma, shape)
    return drawn
