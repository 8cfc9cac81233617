"""Quantities typed on the command line."""

from __future__ import annotations

import math
import re

from hwsim.errors import InputError
from hwsim.units import DIMENSIONS, parse_quantity

_COUNT = re.compile(r"^\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*([kKMGBT]?)\s*$")
_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


def token_count(text: str) -> float:
    """Return a number of tokens from text like ``300e9``, ``300B`` or ``15T``.

    Examples
    --------
    >>> token_count("1.4T")
    1400000000000.0
    """
    match = _COUNT.match(text)
    value = float(match[1]) * _SCALE[match[2]] if match else math.nan
    if not value >= 1 or math.isinf(value):
        raise InputError(f"tokens {text!r} is not a count; write 300e9, 300B or 15T")
    return value


def counts(name: str, text: str | None) -> tuple[int, ...]:
    """Return whole numbers from text like ``7,8,8,7``; none of no text.

    Examples
    --------
    >>> counts("stage-layers", "0,6,6")
    (0, 6, 6)
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) < 10 for word in words):
        raise InputError(f"--{name} {text!r} are no whole numbers; write 7,8,8,7")
    return tuple(map(int, words))


def time_of(name: str, text: str | None) -> float | None:
    """Return seconds from text with a unit; ``inf`` is never."""
    if text is None:
        return None
    if text.strip().casefold() == "inf":
        return math.inf
    try:
        return quantity_of(name, text, "time")
    except InputError as error:
        raise InputError(str(error).replace("2.5 us", "30 s")) from None


def factors(name: str, text: str | None) -> tuple[float, ...]:
    """Return numbers with commas between; empty where nothing is given."""
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--{name} {text!r} is not a list of factors; write 1,1,1.1,1"
        ) from None


def whole_number(name: str, text: str) -> int:
    """Return a whole number typed for an option."""
    try:
        return int(text)
    except ValueError:
        option = name.replace("_", "-")
        raise InputError(
            f"--{option} {text!r} is not a whole number; write 8 or a list 4,8"
        ) from None


def integers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Return whole numbers with commas between; None where nothing is given."""
    if text is None:
        return None
    return tuple(whole_number(name, part) for part in text.split(","))


def limits_of(text: str | None) -> dict[str, float]:
    """Return limits in seconds from text like ``ttft.p99=500ms,tpot=40ms``."""
    found: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        key, equals, value = (p.strip() for p in part.partition("="))
        try:
            seconds = float(value)
        except ValueError:
            seconds = time_of("slo", value or None) or 0.0
        if not equals or not seconds > 0:
            raise InputError(f"--slo {part!r} is not a limit; write ttft=500ms")
        found[key] = seconds
    return found


def quantity_of(name: str, text: str | None, dimension: str) -> float | None:
    """Return an SI figure from text with a unit; None where nothing is given.

    Parameters
    ----------
    dimension : str
        Key of :data:`hwsim.units.DIMENSIONS`.
    """
    if text is None:
        return None
    try:
        return parse_quantity(text, DIMENSIONS[dimension])
    except ValueError as error:
        raise InputError(f"--{name.replace('_', '-')}: {error}") from None


def size_of(name: str, text: str | None) -> float | None:
    """Return bytes from text with a unit, or of a number of them.

    Examples
    --------
    >>> size_of("bytes", "1 MiB"), size_of("bytes", "1e6")
    (1048576.0, 1000000.0)
    """
    try:
        return None if text is None else float(text)
    except ValueError:
        return quantity_of(name, text, "bytes")


def words(text: str) -> tuple[str, ...]:
    """Return words with commas between."""
    return tuple(word.strip() for word in text.split(","))
