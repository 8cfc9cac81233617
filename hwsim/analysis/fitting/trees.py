"""Boosted trees on the logarithmic errors of a physical form.

Every tree asks the same questions of all rows, in order (an oblivious tree),
so that evaluating it is a table look-up. Blocks of rows are left out in turn
to see whether trees say anything about shapes they did not see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.cost.cost import FloatArray
from hwsim.specs.residual import Residual, ResidualSpec


@dataclass(frozen=True, slots=True)
class Boosting:
    """How trees are grown.

    Attributes
    ----------
    trees, depth : int
        Number of trees, questions of each.
    rate : float
        Share of each tree's answer that counts.
    cuts : int
        Candidate thresholds of each feature, at its quantiles.
    shrinkage : float
        Rows of no error that each leaf is taken to hold besides its own.
    clip, last_clip : float
        Errors count for no more than this while the first and the last tree
        are grown: the mean of errors first, their median in the end.
    limit : float
        Together, trees never say more than this, up or down.
    """

    trees: int = 150
    depth: int = 6
    rate: float = 0.15
    cuts: int = 40
    shrinkage: float = 8.0
    clip: float = 0.2
    last_clip: float = 0.04
    limit: float = 0.7


def grow(
    names: tuple[str, ...],
    table: FloatArray,
    error: FloatArray,
    how: Boosting,
    seed: int = 0,
) -> ResidualSpec:
    """Return trees that predict errors from features.

    Parameters
    ----------
    names : tuple of str
        Features, in the order of the rows of ``table``.
    table : ndarray, shape (n_feature, n_row)
        Their values.
    error : ndarray, shape (n_row,)
        ln(measured / predicted).
    """
    cuts = [_cuts(column, how.cuts) for column in table]
    used = [i for i, found in enumerate(cuts) if len(found)]
    bins = [np.searchsorted(cuts[i], table[i], side="left") for i in used]
    rng = np.random.default_rng(seed)
    left = error.astype(np.float64).copy()
    feature: list[int] = []
    cut: list[float] = []
    leaves: list[float] = []
    for clip in np.linspace(how.clip, how.last_clip, how.trees if used else 0):
        target = np.clip(left, -clip, clip)
        sample = rng.random(len(left)) < 0.7
        weight = sample.astype(np.float64)
        leaf = np.zeros(len(left), dtype=np.int64)
        for level in range(how.depth):
            best = _question(
                leaf, level, bins, [len(cuts[i]) for i in used], target, weight, how
            )
            which, at = best
            feature.append(used[which])
            cut.append(float(cuts[used[which]][at]))
            leaf += (bins[which] > at).astype(np.int64) << level
        total = np.bincount(leaf, weight * target, minlength=2**how.depth)
        count = np.bincount(leaf, weight, minlength=2**how.depth)
        value = how.rate * total / (count + how.shrinkage)
        leaves += value.tolist()
        left -= value[leaf]
    return ResidualSpec(
        features=names, depth=how.depth, feature=tuple(feature),
        cut=tuple(float(f"{c:.5g}") for c in cut),
        leaves=tuple(round(v, 4) for v in leaves), limit=how.limit,
    )  # fmt: skip


def _cuts(column: FloatArray, number: int) -> FloatArray:
    """Return thresholds between the distinct values of a feature."""
    values = np.unique(column)
    if len(values) < 2:
        return np.zeros(0)
    middle = (values[1:] + values[:-1]) / 2
    if len(middle) <= number:
        return np.asarray(middle)
    at = np.quantile(column, np.linspace(0, 1, number + 2)[1:-1])
    return np.asarray(middle[np.unique(np.searchsorted(values[1:], at))])


def _question(
    leaf: NDArray[np.int64],
    level: int,
    bins: list[NDArray[np.int64]],
    sizes: list[int],
    target: FloatArray,
    weight: FloatArray,
    how: Boosting,
) -> tuple[int, int]:
    """Return (feature, cut) that lowers the squared error most."""
    best, found = -1.0, (0, 0)
    parts = 1 << level
    weighted = weight * target
    for which, column in enumerate(bins):
        width = sizes[which] + 1
        code = leaf * width + column
        total = np.bincount(code, weighted, minlength=parts * width)
        count = np.bincount(code, weight, minlength=parts * width)
        total, count = total.reshape(parts, width), count.reshape(parts, width)
        low, few = np.cumsum(total, axis=1)[:, :-1], np.cumsum(count, axis=1)[:, :-1]
        high = total.sum(axis=1, keepdims=True) - low
        many = count.sum(axis=1, keepdims=True) - few
        gain = low**2 / (few + how.shrinkage) + high**2 / (many + how.shrinkage)
        summed = gain.sum(axis=0)
        at = int(np.argmax(summed))
        if summed[at] > best:
            best, found = float(summed[at]), (which, at)
    return found


def factors(spec: ResidualSpec, table: FloatArray) -> FloatArray:
    """Return what trees multiply times by."""
    return np.exp(Residual(spec).log_factor_of(table))
