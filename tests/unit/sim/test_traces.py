"""Traces in the shapes of public ones; faults named with their row."""

from pathlib import Path

import numpy as np
import pytest

from hwsim.errors import InputError
from hwsim.sim.serving.arrivals import read_trace

SHAPES = (
    "azure-shape.csv", "burstgpt-shape.csv", "mooncake-shape.jsonl",
    "splitwise-shape.csv",
)  # fmt: skip


def shipped(name: str) -> Path:
    return Path(__file__).parents[3] / "workloads" / "traces" / name


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_columns_of_every_shape_are_found(name):
    trace = read_trace(shipped(name))
    assert 190 <= trace.inputs.size <= 200
    assert trace.arrival[0] == 0.0
    assert np.all(np.diff(trace.arrival) >= 0)
    # Seconds, whatever the file has: a gap of half a second to two in the mean.
    assert 0.2 < np.diff(trace.arrival).mean() < 3.0
    assert trace.outputs.min() >= 1
    assert 100 < trace.inputs.mean() < 10_000


def test_seven_digits_of_a_second_are_read():
    lines = shipped("azure-shape.csv").read_text().splitlines()
    first, second = (line.split(",")[0] for line in lines[1:3])
    trace = read_trace(shipped("azure-shape.csv"))
    gap = float(second[-10:-1]) - float(first[-10:-1])
    assert trace.arrival[1] == pytest.approx(gap % 60, abs=1e-6)


def test_mooncake_times_are_milliseconds(tmp_path):
    file = tmp_path / "t.jsonl"
    row = '{"timestamp": %d, "input_length": 9, "output_length": 2, "hash_ids": [1]}'
    file.write_text(row % 0 + "\n" + row % 1500 + "\n")
    assert read_trace(file).arrival[1] == 1.5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("x,5,5", "row 80001: arrival is 'x'"),
        ("1e9,5", "row 80001: output_tokens is missing"),
        ("1e9,-5,5", "row 80001: input_tokens is '-5'"),
        ("1e9,5,2.5", "row 80001: output_tokens is '2.5'"),
        ("0,5,5", "row 80001: arrives before"),
    ],
)
def test_a_fault_far_down_is_named_with_its_row(tmp_path, bad, message):
    file = tmp_path / "t.csv"
    good = "".join(f"{i},5,5\n" for i in range(1, 80_000))
    file.write_text(f"arrival_s,input_tokens,output_tokens\n{good}{bad}\n")
    with pytest.raises(InputError, match=message):
        read_trace(file)
