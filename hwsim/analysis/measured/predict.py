"""Predictions of measured rows: each group of like rows in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.costs import COSTS, cost_rows
from hwsim.analysis.measured.end_to_end import end_to_end_rows
from hwsim.analysis.measured.group import Group, calibration_family
from hwsim.analysis.measured.work import arithmetic, row_work
from hwsim.analysis.resolve import changed
from hwsim.cost.cost import FloatArray
from hwsim.cost.interval import op_logs
from hwsim.errors import HwsimError
from hwsim.specs.benchmark import benchmark_of
from hwsim.specs.calibration import Calibration, calibration_for, resolved_fidelity
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement.table import FamilyRows
from hwsim.specs.override import Override

RowFidelity = Literal["roofline", "structured", "borrowed", "calibrated"]
FIDELITIES: tuple[RowFidelity, ...] = (
    "roofline", "structured", "borrowed", "calibrated",
)  # fmt: skip


@dataclass(frozen=True)
class DeviceModel:
    """What predicts the operators of one device.

    Attributes
    ----------
    calibration : Calibration or None
        Parameters of the cost models; None for the speed of light.
    fidelity : str
        What they are.
    """

    calibration: Calibration | None
    fidelity: RowFidelity


def device_model(
    device: DeviceSpec, fidelity: RowFidelity | None = None
) -> DeviceModel:
    """Return what predicts the operators of a device.

    Parameters
    ----------
    fidelity : str, optional
        The best there is unless given.

    Raises
    ------
    InputError
        If a calibration is asked for and the device has none.
    """
    if fidelity == "roofline":
        return DeviceModel(None, "roofline")
    used = resolved_fidelity(device, fidelity or "auto")
    return DeviceModel(calibration_for(device, used), used)


Models = Callable[[DeviceSpec, RowFidelity | None], DeviceModel]


@dataclass(frozen=True)
class RowPredictions:
    """Predictions of the rows of one family, one array entry each.

    Attributes
    ----------
    time : ndarray of float64
        Predicted time, or the rate that an end-to-end row measures; NaN where
        there is none. [s]
    lower, upper : ndarray of float64
        90 % interval; NaN where there is none. [s]
    flop, nbytes : ndarray of float64
        Work and least traffic; NaN where unknown.
    bound : ndarray of str
        What most of the time goes to.
    device : ndarray of str
        Catalog ids.
    fidelity : ndarray of str
        What each prediction rests on.
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
    fidelity: NDArray[np.object_]
    reason: NDArray[np.object_]


def _nothing(count: int) -> RowPredictions:
    def numbers() -> FloatArray:
        return np.full(count, np.nan)

    def texts() -> NDArray[np.object_]:
        return np.full(count, "", dtype=object)

    return RowPredictions(
        numbers(), numbers(), numbers(), numbers(), numbers(), texts(), texts(),
        texts(), texts(),
    )  # fmt: skip


def predict_rows(
    rows: FamilyRows,
    *,
    fidelity: RowFidelity | None = None,
    models: Models = device_model,
    changes: Sequence[Override] = (),
) -> RowPredictions:
    """Predict the time of every row of one family.

    Parameters
    ----------
    rows : FamilyRows
        What was measured.
    fidelity : str, optional
        ``roofline`` is the datasheet's speed of light, ``structured`` uses the
        parameters of the device's generation, ``calibrated`` those fitted to
        the device; the best there is unless given.
    models : callable
        Gives what predicts a device at a fidelity; another one lets a fit
        try parameters of its own.
    changes : sequence of Override
        What-if changes to devices, systems, models and stacks. A row whose
        device has no such figure is not predicted.

    Returns
    -------
    RowPredictions
        Rows that cannot be predicted say why.
    """
    answer = _nothing(len(rows))
    if rows.family == "end_to_end":
        _end_to_end(rows, fidelity, answer, changes)
        return answer
    names = ("device", "source", "system")
    for (device_name, source, system), index in rows.group_indices(*names):
        try:
            device = changed(load_device(device_name), "device", changes)
            model = models(device, fidelity)
        except HwsimError as error:
            answer.reason[index] = str(error)
            continue
        answer.device[index] = device.id
        group = Group(
            rows=rows.take(index),
            device=device,
            calibration=model.calibration,
            benchmark=benchmark_of(source),
            system_name=system,
            changes=tuple(changes),
        )
        _predict_group(group, index, answer, model.fidelity)
    return answer


def _end_to_end(
    rows: FamilyRows,
    fidelity: RowFidelity | None,
    answer: RowPredictions,
    changes: Sequence[Override],
) -> None:
    for index, found in enumerate(end_to_end_rows(rows, fidelity, changes)):
        answer.time[index] = found.value
        answer.lower[index], answer.upper[index] = found.lower, found.upper
        answer.bound[index], answer.device[index] = found.bound, found.device
        answer.fidelity[index], answer.reason[index] = found.fidelity, found.reason


def _predict_group(
    group: Group,
    index: NDArray[np.int64],
    answer: RowPredictions,
    fidelity: RowFidelity,
) -> None:
    family = COSTS.get(group.rows.family)
    if family is None:
        answer.reason[index] = f"{group.rows.family} is measured but not predicted"
        return
    for _, part in group.rows.group_indices(*family[0]):
        where = index[part]
        rows = group.rows.take(part)
        try:
            cost = cost_rows(replace(group, rows=rows))
        except HwsimError as error:
            answer.reason[where] = str(error)
            continue
        answer.time[where] = cost.time
        answer.fidelity[where] = fidelity
        answer.bound[where] = cost.bound().astype(object)
        answer.flop[where], answer.nbytes[where] = row_work(rows)
        if group.calibration is not None:
            _spread(rows, where, answer, group.calibration)


def _spread(
    rows: FamilyRows,
    where: NDArray[np.int64],
    answer: RowPredictions,
    calibration: Calibration,
) -> None:
    """Fill in intervals, and whether the family is calibrated."""
    family = calibration_family(rows)
    answer.fidelity[where] = calibration.fidelities().get(family, "structured")
    if family in calibration.spread:
        low, high = op_logs(family, answer.time[where], calibration)
        answer.lower[where] = answer.time[where] * np.exp(low)
        answer.upper[where] = answer.time[where] * np.exp(high)


class LightTimes(NamedTuple):
    """Speed-of-light times of the parts of rows; NaN where unknown. [s]"""

    compute: FloatArray
    memory: FloatArray
    link: FloatArray


def light_times(rows: FamilyRows) -> LightTimes:
    """Return what the datasheet says of rows: arithmetic, traffic, links.

    Caches are left out of it: bytes count as if main memory moved them once.
    """
    count = len(rows)
    if rows.family in {"collective", "host_link"}:
        light = predict_rows(rows, fidelity="roofline").time
        return LightTimes(np.zeros(count), np.zeros(count), light)
    answer = LightTimes(*(np.full(count, np.nan) for _ in range(3)))
    unit: Literal["matrix", "vector"] = (
        "vector" if rows.family == "elementwise" else "matrix"
    )
    for (name, dtype), index in rows.group_indices("device", "dtype"):
        try:
            device = load_device(name)
            peak = device.peak(arithmetic(dtype.partition("->")[0]), unit)
        except HwsimError:
            continue
        work = row_work(rows.take(index))
        answer.compute[index] = work.flop / peak
        answer.memory[index] = work.nbytes / device.bandwidth
        answer.link[index] = 0.0
    return answer
