"""Measures this host's processor with NumPy, and PyTorch where it is installed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsim.errors import InputError, OutputError
from hwsim.measure import host
from hwsim.measure.cpu_plan import cpu_plan
from hwsim.measure.cuda.cases import Case
from hwsim.measure.cuda.runner import Report, Summary, quiet, run
from hwsim.measure.cuda.tables import SHAPES, TableError, Tables
from hwsim.measure.pool import WorkerPool
from hwsim.specs.catalogs import DEVICES
from hwsim.version import __version__

TABLES = ("gemm", "attention", "elementwise", "memory", "launch")
BUDGET = 600.0


@dataclass(frozen=True)
class CpuMeasurement:
    """What a measurement left behind.

    Attributes
    ----------
    folder : Path
        Where the tables are.
    tables : tuple of Path
        The tables that now have rows.
    device : str
        Device named in the rows.
    known : bool
        Whether the catalog has that device.
    summary : Summary
        Cases measured, skipped and left.
    """

    folder: Path
    tables: tuple[Path, ...]
    device: str
    known: bool
    summary: Summary


def thread_counts(cores: int) -> list[int]:
    """Return 1, powers of two, and all cores."""
    counts = {1, cores}
    counts.update(2**i for i in range(cores.bit_length()) if 2**i <= cores)
    return sorted(counts)


def detect_device() -> tuple[str, bool]:
    """Return (id or name of this host's processor, whether the catalog has it)."""
    names = host.device_names(host.read_cpu(), host.available_cores())
    for name in names:
        path = DEVICES.by_id(name) or DEVICES.by_alias(name)
        if path is not None:
            return path.parent.name, True
    return names[0], False


def cases_for(
    threads: Sequence[int], only: Sequence[str] = (), *, torch: bool = False
) -> list[Case]:
    """Return the cases of some tables (of all by default), best first.

    Raises
    ------
    InputError
        If a table is unknown.
    """
    unknown = sorted(set(only) - set(TABLES))
    if unknown:
        raise InputError(
            f"unknown table {unknown[0]!r} for a CPU; known: {', '.join(TABLES)}"
        )
    return [c for c in cpu_plan(threads, torch=torch) if not only or c.table in only]


def measure_cpu(
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    budget: float = BUDGET,
    threads: Sequence[int] | None = None,
    only: Sequence[str] = (),
    redo_disturbed: float | None = None,
    command: str = "",
    report: Report = quiet,
) -> CpuMeasurement:
    """Time operators on this host and append them to tables in a folder.

    Running it again goes on where it stopped.

    Parameters
    ----------
    out : path
        Folder of the tables.
    device : str, optional
        Device to name in the rows; found from /proc/cpuinfo otherwise.
    budget : float
        Wall time to keep to. [s]
    threads : sequence of int, optional
        Numbers of threads; 1, powers of two and all cores otherwise.
    only : sequence of str
        Tables to measure; all otherwise.
    redo_disturbed : float, optional
        First take out rows of which other processes disturbed more than this
        share of samples, so that they are measured again. [1]
    command : str
        What the user typed, for the provenance.
    report : callable
        Told about each case.

    Raises
    ------
    InputError
        If an argument makes no sense.
    OutputError
        If the folder cannot be added to.
    """
    start = time.monotonic()
    counts = _checked_threads(threads)
    if not budget > 0:
        raise InputError(f"budget {budget:g} s is not positive; give some seconds")
    cases = cases_for(counts, only, torch=host.has_torch())
    found, known = detect_device() if device is None else (device, True)
    source = f"hwsim-measure:{__version__}"
    try:
        tables = Tables(out, device=found, source=source)
        if redo_disturbed is not None:
            dropped = tables.drop_disturbed(redo_disturbed)
            tables.record({"dropped": dropped, "disturbed_above": redo_disturbed})
        facts = host.host_facts(command or " ".join(sys.argv))
        with WorkerPool(host.last_cache_bytes()) as pool:
            facts["blas"] = pool.ask(counts[0], {"facts": True})["facts"]
            tables.record({**facts, "threads": counts, "before": host.state()})
            try:
                left = budget - (time.monotonic() - start)
                summary = run(cases, pool.measure, tables, budget=left, report=report)
            finally:
                tables.record({"after": host.state(), "ended": host.now()})
    except TableError as error:
        raise OutputError(str(error)) from None
    written = (tables.folder / f"{name}.csv" for name in SHAPES)
    return CpuMeasurement(
        tables.folder, tuple(p for p in written if p.exists()), found, known, summary
    )


def _checked_threads(threads: Sequence[int] | None) -> list[int]:
    cores = host.available_cores()
    if threads is None:
        return thread_counts(cores)
    wrong = [count for count in threads if not 1 <= count <= cores]
    if wrong or not threads:
        given = wrong[0] if wrong else "none"
        raise InputError(f"threads {given}: this process may use 1 to {cores} cores")
    return sorted(set(threads))
