"""Predictions beside tables of published figures, of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.published.kinds import (
    TEXT_KEYS,
    Record,
    TablePredictor,
    open_tables,
    selected,
)
from hwsim.analysis.published.training import TrainingPredictor
from hwsim.analysis.result import Result
from hwsim.analysis.validation.metrics import ErrorSummary, grouped, summarise
from hwsim.analysis.validation.workers import predict_rows
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError, nearest
from hwsim.specs.published.training import PublishedTable

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("op", "source", "device", "metric", "model", "dtype", "stack", "knowledge")


@dataclass(frozen=True, repr=False)
class PublishedValidation(Result):
    """Published figures beside their predictions.

    Attributes
    ----------
    records : tuple of dict
        One per figure, answered or not, in SI; for the keys see
        :mod:`hwsim.analysis.published.kinds`.
    files : tuple of str
        Tables behind it.
    fidelity : str
        What operator costs rest on.
    complete : bool
        Whether all rows were done; else it was interrupted.
    """

    records: tuple[Record, ...]
    files: tuple[str, ...]
    fidelity: Fidelity
    complete: bool = True

    kind = "published_validation"

    @property
    def table(self) -> pd.DataFrame:
        """One line per figure, those without a prediction included."""
        import pandas as pd

        return pd.DataFrame(list(self.records))

    @property
    def answered(self) -> list[Record]:
        """Figures that have a prediction."""
        return [r for r in self.records if not r["reason"]]

    @property
    def unanswered(self) -> list[Record]:
        """Figures that have none, each with its reason."""
        return [r for r in self.records if r["reason"]]

    def reasons(self) -> dict[str, int]:
        """Return how many figures each reason leaves out, most frequent first."""
        return dict(Counter(r["reason"] for r in self.unanswered).most_common())

    @cached_property
    def summary(self) -> ErrorSummary:
        """Errors over all figures."""
        return summarise(**self._figures())

    @property
    def time_bias(self) -> float:
        """Median of (predicted - published) / published time behind the figure."""
        ratios = [
            r["step_s"] / r["published_step_s"] - 1.0
            for r in self.answered
            if r["step_s"] and r["published_step_s"]
        ]
        return float(np.median(ratios)) if ratios else float("nan")

    def by(self, key: str) -> dict[str, ErrorSummary]:
        """Return errors by a column: source, device, metric, model, …"""
        if key not in TEXT_KEYS:
            known = ", ".join(TEXT_KEYS)
            raise InputError(f"no column {key!r} to group by; use {known}")
        labels = np.array([str(r[key]) for r in self.records], dtype=object)
        found = grouped(labels, self._figures())
        # Only training has classes of what is known.
        told = key != "knowledge"
        return {k: e for k, e in found.items() if e.rows and (k or told)}

    def _figures(self) -> dict[str, NDArray[np.float64]]:
        return {
            name: np.array(
                [np.nan if r[name] is None else r[name] for r in self.records],
                dtype=np.float64,
            )
            for name in ("predicted", "measured", "lower", "upper")
        }

    def worst(self, count: int = 10) -> list[Record]:
        """Return the figures that are farthest off, worst first.

        Half the published figure is as far off as twice it.
        """
        known = [r for r in self.records if r["predicted"] and r["measured"]]
        return sorted(
            known, key=lambda r: -abs(np.log(r["predicted"] / r["measured"]))
        )[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary, groups and rows; errors as shares of one."""
        total = len(self.records)
        return {
            **self.header(),
            "fidelity": self.fidelity,
            "files": list(self.files),
            "complete": self.complete,
            **self.summary.to_dict(),
            "skipped": len(self.unanswered),
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
            "table": list(self.records),
        }


def validate_published(
    tables: str | Path | Sequence[str | Path] | PublishedTable,
    *,
    fidelity: Fidelity = "auto",
    device: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> PublishedValidation:
    """Predict tables of published figures; each table's columns say its kind.

    Parameters
    ----------
    tables : path, paths or PublishedTable
        CSV files, of one kind or of several.
    fidelity : str
        What operator costs rest on.
    device : sequence of str, optional
        Only rows whose device is called so.
    progress : callable, optional
        Told how many rows are done, and of how many.
    jobs : int
        Processes that predict rows. They import the script that calls this:
        above 1 its own work belongs under ``if __name__ == "__main__"``.

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
    files, everything = _opened(tables, fidelity)
    rows = selected(everything, device)
    if not rows:
        raise InputError(_nothing(files, everything, device))
    records, complete = predict_rows(rows, jobs, progress)
    return PublishedValidation(tuple(records), files, fidelity, complete)


def _nothing(
    files: Sequence[str],
    everything: Sequence[tuple[TablePredictor, Any]],
    device: Sequence[str] | None,
) -> str:
    """Return why no row is left."""
    where = ", ".join(files) or "no table"
    known = Counter(str(row.device) for _, row in everything if row.device)
    if not known or not device:
        return f"{where}: no row to compare"
    close = nearest(device[0], known) or [name for name, _ in known.most_common(6)]
    return (
        f"{where}: no row of device {' or '.join(map(repr, device))}; there are rows "
        f"of {', '.join(close)}" + (", …" if len(known) > len(close) else "")
    )


def _opened(
    tables: Any, fidelity: Fidelity
) -> tuple[tuple[str, ...], list[tuple[TablePredictor, Any]]]:
    if isinstance(tables, PublishedTable):
        training = TrainingPredictor(fidelity)
        return tables.files, [(training, run) for run in tables.runs]
    paths: Iterable[str | Path] = [tables] if isinstance(tables, str | Path) else tables
    paths = list(paths)
    return tuple(str(path) for path in paths), open_tables(paths, fidelity)
