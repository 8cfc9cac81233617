"""Quantity text to SI and back."""

from __future__ import annotations

import math

import pytest

from hwsim.units import DIMENSIONS, check_magnitude, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GiB", "bytes", 80 * 2**30),
        ("80 GB", "bytes", 80e9),
        ("80GB", "bytes", 80e9),
        ("  256 KiB ", "bytes", 262144.0),
        ("1 EB", "bytes", 1e18),
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("1.5 TiB/s", "bandwidth", 1.5 * 2**40),
        ("400 Gbit/s", "bandwidth", 50e9),
        ("989.4 TFLOP/s", "rate", 989.4e12),
        ("989.4 TFLOPS", "rate", 989.4e12),
        ("1979 TOP/s", "rate", 1979e12),
        ("1979 TOPS", "rate", 1979e12),
        ("2.5 us", "time", 2.5e-6),
        ("2.5 µs", "time", 2.5e-6),
        ("2.5 μs", "time", 2.5e-6),
        ("0 s", "time", 0.0),
        ("1.83 GHz", "frequency", 1.83e9),
        ("700 W", "power", 700.0),
        ("15 kW", "power", 15e3),
        ("5 pJ", "energy", 5e-12),
        ("1 kWh", "energy", 3.6e6),
        ("0.3 TFLOP", "work", 0.3e12),
        ("64 B/clk", "bytes_per_clock", 64.0),
        ("3.35e12 B/s", "bandwidth", 3.35e12),
    ],
)
def test_quantity_text_gives_si(text: str, dimension: str, value: float) -> None:
    assert parse_quantity(text, DIMENSIONS[dimension]) == pytest.approx(
        value, rel=1e-12
    )


@pytest.mark.parametrize(
    ("text", "dimension", "fault"),
    [
        ("3350", "bandwidth", "has no unit; write it with one, as in '3.35 TB/s'"),
        ("3350 G", "bandwidth", "has no unit"),
        ("50%", "bytes", "has no unit"),
        ("3.35 TB", "bandwidth", "has unit 'B', expected B/s or bit/s"),
        ("3.35 TB/s", "bytes", "has unit 'B/s', expected B"),
        ("400 Gbps", "bandwidth", "has unit 'bps'"),
        ("400 Gb/s", "bandwidth", "has unit 'b/s'"),
        ("80 gb", "bytes", "has unit 'gb'"),
        ("2 months", "time", "has unit 'months', expected s or min or h or day"),
        ("3 furlongs", "time", "has unit 'furlongs', expected s or min"),
        ("3 parsecs", "bandwidth", "has unit 'parsecs'"),
        ("-5 GB", "bytes", "'-5 GB' is negative"),
        ("nan GB", "bytes", "'nan GB' is not finite"),
        ("inf GB", "bytes", "'inf GB' is not finite"),
        ("0 GB", "bytes", "outside the plausible 1 B to 1 EB; check the prefix"),
        ("8000 PB/s", "bandwidth", "outside the plausible"),
        ("3 B/s", "bandwidth", "outside the plausible"),
        ("900 THz", "frequency", "outside the plausible"),
        ("fast", "time", "is not a quantity; write it as '2.5 us'"),
        ("", "bytes", "is not a quantity"),
        ("3,35 TB/s", "bandwidth", "has a separator"),
        ("1_000 GB", "bytes", "has a separator"),
        ("80 GB 2", "bytes", "is not a quantity"),
        ("1" * 70 + " GB", "bytes", "is 73 characters long"),
    ],
)
def test_wrong_text_says_what_to_write(text: str, dimension: str, fault: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_quantity(text, DIMENSIONS[dimension])
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e19])
def test_numbers_are_checked_like_text(value: float) -> None:
    with pytest.raises(ValueError, match=r"write a value like|check the prefix"):
        check_magnitude(value, DIMENSIONS["bytes"])


def test_minutes_are_no_thousandths() -> None:
    assert parse_quantity("1.5 min", DIMENSIONS["time"]) == 90.0
    assert parse_quantity("2e1min", DIMENSIONS["time"]) == 1200.0


def test_every_example_is_well_formed() -> None:
    for dimension in DIMENSIONS.values():
        value = parse_quantity(dimension.example, dimension)
        assert dimension.low <= value <= dimension.high


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.35e12, "B/s", "3.35 TB/s"),
        (0.0, "s", "0 s"),
        (2.5e-6, "s", "2.5 us"),
        (999.96e9, "B", "1 TB"),
        (999.4e9, "B", "999.4 GB"),
        (-4e9, "B/s", "-4 GB/s"),
        (1e-15, "s", "1e-15 s"),
        (math.inf, "s", "inf s"),
    ],
)
def test_formatting_for_people(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text
