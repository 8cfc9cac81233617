"""Tasks of a pipeline, their order on each rank, and what they wait for."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import InputError

Kind = Literal["forward", "backward", "weight"]
Placement = Literal["looped", "bidirectional"]
Tasks = tuple[tuple["StageTask", ...], ...]
FloatArray = NDArray[np.float64]
T = TypeVar("T")
_Spot = tuple[int, int]

FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(4)


class PipelineShape(NamedTuple, Generic[T]):
    """Pipeline ranks, microbatches of a step, model chunks per rank.

    Integers of one layout, or arrays of many.
    """

    pp: T
    num_microbatches: T
    vpp: T


class StageTask(NamedTuple):
    """What one rank does with one microbatch in one of its chunks.

    A ``backward`` task computes both gradients, unless a ``weight`` task of the
    same chunk and microbatch follows: then it computes that of the input only.
    """

    kind: Kind
    chunk: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind} of microbatch {self.microbatch} in chunk {self.chunk}"


@dataclass(frozen=True, slots=True, eq=False)
class PipelinePlan:
    """An order with its dependencies resolved; tasks are counted rank by rank.

    Attributes
    ----------
    first : tuple of int
        Index of each rank's first task, and the number of tasks.
    sequence : tuple of int
        Tasks in an order in which each comes after all that it waits for.
    rank : tuple of int
        Rank of each task.
    producer : tuple of int
        Task of another stage whose result each task waits for; -1 for none.
    hop : tuple of int
        Link over which each task's result goes (link r joins rank r and the
        next one, the last link the last rank and rank 0); -1 for none.
    code : tuple of int
        What each task does: 0 forward, 1 both gradients, 2 input gradient,
        3 weight gradient.
    partner : tuple of int
        Task that each one runs joined with, the one before or after it; -1
        for none. Both start when both can; both results go when both are done.
    place : ndarray of int
        Where each task's time stands in a table of shape (4, pp, chunks).
    """

    first: tuple[int, ...]
    sequence: tuple[int, ...]
    rank: tuple[int, ...]
    producer: tuple[int, ...]
    hop: tuple[int, ...]
    code: tuple[int, ...]
    partner: tuple[int, ...]
    place: NDArray[np.int64]


class PipelineOrder(tuple[tuple[StageTask, ...], ...]):
    """The tasks of each rank in program order, and where the chunks stand.

    Parameters
    ----------
    ranks : iterable of iterables of StageTask
        Tasks of each pipeline rank.
    placement : {"looped", "bidirectional"}
        ``looped``: chunk c of rank r is stage c·pp + r, and each microbatch
        visits every stage. ``bidirectional``: the model stands on the ranks
        twice, chunk 0 as stages 0, 1, … and chunk 1 as …, 1, 0; a microbatch
        goes through one of the two.
    joined : iterable of iterables of int, optional
        For each rank, places of tasks that run together with the next one:
        both start when both can, and both results go when both are done.
    """

    placement: Placement
    joined: tuple[tuple[int, ...], ...]

    def __new__(
        cls,
        ranks: Iterable[Iterable[StageTask]],
        placement: Placement = "looped",
        joined: Iterable[Iterable[int]] = (),
    ) -> PipelineOrder:
        """Make an order of the tasks of each rank."""
        made = super().__new__(cls, (tuple(tasks) for tasks in ranks))
        made.placement = placement
        made.joined = tuple(tuple(places) for places in joined)
        return made

    def __getnewargs__(self) -> tuple[Tasks, Placement, tuple[tuple[int, ...], ...]]:
        return tuple(self), self.placement, self.joined

    def __getstate__(self) -> None:
        """Keep nothing but the arguments: what is derived is derived again."""

    @functools.cached_property
    def chunks(self) -> int:
        """Model chunks on each rank."""
        return 1 + max((t.chunk for tasks in self for t in tasks), default=0)

    @functools.cached_property
    def num_microbatches(self) -> int:
        """Microbatches of one step."""
        return 1 + max((t.microbatch for tasks in self for t in tasks), default=-1)

    def stage(self, rank: int, chunk: int) -> int:
        """Return which stage of the model a chunk is."""
        if self.placement == "looped":
            return chunk * len(self) + rank
        return rank if chunk == 0 else len(self) - 1 - rank

    def spot(self, stage: int, chunk: int) -> _Spot | None:
        """Return (rank, chunk) of a stage next to one in ``chunk``, if there."""
        pp = len(self)
        if self.placement == "looped":
            inside = 0 <= stage < pp * self.chunks
            return (stage % pp, stage // pp) if inside else None
        if not 0 <= stage < pp:
            return None
        return (stage if chunk == 0 else pp - 1 - stage), chunk

    @functools.cached_property
    def plan(self) -> PipelinePlan:
        """The order with its dependencies resolved; raises InputError."""
        return _resolved(self)


class _Book:
    """Where each task stands: index by kind, rank, chunk and microbatch."""

    def __init__(self, order: PipelineOrder) -> None:
        self.order = order
        self._chunks, self._count = order.chunks, order.num_microbatches
        size = len(order) * self._chunks * self._count
        self._places = {kind: [-1] * size for kind in ("forward", "backward", "weight")}
        index = 0
        for rank, tasks in enumerate(order):
            for task in tasks:
                self._enter(rank, task, index)
                index += 1

    def _enter(self, rank: int, task: StageTask, index: int) -> None:
        kind, chunk, microbatch = task
        if kind not in self._places or chunk < 0 or microbatch < 0:
            raise InputError(
                f"pipeline rank {rank}: {task!r} is no task; kinds are forward, "
                "backward and weight, chunk and microbatch count from 0"
            )
        places = self._places[kind]
        key = (rank * self._chunks + chunk) * self._count + microbatch
        if places[key] >= 0:
            raise InputError(f"pipeline rank {rank} runs {task} twice; remove one")
        places[key] = index

    def find(self, kind: Kind, spot: _Spot, microbatch: int) -> int:
        """Return the index of a task, or -1."""
        key = (spot[0] * self._chunks + spot[1]) * self._count + microbatch
        return self._places[kind][key]


def _resolved(order: PipelineOrder) -> PipelinePlan:
    book = _Book(order)
    pp, chunks = len(order), order.chunks
    first, index = [0], 0
    ranks: list[int] = []
    producers: list[int] = []
    hops: list[int] = []
    codes: list[int] = []
    places: list[int] = []
    for rank, tasks in enumerate(order):
        around = [_neighbours(order, rank, chunk) for chunk in range(chunks)]
        for task in tasks:
            producer, hop, code = _links(book, rank, index, task, around[task.chunk])
            ranks.append(rank)
            producers.append(producer)
            hops.append(hop)
            codes.append(code)
            places.append((code * pp + rank) * chunks + task.chunk)
            index += 1
        first.append(index)
    partners = _partners(order, first)
    sequence = _sequence(order, first, ranks, producers, partners)
    return PipelinePlan(
        tuple(first), tuple(sequence), tuple(ranks), tuple(producers), tuple(hops),
        tuple(codes), tuple(partners), np.array(places, dtype=np.int64),
    )  # fmt: skip


def _partners(order: PipelineOrder, first: list[int]) -> list[int]:
    partners = [-1] * first[-1]
    for rank, places in enumerate(order.joined):
        for place in places:
            index = first[rank] + place
            if not first[rank] <= index < first[rank + 1] - 1 or partners[index] >= 0:
                raise InputError(
                    f"pipeline rank {rank} cannot join its tasks {place} and "
                    f"{place + 1}; join neighbours, each once"
                )
            partners[index], partners[index + 1] = index + 1, index
    return partners


def _neighbours(
    order: PipelineOrder, rank: int, chunk: int
) -> tuple[_Spot | None, _Spot | None, int, int]:
    """Return the stages before and after a chunk, and the links to them."""
    stage, pp = order.stage(rank, chunk), len(order)
    before, after = order.spot(stage - 1, chunk), order.spot(stage + 1, chunk)
    down = order.placement == "looped" or chunk == 0
    lower, upper = (rank - 1) % pp, rank
    back, onward = (lower, upper) if down else (upper, lower)
    return (
        before,
        after,
        back if before is not None and before[0] != rank else -1,
        onward if after is not None and after[0] != rank else -1,
    )


def _links(
    book: _Book,
    rank: int,
    index: int,
    task: StageTask,
    around: tuple[_Spot | None, _Spot | None, int, int],
) -> tuple[int, int, int]:
    """Return what a task waits for, where its result goes, and what it does."""
    kind, chunk, microbatch = task
    before, after, back, onward = around
    here = (rank, chunk)
    if kind == "forward":
        return _producer(book, "forward", before, rank, task), onward, FORWARD
    if kind == "weight":
        _after(book, "backward", here, index, task)
        return -1, -1, WEIGHT_GRADIENT
    _after(book, "forward", here, index, task)
    split = book.find("weight", here, microbatch) >= 0
    producer = _producer(book, "backward", after, rank, task)
    return producer, back, INPUT_GRADIENT if split else BACKWARD


def _producer(
    book: _Book, kind: Kind, spot: _Spot | None, rank: int, task: StageTask
) -> int:
    if spot is None:
        return -1
    found = book.find(kind, spot, task.microbatch)
    if found < 0:
        raise InputError(
            f"pipeline rank {rank} runs {task}, but rank {spot[0]} never runs its "
            f"{kind} in chunk {spot[1]}; add it"
        )
    return found


def _after(book: _Book, kind: Kind, here: _Spot, index: int, task: StageTask) -> None:
    """Raise unless a task comes after another of its own chunk."""
    if not 0 <= book.find(kind, here, task.microbatch) < index:
        raise InputError(
            f"pipeline rank {here[0]} runs {task} without its {kind} before it; "
            f"put the {kind} first"
        )


def _sequence(
    order: PipelineOrder,
    first: list[int],
    ranks: list[int],
    producers: list[int],
    partners: list[int],
) -> list[int]:
    """Return tasks in an order in which each comes after what it waits for."""
    done = [False] * first[-1]
    waiting: dict[int, list[int]] = {}
    following = list(first[:-1])
    runnable = deque(range(len(order)))
    sequence: list[int] = []
    while runnable:
        rank = runnable.popleft()
        index, end = following[rank], first[rank + 1]
        while index < end:
            count = 2 if partners[index] >= 0 else 1
            missing = next(
                (p for p in producers[index : index + count] if p >= 0 and not done[p]),
                -1,
            )
            if missing >= 0:
                waiting.setdefault(missing, []).append(rank)
                break
            for task in range(index, index + count):
                done[task] = True
                sequence.append(task)
                runnable.extend(waiting.pop(task, ()))
            index += count
        following[rank] = index
    if len(sequence) < first[-1]:
        rank = next(r for r in range(len(order)) if following[r] < first[r + 1])
        index = following[rank]
        if producers[index] < 0 or done[producers[index]]:
            index += 1  # It waits for its partner's input.
        other = ranks[producers[index]]
        raise InputError(
            f"the pipeline order deadlocks: rank {rank} waits at its task "
            f"{index - first[rank]} ({order[rank][index - first[rank]]}) for rank "
            f"{other}, which waits in turn; move that task later"
        )
    return sequence
