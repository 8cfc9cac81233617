"""Predicts steps of a real model on this processor from its operators alone.

A step is the sum of its operators. What is predicted never enters the laws:
they come from a table of single operators.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.live.operators import (
    PRODUCTS,
    HostOperators,
    Products,
    law_name,
)
from hwsim.analysis.result import Result
from hwsim.specs.measurement.table import DISTURBED

Operator = Mapping[str, Any]
ITEMSIZE = {"fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class StepPrediction:
    """A predicted step.

    Attributes
    ----------
    time, lower, upper : float
        Prediction and 90 % interval. [s]
    by_op : dict of str to float
        Share of each operator in the time. [s]
    """

    time: float
    lower: float
    upper: float
    by_op: dict[str, float]


@dataclass(frozen=True)
class LiveRow:
    """A measured step beside its prediction.

    Attributes
    ----------
    model, work : str
        Name of the model; ``prefill``, ``decode`` or ``train``.
    batch, tokens, threads : int
        Of the step.
    measured, measured_p25, measured_p75 : float
        Median and quartiles. [s]
    samples : int
        Samples behind them.
    disturbed : float
        Share of samples during which other processes took a core. [1]
    load : float
        Load average of the host.
    prediction : StepPrediction
        Made of operators.
    """

    model: str
    work: str
    batch: int
    tokens: int
    threads: int
    measured: float
    measured_p25: float
    measured_p75: float
    samples: int
    disturbed: float
    load: float
    prediction: StepPrediction

    @property
    def relative_error(self) -> float:
        """(predicted - measured) / measured."""
        return self.prediction.time / self.measured - 1.0

    @property
    def quiet(self) -> bool:
        """Whether what was measured is the step's own time.

        One thread is timed by its processor time, which others do not enter.
        """
        return self.threads == 1 or self.disturbed <= DISTURBED

    @property
    def covered(self) -> bool:
        """Whether the 90 % interval holds the measured time."""
        return self.prediction.lower <= self.measured <= self.prediction.upper

    def to_dict(self) -> dict[str, Any]:
        """Return the row in SI."""
        return {
            "model": self.model, "work": self.work, "batch": self.batch,
            "tokens": self.tokens, "threads": self.threads,
            "measured_s": self.measured, "measured_p25_s": self.measured_p25,
            "measured_p75_s": self.measured_p75, "samples": self.samples,
            "disturbed": self.disturbed, "load": self.load, "quiet": self.quiet,
            "predicted_s": self.prediction.time, "lower_s": self.prediction.lower,
            "upper_s": self.prediction.upper, "relative_error": self.relative_error,
            "by_op_s": self.prediction.by_op,
        }  # fmt: skip


@dataclass(frozen=True)
class LiveCheck(Result):
    """Measured steps of a small Transformer beside predictions from operators.

    Attributes
    ----------
    device : str
        Processor, by its catalog id or its own name.
    rows : tuple of LiveRow
        One for each step.
    operators : HostOperators
        What predicts them.
    table : str
        Where the operator measurements come from.
    left_out : tuple of str
        Cases without a row, each with the reason.
    """

    device: str
    rows: tuple[LiveRow, ...]
    operators: HostOperators
    table: str
    left_out: tuple[str, ...] = ()

    kind = "live_check"

    def summary(self, rows: Iterable[LiveRow] | None = None) -> dict[str, Any]:
        """Return errors over rows: all of them by default."""
        chosen = self.rows if rows is None else tuple(rows)
        errors = np.array([row.relative_error for row in chosen])
        if not len(errors):
            return {"rows": 0}
        size = np.abs(errors)
        widths = [
            (r.prediction.upper - r.prediction.lower) / r.prediction.time
            for r in chosen
        ]
        return {
            "rows": len(chosen),
            "median_ape": float(np.median(size)),
            "mape": float(np.mean(size)),
            "p90_ape": float(np.quantile(size, 0.9)),
            "bias": float(np.median(errors)),
            "coverage_90": float(np.mean([row.covered for row in chosen])),
            "interval_width": float(np.mean(widths)),
        }

    def by(self, key: str) -> dict[str, dict[str, Any]]:
        """Return errors by an attribute of the rows, as ``work`` or ``threads``."""
        names = dict.fromkeys(str(getattr(row, key)) for row in self.rows)
        return {
            name: self.summary(r for r in self.rows if str(getattr(r, key)) == name)
            for name in names
        }

    @property
    def quiet(self) -> tuple[LiveRow, ...]:
        """Rows that other processes left alone."""
        return tuple(row for row in self.rows if row.quiet)

    def to_dict(self) -> dict[str, Any]:
        """Return rows and errors in SI; ``quiet`` is over undisturbed rows."""
        return {
            **self.header(),
            "device": self.device,
            "table": self.table,
            "table_rows": self.operators.rows,
            **self.summary(),
            "quiet": self.summary(self.quiet),
            "by_work": self.by("work"),
            "by_threads": self.by("threads"),
            "by_model": self.by("model"),
            "operators": {
                name: {"rows": len(spread.logs), "median_ape": spread.median_ape,
                       "mape": spread.mape}
                for name, spread in self.operators.spreads().items()
            },
            "cases": [row.to_dict() for row in self.rows],
            "left_out": list(self.left_out),
        }  # fmt: skip


def predict_step(
    host: HostOperators,
    operators: Sequence[Operator],
    *,
    work: str,
    rows: int,
    threads: int,
    dtype: str = "fp32",
) -> StepPrediction:
    """Predict one step from its operators.

    Parameters
    ----------
    host : HostOperators
        Laws of the processor's operators.
    operators : sequence of dict
        ``op`` as measurement tables name it, shape columns and ``count``.
    work : str
        ``prefill``, ``decode`` or ``train``.
    rows : int
        Tokens that pass through a layer at a time, those of all sequences.
    threads : int
        Threads of the matrix products; the rest runs on one.

    Raises
    ------
    InputError
        If the table behind the laws lacks an operator.
    """
    size = ITEMSIZE[dtype]
    touched = sum(o["count"] * _kept(o, work, rows, size) for o in operators)
    by_op: dict[str, float] = defaultdict(float)
    by_law: dict[str, float] = defaultdict(float)
    for operator in operators:
        time, law = _time(host, operator, work, rows, threads, size, touched)
        time = operator["count"] * (time + host.dispatch)
        by_op[operator["op"]] += time
        by_law[law] += time
    total = sum(by_op.values())
    below, above = _interval(host, by_law)
    return StepPrediction(total, max(total - below, 0.0), total + above, dict(by_op))


def _interval(host: HostOperators, by_law: Mapping[str, float]) -> tuple[float, float]:
    """Return how far the time may lie below and above.

    A law errs in the same way at every call, so the errors of its calls add;
    those of different laws are independent.
    """
    spreads = host.spreads()
    below = above = 0.0
    for law, time in by_law.items():
        low, high = spreads[law].factors()
        below += (time * (1.0 - low)) ** 2
        above += (time * (high - 1.0)) ** 2
    return math.sqrt(below), math.sqrt(above)


def _gradient_of_weight(operator: Operator, work: str, rows: int) -> bool:
    """Say whether a product sums over the tokens, as a weight's gradient does."""
    return bool(work == "train" and operator["k"] == rows and operator["m"] != rows)


def _kept(operator: Operator, work: str, rows: int, size: int) -> float:
    """Return the bytes that only the step before, or a far part of it, touched.

    Weights, the cache of keys and values, optimizer states, and activations
    that were saved for the backward pass; anything else has just been made.
    """
    op = operator["op"]
    if op in PRODUCTS:
        m, n, k = operator["m"], operator["n"], operator["k"]
        if op == "bmm":
            return float(size * operator["batch"] * k * n) if m == 1 else 0.0
        if _gradient_of_weight(operator, work, rows):
            return float(size * (m * k + m * n))
        return float(size * k * n)
    return float(operator["bytes"]) if op == "adamw" else 0.0


def _time(
    host: HostOperators, operator: Operator, work: str, rows: int, threads: int,
    size: int, touched: float,
) -> tuple[float, str]:  # fmt: skip
    """Return the time of one operator and the law behind it."""
    op = str(operator["op"])
    far = _kept(operator, work, rows, size) > 0.0
    if op not in PRODUCTS:
        m, n, nbytes = (np.array([float(operator[c])]) for c in ("m", "n", "bytes"))
        reuse = np.maximum(nbytes, touched) if far else nbytes
        return float(host.value_times(op, m, n, nbytes, reuse)[0]), op
    m, n, k, batch = (np.array([float(operator[c])]) for c in ("m", "n", "k", "batch"))
    none = np.zeros(1)
    own = Products(m, n, k, batch, none, none, none, size).own
    away = np.maximum(own, touched)
    gradient = op == "linear" and _gradient_of_weight(operator, work, rows)
    shape = Products(
        m, n, k, batch,
        reuse_a=away if gradient else own,
        reuse_b=away if far and not gradient else own,
        reuse_c=away if gradient else own,
        itemsize=size,
    )  # fmt: skip
    times, _ = host.products(shape, threads)
    return float(times[0]), law_name(bool(shape.vector[0]), threads)
