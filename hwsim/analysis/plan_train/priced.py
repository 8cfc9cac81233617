"""Costs of operators of a search, each distinct one once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.analysis.plan_train.crowding import shares
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity, cost_ops
from hwsim.cost.sharing import op_use
from hwsim.graph.op import Collective, Matmul, Op
from hwsim.specs.calibration import calibration_for

if TYPE_CHECKING:
    from hwsim.analysis.plan_train.units import Question

# Longer than any window over which clocks settle: stages run without a pause.
SUSTAINED_FLOP = 1e30
FIGURES = ("time", "compute", "memory", "overhead", "interconnect")


class PricedOps:
    """Remembers what operators cost on one system.

    Layers of different layouts share most of their operators: to tell that two
    are equal is quicker than to cost both.
    """

    def __init__(self, asked: Question, fidelity: Fidelity) -> None:
        self.asked, self.fidelity = asked, fidelity
        self.levels = len(asked.system.networks)
        self._calibration = calibration_for(asked.system.device, fidelity)
        self._first: Op | None = None
        self._places: dict[Op, int] = {}
        self._uses: dict[Any, FloatArray] = {}
        self._table = np.zeros((len(FIGURES) + self.levels, 0))

    def figures(self, ops: Sequence[Op]) -> FloatArray:
        """Return what operators cost.

        Returns
        -------
        ndarray, shape (5 + n_level, n_op)
            ``FIGURES`` [s], then the share of each network level that a
            collective takes while it runs alone.
        """
        places, known = self._places, len(self._places)
        new: list[Op] = []
        met: dict[int, int] = {}
        for op in ops:
            if id(op) in met:
                continue
            place = places.setdefault(op, len(places))
            if place == known + len(new):
                new.append(op)
            met[id(op)] = place
        if new:
            self._table = np.concatenate([self._table, self._costed(new)], axis=1)
        return self._table[:, [met[id(op)] for op in ops]]

    def _costed(self, ops: Sequence[Op]) -> FloatArray:
        asked = self.asked
        # Clocks settle over a time that the first product's dtype gives, as in a graph.
        if self._first is None:
            self._first = next((op for op in ops if isinstance(op, Matmul)), ops[0])
        costs = cost_ops(
            [self._first, *ops], asked.system, asked.stack, self.fidelity,
            sustained_flop=SUSTAINED_FLOP, in_step=asked.system.num_devices,
        )  # fmt: skip
        found = [getattr(costs, name)[1:] for name in FIGURES]
        return np.concatenate([np.stack(found), self._shares(ops)])

    def _shares(self, ops: Sequence[Op]) -> FloatArray:
        found = np.zeros((self.levels, len(ops)))
        for place, op in enumerate(ops):
            if isinstance(op, Collective):
                key = op.collective, op.group_size, op.stride, op.fanout, op.direct
                if key not in self._uses:
                    use = op_use(op, self.asked.system, self._calibration)
                    self._uses[key] = shares(dict(use), self.levels)
                found[:, place] = self._uses[key]
        return found
