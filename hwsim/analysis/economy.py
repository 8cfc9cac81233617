"""Energy, power and money of many layouts; limits; what no other one beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hwsim.cost.cost import FloatArray
from hwsim.cost.energy import SECONDS_PER_HOUR, host_power
from hwsim.errors import InputError
from hwsim.specs.economics import Economics, load_economics
from hwsim.specs.system import SystemSpec

# Differences of less than this share do not put a layout on the Pareto front.
_GRID = 0.005


@dataclass(frozen=True)
class Limits:
    """What a layout must keep to.

    Attributes
    ----------
    memory : float or None
        Memory of one device that may be used. [B]
    step_time : float or None
        Longest step. [s]
    tokens : float or None
        Training tokens of the whole run, which deadline and budget are of.
    deadline : float or None
        Longest run, without failures. [s]
    budget : float or None
        Rent of the devices for the whole run. [USD]
    power : float or None
        Mean power of the job at the wall: devices, hosts, facility. [W]
    """

    memory: float | None = None
    step_time: float | None = None
    tokens: float | None = None
    deadline: float | None = None
    budget: float | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{field.name} is {value}; give a number above 0")
        for name in ("deadline", "budget"):
            if getattr(self, name) is not None and self.tokens is None:
                raise InputError(f"{name} is of the whole run; give tokens as well")

    def to_dict(self) -> dict[str, float]:
        """Return those that are set."""
        return {k: v for k, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class Economy:
    """What a second of a job draws and costs.

    Attributes
    ----------
    price : float or None
        Of one device. [USD/h]
    """

    reference: Economics
    price: float | None
    pue: float

    def figures(
        self,
        system: SystemSpec,
        devices: int,
        step: FloatArray,
        parts: Mapping[str, FloatArray],
        pipeline: NDArray[np.bool_] | bool = False,
    ) -> dict[str, FloatArray]:
        """Return power [W], energy [J] and money [USD] of each layout's step.

        Parameters
        ----------
        pipeline : bool or ndarray of bool
            Whether idle time is waiting for other ranks of a pipeline.
        """
        board = self._board(system, step, parts, pipeline)
        power = devices * self.pue * (board + self.host_power(system))
        price = self.price_of(system)
        hours = devices * step / SECONDS_PER_HOUR
        money = hours * (math.nan if price is None else price)
        return {"power_w": power, "energy_j": power * step, "cost_usd": money}

    def price_of(self, system: SystemSpec) -> float | None:
        """Return the price of one of a system's devices, if one is known. [USD/h]"""
        known = self.reference.prices.get(system.device.id)
        return known if self.price is None else self.price

    def host_power(self, system: SystemSpec) -> float:
        """Return a device's part of hosts, network and fans. [W]"""
        share = system.power_overhead
        share = self.reference.host_share if share is None else share
        return host_power(system.device, share)

    def _board(
        self,
        system: SystemSpec,
        step: FloatArray,
        parts: Mapping[str, FloatArray],
        pipeline: NDArray[np.bool_] | bool,
    ) -> FloatArray:
        """Mean power of one device; nan where none is quoted. [W]"""
        power, shares = system.device.power, self.reference.power
        if power.tdp is None:
            return np.full(step.shape, np.nan)
        idle = power.tdp * shares.idle_of_tdp if power.idle is None else power.idle
        above = sum(getattr(shares, name) * time for name, time in parts.items())
        above = above + parts["idle"] * np.where(
            pipeline, shares.waiting - shares.idle, 0.0
        )
        found: FloatArray = idle + (power.tdp - idle) * above / step
        return found


def kept_to(
    limits: Limits, tokens_per_step: float, figures: Mapping[str, FloatArray]
) -> dict[str, NDArray[np.bool_]]:
    """Return, for each limit on time, money and power, who keeps to it."""
    steps = math.ceil((limits.tokens or 0.0) / tokens_per_step)
    step = figures["step_s"]
    found = {}
    if limits.step_time is not None:
        found["step_time"] = step <= limits.step_time
    if limits.deadline is not None:
        found["deadline"] = steps * step <= limits.deadline
    if limits.budget is not None:
        _known("budget", figures["cost_usd"], "give price in USD per device hour")
        found["budget"] = steps * figures["cost_usd"] <= limits.budget
    if limits.power is not None:
        _known("power", figures["power_w"], "set device.power.tdp")
        found["power"] = figures["power_w"] <= limits.power
    return found


def _known(name: str, values: FloatArray, remedy: str) -> None:
    if len(values) and np.isnan(values).all():
        raise InputError(f"{name} cannot be checked for this device: {remedy}")


def front(columns: Sequence[FloatArray], within: int = 2_000) -> NDArray[np.int64]:
    """Return the places of layouts that no other beats in everything.

    Smaller is better. Figures that nobody knows are left out; those that
    differ by less than half a percent count as equal.

    Parameters
    ----------
    within : int
        At most so many are returned, the best of the first column.
    """
    known = [c for c in columns if len(c) and not np.isnan(c).any()]
    if not known:
        return np.zeros(0, dtype=np.int64)
    exact = np.stack(known, axis=1)
    grid = np.round(np.log(np.maximum(exact, 1e-300)) / _GRID)
    order = np.lexsort((*exact.T[:0:-1], exact[:, 0]))
    _, first = np.unique(grid[order], axis=0, return_index=True)
    left = order[np.sort(first)]
    found: list[int] = []
    while len(left) and len(found) < within:
        best = left[0]
        found.append(int(best))
        beaten = np.all(grid[left] >= grid[best], axis=1)
        left = left[~beaten]
    return np.array(_unbeaten(found, grid), dtype=np.int64)


def _unbeaten(found: list[int], grid: FloatArray) -> list[int]:
    """Drop those that a later one beats: the first column ties on its grid."""
    kept = []
    for one in found:
        others = grid[found]
        below = np.all(others <= grid[one], axis=1)
        if not np.any(below & np.any(others < grid[one], axis=1)):
            kept.append(one)
    return kept


def economy_of(price: float | None, pue: float | None) -> Economy:
    """Return what is paid and drawn; the reference where nothing is said."""
    reference = load_economics()
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise InputError(f"price is {price}; give USD per device hour, 0 or more")
    if pue is not None and not 1.0 <= pue <= 5.0:
        raise InputError(f"pue is {pue}; facility over computer power is 1 to 5")
    return Economy(reference, price, reference.pue if pue is None else pue)
