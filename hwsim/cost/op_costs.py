"""Costs of a list of operators as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsim.cost.cost import Cost, FloatArray
from hwsim.graph.op import Op


@dataclass(frozen=True, slots=True)
class OpCosts:
    """Costs of a list of operators, one array entry each.

    Attributes
    ----------
    ops : tuple of Op
        The operators.
    time, compute, interconnect, overhead : ndarray of float64, shape (n_op,)
        As in :class:`~hwsim.cost.cost.Cost`. [s]
    levels : dict of str to ndarray
        Time on each memory level. [s]
    """

    ops: tuple[Op, ...]
    time: FloatArray
    compute: FloatArray
    levels: dict[str, FloatArray]
    interconnect: FloatArray
    overhead: FloatArray

    @property
    def memory(self) -> FloatArray:
        """Time on all memory levels. [s]"""
        zero = np.zeros_like(self.time)
        return sum(self.levels.values(), start=zero)

    def bound(self) -> list[str]:
        """Name of the largest part of each operator."""
        cost = Cost(
            self.time, self.compute, self.levels, self.interconnect, self.overhead
        )
        return [str(name) for name in cost.bound()]
