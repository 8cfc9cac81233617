"""Runs cases within a wall-time budget, one durable row at a time."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .cases import Case, Skip, Value
from .tables import Tables

LEAST_SAMPLES = 5
MOST_SAMPLES = 50
FAULTS = 3  # of cases in a row: then it is not the cases


@dataclass(frozen=True)
class Outcome:
    """What timing a case gave: seconds of each sample, and further columns."""

    samples: Sequence[float]
    columns: dict[str, Value] = field(default_factory=dict)


@dataclass
class Summary:
    """How a run ended."""

    measured: int = 0
    already: int = 0
    skipped: int = 0
    left: int = 0
    seconds: float = 0.0
    stopped: str = ""


class Faults:
    """What cases raised, one after another: a case's fault, or the device's?"""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._row: list[tuple[Case, str]] = []

    def met(self, case: Case, fault: Exception) -> None:
        """Note a fault; raise it where it is not the case's own.

        The next run shall not meet the first of a row again. Those after it may
        have failed because of it, and are tried again.
        """
        self._row.append((case, f"{type(fault).__name__}: {fault}"))
        failed = isinstance(fault, RuntimeError) and "CUDA error" in str(fault)
        if failed or len(self._row) >= FAULTS:
            first, why = self._row[0]
            self._tables.skip(first, f"ended the run: {why}")
            raise RuntimeError(why) from fault

    def over(self) -> None:
        """Pass over what raised: the device is as good as it was."""
        for case, why in self._row:
            self._tables.skip(case, why)
        self._row.clear()


Measure = Callable[[Case, float], Outcome]
Clock = Callable[[], float]
Report = Callable[[Case, "Outcome | None", Summary, int], None]


def quiet(case: Case, outcome: Outcome | None, so_far: Summary, total: int) -> None:
    """Report nothing."""


def run(
    cases: Sequence[Case],
    measure: Measure,
    tables: Tables,
    *,
    budget: float,
    clock: Clock = time.monotonic,
    report: Report = quiet,
) -> Summary:
    """Measure cases in order until they or the budget are used up.

    A case whose expected time does not fit in what is left of the budget is
    passed over; cheaper ones after it may still fit. Expectations are scaled
    by how long the cases of their table really took.

    Parameters
    ----------
    measure : callable
        Takes a case and the seconds left, returns an Outcome; raises Skip.
    budget : float
        Wall time. [s]

    Raises
    ------
    RuntimeError
        The device failed, or three cases in a row raised something; a case
        that does so alone is passed over.
    """
    start, summary = clock(), Summary()
    scale: dict[str, float] = {}
    faults = Faults(tables)
    for case in cases:
        if tables.has(case.key):
            summary.already += 1
            continue
        begun = clock()
        left = budget - (begun - start)
        if left < case.seconds * scale.get(case.table, 1.0):
            summary.left += 1
            continue
        outcome: Outcome | None = None
        try:
            tables.begin(case)
            outcome = measure(case, left)
            tables.add(case, row(outcome))
            summary.measured += 1
        except Skip as verdict:
            tables.skip(case, str(verdict))
            summary.skipped += 1
        except Exception as fault:  # noqa: BLE001 -- the others can still be had
            tables.end()
            faults.met(case, fault)
            summary.skipped += 1
            continue
        faults.over()
        tables.end()
        ratio = (clock() - begun) / max(case.seconds, 1e-9)
        # Bounded: one slow case must not rule out all that come after it.
        scale[case.table] = 0.7 * scale.get(case.table, 1.0) + 0.3 * min(ratio, 4.0)
        summary.seconds = clock() - start
        report(case, outcome, summary, len(cases))
    faults.over()
    summary.seconds = clock() - start
    return summary


def row(outcome: Outcome) -> dict[str, Value]:
    """Return the timing columns: median, quartiles, least, count. [us]"""
    low, middle, high = quartiles(outcome.samples)
    return {
        "latency_us": significant(middle * 1e6),
        "latency_p25_us": significant(low * 1e6),
        "latency_p75_us": significant(high * 1e6),
        "latency_min_us": significant(min(outcome.samples) * 1e6),
        "samples": len(outcome.samples),
        **outcome.columns,
    }


def significant(value: float) -> float:
    """Return a value with six significant digits: as many as a clock is worth."""
    return float(f"{value:.6g}")


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median, upper quartile."""
    if not samples:
        raise Skip("no sample was taken")
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def collect(
    sample: Callable[[], float],
    *,
    left: float,
    target: float = 0.25,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Take samples: at least five, then on until ``target`` seconds are spent.

    Fewer only where even five would overrun the ``left`` seconds.
    """
    start, samples = clock(), [sample()]
    while len(samples) < MOST_SAMPLES:
        spent = clock() - start
        each = spent / len(samples)
        if spent + each > left:
            break
        if len(samples) >= LEAST_SAMPLES and spent + each > target:
            break
        samples.append(sample())
    return samples
