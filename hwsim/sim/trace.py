"""Timelines in the Trace Event Format, which Perfetto opens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hwsim.sim.records import Record

_MICRO = 1e6


def trace_events(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return a timeline as trace events: a process per rank, a row per stream."""
    events: list[dict[str, Any]] = []
    threads: dict[tuple[int, str], int] = {}
    for record in records:
        row = (record.rank, record.stream)
        if row not in threads:
            threads[row] = len(threads)
            events += _row_names(record.rank, record.stream, threads[row])
        events.append(
            {
                "name": record.name,
                "cat": record.phase,
                "ph": "X",
                "ts": record.start * _MICRO,
                "dur": (record.end - record.start) * _MICRO,
                "pid": record.rank,
                "tid": threads[row],
                "args": {
                    "kind": record.kind,
                    "block": record.block,
                    "instance": record.instance,
                },
            }
        )
    return events


def _row_names(rank: int, stream: str, thread: int) -> list[dict[str, Any]]:
    common = {"ph": "M", "pid": rank, "tid": thread}
    return [
        {**common, "name": "process_name", "args": {"name": f"device {rank}"}},
        {**common, "name": "thread_name", "args": {"name": stream}},
    ]


def trace_json(records: Iterable[Record], **about: str) -> str:
    """Return the text of a trace file; ``about`` goes into its metadata."""
    return json.dumps(
        {
            "traceEvents": trace_events(records),
            "displayTimeUnit": "ms",
            "otherData": about,
        }
    )
