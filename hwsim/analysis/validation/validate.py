"""Predictions beside measured rows: errors by family, device, dtype, regime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.predict import (
    FIDELITIES,
    Models,
    RowFidelity,
    device_model,
    light_times,
    predict_rows,
)
from hwsim.analysis.resolve import parsed
from hwsim.analysis.result import Result
from hwsim.analysis.validation.details import validation_details
from hwsim.analysis.validation.family import FamilyComparison
from hwsim.analysis.validation.metrics import ErrorSummary, grouped, regimes, summarise
from hwsim.cost.cost import FloatArray
from hwsim.errors import HwsimError, InputError
from hwsim.specs.catalogs import load_device
from hwsim.specs.measurement.read import builtin_measurements, read_measurements
from hwsim.specs.measurement.table import BadRow, FamilyRows, MeasurementTable
from hwsim.specs.override import Override

if TYPE_CHECKING:
    import pandas as pd

LISTED = 1000  # skipped rows that JSON spells out; the reasons count all


@dataclass(frozen=True)
class Validation(Result):
    """Predictions beside measurements, row by row and in summary.

    Attributes
    ----------
    families : tuple of FamilyComparison
        Rows by operator family.
    bad : tuple of BadRow
        Rows that could not be read and were left out.
    files : tuple of str
        Tables behind it.
    fidelity : str or None
        What was asked for; None is the best there is for each device.
    overrides : tuple of str
        What-if changes in force.
    """

    families: tuple[FamilyComparison, ...]
    bad: tuple[BadRow, ...]
    files: tuple[str, ...]
    fidelity: RowFidelity | None = None
    overrides: tuple[str, ...] = ()

    kind = "validation"

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """One array per column over all rows, for tables and figures."""

        def joined(get: Any) -> NDArray[Any]:
            parts = [get(f) for f in self.families]
            return np.concatenate(parts) if parts else np.zeros(0, dtype=object)

        return {
            "file": joined(lambda f: f.rows.file),
            "row": joined(lambda f: f.rows.row),
            "family": joined(
                lambda f: np.full(len(f.rows), f.rows.family, dtype=object)
            ),
            "op": joined(lambda f: f.rows["op"]),
            "device": joined(
                lambda f: np.where(
                    f.predictions.device == "", f.rows["device"], f.predictions.device
                )
            ),
            "dtype": joined(lambda f: f.rows["dtype"]),
            "source": joined(lambda f: f.rows["source"]),
            "metric": joined(lambda f: f.metric),
            "regime": joined(lambda f: f.regime),
            "fidelity": joined(lambda f: f.predictions.fidelity),
            "bound": joined(lambda f: f.predictions.bound),
            "unit": joined(lambda f: f.unit),
            "measured": joined(lambda f: f.measured).astype(np.float64),
            "predicted": joined(lambda f: f.predictions.time).astype(np.float64),
            "lower": joined(lambda f: f.predictions.lower).astype(np.float64),
            "upper": joined(lambda f: f.predictions.upper).astype(np.float64),
            "reason": joined(lambda f: f.predictions.reason),
        }

    @property
    def table(self) -> pd.DataFrame:
        """One line per measured row, those without a prediction included."""
        import pandas as pd

        frame = pd.DataFrame(self.columns)
        frame["relative_error"] = frame["predicted"] / frame["measured"] - 1.0
        return frame

    @cached_property
    def summary(self) -> ErrorSummary:
        """Errors over all rows."""
        return summarise(**self._figures())

    def by(self, key: str) -> dict[str, ErrorSummary]:
        """Return errors by a column: family, op, device, dtype, regime, …"""
        columns = self.columns
        if key not in columns or columns[key].dtype != object:
            texts = [n for n, values in columns.items() if values.dtype == object]
            raise InputError(f"no column {key!r} to group by; use {', '.join(texts)}")
        found = grouped(columns[key], self._figures())
        return {label: errors for label, errors in found.items() if errors.rows}

    def _figures(self) -> dict[str, FloatArray]:
        columns = self.columns
        return {
            "predicted": columns["predicted"],
            "measured": columns["measured"],
            "lower": columns["lower"],
            "upper": columns["upper"],
        }

    @cached_property
    def skipped(self) -> tuple[BadRow, ...]:
        """Rows without a prediction: unreadable ones and those that say why."""
        columns = self.columns
        left = [
            BadRow(
                str(columns["file"][i]), int(columns["row"][i]), "",
                str(columns["reason"][i]),
            )
            for i in np.flatnonzero(columns["reason"] != "")
        ]  # fmt: skip
        return (*self.bad, *left)

    def skipped_reasons(self) -> dict[str, tuple[int, BadRow]]:
        """Return how many rows each reason leaves out, and the first of them."""
        found: dict[str, tuple[int, BadRow]] = {}
        for row in self.skipped:
            why = f"{row.column}: {row.reason}" if row.column else row.reason
            count, first = found.get(why, (0, row))
            found[why] = (count + 1, first)
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))

    @property
    def fidelities(self) -> dict[str, int]:
        """Rows by what their prediction rests on."""
        known = self.columns["reason"] == ""
        return dict(Counter(map(str, self.columns["fidelity"][known])).most_common())

    def worst(self, count: int = 10) -> dict[str, pd.DataFrame]:
        """Return the rows of each family that are farthest off, worst first.

        A prediction that is half the measurement is as far off as one that is
        twice it.
        """
        import pandas as pd

        found = {}
        for comparison in self.families:
            times, measured = comparison.predictions.time, comparison.measured
            known = np.flatnonzero(np.isfinite(times))
            if not len(known):
                continue
            far = np.abs(np.log(times[known] / measured[known]))
            index = known[np.argsort(-far, kind="stable")[:count]]
            rows, p = comparison.rows, comparison.predictions
            found[rows.family] = pd.DataFrame(
                {
                    "file": rows.file[index],
                    "row": rows.row[index],
                    "device": p.device[index],
                    "op": rows["op"][index],
                    "dtype": rows["dtype"][index],
                    "kernel": rows["kernel"][index],
                    "shape": [comparison.describe(i) for i in index],
                    "unit": comparison.unit[index],
                    "measured": measured[index],
                    "predicted": times[index],
                    "relative_error": comparison.relative_error[index],
                    "bound": p.bound[index],
                }
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the summary, groups and rows left out; errors as shares of one."""

        def group(key: str) -> dict[str, Any]:
            return {name: errors.to_dict() for name, errors in self.by(key).items()}

        return {
            **self.header(),
            "fidelity": self.fidelity or "best",
            "overrides": list(self.overrides),
            "fidelities": self.fidelities,
            "files": list(self.files),
            **self.summary.to_dict(),
            "skipped": len(self.skipped),
            "skipped_reasons": {
                why: count for why, (count, _) in self.skipped_reasons().items()
            },
            "skipped_rows": [row.to_dict() for row in self.skipped[:LISTED]],
            **{f"by_{key}": group(key) for key in (
                "family", "op", "device", "dtype", "metric", "source", "regime",
            )},
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """Return samples to draw, the worst rows, and why rows were left out."""
        return validation_details(self)

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = {"all": self.summary, **self.by("family")}
        frame = pd.DataFrame({n: e.to_dict() for n, e in rows.items()}).T
        note = f"<p>{len(self.skipped)} rows skipped</p>" if self.skipped else ""
        return str(frame.to_html(float_format=lambda v: f"{v:.3g}")) + note


def validate(
    measurements: str | Path | Iterable[str | Path] | MeasurementTable | None = None,
    *,
    device: str | Sequence[str] | None = None,
    fidelity: RowFidelity | None = None,
    skip_bad: bool = False,
    models: Models = device_model,
    overrides: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict measured rows and say how far off the predictions are.

    Parameters
    ----------
    measurements : path, paths or MeasurementTable, optional
        Tables of measured rows; by default those that ship with hwsim.
    device : str or sequence of str, optional
        Only the rows of these devices.
    fidelity : str, optional
        ``roofline``, ``structured`` or ``calibrated``; by default the best
        there is for each device.
    skip_bad : bool
        Leave out rows that cannot be read, and list them, instead of refusing
        the table.
    models : callable
        Gives what predicts a device; see
        ``hwsim.analysis.measured.predict.predict_rows``.
    overrides : iterable of str
        What-if changes, such as ``"device.memory.main.bandwidth=x0.9"``. Rows
        whose device has no such figure are skipped, and say so.
    progress : callable, optional
        Told how many operator families are done, of how many.

    Returns
    -------
    Validation
        Summary, groups, rows and what was skipped.

    Raises
    ------
    SpecError
        If a table cannot be read.
    InputError
        If the fidelity is unknown or there is nothing to compare.
    UnknownNameError
        If a device is unknown.

    Examples
    --------
    >>> result = validate("my_gemms.csv")  # doctest: +SKIP
    >>> result.summary.median_ape  # doctest: +SKIP
    0.043
    """
    if fidelity is not None and fidelity not in FIDELITIES:
        raise InputError(
            f"fidelity {fidelity!r} is unknown; choose {', '.join(FIDELITIES)}"
        )
    table = _table(measurements, skip_bad)
    if device is not None:
        table = _only(table, [device] if isinstance(device, str) else list(device))
    overrides = list(overrides)
    changes = parsed(overrides)
    compared: list[FamilyComparison] = []
    for rows in table.families.values():
        if progress is not None:
            progress(len(compared), len(table.families))
        compared.append(_compared(rows, fidelity, models, changes))
    found = Validation(
        tuple(compared), table.bad, table.files, fidelity, tuple(map(str, overrides))
    )
    if changes and not found.summary.rows and found.skipped:
        raise InputError(f"no row can be predicted: {next(iter(found.skipped)).reason}")
    return found


def _table(measurements: Any, skip_bad: bool) -> MeasurementTable:
    if isinstance(measurements, MeasurementTable):
        return measurements
    if measurements is None:
        paths: Iterable[str | Path] = builtin_measurements()
    elif isinstance(measurements, str | Path):
        paths = [measurements]
    else:
        paths = list(measurements)
    if not paths:
        raise InputError("no measurements ship with hwsim; name tables to compare with")
    return read_measurements(paths, skip_bad=skip_bad)


def _only(table: MeasurementTable, devices: Sequence[str]) -> MeasurementTable:
    """Return the rows of some devices, and those of devices that are unknown."""
    wanted = {load_device(name).id for name in devices}

    def keep(rows: FamilyRows) -> NDArray[np.bool_]:
        ids = {name: _device_id(name) for name in set(rows["device"])}
        return np.array([(ids[n] or "") in {*wanted, ""} for n in rows["device"]])

    chosen = table.select(keep)
    if not len(chosen) and not chosen.bad:
        raise InputError(f"no row is of {', '.join(sorted(wanted))}")
    return chosen


def _device_id(name: str) -> str | None:
    try:
        return load_device(name).id
    except HwsimError:
        return None


def _compared(
    rows: FamilyRows,
    fidelity: RowFidelity | None,
    models: Models,
    changes: Sequence[Override],
) -> FamilyComparison:
    predictions = predict_rows(rows, fidelity=fidelity, models=models, changes=changes)
    return FamilyComparison(rows, predictions, regimes(*light_times(rows)))
