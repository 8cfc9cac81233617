"""Costs of what layouts are made of: one layer of each kind, both ends.

Thousands of layouts share a few hundred distinct layers. Each is built once by
the graph machinery that simulations use; all their operators are costed in one
call, and blocks that are built alike are played together, as arrays.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hwsim.analysis.launches import launch_times, module_time
from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.priced import FIGURES, PricedOps
from hwsim.cost.contention import yielded
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity
from hwsim.graph.opgraph import COMPUTE, Block
from hwsim.graph.precision import resolve
from hwsim.graph.split import accumulating, divided
from hwsim.graph.training import training_plan
from hwsim.graph.unit import Unit, units
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

BUSY = FIGURES[1:-1]
_PASSES = ("forward", "backward", "inputs", "weights")


Key = tuple[int, int, int, int, int]  # tp, cp, ep, micro_batch, place in RECOMPUTE


@dataclass(frozen=True)
class Question:
    """What all layouts of a search have in common."""

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    dtype: str
    optimizer: str
    seq: int
    fidelity: Fidelity
    sequence_parallel: bool = True

    def splits(self, tp: int, cp: int) -> bool:
        """Whether norms and dropout can be divided over ``tp`` too."""
        return self.sequence_parallel and tp > 1 and self.seq // cp % tp == 0

    def plan_options(self, tp: int, cp: int, ep: int) -> dict[str, object]:
        """Return what graphs and footprints of a layout are built with."""
        return {
            "seq": self.seq, "tp": tp, "cp": cp, "ep": ep, "dtype": self.dtype,
            "sequence_parallel": self.splits(tp, cp),
        }  # fmt: skip


@dataclass(frozen=True)
class UnitTable:
    """Times of layer kinds, and of the first and the last stage's ends.

    Attributes
    ----------
    forward, backward, inputs, weights : ndarray, shape (n_key, n_kind + 2)
        One microbatch through one layer; the embedding; norm, head and loss.
        ``inputs`` and ``weights`` are the backward pass divided. [s]
    busy : dict of str to ndarray
        Of ``BUSY``, forward (0) and backward (1). [s]
    sent, load : ndarray, shape (2, ...) and (n_level, 2, ...)
        Time on links beside kernels, forward and backward; for how long each
        network level is full. [s]
    """

    forward: FloatArray
    backward: FloatArray
    inputs: FloatArray
    weights: FloatArray
    busy: dict[str, FloatArray]
    sent: FloatArray
    load: FloatArray


class UnitCoster:
    """Costs layers of many settings at once."""

    def __init__(self, asked: Question, split: bool) -> None:
        self.asked, self.split = asked, split
        self.kinds = [kind for kind, _ in asked.model.layer_groups()]
        moe = [i for i, kind in enumerate(self.kinds) if kind.moe]
        self.first_moe = moe[0] if moe else None
        # What does not depend on how experts are shared out.
        self.shared = [i for i in range(len(self.kinds) + 2) if i not in moe]
        self._whole: dict[Key, FloatArray] = {}
        self.fidelity = resolved_fidelity(asked.system.device, asked.fidelity)
        self.priced = PricedOps(asked, self.fidelity)
        self._apart = (
            None if asked.stack.fusion.accumulate else resolve(asked.dtype).act
        )
        self.launches = launch_times(asked.system, asked.stack, self.fidelity)

    def table(self, keys: Sequence[Key]) -> UnitTable:
        """Return the costs for each (tp, cp, ep, micro_batch, recompute)."""
        lacking = {_alone(k) for k in keys} - set(keys) - set(self._whole)
        rows = [*keys, *sorted(lacking)]
        placed: list[tuple[int, int, int]] = []  # pass, key, unit
        blocks: list[Block] = []
        with _uncollected():
            for row, key in enumerate(rows):
                for unit in self._units(key):
                    column = self._column(unit)
                    for number, block in self._blocks(unit):
                        placed.append((number, row, column))
                        blocks.append(block)
            found = self._costed(blocks, placed, len(rows))
        for row, key in enumerate(rows):
            if key == _alone(key):
                self._whole[key] = found[:, row].copy()
        for row, key in enumerate(keys):
            if self._partial(key):
                found[:, row, self.shared] = self._whole[_alone(key)][:, self.shared]
        forward, backward, inputs, weights = found[: len(_PASSES), : len(keys)]
        pairs = found[len(_PASSES) :, : len(keys)]
        pairs = pairs.reshape(-1, 2, *pairs.shape[1:])
        busy, sent, load = pairs[: len(BUSY)], pairs[len(BUSY)], pairs[len(BUSY) + 1 :]
        split = dict(zip(BUSY, busy, strict=True))
        return UnitTable(forward, backward, inputs, weights, split, sent, load)

    def _costed(
        self, blocks: list[Block], placed: list[tuple[int, int, int]], rows: int
    ) -> FloatArray:
        """Return the time of each pass, then forward and backward of the rest.

        The rest: ``BUSY``, time on links, and of it on each network level.
        """
        ops = [node.op for block in blocks for node in block.nodes]
        figures = self.priced.figures(ops)
        if self.asked.stack.overlap.tp and self.yields:
            device = self.asked.system.device
            longer = yielded(blocks, figures[0], self.asked.stack, device)
            figures[:2] += longer  # time, compute
        time, *busy, link = figures[: len(FIGURES)]
        shape = (len(_PASSES), rows, len(self.kinds) + 2)
        where = tuple(np.array(placed).T)
        made = np.zeros(shape)
        np.add.at(made, where, self._times(blocks, time))
        parts = [made]
        mine = np.array([n.stream == COMPUTE for block in blocks for n in block.nodes])
        sent = link * ~mine
        values = [
            *(one * mine for one in busy),
            sent,
            *(sent * figures[len(FIGURES) :]),
        ]
        starts = _starts(blocks)
        for one in values:
            added = np.zeros(shape)
            np.add.at(added, where, np.add.reduceat(one, starts))
            parts.append(added[:2])
        return np.concatenate(parts)

    @property
    def yields(self) -> bool:
        """Whether products yield units to collectives beside them."""
        return self.fidelity != "roofline" and self.asked.system.num_devices > 1

    def _partial(self, key: Key) -> bool:
        """Whether only the layers with experts have to be costed."""
        return key != _alone(key) and self.first_moe is not None

    def _units(self, key: Key) -> list[Unit]:
        asked, (tp, cp, ep, micro_batch, again) = self.asked, key
        options = asked.plan_options(tp, cp, ep)
        layers: Sequence[int] = range(len(asked.model.layer_kinds))
        some = self._partial(key)
        if some:
            layers = [asked.model.layer_kinds.index(k) for k in self.kinds if k.moe]
        plan = training_plan(
            asked.model, layers, first=not some, final=not some, dp=ep, pp=2,
            micro_batch=micro_batch, zero_stage=0, last=True, stack=asked.stack,
            recompute=RECOMPUTE[again], grad_dtype=None,
            decoder_seq=None, dropout=None, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        return units(plan)

    def _column(self, unit: Unit) -> int:
        if unit.kind is not None:
            return self.kinds.index(unit.kind)
        return len(self.kinds) + (unit.name == "head")

    def _blocks(self, unit: Unit) -> list[tuple[int, Block]]:
        found = [] if unit.forward is None else [(0, unit.forward)]
        if unit.backward is None:
            return found
        back = accumulating(unit.backward, self._apart)
        found.append((1, back))
        if self.split:
            now, later = divided(back)
            found += [(2, now)] if now else []
            found += [(3, later)] if later else []
        return found

    def _times(self, blocks: Sequence[Block], times: FloatArray) -> FloatArray:
        """Return what one more instance of each block adds. [s]"""
        alike: dict[object, list[int]] = {}
        starts = _starts(blocks)
        for index, block in enumerate(blocks):
            form = tuple((n.stream, n.deps, n.after, n.barrier) for n in block.nodes)
            alike.setdefault((form, block.output_index), []).append(index)
        found = np.zeros(len(blocks))
        for members in alike.values():
            block = blocks[members[0]]
            places = starts[members][:, None] + np.arange(len(block.nodes))
            found[members] = grown(block, times[places].T)[0]
        if not (self.launches.forward or self.launches.backward):
            return found
        modules = self.asked.stack.launch.products
        launched = [
            sum(
                self.launches.of(n.op) + module_time(n.op, modules) for n in block.nodes
            )
            for block in blocks
        ]
        return np.maximum(found, launched)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects, none of them in cycles, without looking for cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _alone(key: Key) -> Key:
    """Return the same setting with experts that are not shared out."""
    return key[0], key[1], 1, key[3], key[4]


def _starts(blocks: Sequence[Block]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sizes = [len(block.nodes) for block in blocks]
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def grown(block: Block, times: Sequence[FloatArray] | FloatArray) -> list[FloatArray]:
    """Return what one more instance of a block adds, and what the first adds more.

    Parameters
    ----------
    times : sequence of ndarray of float64
        Time of each node; arrays for many settings at once. [s]
    """
    last: dict[str, FloatArray] = {}
    outputs: list[FloatArray] = []
    ends = []
    for _ in range(5):
        played: list[FloatArray] = []
        for node, time in zip(block.nodes, times, strict=True):
            start = last.get(node.stream, np.zeros(np.shape(time)))
            waits = [played[d] for d in node.deps]
            if node.barrier:
                waits = list(last.values())
            elif not node.deps and node.after and node.after <= len(outputs):
                waits = [outputs[-node.after]]
            for ready in waits:
                start = np.maximum(start, ready)
            last[node.stream] = end = start + time
            played.append(end)
        outputs.append(played[block.output_index])
        ends.append(np.maximum.reduce(list(last.values())))
    each = ends[4] - ends[3]
    return [each, np.maximum(ends[4] - 5.0 * each, 0.0)]
