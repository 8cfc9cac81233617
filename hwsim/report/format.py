"""SI figures as people read them; shared by tables, figures and pages."""

from __future__ import annotations

import math
from typing import Any

from hwsim.units import Units, format_quantity, units_in_use

NONE = "–"
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def seconds(value: float | None, digits: int = 3) -> str:
    """Return a time, from nanoseconds to days.

    Examples
    --------
    >>> seconds(0.01234)
    '12.3 ms'
    >>> seconds(2.5e-6)
    '2.5 µs'
    >>> seconds(5000)
    '1 h 23 min'
    """
    if value is None:
        return NONE
    plain = units_in_use() is Units.si
    if plain or not math.isfinite(value) or abs(value) < 2 * _MINUTE:
        return quantity(value, "s", digits)
    if value < 0:
        return f"-{seconds(-value, digits)}"
    return _long(value, digits)


def _long(value: float, digits: int) -> str:
    # Whole small units, so that 59.9 s never reads as 60 s.
    if value < _HOUR - 0.5:
        minutes, rest = divmod(round(value), int(_MINUTE))
        return _two(minutes, "min", rest, "s")
    if value < _DAY - 30:
        hours, rest = divmod(round(value / _MINUTE), 60)
        return _two(hours, "h", rest, "min")
    return f"{count(value / _DAY, digits)} days"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")


def nbytes(value: float | None, digits: int = 4) -> str:
    """Return a size with a decimal prefix.

    Examples
    --------
    >>> nbytes(80e9)
    '80 GB'
    """
    return quantity(value, "B", digits)


def rate(value: float | None, unit: str = "FLOP/s", digits: int = 4) -> str:
    """Return a rate with a decimal prefix.

    Examples
    --------
    >>> rate(989.4e12)
    '989.4 TFLOP/s'
    """
    return quantity(value, unit, digits)


def quantity(value: float | None, unit: str, digits: int = 4) -> str:
    """Return a figure with prefix and unit; a plain number where it has none.

    Examples
    --------
    >>> quantity(3.35e12, "B/s")
    '3.35 TB/s'
    >>> quantity(0.99996, "s", 3)
    '1 s'
    """
    if value is None or not math.isfinite(value):
        return NONE
    if not unit:
        return count(value, digits)
    # Rounded first: 999.96 ms must read 1 s, not 1000 ms.
    rounded = float(f"{value:.{digits}g}")
    return format_quantity(rounded, unit, digits).replace(" u", " µ", 1)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of one as a percentage.

    Examples
    --------
    >>> percent(0.4567)
    '45.7 %'
    """
    if share is None or not math.isfinite(share):
        return NONE
    return f"{share * 100:.{digits}f} %"


def signed_percent(error: float | None, digits: int = 1) -> str:
    """Return a relative error with its sign.

    Examples
    --------
    >>> signed_percent(0.052), signed_percent(-0.1)
    ('+5.2 %', '−10.0 %')
    """
    if error is None or not math.isfinite(error):
        return NONE
    sign = "−" if error < 0 else "+"
    return f"{sign}{abs(error) * 100:.{digits}f} %"


def count(value: float | None, digits: int = 4) -> str:
    """Return a number with thousands separated; fractions to ``digits``.

    Examples
    --------
    >>> count(68976648192), count(1234.56), count(0.012345)
    ('68,976,648,192', '1,235', '0.01235')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if float(value).is_integer() or abs(value) >= 10**digits:
        return f"{round(value):,}"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 1000:
        return f"{rounded:,.10g}"
    return f"{rounded:.{digits}g}"


def large(value: float) -> str:
    """Return a large number in words.

    Examples
    --------
    >>> large(15e12), large(1.5e9), large(2000)
    ('15 trillion', '1.5 billion', '2,000')
    """
    for scale, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {word}"
    return count(value)


def plural(value: float, one: str, many: str = "") -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> plural(1, "device"), plural(8, "device"), plural(2, "pass", "passes")
    ('1 device', '8 devices', '2 passes')
    """
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def listed(items: Any, word: str = "and") -> str:
    """Return a list as a sentence has it.

    Examples
    --------
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    texts = [str(item) for item in items]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {word} {texts[-1]}"
