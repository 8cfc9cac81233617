"""Pipeline schedules: the order of tasks on each pipeline rank; no clock.

A schedule is a plugin: an object of :class:`PipelineSchedule` registered under
the entry-point group ``hwsim.schedules``. The built-in ones stand there too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from hwsim.errors import InputError
from hwsim.registry import Registry
from hwsim.schedule.pipeline.tasks import (
    FloatArray,
    PipelineOrder,
    PipelineShape,
    Placement,
    StageTask,
)
from hwsim.specs.network import divisors

SCHEDULES = "hwsim.schedules"

__all__ = [
    "PipelineLoad",
    "PipelineOrder",
    "PipelineSchedule",
    "PipelineShape",
    "StageTask",
    "check_pipeline",
    "pipeline_order",
    "pipeline_schedule",
    "pipeline_schedules",
]


@dataclass(frozen=True, slots=True)
class PipelineLoad:
    """What a closed form needs of many layouts at once; arrays broadcast.

    Attributes
    ----------
    pp, num_microbatches, vpp : ndarray of float64
        Pipeline ranks, microbatches, chunks per rank.
    forward, backward, weight : ndarray of float64
        Time of one microbatch on the slowest rank, all its chunks together;
        ``backward`` without ``weight``. [s]
    p2p : ndarray of float64
        Time of one transfer between two ranks. [s]
    total : ndarray of float64
        Time of one microbatch on all ranks together. [s]
    saving : ndarray of float64
        What a forward and a backward save when they run joined. [s]
    blocking : bool
        Whether the sender waits for its transfers.
    """

    pp: FloatArray
    num_microbatches: FloatArray
    vpp: FloatArray
    forward: FloatArray
    backward: FloatArray
    weight: FloatArray
    p2p: FloatArray
    total: FloatArray
    saving: FloatArray
    blocking: bool

    @property
    def slowest(self) -> FloatArray:
        """Time of one microbatch on the slowest rank, both passes. [s]"""
        return self.forward + self.backward + self.weight


@dataclass(frozen=True, slots=True)
class PipelineSchedule:
    """One schedule: what a plugin registers under ``hwsim.schedules``.

    Attributes
    ----------
    name : str
        Name that users write.
    build : callable
        ``build(shape)``: the tasks of each rank, a :class:`PipelineOrder`.
    check : callable
        ``check(shape)``: raises InputError for what the schedule cannot do,
        naming the nearest valid choice.
    time : callable
        ``time(load)``: closed form of the makespan of many layouts. [s]
    held : callable
        ``held(shape)``, of arrays: most microbatches, of all chunks of a rank,
        whose activations the fullest rank holds at once.
    placement : {"looped", "bidirectional"}
        Where chunks stand; see :class:`PipelineOrder`.
    splits_backward : bool
        Whether weight gradients are tasks of their own.
    """

    name: str
    build: Callable[[PipelineShape[int]], PipelineOrder]
    check: Callable[[PipelineShape[int]], None]
    time: Callable[[PipelineLoad], FloatArray]
    held: Callable[[PipelineShape[FloatArray]], FloatArray]
    placement: Placement = "looped"
    splits_backward: bool = False

    def chunks(self, vpp: int = 1) -> int:
        """Return how many model chunks a rank holds."""
        return 2 if self.placement == "bidirectional" else vpp


@functools.cache
def _registry() -> Registry[PipelineSchedule]:
    return Registry(SCHEDULES, "pipeline schedule")


def pipeline_schedules() -> tuple[str, ...]:
    """Return the names of all installed schedules."""
    return tuple(_registry())


def pipeline_schedule(name: str) -> PipelineSchedule:
    """Return a schedule by name.

    Raises
    ------
    UnknownNameError
        If no installed package registers the name.
    """
    found = _registry().get(name)
    if not isinstance(found, PipelineSchedule):
        raise InputError(
            f"pipeline schedule {name!r} registers {type(found).__name__}; "
            "register an object of hwsim.schedule.pipeline.schedules.PipelineSchedule"
        )
    return found


def check_pipeline(
    schedule: str,
    *,
    pp: int,
    num_microbatches: int,
    vpp: int = 1,
    num_layers: int | None = None,
    even: bool = False,
) -> PipelineSchedule:
    """Return the schedule if it can run this layout.

    Parameters
    ----------
    schedule : str
        Name of a schedule.
    pp, num_microbatches, vpp : int
        Pipeline ranks, microbatches of a step, model chunks per rank.
    num_layers : int, optional
        Layers to place, counting the embedding and the head where they may
        stand alone on a stage.
    even : bool
        Whether every stage must have as many layers.

    Raises
    ------
    UnknownNameError
        If there is no such schedule.
    InputError
        If the layout is impossible; the message has the nearest valid choice.
    """
    found = pipeline_schedule(schedule)
    shape = PipelineShape(pp, num_microbatches, vpp)
    for name, value in shape._asdict().items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    found.check(shape)
    if num_layers is not None:
        _check_layers(pp, vpp, num_layers, even)
    return found


def _check_layers(pp: int, vpp: int, num_layers: int, even: bool) -> None:
    if pp > num_layers:
        raise InputError(
            f"pp={pp} makes more stages than the {num_layers} layers; "
            f"use pp={num_layers} or fewer"
        )
    if pp * vpp > num_layers:
        raise InputError(
            f"pp={pp} x vpp={vpp} makes {pp * vpp} stages of {num_layers} layers; "
            f"use vpp={num_layers // pp} or fewer"
        )
    if even and num_layers % (pp * vpp):
        if num_layers % pp:
            best = nearest_divisor(num_layers, pp)
            raise InputError(
                f"pp={pp} does not divide {num_layers} layers; use pp={best}"
            )
        best = nearest_divisor(num_layers // pp, vpp)
        raise InputError(
            f"vpp={vpp} does not divide the {num_layers // pp} layers of a rank "
            f"(pp={pp}); use vpp={best}"
        )


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of ``number`` that lies nearest to ``wanted``."""
    return min(divisors(number), key=lambda d: (abs(d - wanted), d))


def nearest_multiple(step: int, wanted: int, least: int = 1) -> int:
    """Return the multiple of ``step``, of at least ``least``, nearest to it."""
    lowest = -(-least // step) * step
    return max(lowest, step, (2 * wanted + step) // (2 * step) * step)


def pipeline_order(
    schedule: str,
    *,
    pp: int,
    num_microbatches: int,
    vpp: int = 1,
    num_layers: int | None = None,
) -> PipelineOrder:
    """Return the tasks of each pipeline rank in program order.

    Parameters
    ----------
    schedule : str
        ``gpipe``, ``1f1b``, ``interleaved``, ``zero_bubble``, ``dualpipe`` or a
        plugin's name.
    pp, num_microbatches, vpp : int
        Pipeline ranks, microbatches of a step, model chunks per rank.
    num_layers : int, optional
        Layers to place; checked if given.

    Returns
    -------
    PipelineOrder
        A tuple with a tuple of :class:`StageTask` for each rank.

    Raises
    ------
    UnknownNameError
        If there is no such schedule.
    InputError
        If the layout is impossible; the message has the nearest valid choice.

    Examples
    --------
    >>> [f"{t.kind[0]}{t.microbatch}" for t in
    ...  pipeline_order("1f1b", pp=2, num_microbatches=3)[0]]
    ['f0', 'f1', 'b0', 'f2', 'b1', 'b2']
    """
    check_pipeline(
        schedule,
        pp=pp,
        num_microbatches=num_microbatches,
        vpp=vpp,
        num_layers=num_layers,
    )
    return _built(schedule, PipelineShape(pp, num_microbatches, vpp))


@functools.lru_cache(maxsize=16)
def _built(schedule: str, shape: PipelineShape[int]) -> PipelineOrder:
    return pipeline_schedule(schedule).build(shape)
