"""Measured and predicted rows of one operator family, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.predict import RowPredictions
from hwsim.cost.cost import FloatArray
from hwsim.specs.measurement.names import TIME_UNITS
from hwsim.specs.measurement.table import FamilyRows

KERNEL_METRIC = "kernel_time"
_NOT_SHAPES = frozenset(
    {"time", "measured", "value", "energy_j", "hot", "copies", "resident", "outlier"}
)


@dataclass(frozen=True)
class FamilyComparison:
    """Measured and predicted rows of one operator family.

    Attributes
    ----------
    rows : FamilyRows
        What was measured.
    predictions : RowPredictions
        What is predicted for each of them.
    regime : ndarray of str
        Size and bound by the datasheet.
    """

    rows: FamilyRows
    predictions: RowPredictions
    regime: NDArray[np.object_]

    @property
    def metric(self) -> NDArray[np.object_]:
        """What each row measures."""
        if "metric" in self.rows.columns:
            return self.rows["metric"]
        return np.full(len(self.rows), KERNEL_METRIC, dtype=object)

    @property
    def unit(self) -> NDArray[np.object_]:
        """SI unit of what each row measures."""
        if self.rows.family == "power":
            return np.full(len(self.rows), "W", dtype=object)
        if self.rows.family != "end_to_end":
            return np.full(len(self.rows), "s", dtype=object)
        units = self.rows["unit"]
        times = np.isin(units.astype(str), list(TIME_UNITS))
        return np.where(times, "s", units)

    @property
    def measured(self) -> FloatArray:
        """What was measured, in SI: a time, or a rate of end-to-end work."""
        return self.rows.measured

    @property
    def relative_error(self) -> FloatArray:
        """(predicted - measured) / measured; NaN where there is no prediction."""
        return np.asarray(self.predictions.time / self.measured - 1.0)

    def describe(self, index: int) -> str:
        """Return the shape of one row in words."""
        parts = []
        for name, values in self.rows.columns.items():
            value = values[index]
            if name in _NOT_SHAPES or isinstance(value, str) or np.isnan(value):
                continue
            parts.append(f"{name} {value:.12g}")
        return ", ".join(parts)
