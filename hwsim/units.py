"""Quantity text to SI floats and back; units cross here once.

A dimensional figure in a spec file is text with a unit (``"3.35 TB/s"``,
``"80 GiB"``); inside hwsim it is a float in SI: seconds, bytes, FLOP, watts.
"""

from __future__ import annotations

import functools
import math
import re
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Dimension:
    """A physical dimension: its SI unit, accepted spellings, plausible range.

    Attributes
    ----------
    unit : str
        SI unit that values are held in.
    spellings : dict of str to float
        Unit text to the factor that takes it to SI.
    low, high : float
        Values outside are refused as absurd, almost always a wrong prefix.
    example : str
        A well-formed value, shown in errors.
    """

    name: str
    unit: str
    spellings: dict[str, float]
    low: float
    high: float
    example: str

    def __hash__(self) -> int:
        return hash(self.name)


_TIMES = {
    "s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0, "hour": 3600.0,
    "hours": 3600.0, "d": 86400.0, "days": 86400.0, "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_FLOP = {"FLOP/s": 1.0, "FLOPS": 1.0, "OP/s": 1.0, "OPS": 1.0}
DIMENSIONS: dict[str, Dimension] = {
    d.name: d
    for d in (
        Dimension("bytes", "B", {"B": 1.0}, 1.0, 1e18, "80 GiB"),
        Dimension(
            "bandwidth", "B/s", {"B/s": 1.0, "bit/s": 0.125}, 1e6, 1e18, "3.35 TB/s"
        ),
        Dimension("rate", "FLOP/s", _FLOP, 1e6, 1e20, "989.4 TFLOP/s"),
        Dimension("time", "s", _TIMES, 0.0, 1e12, "2.5 us"),
        Dimension("frequency", "Hz", {"Hz": 1.0}, 1e6, 2e10, "1.83 GHz"),
        Dimension("power", "W", {"W": 1.0}, 0.0, 1e8, "700 W"),
        Dimension("energy", "J", {"J": 1.0, "Wh": 3600.0}, 0.0, 1e18, "5 pJ"),
        Dimension("work", "FLOP", {"FLOP": 1.0}, 0.0, 1e30, "0.3 TFLOP"),
        Dimension("bytes_per_clock", "B/clk", {"B/clk": 1.0}, 1e-3, 1e6, "64 B/clk"),
    )
}


_WHOLE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z/]+)$")
_EXPONENT = re.compile(r"([+-]?\d+\.?\d*[eE][+-]?\d+)\s*([a-zA-Z].*)")


@functools.cache
def _quantity_class() -> type:
    from quantiphy import Quantity  # imported where used: start-up time

    class _Text(Quantity):
        """Quantity with the prefixes that engineers write."""

    _Text.set_prefs(
        input_sf="EPTGMkmunpf",
        keep_components=False,
        ignore_sf=False,
    )
    return _Text


def parse_quantity(text: str, dimension: Dimension) -> float:
    """Return ``text`` as an SI float.

    Parameters
    ----------
    text : str
        Number, optional SI or binary prefix, and unit: ``"3.35 TB/s"``.
    dimension : Dimension
        What the text must measure.

    Raises
    ------
    ValueError
        If the number, the unit or the magnitude is wrong; the message says
        what to write.

    Examples
    --------
    >>> parse_quantity("80 GiB", DIMENSIONS["bytes"])
    85899345920.0
    >>> parse_quantity("400 Gbit/s", DIMENSIONS["bandwidth"])
    50000000000.0
    """
    cleaned = text.strip().replace("µ", "u").replace("μ", "u")
    if len(cleaned) > 64:
        raise ValueError(f"is {len(text)} characters long; write {dimension.example!r}")
    if "," in cleaned or "_" in cleaned:  # 3,35 is read as 335 by some, not by others
        raise ValueError(
            f"{text!r} has a separator in its number; write digits and a point, "
            f"as in {dimension.example!r}"
        )
    value, unit = _split(cleaned, dimension)
    if not math.isfinite(value):
        return check_magnitude(value, dimension, text)  # raises
    if unit == "":
        raise ValueError(
            f"{text!r} has no unit; write it with one, as in {dimension.example!r}"
        )
    factor = dimension.spellings.get(unit)
    if factor is None:
        raise ValueError(
            f"{text!r} has unit {_as_written(cleaned, unit)!r}, expected "
            f"{' or '.join(_first_spellings(dimension))}; "
            f"write it as {dimension.example!r}"
        )
    return check_magnitude(value * factor, dimension, text)


def _first_spellings(dimension: Dimension) -> list[str]:
    """Return one spelling of each unit."""
    first: dict[float, str] = {}
    for spelling, factor in dimension.spellings.items():
        first.setdefault(factor, spelling)
    return list(first.values())


def _as_written(text: str, unit: str) -> str:
    """Return an unknown unit whole where its first letter passed for a prefix."""
    known = any(unit in dimension.spellings for dimension in DIMENSIONS.values())
    eaten = text.removesuffix(unit)[-1:]
    return eaten + unit if eaten.islower() and not known else unit


def _split(text: str, dimension: Dimension) -> tuple[float, str]:
    if text.isascii():
        number = text.rstrip("%")
        try:
            return float(number), ""
        except ValueError:
            pass
    # A unit that starts like a prefix: 5 min are no milli-"in".
    whole = _WHOLE.match(text)
    if whole and whole[2] in dimension.spellings:
        return float(whole[1]), whole[2]
    # quantiphy takes no prefix after an exponent: it reads the unit of 1, and the
    # number in front is multiplied in. Binary prefixes are read only on request.
    power = _EXPONENT.match(text)
    scale = float(power[1]) if power else 1.0
    text = f"1 {power[2]}" if power else text
    try:
        quantity = _quantity_class()(text, binary=True)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a quantity; write it as {dimension.example!r}"
        ) from None
    return scale * float(quantity), str(quantity.units)


def check_magnitude(
    value: float, dimension: Dimension, text: str | None = None
) -> float:
    """Return ``value``, refusing NaN, negative and absurd magnitudes.

    ``text`` is how the value was written, for the message.
    """
    shown = format_quantity(value, dimension.unit) if text is None else repr(text)
    if math.isnan(value) or math.isinf(value):
        raise ValueError(
            f"{shown} is not finite; write a value like {dimension.example!r}"
        )
    if value < 0:
        raise ValueError(
            f"{shown} is negative; write a value like {dimension.example!r}"
        )
    if not dimension.low <= value <= dimension.high:
        low = format_quantity(dimension.low, dimension.unit)
        high = format_quantity(dimension.high, dimension.unit)
        raise ValueError(
            f"{shown} is outside the plausible "
            f"{low} to {high}; check the prefix, as in {dimension.example!r}"
        )
    return value


_PREFIXES = (
    (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"),
    (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"),
)  # fmt: skip


class Units(StrEnum):
    """How figures are written: with prefixes that fit, or in plain SI units."""

    human = "human"
    si = "si"


_units: ContextVar[Units] = ContextVar("units", default=Units.human)


def use_units(units: Units) -> None:
    """Write figures so from now on, in this thread or task."""
    _units.set(units)


def units_in_use() -> Units:
    """Return how figures are written."""
    return _units.get()


def format_quantity(value: float, unit: str, digits: int = 4) -> str:
    """Return ``value`` with an SI prefix, for people.

    Examples
    --------
    >>> format_quantity(3.35e12, "B/s")
    '3.35 TB/s'
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    if _units.get() is Units.si:
        return f"{value:.{digits}g} {unit}"
    rounded = float(f"{value:.{digits - 1}e}")  # 999.96 GB is 1 TB, not 1000 GB
    for scale, prefix in _PREFIXES:
        if abs(rounded) >= scale * (1 - 1e-12):
            return f"{rounded / scale:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"
