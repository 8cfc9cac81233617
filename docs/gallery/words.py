"""Figures as the studies' sentences have them."""

from __future__ import annotations

from typing import Any

from hwsim.report import format as fmt

DAY = 86_400.0


def span(ends: tuple[float, float], show: Any = fmt.seconds) -> str:
    """Return an interval in words."""
    return f"{show(ends[0])} to {show(ends[1])}"


def around(value: float, ends: tuple[float, float], show: Any = fmt.seconds) -> str:
    """Return a figure with its 90 % interval."""
    return f"{show(value)} (90 % interval {span(ends, show)})"


def three(value: float) -> str:
    """Return a number in three digits."""
    return fmt.count(value, 3)


def scaled(ends: tuple[float, float], factor: float) -> tuple[float, float]:
    """Return an interval in another unit."""
    return ends[0] * factor, ends[1] * factor


def cell(
    value: float, ends: tuple[float, float] | None
) -> tuple[float, float, float] | float:
    """Return a cell of a study's table with its interval."""
    return value if ends is None else (value, *ends)
