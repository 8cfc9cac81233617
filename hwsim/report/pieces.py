"""Sentences and sections that pages of all kinds share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import largest_part
from hwsim.report import format as fmt
from hwsim.report.content import Fact, Section
from hwsim.report.provenance import assumptions, evidence, reproducibility

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_BOUND = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "interconnect": "communication between devices",
    "overhead": "starting and synchronising kernels",
    "launch": "waiting for the host to launch kernels",
    "idle": "waiting",
    "bubble": "waiting for other pipeline stages",
}


_IDLE = {"launch", "bubble"}


def name_of(saved: SavedResult, role: str) -> str:
    """Return a spec's name as people write it, or its id."""
    told = (saved.data.get("spec_hashes") or {}).get(role) or {}
    return str(told.get("name") or saved.data.get(role) or role)


def bound_word(bound: str) -> str:
    """Return in words what most of the time goes to."""
    return _BOUND.get(bound, bound)


def bound_clause(parts: Mapping[str, float], bound: str | None = None) -> str:
    """Return the clause that says where most of the time goes.

    Parameters
    ----------
    bound : str, optional
        What the result itself says of it; ``bubble`` is idle time too.
    """
    name = bound or largest_part(dict(parts))
    share = parts["idle" if name in _IDLE else name] / sum(parts.values())
    return f"{fmt.percent(share, 0)} of the time goes to {bound_word(name)}"


def ends(
    saved: SavedResult, key: str, show: Callable[[float], str] = fmt.seconds
) -> str:
    """Return the two ends of a figure's 90 % interval, or nothing."""
    interval = (saved.data.get("interval_90") or {}).get(key)
    if not interval or None in interval:
        return ""
    low, high = (show(float(end)) for end in interval)
    return f"{low} to {high}"


def around(
    saved: SavedResult, key: str, show: Callable[[float], str] = fmt.seconds
) -> str:
    """Return a figure, and its 90 % interval in brackets where it has one."""
    value = show(float(saved.need(key)))
    found = ends(saved, key, show)
    return f"{value} (90 % interval {found})" if found else value


def interval_note(
    saved: SavedResult,
    key: str,
    otherwise: str = "",
    show: Callable[[float], str] = fmt.seconds,
) -> str:
    """Return a remark with the 90 % interval of a figure."""
    found = ends(saved, key, show)
    return f"90 %: {found}" if found else otherwise


def fit_clause(saved: SavedResult) -> str:
    """Return the clause that says whether it fits."""
    have = (
        f"{fmt.nbytes(saved.need('memory_bytes', 'total'), 3)} of "
        f"{fmt.nbytes(saved.need('memory_usable_bytes'), 3)} usable"
    )
    fits = saved.need("fits")
    return f"fits in memory ({have})" if fits else f"does not fit ({have})"


def memory_fact(saved: SavedResult) -> Fact:
    """Return the headline figure of memory."""
    fits = bool(saved.need("fits"))
    return Fact(
        "Memory per device",
        fmt.nbytes(saved.need("memory_bytes", "total"), 3),
        f"of {fmt.nbytes(saved.need('memory_usable_bytes'), 3)} usable: "
        + ("fits" if fits else "does not fit"),
        "good" if fits else "bad",
    )


def memory_warning(saved: SavedResult) -> str:
    """Return what stands in red above a page: that it does not fit."""
    return "" if saved.need("fits") else f"It {saved.need('memory_verdict')}."


def assumed(saved: SavedResult) -> tuple[str, ...]:
    """Return the what-if overrides in force."""
    return tuple(map(str, saved.data.get("overrides") or ()))


def closing(saved: SavedResult) -> tuple[Section, ...]:
    """Return what every page ends with: accuracy, assumptions, repetition."""
    told = evidence(saved)
    return (
        *([told] if told else []),
        assumptions(saved),
        reproducibility(saved),
    )


def parts_of(saved: SavedResult) -> dict[str, float]:
    """Return the breakdown of a result. [s]"""
    return {str(k): float(v) for k, v in saved.need("breakdown").items()}


def number(value: Any) -> str:
    """Return a figure in four digits."""
    return fmt.count(float(value), 4)
