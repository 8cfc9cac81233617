"""Predictions beside tables of published training runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.published_rows import RunPrediction, RunPredictor
from hwsim.analysis.result import Result
from hwsim.analysis.validate_metrics import ErrorSummary, grouped, summarise
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.published_map import load_mappings, mapped
from hwsim.specs.published_table import PublishedTable, read_published

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("source", "device", "metric", "model", "dtype", "stack")
_TEXTS = (
    "file", "source", "model", "device", "dtype", "metric", "unit", "stack",
    "system", "mapping", "bound", "confidence", "assumed", "reason",
)  # fmt: skip
_NUMBERS = (
    "row", "devices", "measured", "predicted", "lower", "upper", "step_s",
    "published_step_s",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedValidation(Result):
    """Published training runs beside their predictions, row by row.

    Attributes
    ----------
    predictions : tuple of RunPrediction
        Every row of the tables, answered or not.
    files : tuple of str
        Tables behind it.
    fidelity : str
        What operator costs rest on.
    """

    predictions: tuple[RunPrediction, ...]
    files: tuple[str, ...]
    fidelity: Fidelity

    kind = "published_validation"

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """One dict per row, in SI."""
        return [_record(p) for p in self.predictions]

    @property
    def table(self) -> pd.DataFrame:
        """One line per row, those without a prediction included."""
        import pandas as pd

        return pd.DataFrame(self.records)

    @property
    def answered(self) -> list[RunPrediction]:
        """Rows that have a prediction."""
        return [p for p in self.predictions if not p.reason]

    @property
    def unanswered(self) -> list[RunPrediction]:
        """Rows that have none, each with its reason."""
        return [p for p in self.predictions if p.reason]

    def reasons(self) -> dict[str, int]:
        """Return how many rows each reason leaves out, most frequent first."""
        return dict(Counter(p.reason for p in self.unanswered).most_common())

    @cached_property
    def summary(self) -> ErrorSummary:
        """Errors over all rows, of the metric that each row gives."""
        return summarise(**self._figures())

    @property
    def time_bias(self) -> float:
        """Median of (predicted - published) / published step time."""
        ratios = [
            p.step_s / p.published_step_s - 1.0
            for p in self.answered
            if p.step_s and p.published_step_s
        ]
        return float(np.median(ratios)) if ratios else float("nan")

    def by(self, key: str) -> dict[str, ErrorSummary]:
        """Return errors by a column: source, device, metric, model, …"""
        if key not in _TEXTS:
            raise InputError(f"no column {key!r} to group by; use {', '.join(_TEXTS)}")
        labels = np.array([str(r[key]) for r in self.records], dtype=object)
        found = grouped(labels, self._figures())
        return {label: errors for label, errors in found.items() if errors.rows}

    def _figures(self) -> dict[str, NDArray[np.float64]]:
        return {
            name: np.array(
                [np.nan if r[name] is None else r[name] for r in self.records],
                dtype=np.float64,
            )
            for name in ("predicted", "measured", "lower", "upper")
        }

    def worst(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the rows that are farthest off, worst first.

        Half the published figure is as far off as twice it.
        """
        known = [r for r in self.records if r["predicted"] and r["measured"]]
        return sorted(
            known, key=lambda r: -abs(np.log(r["predicted"] / r["measured"]))
        )[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary, groups and rows; errors as shares of one."""
        total = len(self.predictions)
        return {
            **self.header(),
            "fidelity": self.fidelity,
            "files": list(self.files),
            **self.summary.to_dict(),
            "total_rows": total,
            "answered": len(self.answered),
            "answered_share": len(self.answered) / total if total else None,
            "unanswered": len(self.unanswered),
            "unanswered_reasons": self.reasons(),
            "time_bias": self.time_bias,
            **{
                f"by_{key}": {n: e.to_dict() for n, e in self.by(key).items()}
                for key in GROUPS
            },
            "worst": self.worst(),
            "table": self.records,
        }


def _record(p: RunPrediction) -> dict[str, Any]:
    run, result = p.mapped.run, p.result
    error = None
    if p.value is not None and p.measured:
        error = p.value / p.measured - 1.0
    return {
        "file": run.file,
        "row": run.row,
        "source": run.source,
        "model": run.model,
        "device": run.device,
        "devices": run.num_devices,
        "dtype": run.dtype,
        "stack": result.stack.id if result else (p.mapped.stack or ""),
        "system": result.system.id if result else (p.mapped.system or ""),
        "mapping": ", ".join(p.mapped.maps),
        "metric": p.metric,
        "unit": p.unit,
        "measured": p.measured,
        "predicted": p.value,
        "lower": p.lower,
        "upper": p.upper,
        "relative_error": error,
        "published_step_s": p.published_step_s,
        "step_s": p.step_s,
        "fits": None if result is None else result.fits,
        "bound": result.bound if result else "",
        "assumed": "; ".join(p.assumed),
        "confidence": run.confidence,
        "reason": p.reason,
    }


def validate_published(
    tables: str | Path | Sequence[str | Path] | PublishedTable,
    *,
    fidelity: Fidelity = "auto",
    device: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PublishedValidation:
    """Predict tables of published training runs.

    Parameters
    ----------
    tables : path, paths or PublishedTable
        CSV files with the columns of published training runs.
    fidelity : str
        What operator costs rest on.
    device : sequence of str, optional
        Only rows whose device is called so.
    progress : callable, optional
        Told how many rows are done, and of how many.

    Raises
    ------
    SpecError
        If a table cannot be read.
    InputError
        If there is no row.

    Examples
    --------
    >>> result = validate_published("training.csv")  # doctest: +SKIP
    >>> result.summary.median_ape  # doctest: +SKIP
    0.08
    """
    table = _table(tables)
    runs = [r for r in table.runs if not device or r.device in device]
    if not runs:
        raise InputError(f"{', '.join(table.files) or 'no table'}: no row to compare")
    mappings, predictor = load_mappings(), RunPredictor(fidelity)
    done = []
    for run in runs:
        done.append(predictor.predict(mapped(run, mappings)))
        if progress is not None:
            progress(len(done), len(runs))
    return PublishedValidation(tuple(done), table.files, fidelity)


def _table(tables: Any) -> PublishedTable:
    if isinstance(tables, PublishedTable):
        return tables
    if isinstance(tables, str | Path):
        return read_published([tables])
    paths: Iterable[str | Path] = tables
    return read_published(list(paths))
