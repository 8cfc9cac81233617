"""What playing a pipeline leaves behind."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwsim.schedule.pipeline.tasks import FORWARD, FloatArray, PipelineOrder
from hwsim.sim.records import Record

_Span = tuple[float, float]


@dataclass(frozen=True)
class PlayedPipeline:
    """One step of a pipeline; each array has one entry per pipeline rank.

    The time of a rank is its work, what it waits for and the bubble: ``busy +
    optimizer + exposed_p2p + exposed_dp + bubble = makespan``.

    Attributes
    ----------
    order : PipelineOrder
        What was played.
    makespan : float
        Time from the start to the end of the last rank's step. [s]
    compute_end : float
        When the last task of the pipeline ends, before the gradients that are
        still on the way and the optimizer. [s]
    busy, optimizer : ndarray of float64, shape (pp,)
        Time spent in tasks, and in the optimizer step. [s]
    exposed_p2p, exposed_dp : ndarray of float64, shape (pp,)
        Waiting while what is waited for is on a link: between ranks, and
        between replicas. [s]
    bubble : ndarray of float64, shape (pp,)
        Waiting for anything else: other ranks that still work. [s]
    starts, ends : tuple of ndarray of float64
        Of each rank's tasks, in program order. [s]
    sends : tuple of (task, start, end)
        Transfers between ranks, by index of the task that they follow. [s]
    reductions : tuple of (rank, chunk, start, end)
        Gradient reductions. [s]
    updates : tuple of (start, updated, end)
        For each rank: its optimizer step, and when the new parameters have
        been gathered. [s]
    contended : bool
        Whether a send and data-parallel traffic ever shared a port.
    """

    order: PipelineOrder
    makespan: float
    compute_end: float
    busy: FloatArray
    optimizer: FloatArray
    exposed_p2p: FloatArray
    exposed_dp: FloatArray
    bubble: FloatArray
    starts: tuple[FloatArray, ...]
    ends: tuple[FloatArray, ...]
    sends: tuple[tuple[int, float, float], ...]
    reductions: tuple[tuple[int, int, float, float], ...]
    updates: tuple[tuple[float, float, float], ...]
    contended: bool

    @property
    def bubble_fraction(self) -> float:
        """Share of the step that ranks spend in the bubble, on average. [1]"""
        return float(self.bubble.mean()) / self.makespan if self.makespan else 0.0

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """The timeline, rank by rank: one row per stage and stream."""
        rows: list[list[Record]] = [[] for _ in self.order]
        for rank in range(len(self.order)):
            rows[rank] += self._tasks(rank)
        for task, start, end in self.sends:
            rank = self.order.plan.rank[task]
            rows[rank].append(self._send(rank, task, start, end))
        for rank, chunk, start, end in self.reductions:
            block = f"stage {self.order.stage(rank, chunk)}"
            rows[rank].append(
                Record(rank, "dp", block, 0, "reduce gradients", "gradient_reduction",
                       "backward", start, end)
            )  # fmt: skip
        for rank, (start, updated, end) in enumerate(self.updates):
            if updated > start:
                rows[rank].append(
                    Record(rank, "compute", "step", 0, "optimizer", "optimizer",
                           "optimizer", start, updated)
                )  # fmt: skip
            if end > updated:
                rows[rank].append(
                    Record(rank, "dp", "step", 0, "gather parameters", "all_gather",
                           "optimizer", updated, end)
                )  # fmt: skip
        return tuple(record for row in rows for record in row)

    def _tasks(self, rank: int) -> list[Record]:
        blocks = [
            f"stage {self.order.stage(rank, chunk)}"
            for chunk in range(self.order.chunks)
        ]
        rows = zip(
            self.order[rank], self.starts[rank].tolist(), self.ends[rank].tolist(),
            strict=True,
        )  # fmt: skip
        return [
            Record(rank, "compute", blocks[t.chunk], t.microbatch,
                   f"{t.kind} {t.microbatch}", t.kind,
                   "forward" if t.kind == "forward" else "backward", start, end)
            for t, start, end in rows
        ]  # fmt: skip

    def _send(self, rank: int, task: int, start: float, end: float) -> Record:
        plan = self.order.plan
        made = self.order[rank][task - plan.first[rank]]
        block = f"stage {self.order.stage(rank, made.chunk)}"
        forward = plan.code[task] == FORWARD
        name = "send activations" if forward else "send gradients"
        return Record(
            rank, "pp", block, made.microbatch, f"{name} {made.microbatch}",
            "send_recv", "forward" if forward else "backward", start, end,
        )  # fmt: skip


class Timeline:
    """What a player writes while it plays; times from the environment's clock.

    Parameters
    ----------
    count, pp : int
        Tasks and ranks.
    begin : float
        When the step begins. [s]
    """

    def __init__(self, count: int, pp: int, begin: float) -> None:
        self.begin = begin
        self.starts, self.ends = [begin] * count, [begin] * count
        self.sent: list[float] = [-1.0] * count
        self.arrived: list[float] = [-1.0] * count
        self.exposed_p2p, self.exposed_dp = [0.0] * pp, [0.0] * pp
        self.reductions: list[tuple[int, int, float, float]] = []
        self.updates = [(begin, begin, begin)] * pp

    def reduced(self, rank: int, chunk: int, start: float, end: float) -> None:
        """Note a gradient reduction."""
        self.reductions.append((rank, chunk, start, end))

    def result(self, order: PipelineOrder, contended: bool) -> PlayedPipeline:
        """Return the step, its times counted from its beginning."""
        begin, plan = self.begin, order.plan
        starts, ends = np.array(self.starts) - begin, np.array(self.ends) - begin
        ranks = list(pairwise(plan.first))
        updates = np.array(self.updates) - begin
        makespan = float(updates[:, 2].max())
        busy = np.array([(ends[a:b] - starts[a:b]).sum() for a, b in ranks])
        optimizer = updates[:, 1] - updates[:, 0]
        p2p, dp = np.array(self.exposed_p2p), np.array(self.exposed_dp)
        return PlayedPipeline(
            order=order,
            makespan=makespan,
            compute_end=float(ends.max(initial=0.0)),
            busy=busy,
            optimizer=optimizer,
            exposed_p2p=p2p,
            exposed_dp=dp,
            bubble=np.maximum(0.0, makespan - busy - optimizer - p2p - dp),
            starts=tuple(starts[a:b] for a, b in ranks),
            ends=tuple(ends[a:b] for a, b in ranks),
            sends=tuple(
                (task, sent - begin, self.arrived[task] - begin)
                for task, sent in enumerate(self.sent)
                if sent >= 0.0 and self.arrived[task] > sent
            ),
            reductions=tuple(
                (rank, chunk, start - begin, end - begin)
                for rank, chunk, start, end in self.reductions
            ),
            updates=tuple((a, b, c) for a, b, c in updates.tolist()),
            contended=contended,
        )
