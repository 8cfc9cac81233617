"""Learned residuals: small boosted trees over the shape of an operator.

They multiply the time of a physical cost form on the one device whose
measurements they were learned from. Their features are shapes alone, so that
faster hardware still makes every operator faster by as much as physics says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hwsim.specs.base import Name, Spec

FloatArray = NDArray[np.float64]
_FEW = 256
_CHUNK = 8192
Depth = Annotated[int, Field(ge=1, le=8)]


class ResidualSpec(Spec):
    """Trees as calibration files hold them.

    A tree asks the same ``depth`` questions of every shape, in order; the
    answers, read as a binary number, choose one of its leaves.

    Attributes
    ----------
    features : tuple of str
        Names of the features that questions are about.
    depth : int
        Questions of each tree.
    feature : tuple of int
        Which feature each question is about, tree after tree.
    cut : tuple of float
        The answer is 1 where the feature is above this.
    leaves : tuple of float
        ``2 ** depth`` leaves of each tree: logarithms of factors, which add.
    limit : float
        The logarithm of the factor stays within plus or minus this.
    """

    features: tuple[Name, ...]
    depth: Depth
    feature: tuple[int, ...]
    cut: tuple[float, ...]
    leaves: tuple[float, ...]
    limit: Annotated[float, Field(gt=0.0, le=2.0)]

    @model_validator(mode="after")
    def _shapes_agree(self) -> ResidualSpec:
        trees, rest = divmod(len(self.feature), self.depth)
        if rest or len(self.cut) != len(self.feature):
            raise ValueError(
                f"feature and cut must have depth {self.depth} entries per tree"
            )
        if len(self.leaves) != trees * 2**self.depth:
            raise ValueError(f"leaves must have {2**self.depth} entries per tree")
        if self.feature and not 0 <= min(self.feature) <= max(self.feature) < len(
            self.features
        ):
            raise ValueError("feature names a feature that is not listed")
        return self


class Residual:
    """Trees ready to evaluate.

    Parameters
    ----------
    spec : ResidualSpec
        The trees.
    """

    def __init__(self, spec: ResidualSpec) -> None:
        self.spec = spec
        trees = len(spec.feature) // spec.depth
        # Level by level: the first question of every tree, then the second.
        feature = np.asarray(spec.feature, dtype=np.intp).reshape(trees, spec.depth)
        cut = np.asarray(spec.cut, dtype=np.float64).reshape(trees, spec.depth)
        self._levels = tuple(
            (feature[:, d].copy(), cut[:, d, np.newaxis].copy(), 1 << d)
            for d in range(spec.depth)
        )
        self._leaves = np.asarray(spec.leaves, dtype=np.float64)
        self._offset = np.arange(trees, dtype=np.intp)[:, np.newaxis] * 2**spec.depth

    def log_factor(
        self, columns: Mapping[str, Any], count: int, time: FloatArray
    ) -> FloatArray:
        """Return the logarithm of the factor of each of ``count`` shapes.

        ``time`` is what the physical form gives; trees do not look at it.
        """
        del time
        if not self.spec.feature:
            return np.zeros(count)
        table = np.empty((len(self.spec.features), count))
        for i, name in enumerate(self.spec.features):
            table[i] = columns[name]
        return self.log_factor_of(table)

    def log_factor_of(self, table: FloatArray) -> FloatArray:
        """As :meth:`log_factor`, of features by row in the order of the spec."""
        few = table.shape[1] <= _FEW
        found = self._all_at_once(table) if few else self._tree_by_tree(table)
        limit = self.spec.limit
        return np.clip(found, -limit, limit)

    def _all_at_once(self, table: FloatArray) -> FloatArray:
        leaf = np.repeat(self._offset, table.shape[1], axis=1)
        for feature, cut, place in self._levels:
            leaf += (table[feature] > cut) * place
        summed: FloatArray = self._leaves[leaf].sum(axis=0)
        return summed

    def _tree_by_tree(self, table: FloatArray) -> FloatArray:
        """Sort values between thresholds once: small integers compare fast."""
        cuts = [self._cuts(i) for i in range(len(table))]
        width = np.uint8 if max(map(len, cuts)) < 256 else np.uint16
        asked = [
            [
                (int(i), int(np.searchsorted(cuts[i], at)))
                for i, at in zip(*tree, strict=True)
            ]
            for tree in self._questions()
        ]
        leaves = self._leaves.reshape(len(asked), -1)
        summed = np.zeros(table.shape[1])
        for start in range(0, table.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            between = [
                _below(found, column[part], width)
                for found, column in zip(cuts, table, strict=True)
            ]
            for questions, own in zip(asked, leaves, strict=True):
                leaf = np.zeros(len(between[0]), dtype=np.uint8)
                for i, place in reversed(questions):  # the first is the last bit
                    leaf += leaf
                    leaf += (between[i] > place).view(np.uint8)
                summed[part] += own.take(leaf)
        return summed

    def _cuts(self, feature: int) -> FloatArray:
        found = [cut[:, 0][which == feature] for which, cut, _ in self._levels]
        return np.unique(np.concatenate(found))

    def _questions(self) -> list[tuple[list[int], list[float]]]:
        depth = self.spec.depth
        starts = range(0, len(self.spec.feature), depth)
        return [
            (list(self.spec.feature[i : i + depth]), list(self.spec.cut[i : i + depth]))
            for i in starts
        ]


def _below(cuts: FloatArray, values: FloatArray, width: type) -> NDArray[Any]:
    """Return how many cuts are below each value: a search, without its branches."""
    number: NDArray[Any] = np.zeros(len(values), dtype=width)
    for cut in cuts:
        number += values > cut
    return number
