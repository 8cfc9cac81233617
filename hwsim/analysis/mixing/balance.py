"""Layers shared out over unlike pipeline stages: by time, within memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.training.memory import (
    held_memory,
    held_microbatches,
    rank_memory,
)
from hwsim.analysis.training.step import StepMaker
from hwsim.cost.cost import FloatArray
from hwsim.errors import InputError
from hwsim.graph.stage import stage_graphs
from hwsim.specs.model import LayerKind

Figure = Callable[[Sequence[int], bool, bool], float]

# How far above the least the slowest stage may be, for a shorter fill and drain.
_SLACK = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, np.inf)
_SAMPLE = 4  # layers of a kind that its time is taken from
_TRIES = 8


@dataclass(frozen=True)
class _Linear:
    """A figure of a stage: what it has anyway, and what each layer adds.

    Attributes
    ----------
    base : float
        Of the stage without layers.
    sums : ndarray of float64, shape (layers + 1,)
        Of the first layers of the model together.
    """

    base: float
    sums: FloatArray

    def table(self) -> FloatArray:
        """Return the figure of layers start to end; shape (layers + 1,) twice."""
        return self.base + self.sums[np.newaxis, :] - self.sums[:, np.newaxis]


def balanced_layers(makers: Sequence[StepMaker]) -> list[int]:
    """Return the layers of each pipeline rank.

    The slowest stage and, with few microbatches, the sum over stages decide;
    every stage keeps within the memory of its device.

    Parameters
    ----------
    makers : sequence of StepMaker
        Of each pipeline rank.

    Raises
    ------
    InputError
        If no split fits.
    """
    model = makers[0].model
    held = held_microbatches(makers[0].config)
    times = [found.table() for found in _times(makers)]
    sizes = [found.table() for found in _sizes(makers, held)]
    room = [_usable(maker) for maker in makers]
    for _ in range(_TRIES):
        fits = [size <= usable for size, usable in zip(sizes, room, strict=True)]
        counts = _best(times, fits, makers[0].config.num_microbatches)
        if counts is None:
            break
        over = _overfull(makers, counts, held)
        if not over:
            return counts
        for rank, excess in over.items():
            room[rank] -= excess
    raise InputError(
        f"no split of {model.id} over these stages fits in their memory; recompute, "
        "raise zero_stage or tp, or add stages"
    )


def spans_of(counts: Sequence[int]) -> list[range]:
    """Return the layers of each rank from their numbers."""
    ends = np.cumsum(counts)
    return [range(int(e) - n, int(e)) for e, n in zip(ends, counts, strict=True)]


def _usable(maker: StepMaker) -> float:
    memory = maker.system.device.main_memory.size
    return float(memory * (1.0 - maker.stack.memory_reserve))


def _overfull(
    makers: Sequence[StepMaker], counts: Sequence[int], held: Sequence[float]
) -> dict[int, float]:
    """Return by how much ranks overflow, computed exactly. [B]"""
    parts, found = spans_of(counts), {}
    for rank, maker in enumerate(makers):
        needed = rank_memory(
            maker.model, maker.stack, maker.config, rank, parts, held[rank]
        ).total
        if needed > _usable(maker):
            found[rank] = needed - _usable(maker)
    return found


def _samples(maker: StepMaker) -> list[list[int]]:
    """Return some layers of each kind, whole recomputation groups of them."""
    wanted = _SAMPLE * maker.config.recompute_every + 1
    kinds = maker.model.layer_kinds
    return [
        [i for i, k in enumerate(kinds) if k == kind][:wanted]
        for kind in dict.fromkeys(kinds)
    ]


def _linear(maker: StepMaker, first: bool, last: bool, figure: Figure) -> _Linear:
    """Fit base and layers to figures of a few layers of each kind."""
    kinds = maker.model.layer_kinds
    each: dict[LayerKind, float] = {}
    for some in _samples(maker):
        few = figure(some[:1], False, False)
        if len(some) > 1:
            more = figure(some, False, False) - few
            each[kinds[some[0]]] = more / (len(some) - 1)
        else:
            each[kinds[some[0]]] = few
    at = len(kinds) - 1 if last else 0
    base = max(figure([at], first, last) - each[kinds[at]], 0.0)
    added = np.cumsum([each[kind] for kind in kinds])
    return _Linear(base, np.concatenate([[0.0], added]))


def _times(makers: Sequence[StepMaker]) -> list[_Linear]:
    """Return time of a microbatch of each rank, forward and backward. [s]"""
    found: dict[tuple[int, bool, bool], _Linear] = {}
    ranks = len(makers)
    keys = [(id(m), r == 0, r == ranks - 1) for r, m in enumerate(makers)]
    for key, maker in zip(keys, makers, strict=True):
        if key not in found:
            time = functools.partial(_time, maker)
            found[key] = _linear(maker, key[1], key[2], time)
    return [found[key] for key in keys]


def _time(maker: StepMaker, layers: Sequence[int], first: bool, last: bool) -> float:
    config = maker.config
    graphs = stage_graphs(
        maker.model, layers=list(layers), first=first, last=last, pp=config.pp,
        stack=maker.stack, **config.graph_options(),
    )  # fmt: skip
    passes = [g for g in (graphs.forward, graphs.backward) if g.blocks]
    return sum(maker.run(g, "closed_form").played.makespan for g in passes)


def _sizes(makers: Sequence[StepMaker], held: Sequence[float]) -> list[_Linear]:
    """Return memory of each rank's devices. [B]"""
    found, last = [], len(makers) - 1
    for rank, maker in enumerate(makers):
        size = functools.partial(_size, maker, held[rank])
        found.append(_linear(maker, rank == 0, rank == last, size))
    return found


def _size(
    maker: StepMaker, held: float, layers: Sequence[int], first: bool, last: bool
) -> float:
    ends = (first, last)
    return held_memory(maker.model, maker.stack, maker.config, layers, ends, held).total


def _best(
    times: Sequence[FloatArray], fits: Sequence[NDArray[np.bool_]], count: int
) -> list[int] | None:
    """Return counts of the least (m - 1) x slowest + sum over all stages."""
    least = _slowest(times, fits)
    if not np.isfinite(least):
        return None
    found: list[tuple[float, list[int]]] = []
    for slack in _SLACK:
        counts = _least_sum(times, fits, least * slack * (1.0 + 1e-12))
        each = [
            times[rank][part.start, part.stop]
            for rank, part in enumerate(spans_of(counts))
        ]
        found.append(((count - 1) * max(each) + sum(each), counts))
    return min(found)[1]


def _slowest(times: Sequence[FloatArray], fits: Sequence[NDArray[np.bool_]]) -> float:
    """Return the least possible time of the slowest stage. [s]"""
    best = np.full(times[0].shape[0], np.inf)
    best[0] = 0.0
    for time, fit in zip(times, fits, strict=True):
        allowed = np.where(_forward(fit), time, np.inf)
        best = np.min(np.maximum(best[:, np.newaxis], allowed), axis=0)
    return float(best[-1])


def _least_sum(
    times: Sequence[FloatArray], fits: Sequence[NDArray[np.bool_]], limit: float
) -> list[int]:
    """Return counts of the least sum, no stage above a limit."""
    best = np.full(times[0].shape[0], np.inf)
    best[0] = 0.0
    cuts = []
    for time, fit in zip(times, fits, strict=True):
        allowed = np.where(_forward(fit) & (time <= limit), time, np.inf)
        joint = best[:, np.newaxis] + allowed
        cuts.append(np.argmin(joint, axis=0))
        best = np.min(joint, axis=0)
    counts, end = [], len(best) - 1
    for cut in reversed(cuts):
        start = int(cut[end])
        counts.append(end - start)
        end = start
    return counts[::-1]


def _forward(fit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which (start, end) hold a layer at least, and fit."""
    return fit & np.triu(np.ones_like(fit), 1)
