"""How far steps differ from each other: stragglers and jitter, played often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.check import positive_int
from hwsim.analysis.training.step import Step
from hwsim.cost.cost import FloatArray
from hwsim.errors import InputError
from hwsim.sim.pipeline.play import play_pipeline
from hwsim.sim.pipeline.replicas import replicate_pipeline

PERCENTILES = (50, 90, 99)
REPLICATIONS = 100


@dataclass(frozen=True)
class Disturbance:
    """What disturbs the ranks of a step.

    Attributes
    ----------
    jitter : float
        Standard deviation of the logarithm of a random factor, of mean 1, on
        the time of each pass of a microbatch on each rank. [1]
    slowdown : tuple of float
        Factor on the compute times of each pipeline rank; empty is none. [1]
    replications : int
        Steps to play.
    seed : int
        Of the jitter.
    """

    jitter: float = 0.0
    slowdown: tuple[float, ...] = ()
    replications: int = REPLICATIONS
    seed: int = 0

    @classmethod
    def of(
        cls,
        jitter: float,
        slowdown: Sequence[float],
        replications: int | None,
        seed: int,
    ) -> Disturbance | None:
        """Return what was asked for; None where nothing disturbs."""
        seed = positive_int("seed", seed, minimum=0)
        if jitter == 0.0 and not len(slowdown):
            if replications is not None:
                raise InputError(
                    f"replications={replications} without jitter or slowdown would "
                    "all be equal; give jitter, for example 0.02"
                )
            return None
        count = REPLICATIONS if replications is None else replications
        return cls(jitter, tuple(slowdown), positive_int("replications", count), seed)


@dataclass(frozen=True)
class StepSpread:
    """Times of many steps of one job.

    Attributes
    ----------
    times : ndarray of float64, shape (replications,)
        Time of each step. [s]
    nominal : float
        Time of an undisturbed step. [s]
    """

    times: FloatArray
    nominal: float
    disturbance: Disturbance
    replicas: int

    def percentile(self, percent: float) -> float:
        """Return a percentile of the step time. [s]"""
        return float(np.percentile(self.times, percent))

    @property
    def mean(self) -> float:
        """Mean step time. [s]"""
        return float(self.times.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the spread with keys in SI."""
        return {
            "jitter": self.disturbance.jitter,
            "slowdown": list(self.disturbance.slowdown),
            "replications": len(self.times),
            "replicas": self.replicas,
            "seed": self.disturbance.seed,
            "mean_s": self.mean,
            **{f"p{p}_s": self.percentile(p) for p in PERCENTILES},
            "max_s": float(self.times.max()),
        }


def step_spread(
    step: Step, disturbance: Disturbance, *, replicas: int, overhead: float
) -> StepSpread:
    """Play a step often, each time with other jitter.

    A factor holds for one pass of one microbatch on one pipeline rank of one
    replica: devices of a tensor- or context-parallel group go in lock step.
    Replicas meet where gradients are reduced, at the end of the step.

    Parameters
    ----------
    replicas : int
        Data-parallel replicas, each with jitter of its own.
    overhead : float
        Host time of a step that nothing hides. [s]
    """
    schedule = step.schedule
    # Replicas are played without shared ports: these cost as much as undisturbed.
    apart = replace(schedule.options, shared_port=False)
    shared = 0.0
    if schedule.options.shared_port and step.pipeline is not None:
        alone = play_pipeline(schedule.order, schedule.costs, apart)
        shared = step.pipeline.makespan - alone.makespan
    options = replace(apart, jitter=disturbance.jitter, slowdown=disturbance.slowdown)
    played = replicate_pipeline(
        schedule.order, schedule.costs, options,
        np.random.default_rng(disturbance.seed),
        replications=disturbance.replications, replicas=replicas,
    )  # fmt: skip
    return StepSpread(
        played.makespans + shared + overhead, step.step_s, disturbance, replicas
    )
