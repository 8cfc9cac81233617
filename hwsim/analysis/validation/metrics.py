"""Error metrics over rows: how far predictions are from measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.cost.cost import FloatArray

# Speed-of-light times that part small work from large. [s]
SMALL, LARGE = 5e-6, 100e-6


@dataclass(frozen=True)
class ErrorSummary:
    """Errors of a set of rows; shares of one, not percent.

    Attributes
    ----------
    rows : int
        Rows with a prediction.
    median_ape, mape, p90_ape : float
        Median, mean and 90th percentile of |predicted - measured| / measured.
    bias : float
        Median of (predicted - measured) / measured.
    coverage_90 : float
        Share of the rows with an interval whose measurement is inside it.
    interval_width : float
        Mean of (upper - lower) / predicted over those rows.
    """

    rows: int
    median_ape: float = np.nan
    mape: float = np.nan
    p90_ape: float = np.nan
    bias: float = np.nan
    coverage_90: float = np.nan
    interval_width: float = np.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the figures; those that do not exist are None."""
        return {
            "rows": self.rows,
            **{
                name: None if np.isnan(value) else float(value)
                for name, value in (
                    ("median_ape", self.median_ape),
                    ("mape", self.mape),
                    ("p90_ape", self.p90_ape),
                    ("bias", self.bias),
                    ("coverage_90", self.coverage_90),
                    ("interval_width", self.interval_width),
                )
            },
        }


def summarise(
    predicted: FloatArray,
    measured: FloatArray,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> ErrorSummary:
    """Return the errors of rows; NaN predictions are left out."""
    known = np.isfinite(predicted)
    if not np.any(known):
        return ErrorSummary(0)
    error = predicted[known] / measured[known] - 1.0
    size = np.abs(error)
    coverage = width = np.nan
    if lower is not None and upper is not None:
        with_interval = known & np.isfinite(lower) & np.isfinite(upper)
        if np.any(with_interval):
            low, high = lower[with_interval], upper[with_interval]
            real = measured[with_interval]
            coverage = float(np.mean((low <= real) & (real <= high)))
            width = float(np.mean((high - low) / predicted[with_interval]))
    return ErrorSummary(
        rows=int(np.sum(known)),
        median_ape=float(np.median(size)),
        mape=float(np.mean(size)),
        p90_ape=float(np.quantile(size, 0.9)),
        bias=float(np.median(error)),
        coverage_90=coverage,
        interval_width=width,
    )


def grouped(
    labels: NDArray[np.object_], columns: Mapping[str, FloatArray]
) -> dict[str, ErrorSummary]:
    """Return the errors by label, in order of the labels."""
    found = {}
    for label in sorted(set(labels)):
        mask = labels == label
        found[str(label)] = summarise(**{n: v[mask] for n, v in columns.items()})
    return found


def regimes(
    compute: FloatArray, memory: FloatArray, link: FloatArray
) -> NDArray[np.object_]:
    """Return the regime of rows: how much work, and what bounds it by datasheet.

    Parameters
    ----------
    compute, memory, link : ndarray of float64
        Speed-of-light time of each part. [s]

    Examples
    --------
    >>> one = np.array([1e-3]), np.array([1e-6]), np.array([0.0])
    >>> regimes(*one).tolist()
    ['large compute-bound']
    """
    parts = np.stack([compute, memory, link])
    light = parts.max(axis=0)
    size = np.where(light < SMALL, "small", np.where(light < LARGE, "medium", "large"))
    names = np.array(["compute-bound", "memory-bound", "link-bound"])
    known = np.isfinite(light)
    bound = names[np.argmax(np.where(known, parts, 0.0), axis=0)]
    labels = np.char.add(np.char.add(size, " "), bound).astype(object)
    labels[~known] = "unknown"
    return labels
