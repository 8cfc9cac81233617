"""Headline figures of a service's run: latencies, rates, goodput."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hwsim.analysis.serving.interval import Figures
from hwsim.analysis.serving.run import Run
from hwsim.sim.serving.records import gap_quantiles

FloatArray = npt.NDArray[np.float64]
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def ratio(value: float, by: float) -> float:
    """Return a quotient; NaN where it has none."""
    return value / by if by > 0 else math.nan


def figures_of(run: Run, slo: Mapping[str, float]) -> Figures:
    """Return the figures of a run that have intervals."""
    tokens, requests = float(run.outputs.sum()), float(run.outputs.size)
    return {
        "ttft_s": summary_of(run.ttft),
        "tpot_s": summary_of(run.tpot),
        "itl_s": gaps_of(run),
        "e2e_s": summary_of(run.e2e),
        "tokens_per_s": ratio(tokens, run.duration),
        "requests_per_s": ratio(requests, run.duration),
        "goodput_rps": goodput_of(run, slo),
    }


def goodput_of(run: Run, slo: Mapping[str, float]) -> float | None:
    """Return requests per second that met all limits; None without any. [1/s]"""
    if not slo:
        return None
    met = np.ones(run.ttft.size, dtype=bool)
    for key, limit in slo.items():
        values = getattr(run, key)
        met &= np.isnan(values) | (values <= limit)
    return ratio(float(met.sum()), run.duration)


def gaps_of(run: Run) -> dict[str, float]:
    """Return mean and quantiles of the gaps between tokens. [s]"""
    gaps = run.sums.gaps
    count = float(gaps.sum())
    values = gap_quantiles(gaps, list(SHARES.values()))
    mean = run.sums.gap_time / count if count else math.nan
    return {"mean": mean, **dict(zip(SHARES, values, strict=True))}


def summary_of(values: FloatArray) -> dict[str, float]:
    """Return mean and quantiles of what is known of some values."""
    values = values[~np.isnan(values)]
    if not values.size:
        return dict.fromkeys(("mean", *SHARES), math.nan)
    found = np.quantile(values, list(SHARES.values())).tolist()
    return {"mean": float(values.mean()), **dict(zip(SHARES, found, strict=True))}
