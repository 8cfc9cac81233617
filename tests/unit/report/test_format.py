from __future__ import annotations

import math

import pytest

from hwsim.report import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"), (3.4e-9, "3.4 ns"), (2.5e-6, "2.5 µs"), (0.0123456, "12.3 ms"),
        (0.99996, "1 s"), (59.96, "60 s"), (119.0, "119 s"), (120.0, "2 min"),
        (125.2, "2 min 5 s"), (3599.7, "1 h"), (5000.0, "1 h 23 min"),
        (86399.0, "1 days"), (3 * 86400.0, "3 days"), (None, "–"),
        (math.nan, "–"), (math.inf, "–"), (-5000.0, "-1 h 23 min"),
    ],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert fmt.seconds(value) == text


def test_a_rounded_figure_never_reads_a_thousand_of_its_unit() -> None:
    assert fmt.nbytes(999_999_999) == "1 GB"
    assert fmt.rate(999.99e12, digits=3) == "1 PFLOP/s"


def test_units_and_shares() -> None:
    assert fmt.nbytes(80e9) == "80 GB"
    assert fmt.rate(3.35e12, "B/s") == "3.35 TB/s"
    assert fmt.percent(0.4567) == "45.7 %"
    assert fmt.percent(None) == fmt.NONE
    assert fmt.signed_percent(-0.1) == "−10.0 %"
    assert fmt.signed_percent(0.052) == "+5.2 %"


def test_counts_are_exact_when_whole() -> None:
    assert fmt.count(68_976_648_192) == "68,976,648,192"
    assert fmt.count(0.012345) == "0.01235"
    assert fmt.count(9999.7) == "10,000"


def test_words() -> None:
    assert fmt.plural(1, "pass", "passes") == "1 pass"
    assert fmt.plural(1024, "token") == "1,024 tokens"
    assert fmt.listed([]) == ""
    assert fmt.listed(["a", "b", "c"], "or") == "a, b or c"
