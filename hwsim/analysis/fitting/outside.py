"""What operators do not explain of whole steps: from published figures.

For each published figure, the least extra half width is found that an
interval needs beside that of its operators; their quantiles make the term
for host, framework and scheduling. Whole sources are left out in turn to see
what it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.inference import InferResult
from hwsim.analysis.published.inference import InferencePredictor
from hwsim.analysis.published.runs import compare_row, published_result
from hwsim.analysis.published.serving import ServingPredictor, source_of
from hwsim.analysis.training.train import TrainResult
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval, beside, weighted
from hwsim.errors import HwsimError
from hwsim.specs.calibration_file import EndToEnd
from hwsim.specs.published.runs import iter_rows, load_published

_TAIL = 0.05
_LEAST_SOURCES = 3
_MOVED = 0.5
_PYTHON = frozenset({"huggingface-2021", "torchscript-2021", "pytorch-eager"})
_OWN_SOURCES = {"train": 10, "infer": 10, "serve": 3}


@dataclass(frozen=True, slots=True)
class OutsideRow:
    """One published figure: task, source, ln(measured / predicted), operators."""

    task: str
    source: str
    ratio: float
    inside: LogInterval

    @property
    def needed(self) -> tuple[float, float]:
        """Half widths, down and up, that a covering interval needs beside."""
        reach = -self.inside.low if self.ratio < 0 else self.inside.high
        rest = float(np.sqrt(max(self.ratio**2 - max(reach, 0.0) ** 2, 0.0)))
        return (rest, 0.0) if self.ratio < 0 else (0.0, rest)


def outside_rows(
    fidelity: Fidelity = "auto", progress: Callable[[str], None] | None = None
) -> list[OutsideRow]:
    """Predict every published figure; those that cannot be are left out."""
    found = []
    for file, row in iter_rows(load_published()):
        compared = compare_row(file, row, fidelity, "closed_form")
        seconds = compared.seconds
        if not seconds or compared.predicted is None:
            continue
        try:
            inside = operators(published_result(row, fidelity), row.task)
        except HwsimError:
            continue
        if inside is None:
            continue
        rate = row.value_of(2 * seconds) < compared.predicted
        ratio = float(np.log(row.value / compared.predicted)) * (-1 if rate else 1)
        task = "train" if row.task == "train" else "infer"
        found.append(OutsideRow(task, file.id, ratio, inside))
        if progress is not None:
            progress(f"{file.id} {row.id}: {np.expm1(-ratio):+.1%}")
    return found


def table_rows(
    paths: Sequence[Path],
    fidelity: Fidelity = "auto",
    progress: Callable[[str], None] | None = None,
) -> list[OutsideRow]:
    """Predict tables of published inference.

    A source is a document, of services one of its pages.
    Runs that Python modules drive are left out: hosts of one year differ by a
    factor of three, which no term for all stacks should hold.
    Figures of services stand for the steps behind them: their logarithms are
    divided by how much more they move than the steps do. Those that hardly
    move, since requests come at times of their own, are left out.
    """
    predictor, found = InferencePredictor(fidelity), []
    for path in paths:
        for row in predictor.read(path):
            figure = predictor.figure(row)
            if figure is None or figure.inside is None:
                continue
            if figure.work.stack.id in _PYTHON:
                continue
            if figure.stretch < _MOVED:
                continue
            served = figure.task == "serve"
            source = row.source if served else row.source.partition(".md")[0]
            found.append(
                OutsideRow(
                    figure.task, source, figure.ratio / figure.stretch, figure.inside
                )
            )
            if progress is not None:
                progress(f"{source} row {row.row}: {np.expm1(-figure.ratio):+.1%}")
    return found


def serving_rows(
    paths: Sequence[Path],
    fidelity: Fidelity = "auto",
    progress: Callable[[str], None] | None = None,
) -> list[OutsideRow]:
    """Predict tables of serving points; tasks are their groups and metrics.

    A source is a backend of one version; points that cannot be predicted are
    left out.
    """
    predictor, found = ServingPredictor(fidelity), []
    for row in (row for path in paths for row in predictor.read(path)):
        if row.fault:
            continue
        try:
            served, measured = predictor.figures(row)
        except HwsimError:
            continue
        for metric, value in served.values.items():
            real = measured[metric]
            if not real or not value or served.steps is None:
                continue
            ratio = float(np.log(real / value))
            rate = metric == "throughput"
            inside = served.steps.inverse() if rate else served.steps
            task = f"{served.loop.group} {metric}"
            found.append(OutsideRow(task, source_of(row), ratio, inside))
        if progress is not None:
            progress(f"{source_of(row)} row {row.row}")
    return found


def serving_terms(rows: Sequence[OutsideRow]) -> dict[str, EndToEnd]:
    """Return the term of each task of serving points."""
    tasks: dict[str, list[OutsideRow]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return {task: _term(some) for task, some in sorted(tasks.items())}


def operators(result: TrainResult | InferResult, task: str) -> LogInterval | None:
    """Return the interval of a run that the errors of its operators make."""
    if isinstance(result, TrainResult):
        return result.step.operator_interval
    first = result.prefill.operator_interval if result.prefill else None
    step = result.decode.operator_interval if result.decode else None
    if task in {"forward", "prefill"} and first is not None:
        return first
    if task == "decode" and step is not None:
        return step
    times = (
        (first, result.prefill_s),
        (step, result.latency_s - result.prefill_s),
    )
    return weighted([(part, time) for part, time in times if part is not None])


def outside_terms(rows: Sequence[OutsideRow]) -> dict[str, EndToEnd]:
    """Return the term of all tasks together, and of those with many sources."""
    tasks: dict[str, list[OutsideRow]] = {"every": list(rows)}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    terms = {task: _term(some) for task, some in tasks.items()}
    return {
        task: term
        for task, term in terms.items()
        if task == "every" or term.sources >= _OWN_SOURCES[task]
    }


def _term(rows: Sequence[OutsideRow]) -> EndToEnd:
    sources = sorted({row.source for row in rows})
    inside, width = [], []
    for left_out in sources if len(sources) >= _LEAST_SOURCES else ():
        kept = [row for row in rows if row.source != left_out]
        term = LogInterval(*_half_widths(kept))
        for row in rows:
            if row.source == left_out:
                both = beside(row.inside, LogInterval(-term.low, term.high))
                inside.append(both.low <= row.ratio <= both.high)
                width.append(np.exp(both.high) - np.exp(both.low))
    low, high = _half_widths(rows)
    return EndToEnd(
        low=low, high=high, rows=len(rows), sources=len(sources),
        coverage=round(float(np.mean(inside)), 4) if inside else 0.0,
        width=round(float(np.mean(width)), 4) if width else 0.0,
    )  # fmt: skip


def _half_widths(rows: Sequence[OutsideRow]) -> tuple[float, float]:
    needed = np.array([row.needed for row in rows])
    weight = _even(row.source for row in rows)
    return _quantile(needed[:, 0], weight), _quantile(needed[:, 1], weight)


def _even(names: Iterable[str]) -> FloatArray:
    """Return weights of rows: sources of many rows count less for each."""
    known = np.array(list(names))
    found, which, count = np.unique(known, return_inverse=True, return_counts=True)
    del found
    return np.asarray(1.0 / np.sqrt(count[which]), dtype=np.float64)


def _quantile(values: FloatArray, weight: NDArray[np.float64]) -> float:
    """Return the value that all but a tail of the rows, by weight, stay below."""
    order = np.argsort(values)
    share = np.cumsum(weight[order]) / weight.sum()
    # The next row is one more of the same: its rank is uniform over n + 1.
    level = (1 - _TAIL) * (1 + 1 / len(values))
    place = min(int(np.searchsorted(share, level)), len(values) - 1)
    return round(float(values[order][place]), 4)
