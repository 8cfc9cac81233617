"""One cell of a comparison: an answer's figures per device, watt, dollar, token."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwsim.analysis.case import TIMES, Case
from hwsim.analysis.comparing.error_sources import (
    Errors,
    errors_of,
    graphs_of,
    precision_of,
    work_of,
)
from hwsim.analysis.economy import Economy
from hwsim.analysis.graph_result import GraphResult, largest_part
from hwsim.analysis.provenance import digest
from hwsim.analysis.serving.mean_request import mean_request, request_graphs
from hwsim.analysis.training.knowledge import outside_of
from hwsim.cost.energy import JOULES_PER_KWH, SECONDS_PER_HOUR
from hwsim.errors import HwsimError
from hwsim.specs.assumed import assumed_changes

Status = Literal["ok", "does_not_fit", "cannot_run"]
MILLION = 1e6


@dataclass(frozen=True)
class Money:
    """What energy, carbon and devices cost.

    Attributes
    ----------
    economy : Economy
        Reference figures, price and PUE.
    grid : float
        Carbon intensity. [g/kWh]
    """

    economy: Economy
    grid: float


@dataclass(frozen=True)
class CompareCell:
    """One question and its answer, or why there is none.

    Attributes
    ----------
    status : str
        ``ok``; ``does_not_fit`` in memory; ``cannot_run`` (a dtype that the
        device lacks, too few devices, …).
    reason : str
        Why it is not ``ok``.
    result : InferResult, TrainResult, ServeResult or None
        The answer.
    """

    case: Case
    money: Money
    status: Status
    reason: str
    result: Any

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.case.name

    @property
    def ok(self) -> bool:
        """Whether it can run."""
        return self.status == "ok"

    @property
    def devices(self) -> int:
        """Devices at work. [1]"""
        config = self.result.config
        if self.case.task == "train":
            return int(config.devices)
        return int(config.devices if self.case.task == "serve" else config.tp)

    @functools.cached_property
    def time_s(self) -> float:
        """Time that the task is compared by. [s]"""
        if self.case.task == "serve":
            return float(self.result.e2e_s["mean"])
        return float(getattr(self.result, TIMES[self.case.task][0]))

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of all devices together. [1/s]"""
        if self.case.task == "train":
            return float(self.result.tokens_per_s_per_device * self.devices)
        return float(self.result.tokens_per_s)

    @functools.cached_property
    def runs(self) -> list[tuple[GraphResult, float]]:
        """Graphs behind the time; a service's are of one mean request."""
        if self.case.task == "serve":
            return request_graphs(self.result, *mean_request(self.result))
        return graphs_of(self.result)

    @property
    def parts(self) -> dict[str, float]:
        """Breakdown of the time; of a service, of the engine's. [s]"""
        if self.case.task != "serve":
            return dict(self.result.parts)
        names = self.runs[0][0].parts
        return {n: math.fsum(g.parts[n] * k for g, k in self.runs) for n in names}

    @functools.cached_property
    def errors(self) -> Errors | None:
        """Sources of the error of the time."""
        precision, work = precision_of(self.result), work_of(self.result)
        known = getattr(self.result, "knowledge", None)
        rest = None if known is None else outside_of(known)
        return errors_of(self.runs, self.case.stack, precision, work, rest)

    @property
    def interval_90(self) -> dict[str, Any] | None:
        """90 % prediction intervals of time and rate."""
        found = getattr(self.result, "interval_90", None)
        if not found:
            return None
        key = TIMES[self.case.task][0].split(".")[0]
        time = found.get(key)
        if self.case.task == "serve":  # of a latency's mean and quantiles
            time = (time or {}).get("mean")
        rate = found.get("tokens_per_s") or found.get("tokens_per_s_per_device")
        if rate is not None and self.case.task == "train":
            rate = tuple(end * self.devices for end in rate)
        return {"time_s": time, "tokens_per_s": rate}

    @functools.cached_property
    def power_w(self) -> float | None:
        """Mean power at the wall: devices, hosts, facility. [W]"""
        economy, system = self.money.economy, self.result.system
        if self.case.task == "serve":
            energy = self.result.run.energy
            if energy is None or not self.result.duration_s > 0:
                return None
            hosts = self.devices * economy.host_power(system)
            return float((energy / self.result.duration_s + hosts) * economy.pue)
        parts = {name: np.asarray(value) for name, value in self.parts.items()}
        pipeline = getattr(self.result.config, "pp", 1) > 1
        found = economy.figures(
            system, self.devices, np.asarray(self.time_s), parts, pipeline
        )
        power = float(found["power_w"])
        return power if math.isfinite(power) else None

    @property
    def price(self) -> float | None:
        """Of one device. [USD/h]"""
        if self.money.economy.price is not None:
            return self.money.economy.price
        return self.money.economy.reference.prices.get(self.case.system.device.id)

    def figures(self) -> dict[str, Any]:
        """Return time, rate, memory, energy, carbon, money and per-unit figures."""
        if self.result is None:
            return {}
        memory = self._memory()
        if not self.ok:
            return {"devices": self.devices, **memory}
        rate, devices = self.tokens_per_s, self.devices
        hourly = None if self.price is None else self.price * devices
        power = self.power_w
        joule = None if power is None else power / rate
        usd = None if hourly is None else hourly / SECONDS_PER_HOUR / rate
        return {
            "devices": devices, "time_s": self.time_s, "tokens_per_s": rate,
            **self._latencies(),
            "interval_90": self.interval_90, "bound": self.bound,
            "breakdown": self.parts, **memory,
            "power_w": power, "energy_j_per_token": joule,
            "kwh_per_mtok": _times(joule, MILLION / JOULES_PER_KWH),
            "kg_co2e_per_mtok": _times(
                joule, MILLION / JOULES_PER_KWH * self.money.grid / 1e3
            ),
            "price_usd_per_device_hour": self.price, "usd_per_hour": hourly,
            "usd_per_mtok": _times(usd, MILLION),
            "tokens_per_s_per_device": rate / devices,
            "tokens_per_s_per_w": None if power is None else rate / power,
            "tokens_per_usd": None if not usd else 1.0 / usd,
            "mfu": getattr(self.result, "mfu", None),
            "fidelity": self.result.fidelity,
            "fidelity_by_family": self._fidelities(),
        }  # fmt: skip

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return largest_part(self.parts)

    def _fidelities(self) -> dict[str, str]:
        return {k: v for g, _ in self.runs for k, v in g.fidelity_by_family.items()}

    def _latencies(self) -> dict[str, Any]:
        if self.case.task == "infer":
            return {"ttft_s": self.result.ttft_s, "tpot_s": self.result.tpot_s}
        if self.case.task == "train":
            return {}
        r = self.result
        return {
            "ttft_s": r.ttft_s, "tpot_s": r.tpot_s, "e2e_s": r.e2e_s,
            "requests_per_s": r.requests_per_s, "goodput_rps": r.goodput_rps,
            "stable": r.stable, "stable_rate_rps": r.stable_rate,
            "utilisation": r.utilisation,
        }  # fmt: skip

    def _memory(self) -> dict[str, Any]:
        if self.case.task == "serve":
            used = self.result.kv_occupancy["max"]
            return {"memory_headroom": 1.0 - used}
        fit = self.result.memory
        return {
            "memory_needed_bytes": fit.needed, "memory_usable_bytes": fit.usable,
            "memory_headroom": 1.0 - fit.needed / fit.usable,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the cell with keys in SI."""
        system, device = self.case.system, self.case.system.device
        specs = (self.case.model, system, self.case.stack)
        return {
            "label": self.label,
            "status": self.status,
            "reason": self.reason,
            **self.case.to_dict(),
            "system_name": system.name,
            "device_name": device.name,
            "device_kind": device.kind,
            "assumed": list(assumed_changes((*specs, device))),
            "config": self.result.config.to_dict() if self.result else None,
            **self.figures(),
            "spec_sha256": {
                what: digest(spec)
                for what, spec in zip(("model", "system", "stack"), specs, strict=True)
            },
        }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def answered(case: Case, money: Money) -> CompareCell:
    """Return the cell of a question; one that cannot run says why."""
    try:
        result = case.run()
    except HwsimError as error:
        fits = "no memory" in str(error) or "KV cache" in str(error)
        status: Status = "does_not_fit" if fits else "cannot_run"
        return CompareCell(case, money, status, str(error), None)
    memory = getattr(result, "memory", None)
    if memory is not None and not memory.fits:
        return CompareCell(case, money, "does_not_fit", memory.sentence(), result)
    return CompareCell(case, money, "ok", "", result)
