"""How parameters measured on one device carry over to another of its kind.

A kernel's floor is not the same time on every GPU, nor is what one unit draws
from memory the same share of its bandwidth. Each rule ties a parameter to
figures of the device's spec that it goes with; the parameter is multiplied by
the ratio of these figures. A rule without its figures on either device leaves
the parameter as it is. The rules were chosen by predicting whole devices from
others (``docs/calibration.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwsim.specs.device import DeviceSpec

_NO_LIMIT = float("inf")


@dataclass(frozen=True, slots=True)
class Traits:
    """Figures of a device that parameters go with; None where it quotes none.

    Attributes
    ----------
    launch : float or None
        Gap between two kernels of a graph, their body included: latencies of
        starting, loading and draining. [s]
    cycle : float or None
        Of the quoted clock. [s]
    peak : float or None
        16-bit matrix peak. [FLOP/s]
    power_demand : float or None
        Peak times the clock squared, for the voltage that it takes, over the
        power limit. [FLOP/(s3 W)]
    draw_from_memory, draw_from_cache : float or None
        Bytes that units take in at a fixed number per clock, over the
        bandwidth of main memory and of the last shared cache. [1/B]
    """

    launch: float | None = None
    cycle: float | None = None
    peak: float | None = None
    power_demand: float | None = None
    draw_from_memory: float | None = None
    draw_from_cache: float | None = None


def traits(device: DeviceSpec) -> Traits:
    """Return the figures of a GPU that parameters go with; none of others."""
    if device.kind != "gpu":
        return Traits()
    clock, cache = device.compute.clock, device.cache
    matrix: dict[str, float] = dict(device.compute.matrix)  # type: ignore[arg-type]
    peak = matrix.get("bf16", matrix.get("fp16"))
    power = device.power.tdp
    demand = draw = from_cache = None
    if clock is not None:
        draw = device.compute.units * clock
        if peak is not None and power:
            demand = peak * clock**2 / power
        if cache is not None and cache.bandwidth:
            from_cache = draw / cache.bandwidth
        draw /= device.bandwidth
    return Traits(
        launch=device.launch.graph if device.launch else None,
        cycle=None if clock is None else 1.0 / clock,
        peak=peak, power_demand=demand, draw_from_memory=draw,
        draw_from_cache=from_cache,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """Parameters by dotted path that go with one figure, and their limits."""

    figure: str
    paths: tuple[str, ...]
    lower: float = 0.0
    upper: float = _NO_LIMIT


def _all(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names)


RULES: tuple[Rule, ...] = (
    Rule(
        "launch",
        (
            "elementwise.overhead", "matmul.overhead",
            *_all("matmul.tiled", "fill", "split_sync", "start_time"),
            *_all("matmul.tiled_narrow", "fill", "split_sync", "start_time"),
            *_all("matmul.tiled_block", "fill", "split_sync", "start_time"),
            *_all("attention.prefill", "start_time", "block_time", "token_time"),
            *_all(
                "attention.decode", "start_time", "fill_time", "unit_time",
                "split_time", "sequence_time", "regroup_time",
            ),
        ),
    ),
    Rule(
        "cycle",
        ("matmul.tiled.step_latency", "matmul.tiled_narrow.step_latency",
         "matmul.tiled_block.step_latency"),
    ),
    Rule("peak", ("matmul.sustained_work",)),
    Rule("power_demand", ("matmul.sustained_derate",)),
    Rule("draw_from_cache", ("elementwise.cache_efficiency",), upper=1.0),
    Rule(
        "draw_from_memory",
        _all("attention.decode", "unit_bandwidth_ratio", "cache_bandwidth_ratio"),
        lower=1.0,
    ),
)  # fmt: skip
CARRIED = ("matmul", "elementwise", "attention")  # tables that rules touch
_BY_PATH: dict[str, Rule] = {path: rule for rule in RULES for path in rule.paths}


def carried_value(path: str, value: float, origin: Traits, target: Traits) -> float:
    """Return what a parameter's value on one device is on another.

    Examples
    --------
    >>> slow, fast = Traits(launch=1.34e-6), Traits(launch=0.67e-6)
    >>> carried_value("matmul.overhead", 3e-6, slow, fast)
    1.5e-06
    """
    rule = _BY_PATH.get(path)
    if rule is None:
        return value
    before, after = getattr(origin, rule.figure), getattr(target, rule.figure)
    if not before or not after:
        return value
    return float(min(max(value * (after / before), rule.lower), rule.upper))


def carried_values(
    values: Mapping[str, float], origin: Traits, target: Traits
) -> dict[str, float]:
    """Return parameters by path as they are on another device."""
    return {
        path: carried_value(path, value, origin, target)
        for path, value in values.items()
    }


def carried_from(
    holder: Any, origin: Callable[[str], Traits | None], target: Traits
) -> dict[str, float]:
    """Return the parameters of a calibration that a device changes, by path.

    Parameters
    ----------
    holder : Calibration
        Holds the parameters.
    origin : callable
        Gives the figures of the device that a path's value is stated for,
        None where it holds for any.
    target : Traits
        Figures of the device that it is wanted for.
    """
    found = {}
    for path in _BY_PATH:
        value, known = _value(holder, path), origin(path)
        if value is None or known is None:
            continue
        changed = carried_value(path, value, known, target)
        if changed != value:
            found[path] = changed
    return found


def _value(holder: Any, path: str) -> float | None:
    for key in path.split("."):
        if holder is None:
            return None
        holder = getattr(holder, key)
    return holder if isinstance(holder, float) else None
