"""Traces in the Trace Event Format."""

import json

import pytest

from hwsim.sim.records import Record
from hwsim.sim.trace import trace_json

RECORDS = (
    Record(0, "compute", "layer", 0, "qkv", "matmul", "forward", 0.0, 2e-6),
    Record(0, "tp", "layer", 0, "reduce", "collective", "forward", 2e-6, 5e-6),
    Record(1, "compute", "layer", 0, "qkv", "matmul", "forward", 0.0, 3e-6),
)


def test_trace_has_an_event_per_record_in_microseconds():
    trace = json.loads(trace_json(RECORDS, model="m"))
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in events] == ["qkv", "reduce", "qkv"]
    assert events[1]["ts"] == pytest.approx(2.0)
    assert events[1]["dur"] == pytest.approx(3.0)
    assert trace["otherData"] == {"model": "m"}


def test_rows_are_named_once_for_each_stream_of_each_device():
    events = json.loads(trace_json(RECORDS))["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["compute", "tp", "compute"]
    rows = {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    assert len(rows) == 3
