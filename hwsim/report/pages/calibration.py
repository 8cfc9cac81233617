"""The page of a calibration: how well cost models fit a device's measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Page, Section, table
from hwsim.report.provenance import FAMILY_NAMES, reproducibility

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult


def calibration_page(saved: SavedResult) -> Page:
    """Return the page of the fits of one device."""
    families = saved.need("families")
    device = str(saved.need("device"))
    judged = {name: fit.get("held_out") or fit["in_sample"]
              for name, fit in families.items()}  # fmt: skip
    held = all(fit.get("held_out") for fit in families.values())
    sections = []
    if families:
        sections.append(_errors(families, judged))
        sections.append(_parameters(families))
    if saved.need("skipped"):
        rows = [[Cell(n), Cell(str(w))] for n, w in saved.need("skipped").items()]
        left = table("Families without a fit", "Family|Why", rows)
        sections.append(Section("skipped", "Not fitted", (), (left,)))
    return Page(
        title=f"Calibration of {device}",
        question=f"How well do hwsim's cost models fit the measurements of {device}?",
        answer=_answer(judged, held=held),
        facts=(),
        sections=(*sections, reproducibility(saved)),
        notice="It was interrupted: some families were not fitted."
        if saved.need("interrupted") else "",
    )  # fmt: skip


def _answer(judged: Mapping[str, Mapping[str, Any]], *, held: bool) -> str:
    if not judged:
        return "No family could be fitted."
    told = [
        f"{FAMILY_NAMES.get(name, name).lower()} "
        f"{fmt.percent(float(errors['median_ape']))}"
        for name, errors in judged.items()
    ]
    where = "shapes that the fit never saw" if held else "the rows fitted"
    return f"Median absolute error on {where}: {fmt.listed(told)}."


def _errors(
    families: Mapping[str, Mapping[str, Any]], judged: Mapping[str, Mapping[str, Any]]
) -> Section:
    rows = []
    for name, fit in families.items():
        errors = judged[name]
        rows.append(
            [
                Cell(FAMILY_NAMES.get(name, name),
                     note="physics and trees" if fit.get("residual") else "physics"),
                Cell(fmt.count(errors["rows"]), number=True),
                Cell(fmt.percent(errors["median_ape"]), number=True,
                     bar=min(float(errors["median_ape"]), 1.0)),
                Cell(fmt.percent(errors["mape"]), number=True),
                Cell(fmt.percent(errors["p90_ape"]), number=True),
                Cell(fmt.signed_percent(errors["bias"]), number=True),
                Cell(fmt.percent(fit["coverage_90"]), number=True),
                Cell(fmt.percent(fit["interval_width"]), number=True),
            ]
        )  # fmt: skip
    heads = (
        "Operator family|#Rows|#Median error|#Mean error|#Nine in ten within|#Bias|"
        "#In 90 % interval|#Interval width"
    )
    made = table("Errors by operator family", heads, rows)
    text = ("An error is |predicted − measured| / measured of one measured operator.",)
    return Section("errors", "How far off", text, (made,))


def _parameters(families: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [
        [Cell(path, code=True), Cell(fmt.count(float(value)), number=True)]
        for fit in families.values()
        for path, value in fit["parameters"].items()
    ]
    made = table("Fitted parameters, in SI units", "Parameter|#Value", rows)
    return Section("parameters", "What was fitted", (), (made,))
