"""Fits one operator family to one device: parameters, then what they miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hwsim.analysis.fitting.bounds import Bound, Stage, stages
from hwsim.analysis.fitting.rows import FitRows, folds
from hwsim.analysis.fitting.trees import Boosting, grow
from hwsim.cost.cost import FloatArray
from hwsim.specs.calibration import Calibration, with_parameters
from hwsim.specs.residual import ResidualSpec

# Errors beyond this, in ln(predicted / measured), count linearly.
_ROBUST = 0.05
Carry = Callable[[Mapping[str, float]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How much work a fit takes on.

    Attributes
    ----------
    folds : int
        Parts into which blocks are dealt; each is predicted by a fit to the
        others. 0 fits without held-out errors.
    sample : int
        Rows that parameters are fitted to, drawn at random.
    starts : int
        Starting points: the generation's values, then random ones around.
    evaluations : int
        Steps of each start.
    seed : int
        Of samples, starts, folds and trees.
    trees : Boosting or None
        How residuals are grown; None leaves them out.
    """

    folds: int = 4
    sample: int = 700
    starts: int = 2
    evaluations: int = 25
    seed: int = 0
    trees: Boosting | None = field(default_factory=Boosting)


@dataclass(frozen=True)
class Fitted:
    """Parameters of one family and its residual, fitted to the same rows."""

    values: Mapping[str, float]
    bounds: tuple[Bound, ...]
    residual: ResidualSpec | None
    rows: int


@dataclass(frozen=True)
class FamilyOutcome:
    """A final fit, and what fits without each row's block say of it.

    Attributes
    ----------
    fitted : Fitted
        To all rows.
    predicted : ndarray of float64
        By ``fitted``. [s]
    held_out, physics : ndarray of float64 or None
        Predicted by fits that never saw the row's block, with and without
        residual; None without folds. [s]
    fold : ndarray of int
        Fold of each row.
    """

    rows: FitRows
    fitted: Fitted
    predicted: FloatArray
    held_out: FloatArray | None
    physics: FloatArray | None
    fold: NDArray[np.int64]


def fit_family(rows: FitRows, prior: Calibration, plan: FitPlan) -> FamilyOutcome:
    """Fit a family to rows of one device, held-out predictions included."""
    number = min(plan.folds, int(rows.block.max()) + 1)
    fold = folds(rows.block, max(number, 1), plan.seed)
    values, bounds, used = fit_values([rows], [prior], plan)
    tuned = with_parameters(prior, values)
    physics = with_trees = None
    if number > 1:
        physics, with_trees = _held_out(rows, prior, values, fold, number, plan)
    residual = None
    if plan.trees is not None and (
        physics is None or _better(with_trees, physics, rows.time)
    ):
        residual = _residual(rows, tuned, plan)
    predicted = rows.predict(_with_residual(tuned, rows.family, residual))
    held_out = with_trees if residual is not None else physics
    return FamilyOutcome(
        rows, Fitted(values, bounds, residual, used), predicted, held_out, physics,
        fold,
    )  # fmt: skip


def _held_out(
    rows: FitRows,
    prior: Calibration,
    near: Mapping[str, float],
    fold: NDArray[np.int64],
    number: int,
    plan: FitPlan,
) -> tuple[FloatArray, FloatArray]:
    """Return predictions of each row by fits without its block."""
    del near  # fits start from the generation, never from the held-out rows
    physics, both = np.empty(len(rows)), np.empty(len(rows))
    for which in range(number):
        seen = rows.take(np.flatnonzero(fold != which))
        where = np.flatnonzero(fold == which)
        unseen = rows.take(where)
        values, _, _ = fit_values([seen], [prior], plan, starts=1)
        tuned = with_parameters(prior, values)
        physics[where] = unseen.predict(tuned)
        both[where] = physics[where]
        if plan.trees is not None:
            residual = _residual(seen, tuned, plan)
            both[where] = unseen.predict(_with_residual(tuned, rows.family, residual))
    return physics, both


def _better(
    trees: FloatArray | None, physics: FloatArray, measured: FloatArray
) -> bool:
    """Return whether trees lower both median and mean error on unseen blocks."""
    if trees is None:
        return False
    with_, without = np.abs(trees / measured - 1), np.abs(physics / measured - 1)
    return bool(
        np.median(with_) < 0.98 * np.median(without)
        and np.mean(with_) < 0.98 * np.mean(without)
    )


def _residual(rows: FitRows, tuned: Calibration, plan: FitPlan) -> ResidualSpec:
    assert plan.trees is not None
    how = plan.trees
    if rows.family == "collective":  # few rows; kernels of several libraries
        how = replace(how, limit=1.8, clip=1.0, trees=200)
    names, table, own = rows.features(tuned)
    other = rows.predict(tuned) - own
    target = np.maximum(rows.time - other, 0.3 * own)
    error = np.clip(np.log(target / own), -2.0, 2.0)
    return grow(names, table, error, how, plan.seed)


def _with_residual(
    tuned: Calibration, family: str, residual: ResidualSpec | None
) -> Calibration:
    if residual is None:
        return tuned
    from hwsim.specs.residual import Residual

    return tuned.model_copy(update={"residuals": {family: Residual(residual)}})


def fit_values(
    parts: Sequence[FitRows],
    priors: Sequence[Calibration],
    plan: FitPlan,
    *,
    starts: int | None = None,
    shares: Sequence[float] = (),
    carries: Sequence[Carry] | None = None,
) -> tuple[dict[str, float], tuple[Bound, ...], int]:
    """Fit one set of parameters to rows of one device or of several.

    Parameters
    ----------
    parts, priors : sequences
        Rows of each device, and the calibration that its other parameters
        come from.
    shares : sequence of float
        Share of each device in the rows that are drawn; even by default. [1]
    carries : sequence of callable, optional
        Turns the parameters into those of each device; they are the same on
        all by default.

    Returns
    -------
    values : dict of dotted path to float
    bounds : tuple of Bound
    rows : int
        Rows that were fitted to.
    """
    rng = np.random.default_rng(plan.seed)
    values: dict[str, float] = {}
    bounds: tuple[Bound, ...] = ()
    used = 0
    planned = [stages(part, prior) for part, prior in zip(parts, priors, strict=True)]
    shares = shares or [1 / len(parts)] * len(parts)
    carries = carries or [dict] * len(parts)
    for step in range(max(len(found) for found in planned)):
        some = [
            (_sample(part, found[step], round(plan.sample * share), rng), prior, carry)
            for part, prior, carry, found, share in zip(
                parts, priors, carries, planned, shares, strict=True
            )
            if step < len(found)
        ]
        own = _joined_bounds([found[step] for found in planned if step < len(found)])
        values |= _solve(some, own, values, plan, starts or plan.starts, rng)
        bounds += own
        used += sum(len(part) for part, _, _ in some)
    return values, bounds, used


def _joined_bounds(found: Sequence[Stage]) -> tuple[Bound, ...]:
    return tuple({b.path: b for stage in found for b in stage.bounds}.values())


def _sample(
    part: FitRows, stage: Stage, number: int, rng: np.random.Generator
) -> FitRows:
    index = np.flatnonzero(stage.rows)
    most = max(number, 100)
    if len(index) > most:
        index = np.sort(rng.choice(index, most, replace=False))
    return part.take(index)


def _solve(
    some: Sequence[tuple[FitRows, Calibration, Carry]],
    bounds: tuple[Bound, ...],
    known: Mapping[str, float],
    plan: FitPlan,
    starts: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    low = np.log([b.lower for b in bounds])
    high = np.log([b.upper for b in bounds])
    measured = [np.log(part.time) for part, _, _ in some]
    paths = [b.path for b in bounds]

    def error(x: FloatArray) -> FloatArray:
        values = {**known, **dict(zip(paths, np.exp(x).tolist(), strict=True))}
        parts = []
        for (part, base, carry), target in zip(some, measured, strict=True):
            predicted = part.predict(with_parameters(base, carry(values)))
            parts.append(np.log(np.maximum(predicted, 1e-12)) - target)
        return np.concatenate(parts)

    first = np.array([_prior(some[0][1], b) for b in bounds])
    best, found = np.inf, first
    for start in range(starts):
        x = first if start == 0 else first + rng.normal(0.0, 0.4, len(first))
        x = np.clip(x, low + 1e-3 * (high - low), high - 1e-3 * (high - low))
        fit = least_squares(
            error, x, bounds=(low, high), loss="soft_l1", f_scale=_ROBUST,
            diff_step=np.full(len(x), 1e-3), max_nfev=plan.evaluations,
        )  # fmt: skip
        if fit.cost < best:
            best, found = fit.cost, fit.x
    return {
        path: float(f"{value:.5g}")
        for path, value in zip(paths, np.exp(found).tolist(), strict=True)
    }


def _prior(base: Calibration, bound: Bound) -> float:
    """Return the logarithm of a parameter's value in the generation."""
    holder: object = base
    for key in bound.path.split("."):
        if isinstance(holder, Mapping):
            holder = holder.get(key)
        else:
            holder = getattr(holder, key)
    middle = float(np.sqrt(bound.lower * bound.upper))
    value = holder if isinstance(holder, int | float) else middle
    return float(np.log(np.clip(value, bound.lower, bound.upper)))
