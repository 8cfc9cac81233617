"""Requests as trace events: spans, rows, replicas."""

import json

import numpy as np

from hwsim.sim.serving.trace import requests_trace


def test_requests_have_two_spans_and_rows_do_not_overlap():
    rng = np.random.default_rng(1)
    arrival = 5.0 + np.cumsum(rng.exponential(0.1, 200))
    first = arrival + rng.exponential(0.2, 200)
    finish = first + rng.exponential(1.0, 200)
    replica = rng.integers(0, 3, 200)
    tokens = (np.full(200, 7), np.full(200, 9))
    trace = json.loads(
        requests_trace(arrival, first, finish, replica, tokens, 10.0, model="m")
    )
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    inside = np.flatnonzero(arrival <= arrival[0] + 10.0)
    assert len(spans) == 2 * inside.size < 400
    assert trace["otherData"] == {"model": "m"}
    rows = {}
    for event in spans:
        request = event["args"]["request"]
        assert event["pid"] == replica[request]
        rows.setdefault((event["pid"], event["tid"]), []).append(event)
    for events in rows.values():
        ends = [e["ts"] + e["dur"] for e in events]
        starts = [e["ts"] for e in events]
        assert all(b >= a - 1e-3 for a, b in zip(ends, starts[1:], strict=False))
    longest = max(e["ts"] + e["dur"] for e in spans) / 1e6
    assert np.isclose(longest, finish[inside].max() - arrival[0])


def test_no_request_is_an_empty_trace():
    none = np.zeros(0)
    whole = none.astype(int)
    text = requests_trace(none, none, none, whole, (whole, whole), 1.0)
    assert json.loads(text)["traceEvents"] == []
