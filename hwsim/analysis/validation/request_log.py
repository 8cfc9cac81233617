"""Request logs of real servers replayed: distributions and requests compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.result import Result
from hwsim.analysis.validation.metrics import ErrorSummary, summarise
from hwsim.analysis.validation.replay import METRICS, Replay, replayed
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError, InputError
from hwsim.specs.measurement.table import BadRow
from hwsim.specs.request_log import LoggedRun, RequestLog, read_request_log

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
STATISTICS: dict[str, float | None] = {
    "mean": None,
    "p50": 0.5,
    "p90": 0.9,
    "p99": 0.99,
}


@dataclass(frozen=True)
class ReplayedRun:
    """A run of a log and what the simulation makes of it.

    Attributes
    ----------
    replay : Replay or None
        The simulation; None where there is none.
    reason : str
        Why there is none; empty where there is one.
    """

    run: LoggedRun
    replay: Replay | None = None
    reason: str = ""

    def pairs(self, metric: str) -> tuple[FloatArray, FloatArray]:
        """Return measured and predicted figures of requests that have both. [s]"""
        if self.replay is None:
            return np.zeros(0), np.zeros(0)
        measured = self.replay.measured[metric]
        predicted = self.replay.predicted[metric]
        known = np.isfinite(measured) & np.isfinite(predicted)
        return measured[known], predicted[known]

    def statistics(self) -> Iterator[dict[str, Any]]:
        """Yield one record per metric and statistic of the requests."""
        for metric in METRICS:
            measured, predicted = self.pairs(metric)
            if not measured.size:
                continue
            for name, share in STATISTICS.items():
                real, ours = _statistic(measured, share), _statistic(predicted, share)
                low, high = self._interval(metric, name)
                yield {
                    "run": self.run.name, "device": self.run.device,
                    "model": self.run.model, "metric": metric, "statistic": name,
                    "unit": "s", "requests": int(measured.size), "measured": real,
                    "predicted": ours, "lower": low and ours * low,
                    "upper": high and ours * high,
                    "relative_error": ours / real - 1.0 if real > 0 else None,
                }  # fmt: skip

    def _interval(self, metric: str, name: str) -> tuple[float | None, float | None]:
        """Return the ends of a statistic's 90 % interval over its prediction."""
        spans = {} if self.replay is None else self.replay.intervals
        found: tuple[float | None, float | None] = spans.get(metric, {}).get(
            name, (None, None)
        )
        return found

    def per_request(self, metric: str) -> ErrorSummary:
        """Return the errors of single requests."""
        return _summary([self], metric)

    def to_dict(self) -> dict[str, Any]:
        """Return the run: settings, statistics by metric, errors of requests."""
        run, replay = self.run, self.replay
        tables: dict[str, dict[str, Any]] = {}
        for r in self.statistics():
            tables.setdefault(f"{r['metric']}_s", {})[r["statistic"]] = {
                key: r[key]
                for key in ("measured", "predicted", "lower", "upper", "relative_error")
            }
        return {
            "source": run.source, "device": run.device, "model": run.model,
            "dtype": run.dtype, "tp": run.tp or 1, "pp": run.pp or 1,
            "dp": run.dp or 1, "expert_parallel": run.expert_parallel,
            "max_num_seqs": run.max_num_seqs,
            "max_num_batched_tokens": run.max_num_batched_tokens,
            "requests": len(run), "reason": self.reason,
            "simulated": replay.settings() if replay else None,
            **tables,
            "per_request": {m: self.per_request(m).to_dict() for m in METRICS},
        }  # fmt: skip


def _statistic(values: FloatArray, share: float | None) -> float:
    if share is None:
        return float(values.mean())
    return float(np.quantile(values, share))


def _summary(runs: Sequence[ReplayedRun], *metrics: str) -> ErrorSummary:
    pairs = [r.pairs(m) for r in runs for m in metrics]
    measured = np.concatenate([m for m, _ in pairs]) if pairs else np.zeros(0)
    predicted = np.concatenate([p for _, p in pairs]) if pairs else np.zeros(0)
    real = measured > 0
    return summarise(predicted[real], measured[real])


@dataclass(frozen=True, repr=False)
class RequestLogValidation(Result):
    """Logs of real servers beside their replays.

    Attributes
    ----------
    runs : tuple of ReplayedRun
        Every run of the files, simulated or not.
    bad : tuple of BadRow
        Rows that were left out.
    complete : bool
        Whether all runs were replayed; else it was interrupted.
    """

    runs: tuple[ReplayedRun, ...]
    bad: tuple[BadRow, ...]
    files: tuple[str, ...]
    fidelity: Fidelity
    complete: bool = True

    kind = "request_log_validation"

    @property
    def answered(self) -> list[ReplayedRun]:
        """Runs that could be simulated."""
        return [r for r in self.runs if r.replay is not None]

    @property
    def unanswered(self) -> list[ReplayedRun]:
        """Runs that could not, each with its reason."""
        return [r for r in self.runs if r.replay is None]

    @cached_property
    def statistics(self) -> list[dict[str, Any]]:
        """One record per run, metric and statistic."""
        return [record for run in self.answered for record in run.statistics()]

    @property
    def summary(self) -> ErrorSummary:
        """Errors of all requests, all metrics."""
        return _summary(self.answered, *METRICS)

    def by_metric(self) -> dict[str, ErrorSummary]:
        """Return errors of single requests by metric."""
        return {m: _summary(self.answered, m) for m in METRICS}

    def by(self, key: str) -> dict[str, ErrorSummary]:
        """Return errors of single requests by ``device``, ``model`` or ``source``."""
        if key not in {"device", "model", "source"}:
            raise InputError(f"no column {key!r}; use device, model or source")
        labels = dict.fromkeys(str(getattr(r.run, key)) for r in self.answered)
        return {
            label: _summary(
                [r for r in self.answered if getattr(r.run, key) == label], *METRICS
            )
            for label in labels
        }

    def means(self) -> dict[str, ErrorSummary]:
        """Return errors of the runs' means by metric: each run counts once."""
        found = {}
        for metric in METRICS:
            rows = [
                r for r in self.statistics
                if r["metric"] == metric and r["statistic"] == "mean"
            ]  # fmt: skip
            found[metric] = summarise(
                np.array([r["predicted"] for r in rows], dtype=np.float64),
                np.array([r["measured"] for r in rows], dtype=np.float64),
            )
        return found

    @property
    def table(self) -> pd.DataFrame:
        """One line per run, metric and statistic."""
        import pandas as pd

        return pd.DataFrame(self.statistics)

    @property
    def requests(self) -> pd.DataFrame:
        """One line per request of every replayed run."""
        import pandas as pd

        return pd.concat(
            [r.replay.frame(r.run) for r in self.answered if r.replay],
            ignore_index=True,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return summaries and runs; errors as shares of one."""
        total = sum(len(r.run) for r in self.runs)
        done = sum(len(r.run) for r in self.answered)
        return {
            **self.header(),
            "fidelity": self.fidelity,
            "files": list(self.files),
            "complete": self.complete,
            **self.summary.to_dict(),
            "skipped": len(self.bad),
            "skipped_rows": [b.to_dict() for b in self.bad],
            "runs": len(self.runs),
            "requests": total,
            "answered": done,
            "answered_share": done / total if total else None,
            "unanswered": total - done,
            "unanswered_reasons": dict(
                Counter(r.reason for r in self.unanswered).most_common()
            ),
            "by_metric": {m: e.to_dict() for m, e in self.by_metric().items()},
            "means": {m: e.to_dict() for m, e in self.means().items()},
            **{
                f"by_{key}": {n: e.to_dict() for n, e in self.by(key).items()}
                for key in ("device", "model", "source")
            },
            "by_run": [r.to_dict() for r in self.runs],
            "table": list(self.statistics),
        }


def validate_request_log(
    logs: str | Path | Sequence[str | Path],
    *,
    fidelity: Fidelity = "auto",
    device: Sequence[str] | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RequestLogValidation:
    """Replay request logs of real servers and compare what requests saw.

    Parameters
    ----------
    logs : path or paths
        Files with one row per request; see
        :func:`hwsim.specs.request_log.read_request_log`.
    fidelity : str
        What operator costs rest on.
    device : sequence of str, optional
        Only runs whose device is called so.
    skip_bad : bool
        Leave faulty rows out instead of refusing them.
    progress : callable, optional
        Told how many runs are done, and of how many.

    Raises
    ------
    SpecError
        If a file or a row of it is faulty.
    InputError
        If there is no run.
    """
    paths = [logs] if isinstance(logs, str | Path) else list(logs)
    found: list[RequestLog] = [read_request_log(p, skip_bad=skip_bad) for p in paths]
    runs = [r for log in found for r in log.runs if not device or r.device in device]
    if not runs:
        known = ", ".join(dict.fromkeys(r.device for log in found for r in log.runs))
        raise InputError(
            f"no run to compare: no device {', '.join(device or ())} among {known}"
        )
    done: list[ReplayedRun] = []
    complete = True
    try:
        for run in runs:
            done.append(_replayed(run, fidelity))
            if progress is not None:
                progress(len(done), len(runs))
    except KeyboardInterrupt:
        complete = False
    bad = tuple(b for log in found for b in log.bad)
    files = tuple(str(p) for p in paths)
    return RequestLogValidation(tuple(done), bad, files, fidelity, complete)


def _replayed(run: LoggedRun, fidelity: Fidelity) -> ReplayedRun:
    try:
        return ReplayedRun(run, replayed(run, fidelity))
    except HwsimError as error:
        return ReplayedRun(run, reason=str(error))
