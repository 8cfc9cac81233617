"""Request logs of real servers: one row per request, several runs in one file.

Times are those of vLLM's own statistics of a request: it arrives at the front end
(``arrival_s``), enters the scheduler's queue (``queued_s``), is scheduled
``queue_us`` later, has its first token ``ttft_us`` and its last ``latency_us``
after it came. The first two may be of different clocks, each from a start of its
own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import SpecError, nearest
from hwsim.specs.measurement.file import raw_table
from hwsim.specs.measurement.table import BadRow
from hwsim.specs.traffic import MAX_TOKENS

FloatArray = NDArray[np.float64]

#: Cells that tell runs apart.
TEXTS = ("source", "device", "model", "dtype", "kv_dtype", "engine", "stack")
COUNTS = ("tp", "pp", "dp", "max_num_seqs", "max_num_batched_tokens")
TIMES = ("queue_us", "ttft_us", "tpot_us", "latency_us")
REQUIRED = ("device", "model", "input_tokens", "output_tokens", "arrival_s")
_YES = {"1", "1.0", "true", "t", "yes", "y", "on", "enabled"}
_NO = {
    "",
    "0",
    "0.0",
    "false",
    "f",
    "no",
    "n",
    "off",
    "none",
    "null",
    "nan",
    "disabled",
}
_SLACK = 1.02  # of sums of rounded times
_LATEST = 1e11  # as seconds since 1970 in the year 5138: larger times are not in s
_REPEATED = 0.5  # share of requests whose names come again in files of several runs


@dataclass(frozen=True)
class LoggedRun:
    """One run of a server, its requests in order of arrival.

    Attributes
    ----------
    source, device, model, dtype, kv_dtype, engine, stack : str
        As they stand; empty where there is none.
    tp, pp, dp, max_num_seqs, max_num_batched_tokens : int or None
        Degrees and limits of the server.
    expert_parallel : bool
        Experts are shared out among the devices, not split.
    rows : ndarray of int, shape (n,)
        Where each request stands, counted from 1 below the heading.
    inputs, outputs : ndarray of int, shape (n,)
        Tokens.
    arrival : ndarray of float, shape (n,)
        When it came, from the first of the run on. [s]
    handover : ndarray of float, shape (n,)
        From there to the scheduler's queue, less the least of the run; NaN where
        not known. [s]
    front : float
        The least time from arrival to queue, by the log's clocks; NaN where not
        known. [s]
    queue, ttft, tpot, latency : ndarray of float, shape (n,)
        NaN where not known. [s]
    run : int
        How many runs of the same settings come before it in the file.
    """

    source: str
    device: str
    model: str
    dtype: str
    kv_dtype: str
    engine: str
    stack: str
    tp: int | None
    pp: int | None
    dp: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    expert_parallel: bool
    rows: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    arrival: FloatArray
    handover: FloatArray
    queue: FloatArray
    ttft: FloatArray
    tpot: FloatArray
    latency: FloatArray
    front: float = math.nan
    run: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """A label that tells it from the other runs of its file."""
        degrees = [f"tp {self.tp or 1}", *(f"dp {self.dp}" for _ in "x" if self.dp)]
        if self.expert_parallel:
            degrees.append("ep")
        degrees += [f"run {self.run + 1}"] if self.run else []
        what = f"{self.model} on {self.device}, {' '.join(degrees)}"
        return f"{self.source}: {what}" if self.source else what


@dataclass(frozen=True)
class RequestLog:
    """Runs of a file, and the rows that were left out."""

    file: str
    runs: tuple[LoggedRun, ...]
    bad: tuple[BadRow, ...]


def read_request_log(path: str | Path, *, skip_bad: bool = False) -> RequestLog:
    """Read a log, plain or gzipped.

    Parameters
    ----------
    path : path
        ``.csv``, ``.csv.gz`` or ``.parquet``.
    skip_bad : bool
        Leave faulty rows out and list them, instead of refusing the file; requests
        that failed (no token, or no times) are always left out and listed.

    Raises
    ------
    SpecError
        If the file cannot be read, lacks a column or has no sound row, or if a
        row is faulty; the message has its number and reason.
    """
    file, bad = str(path), list[BadRow]()
    raw = raw_table(Path(path).expanduser(), bad)
    names = {name.strip().casefold(): name for name in raw.columns}
    _check_columns(file, names)
    columns = {name: raw.columns[names[name]] for name in names}
    rows: list[dict[str, Any]] = []
    failed: list[BadRow] = []
    for at, number in enumerate(raw.numbers.tolist()):
        cells = {name: _text(values[at]) for name, values in columns.items()}
        try:
            rows.append({"row": number, **_row(cells)})
        except _FailedError as fault:
            failed.append(BadRow(file, number, fault.column, fault.reason))
        except _FaultError as fault:
            bad.append(BadRow(file, number, fault.column, fault.reason))
    rows = list(_unique(file, rows, bad))
    bad.sort(key=lambda b: b.row)
    if bad and not skip_bad:
        more = f" (+{len(bad) - 1} more bad rows)" if len(bad) > 1 else ""
        raise SpecError(
            f"{file}: row {bad[0].row}", f"{_reason(bad[0])}{more}",
            "mend it, or leave bad rows out with --skip-bad",
        )  # fmt: skip
    if not rows:
        raise SpecError(file, "has no sound row", "a log has a row per request")
    left = tuple(sorted([*bad, *failed], key=lambda b: b.row))
    return RequestLog(file, tuple(_runs(rows)), left)


def _reason(bad: BadRow) -> str:
    return f"{bad.column}: {bad.reason}" if bad.column else bad.reason


def _check_columns(file: str, names: Mapping[str, str]) -> None:
    missing = [n for n in REQUIRED if n not in names]
    if missing == ["arrival_s"] and "queued_s" in names:
        missing = []
    if not missing and not set(names) & {"ttft_us", "tpot_us", "latency_us"}:
        missing = ["ttft_us"]
    if missing:
        close = nearest(missing[0], list(names))
        hint = f"; is it {close[0]!r}?" if close else ""
        raise SpecError(
            file, f"has no column {missing[0]!r}{hint}",
            "a request log has device, model, input_tokens, output_tokens, arrival_s "
            "and ttft_us, tpot_us or latency_us",
        )  # fmt: skip


class _FaultError(ValueError):
    """A row that no server writes."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


class _FailedError(_FaultError):
    """A request that was not answered: left out, and listed."""


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return str(cell).strip()


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: cells.get(name, "") for name in TEXTS}
    for name in ("device", "model"):
        if not found[name]:
            raise _FaultError(name, "is blank")
    _check_answered(cells)
    found |= {name: _count(name, cells.get(name, ""), 10**7) for name in COUNTS}
    found["expert_parallel"] = _flag(cells.get("expert_parallel", ""))
    for name in ("input_tokens", "output_tokens"):
        value = _count(name, cells.get(name, ""), MAX_TOKENS)
        if value is None:
            raise _FaultError(name, "is blank")
        found[name] = value
    arrival, queued = (_moment(n, cells.get(n, "")) for n in ("arrival_s", "queued_s"))
    if arrival is None and queued is None:
        raise _FaultError("arrival_s", "is blank")
    found |= {"arrival_s": arrival, "queued_s": queued}
    found["request"] = cells.get("request", "")
    times = {name: _time(name, cells.get(name, ""), least=0.0) for name in TIMES}
    _check_times(times, found["output_tokens"])
    return found | times


def _check_answered(cells: Mapping[str, str]) -> None:
    """Tell a request that failed, by its tokens and times, from a faulty row."""
    empty = {"", "nan", "none", "null"}
    if cells.get("output_tokens", "") in {"0", "0.0"}:
        raise _FailedError("output_tokens", "no token: the request failed")
    times = (cells.get(n, "").casefold() for n in ("ttft_us", "latency_us", "tpot_us"))
    if all(time in empty for time in times):
        raise _FailedError("ttft_us", "no time is given: the request failed")


def _check_times(times: Mapping[str, float | None], outputs: int) -> None:
    ttft, latency, tpot = times["ttft_us"], times["latency_us"], times["tpot_us"]
    if ttft is None and latency is None and (tpot is None or outputs < 2):
        raise _FaultError("ttft_us", "no time is given")
    if ttft == 0.0 or latency == 0.0:
        raise _FaultError("ttft_us" if ttft == 0.0 else "latency_us", "is 0")
    if ttft is not None and latency is not None and ttft > _SLACK * latency:
        raise _FaultError("latency_us", f"{latency:g} is less than ttft_us, {ttft:g}")


def _count(name: str, cell: str, most: int) -> int | None:
    if cell.casefold() in {"", "nan", "none"}:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 1 <= value <= most or value != int(value):
        raise _FaultError(name, f"{cell[:40]!r} is not a whole number of at least 1")
    return int(value)


def _time(name: str, cell: str, least: float = -math.inf) -> float | None:
    if cell.casefold() in {"", "nan", "none"}:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least:
        limit = " of at least 0" if least == 0.0 else ""
        raise _FaultError(name, f"{cell[:40]!r} is not a time{limit}")
    return value


def _moment(name: str, cell: str) -> float | None:
    value = _time(name, cell)
    if value is not None and abs(value) > _LATEST:
        raise _FaultError(name, f"{cell[:40]!r} is no time in seconds")
    return value


def _flag(cell: str) -> bool:
    word = cell.casefold()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise _FaultError("expert_parallel", f"{cell[:40]!r} is neither yes nor no")


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[n] for n in (*TEXTS, *COUNTS, "expert_parallel"))


def _unique(
    file: str, rows: Sequence[dict[str, Any]], bad: list[BadRow]
) -> Iterator[dict[str, Any]]:
    """Yield rows with the run of their settings that they are of.

    A server that was measured several times repeats its requests' names: the
    second of each is of the second run. Where only few come again, or the same
    figures do, they join the bad ones.
    """
    times: Counter[tuple[Any, ...]] = Counter()
    figures: set[tuple[Any, ...]] = set()
    for row in rows:
        name = (*_key(row), row["request"])
        row["run"] = times[name] if row["request"] else 0
        figure = (*name, row["arrival_s"], row["queued_s"], *(row[n] for n in TIMES))
        row["same"] = bool(row["request"]) and figure in figures
        figures.add(figure)
        times[name] += not row["same"]
    again = Counter(_key(r) for r in rows if r["run"] == 1 and not r["same"])
    names = Counter(_key(r) for r in rows if r["request"] and not r["run"])
    for row in rows:
        few = again[_key(row)] < _REPEATED * names[_key(row)]
        if row["same"] or (row["run"] and few):
            reason = f"{row['request'][:40]!r} is in this run already"
            bad.append(BadRow(file, row["row"], "request", reason))
        else:
            yield row


def _runs(rows: Sequence[dict[str, Any]]) -> Iterator[LoggedRun]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*_key(row), row["run"]), []).append(row)
    for group in groups.values():
        yield _run(group)


def _run(group: list[dict[str, Any]]) -> LoggedRun:
    def column(name: str, scale: float = 1.0) -> FloatArray:
        values = [math.nan if r[name] is None else r[name] * scale for r in group]
        return np.array(values, dtype=np.float64)

    arrival, queued = column("arrival_s"), column("queued_s")
    arrival = np.where(np.isnan(arrival), queued, arrival)
    order = np.argsort(arrival, kind="stable")
    start = arrival - arrival.min()
    # The clocks may differ: the fastest hand-over of the run is taken as none.
    behind = queued - arrival
    front = math.nan
    if not np.all(np.isnan(behind)):
        front = float(np.nanmin(behind))
        behind = behind - front
    same: dict[str, Any] = {
        name: group[0][name] for name in (*TEXTS, *COUNTS, "expert_parallel")
    }
    same |= {name[:-3]: column(name, 1e-6)[order] for name in TIMES}
    return LoggedRun(
        **same,
        rows=np.array([r["row"] for r in group])[order],
        inputs=np.array([r["input_tokens"] for r in group])[order],
        outputs=np.array([r["output_tokens"] for r in group])[order],
        arrival=start[order], handover=behind[order], front=front,
        run=group[0]["run"],
    )  # fmt: skip
