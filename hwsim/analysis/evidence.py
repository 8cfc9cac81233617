"""How accurate predictions have been for a device's operator families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.specs.calibration import (
    FAMILIES,
    borrowed_path,
    calibration_for,
    calibration_path,
    load_calibration_file,
    load_intervals,
)
from hwsim.specs.calibration_file import CalibrationFile, FamilyFit
from hwsim.specs.device import DeviceSpec

if TYPE_CHECKING:
    from hwsim.analysis.case import Case

_ORIGINS = {
    "generation": "another device of the same generation was measured; the interval is "
    "as wide as its predictions needed",
    "kind": "other devices of the same kind were measured, none of this generation; "
    "the interval is as wide as predictions across generations needed",
    "assumed": "how far predictions of unmeasured devices of this kind are off is not "
    "known; the interval is assumed, half as wide again as across generations of GPUs",
}


def evidence(
    device: DeviceSpec, used: Mapping[str, str], task: str | None = None
) -> dict[str, Any]:
    """Return what is known of the accuracy of the figures that were used.

    Parameters
    ----------
    device : DeviceSpec
        Whose operators were predicted.
    used : dict of family to fidelity
        What the costs of each operator family in the answer rest on.
    task : str, optional
        ``train`` or ``infer``: adds what is known of whole runs.

    Returns
    -------
    dict
        ``device``, ``families`` (a dict each) and ``whole_runs``; errors are
        relative to the measured time, on rows that fits did not see wherever
        ``held_out`` says so.
    """
    families = [_family(device, name, basis) for name, basis in used.items()]
    found: dict[str, Any] = {"device": device.id, "families": families}
    if task is not None and any(f["basis"] != "roofline" for f in families):
        found["whole_runs"] = _whole(task)
    return found


def case_accuracy(case: Case) -> dict[str, Any]:
    """Return what is known of the accuracy of a question's answer."""
    used = getattr(case.run(), "fidelity_by_family", None)
    return evidence(case.system.device, used, case.task) if used else {}


def _family(device: DeviceSpec, family: str, basis: str) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "basis": basis, "rows": None}
    if basis in {"calibrated", "borrowed"} and family in FAMILIES:
        path = (calibration_path if basis == "calibrated" else borrowed_path)(device)
        if path is not None:
            file = load_calibration_file(path)
            if family in file.families:
                return row | _fit(file, file.families[family])
    if basis == "registered":
        row["note"] = "a cost model of the stack's own, whose error nobody told hwsim"
    elif basis != "roofline":
        origin = calibration_for(device).origin
        row["note"] = _ORIGINS[origin]
    else:
        row["note"] = "a lower bound from the datasheet, not a prediction"
    return row


def _fit(file: CalibrationFile, fit: FamilyFit) -> dict[str, Any]:
    errors = fit.held_out or fit.in_sample
    return {
        "measured_device": file.device,
        "date": file.date.isoformat(),
        "held_out": fit.held_out is not None,
        **errors.model_dump(),
        "coverage_90": fit.interval.coverage,
        "interval_width": fit.interval.width,
        "measured_by": sorted({s for data in fit.data for s in data.sources}),
        "note": f"split: {fit.split}",
    }


def _whole(task: str) -> dict[str, Any]:
    file = load_intervals()
    known = file.end_to_end
    name = task if task in known else "every"
    term = known[name]
    return {
        "task": name, "rows": term.rows, "sources": term.sources,
        "coverage_90": term.coverage, "interval_width": term.width,
        "date": file.date.isoformat(),
    }  # fmt: skip
