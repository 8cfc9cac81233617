"""Calibration: cost models of one device fitted to measurements of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwsim.analysis.check import positive_int
from hwsim.analysis.fitting.checks import check_interval, errors
from hwsim.analysis.fitting.family import FamilyOutcome, FitPlan, fit_family
from hwsim.analysis.fitting.rows import SPLITS, TABLES, FitRows, fit_rows
from hwsim.analysis.result import Result
from hwsim.errors import HwsimError, InputError, nearest
from hwsim.specs.assumed import assumed_changes
from hwsim.specs.base import Source
from hwsim.specs.benchmark import benchmark_of
from hwsim.specs.calibration import calibration_for, with_parameters
from hwsim.specs.calibration_file import (
    CalibrationFile,
    DataUsed,
    Errors,
    FamilyFit,
    Figure,
)
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement.read import read_measurements
from hwsim.specs.measurement.table import MeasurementTable
from hwsim.version import __version__

Holdout = Literal["blocks", "none"]
Progress = Callable[[str], None]
_LEAST_ROWS = 30


@dataclass(frozen=True)
class CalibrateResult(Result):
    """Fits of one device's operator families to measurements.

    Attributes
    ----------
    device : DeviceSpec
        The device.
    file : CalibrationFile
        What ``calibration.json`` holds.
    skipped : dict of family to str
        Families that could not be fitted, each with the reason.
    interrupted : bool
        Whether it was stopped before all families were done.
    """

    device: DeviceSpec
    file: CalibrationFile
    skipped: dict[str, str]
    interrupted: bool = False

    kind = "calibration"

    def to_dict(self) -> dict[str, Any]:
        """Return errors, coverage and parameters by family, in SI."""
        return {
            **self.header(),
            "device": self.device.id,
            "generation": self.file.generation,
            "interrupted": self.interrupted,
            "skipped": dict(self.skipped),
            "families": {
                family: _summary(fit) for family, fit in self.file.families.items()
            },
        }

    def file_text(self) -> str:
        """Return the text of ``calibration.json``."""
        return dump_calibration(self.file)


def _summary(fit: FamilyFit) -> dict[str, Any]:
    def shown(errors: Errors | None) -> dict[str, Any] | None:
        return None if errors is None else errors.model_dump()

    return {
        "parameters": {path: f.value for path, f in fit.parameters.items()},
        "residual": fit.residual is not None,
        "seed": fit.seed,
        "rows": sum(data.rows for data in fit.data),
        "fitted_rows": fit.fitted_rows,
        "in_sample": shown(fit.in_sample),
        "held_out": shown(fit.held_out),
        "physics_held_out": shown(fit.physics_held_out),
        "by_group": {name: e.model_dump() for name, e in fit.by_group.items()},
        "coverage_90": fit.interval.coverage,
        "interval_width": fit.interval.width,
    }


def dump_calibration(file: CalibrationFile) -> str:
    """Return a calibration file as JSON with one line for each long list."""
    table = file.model_dump(mode="json", exclude_none=True)
    return _pretty(table, 0) + "\n"


def _pretty(value: Any, depth: int) -> str:
    """Indent objects; keep lists of numbers on one line."""
    pad = " " * (depth + 1)
    if isinstance(value, dict) and any(
        isinstance(v, dict | list) for v in value.values()
    ):
        inner = ",\n".join(
            f"{pad}{json.dumps(k)}: {_pretty(v, depth + 1)}" for k, v in value.items()
        )
        return "{\n" + inner + "\n" + " " * depth + "}"
    return json.dumps(value, allow_nan=False)


def calibrate(
    device: str | DeviceSpec,
    measurements: Iterable[str | Path] | MeasurementTable,
    *,
    families: Sequence[str] | None = None,
    holdout: Holdout = "blocks",
    skip_bad: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> CalibrateResult:
    """Fit a device's cost models to measurements of it.

    Parameters
    ----------
    device : str or DeviceSpec
        The device; rows of other devices are left alone.
    measurements : iterable of path, or MeasurementTable
        Tables (``.csv``, ``.csv.gz``, ``.parquet``).
    families : sequence of str, optional
        ``gemm``, ``attention_prefill``, ``attention_decode``,
        ``elementwise``, ``moe``, ``collective``; all that have rows by
        default.
    holdout : str
        ``blocks``: every block of shapes is also predicted by a fit that did
        not see it, which gives honest errors and intervals; ``none``: one fit
        to all rows, intervals from errors of fitted rows, widened.
    skip_bad : bool
        Leave bad rows out instead of refusing the table.
    seed : int
        Of samples, starting points and folds.
    progress : callable, optional
        Told what is being done. An interrupt keeps the families finished.

    Raises
    ------
    InputError
        If nothing can be fitted.
    """
    spec = load_device(device) if isinstance(device, str) else device
    table, files = _table(measurements, skip_bad)
    wanted = _wanted(families)
    if holdout not in {"blocks", "none"}:
        raise InputError(f"holdout {holdout!r} is not blocks or none")
    plan = FitPlan(
        folds=4 if holdout == "blocks" else 0,
        seed=positive_int("seed", seed, minimum=0),
    )
    fits: dict[str, FamilyFit] = {}
    skipped: dict[str, str] = {}
    interrupted = False
    try:
        for family, fit in _each(spec, table, files, wanted, plan, progress):
            if isinstance(fit, str):
                skipped[family] = fit
            else:
                fits[family] = fit
    except KeyboardInterrupt:
        interrupted = True
    if not fits and not interrupted:
        why = "; ".join(f"{k}: {v}" for k, v in skipped.items())
        raise InputError(f"nothing to fit for device {spec.id}: {why}")
    file = CalibrationFile(
        device=spec.id,
        generation=calibration_for(spec).id,
        hwsim_version=__version__,
        date=dt.datetime.now(tz=dt.UTC).date(),
        families=fits,
        sources=_sources(fits),
        notes=tuple(f"fitted with {text}" for text in assumed_changes((spec,))),
    )
    return CalibrateResult(spec, file, skipped, interrupted)


def _table(
    measurements: Iterable[str | Path] | MeasurementTable, skip_bad: bool
) -> tuple[MeasurementTable, tuple[str, ...]]:
    if isinstance(measurements, MeasurementTable):
        return measurements, measurements.files
    if isinstance(measurements, str | Path):
        measurements = [measurements]
    table = read_measurements(measurements, skip_bad=skip_bad)
    return table, table.files


def _wanted(families: Sequence[str] | None) -> tuple[str, ...]:
    for name in families or ():
        if name not in TABLES:
            close = nearest(name, TABLES) or list(TABLES)
            raise InputError(f"family {name!r} is unknown; choose {', '.join(close)}")
    # In the order of TABLES: products count the quantisation kernel in.
    return tuple(name for name in TABLES if families is None or name in families)


def _each(
    spec: DeviceSpec,
    table: MeasurementTable,
    files: Sequence[str],
    wanted: Sequence[str],
    plan: FitPlan,
    progress: Progress | None,
) -> Iterator[tuple[str, FamilyFit | str]]:
    prior = calibration_for(spec)
    names = device_names(table, spec)
    hashes = {name: _sha256(Path(name)) for name in files}
    for family in wanted:
        rows = fit_rows(table, spec, names, family)
        if rows is None or len(rows) < _LEAST_ROWS:
            number = 0 if rows is None else len(rows)
            yield family, f"{number} rows, {_LEAST_ROWS} are needed"
            continue
        if progress is not None:
            progress(f"{family}: fitting {len(rows)} rows")
        outcome = fit_family(rows, prior, plan)
        fit = family_fit(outcome, plan, hashes)
        prior = with_parameters(prior, outcome.fitted.values)
        if progress is not None:
            shown = fit.held_out or fit.in_sample
            progress(
                f"{family}: median error {shown.median_ape:.1%}, mean {shown.mape:.1%}"
            )
        yield family, fit


def device_names(table: MeasurementTable, spec: DeviceSpec) -> list[str]:
    """Return what the rows of a table call a device."""
    found = []
    every = {str(n) for rows in table.families.values() for n in set(rows["device"])}
    for name in sorted(every):
        try:
            if load_device(name).id == spec.id:
                found.append(name)
        except HwsimError:
            continue
    return found


def family_fit(
    outcome: FamilyOutcome, plan: FitPlan, hashes: dict[str, str]
) -> FamilyFit:
    """Return what a calibration file says about one family."""
    rows, fitted = outcome.rows, outcome.fitted
    unseen = outcome.held_out
    judged = outcome.predicted if unseen is None else unseen
    interval = check_interval(judged, rows.time, outcome.fold)
    return FamilyFit(
        parameters={
            b.path: Figure(value=fitted.values[b.path], lower=b.lower, upper=b.upper)
            for b in fitted.bounds
        },
        residual=fitted.residual,
        data=_data(rows, hashes),
        split=SPLITS[rows.family]
        if unseen is not None
        else "none: errors are in-sample",
        seed=plan.seed,
        fitted_rows=fitted.rows,
        in_sample=errors(outcome.predicted, rows.time),
        held_out=None if unseen is None else errors(unseen, rows.time),
        physics_held_out=(
            None if outcome.physics is None else errors(outcome.physics, rows.time)
        ),
        by_group={
            name: errors(judged[mask], rows.time[mask])
            for name, mask in rows.parts().items()
        },
        interval=interval,
    )


def _data(rows: FitRows, hashes: dict[str, str]) -> tuple[DataUsed, ...]:
    used = []
    files = rows.rows.file
    for name in dict.fromkeys(files):
        here = files == name
        used.append(
            DataUsed(
                file=Path(str(name)).name,
                sha256=hashes.get(str(name), "0" * 64),
                sources=tuple(
                    sorted({str(s) or "-" for s in rows.rows["source"][here]})
                ),
                rows=int(np.count_nonzero(here)),
            )
        )
    return tuple(used)


def _sources(fits: Mapping[str, FamilyFit]) -> tuple[Source, ...]:
    """Return where the tables come from, as far as their benchmarks say."""
    names = {s for fit in fits.values() for data in fit.data for s in data.sources}
    known = [benchmark_of(name) for name in sorted(names)]
    found = {s.title: s for b in known if b.prefixes for s in b.sources}
    return tuple(found.values())


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "0" * 64
