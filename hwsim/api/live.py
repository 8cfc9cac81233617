"""The live check: a real model on this processor against its operators."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from hwsim.analysis.live.check import LiveCheck, LiveRow, predict_step
from hwsim.analysis.live.fit import fit_operators, table_offset
from hwsim.analysis.live.operators import HostOperators
from hwsim.errors import InputError
from hwsim.measure.cpu import cases_for, detect_device
from hwsim.measure.cuda.cases import Case, Skip, interleave
from hwsim.measure.cuda.runner import run
from hwsim.measure.cuda.tables import Tables
from hwsim.measure.host import available_cores, last_cache_bytes, state
from hwsim.measure.live import (
    BUDGET,
    EXPECTED,
    LiveCase,
    LiveResult,
    live_cases,
    measure_live,
)
from hwsim.measure.pool import WorkerPool
from hwsim.specs.measurement.read import builtin_measurements, read_measurements
from hwsim.specs.measurement.table import MeasurementTable

Progress = Callable[[str], None]
# Of the budget, for operators of a processor that no table knows.
OPERATORS = 0.5
# To see whether a shipped table still holds: share of the budget, operators, and
# the median |ln(measured / predicted)| of one kind from which it does not.
PROBE, PROBES, OFFSET = 0.05, 60, 0.2
NEEDED = ("gemm", "elementwise", "memory", "launch")
VALUES = (  # what steps run besides products
    "gelu", "layernorm", "softmax", "add", "embedding", "adamw", "cross_entropy",
    "gelu_backward", "layernorm_backward", "softmax_backward", "embedding_backward",
)  # fmt: skip
COPIES = 12
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
        Operator tables of this processor. By default those that ship with
        hwsim, if a few operators still run as they say; else operators are
        measured first.
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
    counts = sorted({c.threads for c in cases})
    host, table = None, "measured now"
    if paths:
        host, table = fit_operators(read_measurements(paths)), _names(paths)
        if measurements is None and not _still_holds(host, counts, budget, tell):
            host, table = _anew(host, table, budget * OPERATORS, counts, tell)
    else:
        tell(f"no operator table of {device}: measuring one")
    if host is None:
        host = _measured_host(budget * OPERATORS, counts)
    results = _measured(cases, budget - (time.monotonic() - start), tell)
    rows, left_out = _compared(host, results)
    missing = len(cases) - len(results)
    if missing:
        left_out.append(f"{missing} of {len(cases)} cases did not fit the budget")
    return LiveCheck(device, tuple(rows), host, table, tuple(left_out))


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


def operator_cases(threads: Sequence[int]) -> list[Case]:
    """Return what the steps are made of, copies first: every law needs them."""
    plan = cases_for(threads, NEEDED)
    first = [c for c in plan if c.table == "launch" or _alone(c, "copy")]
    products = [c for c in plan if c.op in ("linear", "bmm") and c.dtype == "fp32"]
    groups = [[c for c in plan if c.op == op and c.operands == "hot"] for op in VALUES]
    values = [c for round_ in zip_longest(*groups) for c in round_ if c is not None]
    return [*first[:COPIES], *interleave([(1.0, products), (1.5, values)])]


def _alone(case: Case, op: str) -> bool:
    return case.op == op and case.threads == 1


def _still_holds(
    host: HostOperators, threads: Sequence[int], budget: float, tell: Progress
) -> bool:
    """Return whether a few operators measured now agree with a table's laws.

    The processor's name does not say who else uses its caches and memory.
    """
    plan = operator_cases(threads)
    # Where others keep the cores busy, threads wait for each other: their wall
    # time says nothing about the table.
    most = 1 if _busy() else math.inf
    some = [
        c for c in plan if c.table in ("gemm", "elementwise") and c.threads <= most
    ][:PROBES]
    now = _measured_table(some, budget * PROBE)
    if now is None or "gemm" not in now.families:
        return True
    offset = table_offset(host, now)
    if offset <= OFFSET:
        return True
    tell(
        f"operators run {100 * math.expm1(offset):.0f} % off the table of this "
        "processor"
    )
    return False


def _busy() -> bool:
    """Return whether others want all cores of this host."""
    load = state()["load"]
    return bool(load and load[0] >= available_cores())


def _anew(
    old: HostOperators, table: str, budget: float, threads: Sequence[int],
    tell: Progress,
) -> tuple[HostOperators, str]:  # fmt: skip
    """Return operators measured now, or the old ones if the host is too busy."""
    later = f"{table}, though operators run otherwise now"
    if _busy():
        tell("others keep this host too busy to measure them anew: the table it is")
        return old, later
    tell("measuring them anew")
    try:
        now = _measured_host(budget, threads)
    except InputError as error:
        why = str(error)
    else:
        missing = sorted(set(old.values) & set(VALUES) - set(now.values))
        missing += [f"products on {t} threads" for t in _without(now, threads)]
        if not missing:
            return now, "measured now"
        why = "no time was left for " + ", ".join(missing[:3])
    tell(f"{why}; the table it is, though this host runs slower now")
    return old, later


def _without(host: HostOperators, threads: Sequence[int]) -> list[int]:
    """Return numbers of threads whose products no law covers."""

    def known(count: int, vector: bool) -> bool:
        alone = vector in host.alone
        return alone if count == 1 else (count, vector) in host.shared

    return [c for c in threads if not (known(c, False) and known(c, True))]


def _measured_host(budget: float, threads: Sequence[int]) -> HostOperators:
    """Measure operators on the spot and learn their laws."""
    table = _measured_table(operator_cases(threads), budget)
    if table is None:
        raise InputError("no operator could be measured; give a longer --budget")
    return fit_operators(table)


def _measured_table(cases: Sequence[Case], budget: float) -> MeasurementTable | None:
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(folder, device="this-host", source="live-check")
        with WorkerPool(last_cache_bytes()) as pool:
            run(cases, pool.measure, tables, budget=budget)
        found = [p for name in NEEDED if (p := Path(folder) / f"{name}.csv").exists()]
        return read_measurements(found, skip_bad=True) if found else None


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
