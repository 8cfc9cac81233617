"""Tables of published serving points: read, simulate, one record per figure."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.analysis.published.kinds import Record, record
from hwsim.analysis.published.loop import FloatArray, Loop, LoopRuns, loop_of
from hwsim.analysis.published.spread import METRICS, serving_intervals
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval
from hwsim.errors import HwsimError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.given_names import given_system
from hwsim.specs.published.serving import ServingRow, little, read_serving
from hwsim.specs.published.serving_map import load_serving_mappings
from hwsim.specs.system import SystemSpec

_OPS = {False: "serve aggregated", True: "serve disaggregated"}


@dataclass(frozen=True)
class Served:
    """Predicted figures of a row: means over its requests.

    Attributes
    ----------
    ttft_s, tpot_s : float
        Arrival to first token; gap after it. [s]
    steps : LogInterval or None
        Of step times, by the errors of operators; None of a speed of light.
    """

    loop: Loop
    ttft_s: float
    tpot_s: float
    steps: LogInterval | None
    bound: str

    @property
    def values(self) -> dict[str, float | None]:
        """Predicted figures by metric."""
        loop = self.loop
        rate = little(loop.clients, loop.mean_output, self.ttft_s, self.tpot_s)
        return {"ttft": self.ttft_s, "tpot": self.tpot_s, "throughput": rate}

    @property
    def intervals(self) -> dict[str, LogInterval]:
        """90 % intervals by metric; none of a speed of light."""
        return serving_intervals(self.steps, self.loop.group)


class ServingPredictor:
    """Predicts tables of serving points; equal deployments share step times.

    Parameters
    ----------
    fidelity : str
        What operator costs rest on.
    """

    def __init__(self, fidelity: Fidelity) -> None:
        self._runs = LoopRuns(fidelity)
        self._mappings = load_serving_mappings()
        self._systems: dict[tuple[str, int], SystemSpec] = {}

    def read(self, path: Path) -> tuple[ServingRow, ...]:
        """Return the rows of a file."""
        return read_serving(path)

    def predict(self, row: ServingRow) -> list[Record]:
        """Return one record per figure that a row gives."""
        loop, served, reason = None, None, row.fault
        if not reason:
            try:
                loop = loop_of(row, self._mappings, self._system)
                served = self._served(loop)
            except HwsimError as error:
                reason = str(error)
        return _records(row, loop, served, reason)

    def figures(self, row: ServingRow) -> tuple[Served, dict[str, float | None]]:
        """Return what is predicted of a row, and its measured figures by metric.

        Raises
        ------
        HwsimError
            If it cannot be predicted.
        """
        loop = loop_of(row, self._mappings, self._system)
        return self._served(loop), _measured(row, loop)

    def _system(self, device: DeviceSpec, devices: int) -> SystemSpec:
        key = (device.id, devices)
        if key not in self._systems:
            self._systems[key] = given_system(device, devices)
        return self._systems[key]

    def sharing(self, row: ServingRow) -> tuple[Hashable, Hashable]:
        """Return what tables of step times, and what whole runs depend on."""
        shared = (row.model, row.device, row.backend, row.precision, row.mode)
        return shared, (row.isl, row.osl, row.concurrency)

    def _served(self, loop: Loop) -> Served:
        run = self._runs.run(loop).run
        return Served(
            loop, _mean(run.ttft, loop.weights), _mean(run.tpot, loop.weights),
            self._runs.steps(loop), self._runs.bound(loop),
        )  # fmt: skip


def _mean(values: FloatArray, weights: FloatArray) -> float:
    """Return the mean of what is known."""
    known = ~np.isnan(values)
    return float(np.average(values[known], weights=weights[: values.size][known]))


def _records(
    row: ServingRow, loop: Loop | None, served: Served | None, reason: str
) -> list[Record]:
    measured = _measured(row, loop)
    given = [m for m in METRICS if measured[m] is not None] or ["ttft"]
    if not reason and all(measured[m] is None for m in METRICS):
        reason = "the row gives neither ttft_ms nor tpot_ms"
    return [_record(row, loop, served, reason, m, measured[m]) for m in given]


def _measured(row: ServingRow, loop: Loop | None) -> dict[str, float | None]:
    throughput = row.throughput
    if loop is not None:
        throughput = little(loop.clients, loop.mean_output, row.ttft_s, row.tpot_s)
    return {"ttft": row.ttft_s, "tpot": row.tpot_s, "throughput": throughput}


def _record(
    row: ServingRow,
    loop: Loop | None,
    served: Served | None,
    reason: str,
    metric: str,
    measured: float | None,
) -> Record:
    rate = metric == "throughput"
    cells: dict[str, Any] = {
        "file": row.file, "row": row.row, "source": source_of(row),
        "op": _OPS[row.disaggregated], "model": row.model, "device": row.device,
        "dtype": row.precision, "metric": metric, "unit": "tokens/s" if rate else "s",
        "measured": measured, "confidence": row.confidence, "reason": reason,
        "published_step_s": _time(metric, measured),
    }  # fmt: skip
    if loop is not None:
        cells |= {
            "stack": loop.stack.id, "system": loop.system.id,
            "devices": loop.devices, "mapping": ", ".join(loop.maps),
            "assumed": "; ".join(loop.assumed), "dtype": loop.dtypes.dtype,
        }  # fmt: skip
    if served is not None and not reason:
        cells |= _predicted(served, metric)
    return record(**cells)


def _predicted(served: Served, metric: str) -> dict[str, Any]:
    value, around = served.values[metric], served.intervals.get(metric)
    low, high = around.around(value) if around and value else (None, None)
    return {
        "predicted": value, "lower": low, "upper": high, "fits": True,
        "bound": served.bound, "step_s": _time(metric, value),
    }  # fmt: skip


def _time(metric: str, value: float | None) -> float | None:
    """Return the time behind a figure: of a token where it is a rate. [s]"""
    if value is None or metric != "throughput":
        return value
    return 1.0 / value if value > 0 else math.nan


def source_of(row: ServingRow) -> str:
    """Return who measured a row: its source, else its backend and version."""
    return row.source or " ".join(t for t in (row.backend, row.backend_version) if t)
