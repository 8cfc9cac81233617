"""What a saved validation keeps of its rows: samples to draw, the worst, reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hwsim.analysis.validation.family import FamilyComparison
from hwsim.specs.measurement.table import BadRow

POINTS = 1000  # kept of each device and family: more cover one another
EDGES = np.linspace(-0.6, 0.6, 49)
BAND = 0.25
_WORST, _DIGITS = 10, 6


class Validated(Protocol):
    """Families of rows that were predicted, and what was left out."""

    @property
    def families(self) -> Sequence[FamilyComparison]:
        """Rows by operator family."""

    @property
    def bad(self) -> Sequence[BadRow]:
        """Rows that could not be read."""

    @property
    def files(self) -> Sequence[str]:
        """Tables behind it."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """One array per column over all rows."""

    def worst(self, count: int) -> Mapping[str, Any]:
        """Return the rows furthest off, by family."""

    def skipped_reasons(self) -> Mapping[str, tuple[int, Any]]:
        """Return why rows have no prediction: how many, and the first."""


def validation_details(result: Validated) -> dict[str, Any]:
    """Return samples, worst rows, reasons and tables of a validation."""
    known = [
        c for c in result.families if np.any(np.isfinite(c.predictions.time))
    ]  # fmt: skip
    return {
        "points": {c.rows.family: family_points(c) for c in known},
        "worst": {
            family: _plain(frame.to_dict("records"))
            for family, frame in result.worst(_WORST).items()
        },
        "reasons": [
            {"reason": why, "rows": count, "file": first.file, "row": first.row}
            for why, (count, first) in result.skipped_reasons().items()
        ],
        "tables": _tables(result),
    }


def family_points(comparison: FamilyComparison) -> dict[str, Any]:
    """Return measured and predicted values of a family, sampled evenly by time."""
    known = np.isfinite(comparison.predictions.time)
    names = comparison.predictions.device[known]
    measured = comparison.measured[known]
    predicted = comparison.predictions.time[known]
    error = predicted / measured - 1.0
    devices: dict[str, Any] = {}
    for device in sorted(set(map(str, names))):
        index = np.flatnonzero(names == device)
        own = np.clip(error[index], EDGES[0], EDGES[-1])
        index = index[np.argsort(measured[index], kind="stable")]
        index = index[:: max(1, -(-len(index) // POINTS))]
        devices[device] = {
            "measured": _short(measured[index]),
            "predicted": _short(predicted[index]),
            "histogram": np.histogram(own, EDGES)[0].tolist(),
        }
    return {
        "devices": devices,
        "unit": "s" if set(comparison.unit) == {"s"} else "",
        "rows": int(known.sum()),
        "within_band": float(np.mean(np.abs(error) <= BAND)),
        "beyond": float(np.mean(np.abs(error) > EDGES[-1])),
        "median": float(np.median(error)),
    }


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _tables(result: Validated) -> list[dict[str, Any]]:
    columns = result.columns
    found = []
    for file in result.files:
        mask = columns["file"] == file
        found.append(
            {
                "file": file,
                "rows": int(np.sum(mask)),
                "bad": sum(row.file == file for row in result.bad),
                "sources": sorted({str(s) for s in columns["source"][mask] if s}),
            }
        )
    return found


def _plain(rows: list[Any]) -> list[dict[str, Any]]:
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in rows
    ]
