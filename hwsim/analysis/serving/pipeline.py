"""Steps of a replica whose layers are cut into pipeline stages.

An engine keeps as many microbatches under way as it has stages. A step here
gives every running request its next token: its sequences are dealt evenly to
the microbatches, its prompts one by one to the microbatch with the fewest
prompt tokens, cut where one would exceed the budget of a microbatch. While
all stages are busy a microbatch comes round after as many stage times as
there are stages; the slowest microbatch sets the pace of all. The round of a
lone sequence is the sum of the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwsim.analysis.serving.layout import ReplicaLayout, slowest_stage
from hwsim.analysis.serving.table import StepTable, TablePower
from hwsim.sim.serving.cost import Part
from hwsim.sim.serving.records import StepPower
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PipelineTable:
    """Step times of a pipeline; see :class:`hwsim.sim.serving.replica.StepCost`.

    Attributes
    ----------
    stage : StepTable
        Of the slowest stage, and the head.
    stages : int
        How many.
    even : float
        Layers of all stages over those of the slowest one and their number.
    budget : int
        Most tokens of a microbatch.
    chunked : bool
        Prompts are cut to it.
    """

    stage: StepTable
    stages: int
    even: float
    budget: int
    chunked: bool

    @property
    def padded(self) -> list[int]:
        """Batch that runs for each number of sequences of a microbatch."""
        return self.stage.padded

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return time, growth per token of context, and up to where it holds."""
        each, busy = self._dealt(batch)
        found = self.stage.decode(each, contexts / busy)
        return self._round(found, busy, self.stage.head[each])

    def check(
        self, batch: int, contexts: float, each: int
    ) -> tuple[float, float, float]:
        """Return as ``decode`` for ``each`` tokens of every sequence at once."""
        count, busy = self._dealt(batch)
        found = self.stage.check(count, contexts / busy, each)
        tokens = min(self.stage.padded[count] * each, len(self.stage.head) - 1)
        return self._round(found, busy, self.stage.head[tokens])

    def one_layer(
        self, batch: int, contexts: float, layers: float
    ) -> tuple[float, float]:
        """Return the time of one of so many layers and the head, and its growth.

        It stands on the last stage, which then sets the pace.
        """
        each, busy = self._dealt(batch)
        own = layers / (self.stages * self.even)  # of the slowest stage
        time, slope = self.stage.one_layer(each, contexts / busy, own)
        return self._heads(busy) * time, self._heads(busy) * slope / busy

    def pace(self, batch: int, contexts: float) -> tuple[int, float, float]:
        """Return a microbatch, its context, and how many of them make a round."""
        each, busy = self._dealt(batch)
        return each, contexts / busy, self._heads(busy)

    def _dealt(self, batch: int) -> tuple[int, int]:
        """Return the sequences of a microbatch, and how many have any."""
        return -(-batch // self.stages), min(batch, self.stages)

    def _round(
        self, found: tuple[float, float, float], busy: int, head: float
    ) -> tuple[float, float, float]:
        """Return a round's time from that of one stage."""
        time, slope, limit = found
        share = self._share(busy)
        return (
            share * (time - head) + self._heads(busy) * head, slope * share / busy,
            limit * busy,
        )  # fmt: skip

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks and decoding sequences."""
        return self.joint([(chunks, batch, contexts)])

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step of groups, each as ``mixed`` has it."""
        dealt = [self._deal(*part) for part in parts]
        slowest = max(
            self.stage.joint([microbatches[i] for microbatches in dealt])
            for i in range(self.stages)
        )
        lone = max(
            sum(1 for m in microbatches if m[0] or m[1]) for microbatches in dealt
        )
        sequences = max(m[1] + len(m[0]) for ms in dealt for m in ms)
        head = self.stage.head[sequences]
        return self._share(lone) * (slowest - head) + self._heads(lone) * head

    def _share(self, busy: int) -> float:
        """Return the stage times of one round, of all but the head."""
        return self.stages * (1.0 if busy >= self.stages else self.even)

    def _heads(self, busy: int) -> float:
        return self.stages if busy >= self.stages else 1.0

    def _deal(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> list[Part]:
        """Return what each microbatch has of a step."""
        count = self.stages
        busy = max(min(batch, count), 1)
        each = -(-batch // count)
        held: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        room = [self.budget - each] * count
        for tokens, before in chunks:
            rest, seen = tokens, before
            while rest:
                at = room.index(max(room))
                fits = rest if not self.chunked else min(rest, max(room[at], 1))
                held[at].append((fits, seen))
                room[at] -= fits
                rest, seen = rest - fits, seen + fits
        return [
            (held[i], each if i < busy and batch else 0, contexts / busy)
            for i in range(count)
        ]


@dataclass(frozen=True)
class PipelinePower(StepPower):
    """Energy of the steps of a pipeline, all its stages together.

    Attributes
    ----------
    stage : TablePower
        Of one stage.
    """

    stage: TablePower
    table: PipelineTable

    @property
    def idle(self) -> float:
        """Power between steps. [W]"""
        return self.table.stages * self.stage.idle

    def energy(
        self,
        duration: FloatArray,
        steps: FloatArray,
        decoding: FloatArray,
        prompt: FloatArray,
    ) -> float:
        """Return the energy of rows of steps. [J]"""
        count = self.table.stages
        units = decoding + np.ceil(prompt / self.table.budget)
        share = np.clip(units / count, 1.0 / count, 1.0)
        total = 0.0
        # Of each share of busy stages apart: the rest of them waits.
        for value in np.unique(share):
            where = share == value
            slot = duration[where] / count
            busy = self.stage.energy(
                slot, steps[where], np.ceil(decoding[where] / count),
                np.ceil(prompt[where] / (count * value)),
            )  # fmt: skip
            total += count * count * value * busy
            total += self.idle * float(duration[where].sum()) * (1.0 - value)
        return float(total)


def pipelined(
    stage: StepTable,
    power: TablePower | None,
    model: ModelSpec,
    engine: EngineSpec,
    layout: ReplicaLayout,
) -> tuple[PipelineTable, PipelinePower | None]:
    """Return the table and power of a pipeline, from those of its slowest stage."""
    start, stop = slowest_stage(model, layout)
    even = len(model.layer_kinds) / (layout.pp * (stop - start))
    table = PipelineTable(
        stage, layout.pp, even, engine.max_num_batched_tokens, engine.chunked_prefill
    )
    return table, None if power is None else PipelinePower(power, table)
