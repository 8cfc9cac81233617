"""The live check: a real model on this processor against its operators."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hwsim.analysis.live import LiveCheck, LiveRow, predict_step
from hwsim.analysis.live_fit import fit_operators
from hwsim.analysis.live_operators import HostOperators
from hwsim.analysis.live_pace import paced
from hwsim.errors import InputError
from hwsim.measure.cpu import detect_device, measure_cpu
from hwsim.measure.cuda.cases import Skip
from hwsim.measure.live import (
    BUDGET,
    EXPECTED,
    LiveCase,
    LiveResult,
    live_cases,
    measure_live,
)
from hwsim.specs.measurement_read import builtin_measurements, read_measurements
from hwsim.specs.measurement_table import MeasurementTable

Progress = Callable[[str], None]
# Of the budget, for operators of a processor that no table knows.
OPERATORS = 0.45
PROBE = 0.08  # before the steps and again after them
NEEDED = ("gemm", "elementwise", "memory", "launch")
LEAST_BUDGET = 20.0
_ROUNDS = 3


def live_check(
    *,
    budget: float = BUDGET,
    measurements: Iterable[str | Path] | None = None,
    models: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> LiveCheck:
    """Measure a small Transformer on this processor and predict it.

    The predictions are made of single operators, measured before: steps of
    the model never enter them.

    Parameters
    ----------
    budget : float
        Wall time. [s]
    measurements : iterable of path, optional
        Operator tables of this processor; those that ship with hwsim by
        default, and where there are none, operators are measured first.
    models : sequence of str, optional
        Models to run; all by default.
    threads : sequence of int, optional
        1 and all cores by default.
    progress : callable, optional
        Told about each step measured.

    Returns
    -------
    LiveCheck
        Rows and errors; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError
        If the budget is too short or the tables lack what is needed.
    """
    start = time.monotonic()
    if not budget >= LEAST_BUDGET:
        raise InputError(
            f"budget {budget:g} s is too short for the live check; give at least "
            f"{LEAST_BUDGET:g} s"
        )
    tell = progress or _quiet
    cases = live_cases(models, threads)
    device, _ = detect_device()
    paths = _tables(device) if measurements is None else list(measurements)
    if paths:
        host, table = fit_operators(read_measurements(paths)), _names(paths)
    else:
        tell(f"no operator table of {device}: measuring one")
        host = _measured_host(budget * OPERATORS, sorted({c.threads for c in cases}))
        table = "measured now"
    with tempfile.TemporaryDirectory() as folder:
        counts = sorted({c.threads for c in cases})
        probe = budget * PROBE
        _probe(folder, probe, counts)
        left = budget - (time.monotonic() - start) - probe
        results = _measured(cases, left, tell)
        host, pace = paced(host, _probe(folder, probe, counts))
    rows, left_out = _compared(host, results)
    missing = len(cases) - len(results)
    if missing:
        left_out.append(f"{missing} of {len(cases)} cases did not fit the budget")
    return LiveCheck(device, tuple(rows), host, table, pace, tuple(left_out))


def _tables(device: str) -> list[str | Path]:
    return [p for p in builtin_measurements() if p.parent.parent.name == device]


def _quiet(text: str) -> None:
    """Say nothing."""


def _names(paths: Iterable[str | Path]) -> str:
    """Return which tables those are, shortly and without this host's folders."""
    tables = [Path(p) for p in paths]
    folders = {table.parent for table in tables}
    if len(folders) == 1 and tables[0].parent.name == "measurements":
        return f"{tables[0].parent.parent.name}/measurements"
    return ", ".join(table.name for table in tables)


def _measured_host(budget: float, threads: Sequence[int]) -> HostOperators:
    """Measure operators on the spot and learn their laws."""
    with tempfile.TemporaryDirectory() as folder:
        done = measure_cpu(folder, budget=budget, threads=threads, only=NEEDED)
        return fit_operators(read_measurements(done.tables, skip_bad=True))


def _probe(folder: str, budget: float, threads: Sequence[int]) -> MeasurementTable:
    """Time some more operators, to see how fast this processor is now."""
    done = measure_cpu(folder, budget=budget, threads=threads, only=NEEDED[:2])
    return read_measurements(done.tables, skip_bad=True)


def _measured(
    cases: Sequence[LiveCase], budget: float, tell: Progress
) -> list[LiveResult]:
    """Measure each case; while time is left, repeat those that were disturbed."""
    end = time.monotonic() + budget
    best: dict[LiveCase, LiveResult] = {}
    todo = list(cases)
    for _ in range(_ROUNDS):
        left = end - time.monotonic()
        if not todo or left < EXPECTED:
            break

        def keep(result: LiveResult) -> None:
            old = best.get(result.case)
            if old is None or _quality(result) < _quality(old):
                best[result.case] = result
            tell(describe(result))

        try:
            measure_live(todo, budget=left, report=keep)
        except Skip as verdict:
            tell(f"stopped: {verdict}")
        todo = [case for case, r in best.items() if r.disturbed > 0]
        todo.sort(key=lambda case: -best[case].disturbed)
    return [best[case] for case in cases if case in best]


def _quality(result: LiveResult) -> tuple[float, float]:
    return result.disturbed, result.time


def describe(result: LiveResult) -> str:
    """Return a measured step in words."""
    case = result.case
    return (
        f"{case.model.name} {case.work}, batch {case.batch}, {case.tokens} tokens, "
        f"{case.threads} thread{'' if case.threads == 1 else 's'}: "
        f"{result.time * 1e3:.3g} ms"
    )


def _compared(
    host: HostOperators, results: Iterable[LiveResult]
) -> tuple[list[LiveRow], list[str]]:
    rows, left_out = [], []
    for result in results:
        case = result.case
        each = 1 if case.work == "decode" else case.tokens
        try:
            prediction = predict_step(
                host, result.operators, work=case.work, rows=case.batch * each,
                threads=case.threads, dtype=case.dtype,
            )  # fmt: skip
        except InputError as error:
            left_out.append(f"{describe(result)}: {error}")
            continue
        row = LiveRow(
            case.model.name, case.work, case.batch, case.tokens, case.threads,
            result.time, result.time_p25, result.time_p75, result.samples,
            result.disturbed, result.load, prediction,
        )  # fmt: skip
        rows.append(row)
    return rows, left_out
