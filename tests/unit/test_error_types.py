"""Errors: one line each, nearest names, survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from hwsim.errors import (
    HwsimError,
    InputError,
    OutputError,
    SpecError,
    UnknownNameError,
    nearest,
)


def test_a_spec_error_is_one_line_with_place_fault_and_remedy() -> None:
    error = SpecError("a.toml: memory.hbm", "3350 has\n no unit", "write GB/s")
    assert str(error) == "a.toml: memory.hbm: 3350 has no unit; write GB/s"
    assert (error.where, error.remedy) == ("a.toml: memory.hbm", "write GB/s")


def test_all_errors_exit_with_two_and_are_hwsim_errors() -> None:
    for error in (SpecError("a", "b"), InputError("c"), OutputError("d")):
        assert isinstance(error, HwsimError)
        assert error.exit_code == 2


def test_an_unknown_name_shows_the_nearest() -> None:
    known = ["a100-80gb-sxm", "a100-40gb-sxm", "h100-80gb-sxm", "t4"]
    error = UnknownNameError("device", "a100-80gb-smx", known)
    assert error.nearest[0] == "a100-80gb-sxm"
    assert "did you mean a100-80gb-sxm" in str(error)


def test_a_hopeless_name_lists_a_short_catalog_and_counts_a_long_one() -> None:
    assert "known: x, y" in str(UnknownNameError("op", "qqqqq", ["y", "x"]))
    many = [f"name{i}" for i in range(50)]
    assert "50 are known" in str(UnknownNameError("op", "zzz", many))


def test_a_very_long_name_is_cut() -> None:
    assert len(str(UnknownNameError("op", "z" * 5000, ["x"]))) < 200


@pytest.mark.parametrize(
    ("name", "best"),
    [("H100", "h100-80gb-sxm"), ("llama3", "llama-3-8b"), ("sxm", "h100-80gb-sxm")],
)
def test_nearest_knows_parts_and_case(name: str, best: str) -> None:
    assert nearest(name, ["h100-80gb-sxm", "llama-3-8b", "t4"])[0] == best


def test_nearest_of_nothing_is_nothing() -> None:
    assert nearest("x", []) == []
    assert nearest("qqqq", ["aaaa"]) == []


@pytest.mark.parametrize(
    "error",
    [
        SpecError("a.toml", "is bad", "mend it"),
        UnknownNameError("device", "h10", ["h100", "h200"]),
        InputError("batch 0"),
        OutputError("cannot write x"),
    ],
)
def test_errors_survive_pickling(error: HwsimError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__
