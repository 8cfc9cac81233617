"""What a saved service result keeps beyond its headline figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.analysis.serving.run import Run
from hwsim.specs.traffic import Lengths, Traffic


def quantiles_of(run: Run) -> dict[str, list[float]]:
    """Return 201 quantiles of each latency of the requests. [s]"""
    shares = np.linspace(0.0, 1.0, 201)
    found = {"shares": shares.tolist()}
    for name in ("ttft", "tpot", "e2e"):
        values = getattr(run, name)
        known = values[~np.isnan(values)]
        found[f"{name}_s"] = np.quantile(known, shares).tolist() if known.size else []
    return found


def traffic_words(traffic: Traffic) -> dict[str, Any]:
    """Return what is asked of a service, in words."""

    def words(what: str, lengths: Lengths) -> str:
        if lengths.kind == "file":
            return f"{what} tokens as in {lengths.path}"
        how = "" if lengths.kind == "fixed" else " in the mean"
        return f"{lengths.mean:,.0f} {what} tokens{how}"

    if traffic.trace is not None:
        text = f"the trace {traffic.trace.name}"
    else:
        text = f"{words('prompt', traffic.inputs)} and " + words(
            "output", traffic.outputs
        )
    return {
        "lengths": text,
        "arrival": traffic.arrival,
        "concurrency": traffic.concurrency,
    }
