"""Communication of many layouts at once: collectives, gathers beside layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.plan_train.crowding import Flow, no_flow, shares
from hwsim.analysis.plan_train.units import Question, grown
from hwsim.cost.collective import collective_bound, collective_cost
from hwsim.cost.cost import FloatArray
from hwsim.cost.sharing import level_use
from hwsim.graph.offload import fetched, saved
from hwsim.graph.op import Op
from hwsim.graph.opgraph import Block, Node
from hwsim.graph.reduce import gathered, reduced
from hwsim.graph.training import training_plan
from hwsim.graph.unit import Plan, Unit, units
from hwsim.specs.calibration import calibration_for, resolved_fidelity

IntArray = NDArray[np.int64]
_STRIDES = 1 << 20


@dataclass(frozen=True)
class Links:
    """Times of collectives on one system."""

    asked: Question
    _uses: dict[tuple[str, int, int], FloatArray] = field(default_factory=dict)

    @property
    def levels(self) -> int:
        """Network levels."""
        return len(self.asked.system.networks)

    def time(
        self, name: str, nbytes: FloatArray, size: FloatArray, stride: FloatArray
    ) -> FloatArray:
        """Return the time of one collective in each layout; arrays broadcast. [s]"""
        return self.flow(name, nbytes, size, stride).time

    def flow(
        self, name: str, nbytes: FloatArray, size: FloatArray, stride: FloatArray
    ) -> Flow:
        """Return its time, and what it takes of each level."""
        nbytes, size, stride = np.broadcast_arrays(nbytes, size, stride)
        found = no_flow(self.levels, len(nbytes))
        active = (size > 1) & (nbytes > 0)
        if not active.any():
            return found
        sizes, strides = size[active].astype(np.int64), stride[active].astype(np.int64)
        code = sizes * _STRIDES + strides
        order = np.argsort(code, kind="stable")
        groups, starts = np.unique(code[order], return_index=True)
        values = nbytes[active]
        times, load = np.zeros(len(values)), np.zeros((self.levels, len(values)))
        for group, where in zip(
            groups.tolist(), np.split(order, starts[1:]), strict=True
        ):
            several, back = np.unique(values[where], return_inverse=True)
            n, apart = divmod(group, _STRIDES)
            whole, sent = self._one(name, several, n, apart)
            times[where] = whole[back]
            load[:, where] = self._use(name, n, apart)[:, None] * sent[back]
        found.time[active], found.load[:, active] = times, load
        return found

    def _use(self, name: str, size: int, stride: int) -> FloatArray:
        """Return the share of each level that a collective takes."""
        key = name, size, stride
        if key not in self._uses:
            system = self.asked.system
            use = level_use(
                name, size, system=system, stride=stride,
                calibration=calibration_for(
                    system.device, resolved_fidelity(system.device, self.asked.fidelity)
                ),
            )  # fmt: skip
            self._uses[key] = shares(use, self.levels)
        return self._uses[key]

    def _one(
        self, name: str, nbytes: FloatArray, size: int, stride: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return the time, and the part of it on links."""
        asked = self.asked
        system = asked.system
        least = collective_bound(name, nbytes, size, system=system, stride=stride)
        fidelity = resolved_fidelity(system.device, asked.fidelity)
        if fidelity == "roofline":
            return least, least
        cost = collective_cost(
            name, nbytes, size, system=system, stride=stride,
            calibration=calibration_for(system.device, fidelity),
        )  # fmt: skip
        return np.maximum(cost.time, least), cost.interconnect

    def send(self, nbytes: FloatArray, stride: FloatArray) -> FloatArray:
        """Return the time of a message to a rank so far away. [s]"""
        return self.time("send_recv", nbytes, np.full(nbytes.shape, 2.0), stride)


@dataclass(frozen=True)
class Beside:
    """What runs beside one layer: its times in one microbatch. [s]"""

    compute: FloatArray
    gather: Flow
    reduce: Flow
    copy: FloatArray

    def taken(self, at: IntArray) -> Beside:
        """Return the same of some layouts."""
        gather, reduce = self.gather.taken(at), self.reduce.taken(at)
        return Beside(self.compute[at], gather, reduce, self.copy[at])

    def times(self, block: Block) -> list[FloatArray]:
        """Return the time of each node of a pattern."""
        return [self._time(node.op) for node in block.nodes]

    def _time(self, op: Op) -> FloatArray:
        if op.name.endswith("parameter_gather"):
            return self.gather.time
        if op.name.endswith("gradient_reduce"):
            return self.reduce.time
        if op.name.startswith("activations_"):
            return self.copy
        return self.compute


class Patterns:
    """How a layer, its gathers, reductions and copies wait for each other.

    The blocks are those that graphs are made of, a layer being one node: what
    overlaps with what is asked of the graph, not written down again.
    """

    def __init__(self, asked: Question) -> None:
        self.asked = asked
        self._blocks: dict[tuple[int, bool, bool], Block] = {}

    def chunk(
        self, zero_stage: int, offload: bool, beside: Beside, *, back: bool
    ) -> list[FloatArray]:
        """Return what one more layer adds, and what a chunk adds once. [s]"""
        block = self._block(zero_stage, offload, back)
        return grown(block, beside.times(block))

    def _block(self, zero_stage: int, offload: bool, back: bool) -> Block:
        key = zero_stage, offload, back
        if key not in self._blocks:
            self._blocks[key] = self._made(*key)
        return self._blocks[key]

    def _made(self, zero_stage: int, offload: bool, back: bool) -> Block:
        plan, unit = self._layer(zero_stage, offload)
        block = unit.backward if back else unit.forward
        assert block is not None
        node = next(n for n in block.nodes if n.stream == "compute")
        one = Block(block.name, (Node(node.op),))
        held = replace(unit, held=unit.held._replace(expert=unit.held.dense * 0.0)).held
        if back:
            one = gathered(plan, fetched(plan, unit, one), held)
            return reduced(replace(plan, last=False), one, held)
        return gathered(plan, saved(plan, unit, one), held)

    def _layer(self, zero_stage: int, offload: bool) -> tuple[Plan, Unit]:
        asked = self.asked
        plan = training_plan(
            asked.model, [0], first=False, final=False, micro_batch=1, seq=asked.seq,
            dp=2, pp=2, dtype=asked.dtype, recompute="none", zero_stage=zero_stage,
            last=False, stack=asked.stack, sequence_parallel=False, grad_dtype=None,
            decoder_seq=None, dropout=None, offload_activations=offload,
        )  # fmt: skip
        return plan, next(u for u in units(plan) if u.kind is not None)
