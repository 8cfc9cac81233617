"""Predictions of measured rows: each group of like rows in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.row_costs import COSTS, Group, row_work
from hwsim.cost.cost import FloatArray
from hwsim.errors import HwsimError, InputError
from hwsim.specs.benchmark import BenchmarkSpec, benchmark_of
from hwsim.specs.calibration import Calibration, calibration_for
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement_table import FamilyRows

RowFidelity = Literal["roofline", "structured", "calibrated"]
Calibrations = Callable[[DeviceSpec], Calibration]
Intervals = Callable[
    [DeviceSpec, FamilyRows, FloatArray], tuple[FloatArray, FloatArray] | None
]


@dataclass(frozen=True)
class RowPredictions:
    """Predictions of the rows of one family, one array entry each.

    Attributes
    ----------
    time : ndarray of float64
        Predicted time; NaN where there is none. [s]
    lower, upper : ndarray of float64
        90 % interval; NaN where there is none. [s]
    flop, nbytes : ndarray of float64
        Work and least traffic; NaN where unknown.
    bound : ndarray of str
        What most of the time goes to.
    device, system : ndarray of str
        Catalog ids.
    reason : ndarray of str
        Why there is no prediction; empty where there is one.
    """

    time: FloatArray
    lower: FloatArray
    upper: FloatArray
    flop: FloatArray
    nbytes: FloatArray
    bound: NDArray[np.object_]
    device: NDArray[np.object_]
    reason: NDArray[np.object_]


def _nothing(count: int) -> RowPredictions:
    def numbers() -> FloatArray:
        return np.full(count, np.nan)

    def texts() -> NDArray[np.object_]:
        return np.full(count, "", dtype=object)

    return RowPredictions(
        numbers(), numbers(), numbers(), numbers(), numbers(), texts(), texts(),
        texts(),
    )  # fmt: skip


def predict_rows(
    rows: FamilyRows,
    *,
    fidelity: RowFidelity = "structured",
    calibrations: Calibrations = calibration_for,
    intervals: Intervals | None = None,
) -> RowPredictions:
    """Predict the time of every row of one family.

    Parameters
    ----------
    rows : FamilyRows
        What was measured.
    fidelity : str
        ``roofline`` is the datasheet's speed of light.
    calibrations : callable
        Gives the parameters for a device; not asked for a roofline.
    intervals : callable, optional
        Gives lower and upper times for rows of a device.

    Returns
    -------
    RowPredictions
        Rows that cannot be predicted say why.
    """
    answer = _nothing(len(rows))
    names = ("device", "source", "system")
    for (device_name, source, system), index in rows.group_indices(*names):
        try:
            device = load_device(device_name)
        except HwsimError as error:
            answer.reason[index] = str(error)
            continue
        answer.device[index] = device.id
        group = Group(
            rows=rows.take(index),
            device=device,
            calibration=None if fidelity == "roofline" else calibrations(device),
            benchmark=benchmark_of(source),
            system_name=system,
        )
        _predict_group(group, index, answer)
        if intervals is not None:
            _add_interval(intervals, group, index, answer)
    return answer


def _add_interval(
    intervals: Intervals, group: Group, index: NDArray[np.int64], answer: RowPredictions
) -> None:
    found = intervals(group.device, group.rows, answer.time[index])
    if found is not None:
        answer.lower[index], answer.upper[index] = found


def _predict_group(
    group: Group, index: NDArray[np.int64], answer: RowPredictions
) -> None:
    cost = COSTS.get(group.rows.family)
    if cost is None:
        answer.reason[index] = f"{group.rows.family} rows have no prediction yet"
        return
    keys, function = cost
    for _, part in group.rows.group_indices(*keys):
        where = index[part]
        rows = group.rows.take(part)
        try:
            costed = function(replace(group, rows=rows))
        except HwsimError as error:
            answer.reason[where] = str(error)
            continue
        answer.time[where] = costed.time
        answer.bound[where] = costed.bound().astype(object)
        work = row_work(rows)
        answer.flop[where], answer.nbytes[where] = work
