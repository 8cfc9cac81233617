"""Measurement tables on disk: a row is safe as soon as it is written."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .cases import Case, Skip, Value

TIMING = (
    "latency_us", "latency_p25_us", "latency_p75_us", "latency_min_us", "samples",
)  # fmt: skip
COMMON = ("source", "device", "op", "dtype")
TAIL = (
    "kernel", "launch", "mode", "hot", "copies", "threads", *TIMING, "load",
    "disturbed", "run", "case",
)  # fmt: skip
SHAPES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k", "batch"),
    "attention": (
        "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv", "window",
        "kv_dtype",
    ),
    "elementwise": ("m", "n", "bytes"),
    "collective": ("bytes", "world_size", "gpus_per_node_used", "gpus_per_node_max"),
    "memory": ("bytes", "working_set_bytes"),
    "launch": (),
    "host_link": ("bytes", "pinned"),
    "power": (
        "operator", "m", "n", "k", "energy_j", "power_w", "utilization",
        "clock_mhz", "least_clock_mhz", "duration_s",
    ),
    "end_to_end": ("model", "metric", "layers", "batch", "prompt", "context", "seq"),
}  # fmt: skip
SKIPPED = ("case", "reason", "run")
RUNS = "provenance.json"
MARK = ".running"
FATAL_TRIES = 2


class TableError(Exception):
    """A folder of tables cannot be added to; the message says what to do."""


class Tables:
    """One folder of tables: ``<table>.csv`` each, ``skipped.csv``, provenance.

    Parameters
    ----------
    folder : path
        Made if it is not there. What it holds is kept and not measured again.
    device : str
        Device that the rows are of; a folder holds one device only.
    source : str
        What measured them, with versions.
    run : str
        Name of this run inside the provenance.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, device: str, source: str, run: str = ""
    ) -> None:
        self.folder = Path(folder)
        self.device, self.source = device, source
        self.run = run
        self._done: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TableError(
                f"{self.folder}: {error.strerror}; choose another --out folder"
            ) from None
        self.run = run or _fresh(load_runs(self.folder / RUNS))
        for name in SHAPES:
            self._done.update(row["case"] for row in self._read(name))
        self._done.update(row["case"] for row in self._read("skipped"))

    def has(self, key: str) -> bool:
        """Say whether a case needs no measuring any more."""
        return key in self._done

    def add(self, case: Case, timing: Mapping[str, Value]) -> None:
        """Append a measured row and make sure that it is on the disk."""
        values: dict[str, Value] = {
            "source": self.source, "device": self.device, "run": self.run,
            **case.columns(), **timing,
        }  # fmt: skip
        columns = self.columns(case.table)
        unknown = set(values) - set(columns)
        if unknown:
            raise TableError(f"table {case.table} has no column {min(unknown)!r}")
        self._append(case.table, columns, values)
        self._done.add(case.key)

    def skip(self, case: Case, reason: str) -> None:
        """Record a case that cannot be measured, and why."""
        text = " ".join(reason.split())[:300]
        row = {"case": case.key, "reason": text, "run": self.run}
        self._append("skipped", SKIPPED, row)
        self._done.add(case.key)

    def begin(self, case: Case) -> None:
        """Note that a case starts; skip it if it has ended two runs before.

        Raises
        ------
        Skip
            If the process died twice while it measured this case.
        """
        mark = self.folder / MARK
        before = mark.read_text(encoding="utf-8").splitlines() if mark.exists() else []
        tries = before.count(case.key)
        if tries >= FATAL_TRIES:
            mark.unlink()
            raise Skip(f"the process died {tries} times while measuring it")
        mark.write_text("".join(f"{case.key}\n" for _ in range(tries + 1)), "utf-8")

    def end(self) -> None:
        """Note that the process has outlived its case."""
        (self.folder / MARK).unlink(missing_ok=True)

    def columns(self, table: str) -> tuple[str, ...]:
        """Return the columns of a table, in order."""
        return (*COMMON, *SHAPES[table], *TAIL)

    def drop_disturbed(self, share: float) -> int:
        """Take out rows of which other processes disturbed more than a share.

        Returns
        -------
        int
            How many there were; they can be measured again.
        """
        dropped = 0
        for name in SHAPES:
            rows = self._read(name)
            kept = [row for row in rows if float(row["disturbed"] or 0.0) <= share]
            if len(kept) == len(rows):
                continue
            dropped += len(rows) - len(kept)
            path = self.folder / f"{name}.csv"
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            with beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns(name), lineterminator="\n")
                writer.writeheader()
                writer.writerows(kept)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            self._done -= {row["case"] for row in rows} - {row["case"] for row in kept}
        return dropped

    def record(self, facts: Mapping[str, Any]) -> None:
        """Put facts about this run into the provenance file."""
        path = self.folder / RUNS
        runs = load_runs(path)
        runs.setdefault(self.run, {}).update(facts)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            json.dump({"runs": runs}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def _read(self, name: str) -> list[dict[str, str]]:
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return []
        _drop_torn_line(path)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        wanted = SKIPPED if name == "skipped" else self.columns(name)
        if rows and tuple(reader.fieldnames or ()) != wanted:
            raise TableError(f"{path}: other columns than this version writes; "
                             "choose another --out folder")  # fmt: skip
        others = {row["device"] for row in rows if "device" in row} - {self.device}
        if others:
            raise TableError(
                f"{path} holds rows of {min(others)!r}, not of {self.device!r}; "
                "choose another --out folder"
            )
        return rows

    def _append(
        self, name: str, columns: Iterable[str], values: Mapping[str, Value]
    ) -> None:
        path = self.folder / f"{name}.csv"
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        if not path.exists() or not path.stat().st_size:
            writer.writeheader()
        writer.writerow(values)
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())


def _fresh(runs: Mapping[str, Any]) -> str:
    """Return a name that no run has, by the time in UTC."""
    base = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{base}-{i}" if i else base for i in range(len(runs) + 1))
    return next(name for name in names if name not in runs)


def load_runs(path: Path) -> dict[str, Any]:
    """Return the runs of a provenance file; none where there is no file."""
    if not path.exists():
        return {}
    try:
        runs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (ValueError, KeyError, TypeError):
        raise TableError(f"{path} is not a provenance file; move it away") from None
    return runs


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a kill left without its end."""
    data = path.read_bytes()
    if not data or data.endswith(b"\n"):
        return
    with path.open("r+b") as file:
        file.truncate(data.rfind(b"\n") + 1)
        os.fsync(file.fileno())
