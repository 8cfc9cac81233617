"""What a fit is worth: errors, and the spread that its intervals are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsim.cost.cost import FloatArray
from hwsim.specs.calibration_file import (
    EVERY,
    REGIMES,
    Errors,
    IntervalCheck,
    Regime,
    RegimeTable,
    Spread,
    regime_index,
)

COVER = 0.9
_LEAST = 60  # rows that a regime needs for quantiles of its own
_FURTHEST = 15.0
_FACTORS = np.round(np.arange(1.0, 2.01, 0.02), 2)


def errors(predicted: FloatArray, measured: FloatArray) -> Errors:
    """Return errors over rows, relative to the measured time."""
    signed = predicted / measured - 1
    size = np.abs(signed)
    return Errors(
        rows=len(size),
        median_ape=_short(np.median(size)),
        mape=_short(np.mean(size)),
        p90_ape=_short(np.quantile(size, 0.9)),
        bias=_short(np.median(signed)),
    )


def _short(value: float | np.floating) -> float:
    return float(f"{float(value):.4g}")


def regime_table(predicted: FloatArray, measured: FloatArray) -> RegimeTable:
    """Return split-conformal quantiles of ln(measured / predicted) by regime.

    ``predicted`` must come from fits that did not see the rows. A regime of
    few rows has none of its own.
    """
    ratio = np.clip(np.log(measured / predicted), -_FURTHEST, _FURTHEST)
    regime = regime_index(predicted)
    found = {EVERY: _regime(ratio)}
    for number, name in enumerate(REGIMES):
        own = ratio[regime == number]
        if len(own) >= _LEAST:
            found[name] = _regime(own)
    return RegimeTable(regimes=found)


def _regime(ratio: FloatArray) -> Regime:
    tail = (1 - COVER) / 2
    ordered, number = np.sort(ratio), len(ratio)
    # The next row is one more of the same: its rank is uniform over n + 1.
    rank = int(np.floor((number + 1) * tail))
    low = ordered[max(rank - 1, 0)]
    high = ordered[min(number - rank, number - 1)]
    return Regime(low=_short(low), high=_short(high), rows=number)


def check_interval(
    predicted: FloatArray, measured: FloatArray, fold: NDArray[np.int64]
) -> IntervalCheck:
    """Return the spread, and what intervals made of other folds cover.

    Whole blocks of shapes differ by more than rows do: where too few rows of
    left-out folds are covered, all quantiles are widened by the one factor that
    covers enough. Coverage and width are those of each fold with quantiles and
    a factor that other folds alone gave, so that neither parameters nor
    quantiles nor the factor have seen the rows that they are judged on.
    """
    logs = np.log(measured / predicted)
    inside, width = np.zeros(len(logs), dtype=bool), np.zeros(len(logs))
    for which in np.unique(fold):
        here = fold == which
        others = ~here if np.any(~here) else here
        factor = _factor(predicted[others], measured[others], fold[others])
        table = regime_table(predicted[others], measured[others])
        low, high = Spread(table).logs(predicted[here])
        inside[here] = (factor * low <= logs[here]) & (logs[here] <= factor * high)
        width[here] = np.exp(factor * high) - np.exp(factor * low)
    factor = _factor(predicted, measured, fold)
    regimes = {
        name: Regime(
            low=_short(factor * r.low), high=_short(factor * r.high), rows=r.rows
        )
        for name, r in regime_table(predicted, measured).regimes.items()
    }
    return IntervalCheck(
        regimes=RegimeTable(regimes=regimes),
        coverage=_short(np.mean(inside)),
        width=_short(np.mean(width)),
    )


def _factor(
    predicted: FloatArray, measured: FloatArray, fold: NDArray[np.int64]
) -> float:
    """Return what widens quantiles of other folds until they cover enough."""
    low, high, ratio = _of_other_folds(predicted, measured, fold)
    for factor in _FACTORS:
        if np.mean((factor * low <= ratio) & (ratio <= factor * high)) >= COVER:
            break
    return float(factor)


def _of_other_folds(
    predicted: FloatArray, measured: FloatArray, fold: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return quantiles of the other folds for each row, and the row's own error."""
    low, high = np.zeros(len(measured)), np.zeros(len(measured))
    for which in np.unique(fold):
        here = fold == which
        others = ~here if np.any(~here) else here
        table = regime_table(predicted[others], measured[others])
        low[here], high[here] = Spread(table).logs(predicted[here])
    return low, high, np.log(measured / predicted)
