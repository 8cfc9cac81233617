"""Timelines in the Trace Event Format, which Perfetto opens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hwsim.sim.records import Record

_MICRO = 1e6


def trace_events(
    records: Iterable[Record], names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """Return a timeline as trace events: a process per rank, a row per stream.

    Parameters
    ----------
    names : mapping of int to str, optional
        What ranks are called.
    """
    events: list[dict[str, Any]] = []
    threads: dict[tuple[int, str], int] = {}
    for record in records:
        row = (record.rank, record.stream)
        if row not in threads:
            threads[row] = len(threads)
            called = (names or {}).get(record.rank, f"device {record.rank}")
            events += _row_names(record, called, threads[row])
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


def _row_names(record: Record, called: str, thread: int) -> list[dict[str, Any]]:
    common = {"ph": "M", "pid": record.rank, "tid": thread}
    return [
        {**common, "name": "process_name", "args": {"name": called}},
        {**common, "name": "thread_name", "args": {"name": record.stream}},
    ]


def trace_json(
    records: Iterable[Record], names: Mapping[int, str] | None = None, **about: str
) -> str:
    """Return the text of a trace file.

    ``names`` are those of ranks; ``about`` goes into its metadata.
    """
    return json.dumps(
        {
            "traceEvents": trace_events(records, names),
            "displayTimeUnit": "ms",
            "otherData": about,
        }
    )
