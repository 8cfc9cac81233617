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
        self._feature = np.asarray(spec.feature, dtype=np.intp)
        self._cut = np.asarray(spec.cut, dtype=np.float64)[:, np.newaxis]
        self._leaves = np.asarray(spec.leaves, dtype=np.float64)
        self._shape = (trees, spec.depth, -1)
        self._place = 1 << np.arange(spec.depth, dtype=np.intp)
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
        count = table.shape[1]
        out = np.empty(count)
        step = max(1, 2_000_000 // max(len(self._feature), 1))
        for at in range(0, count, step):
            part = table[:, at : at + step]
            above = (part[self._feature] > self._cut).reshape(self._shape)
            leaf = np.einsum("tds,d->ts", above, self._place) + self._offset
            out[at : at + step] = self._leaves[leaf].sum(axis=0)
        limit = self.spec.limit
        return np.clip(out, -limit, limit)
