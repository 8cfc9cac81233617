"""Systems, precisions, stacks and models side by side on the same work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwsim.analysis.case import TIMES, Case
from hwsim.analysis.comparing.cell import CompareCell, Money, answered
from hwsim.analysis.comparing.error_sources import common, ratio_interval
from hwsim.analysis.comparing.sources import rests_on
from hwsim.analysis.comparing.waterfall import Waterfall, waterfall
from hwsim.analysis.evidence import evidence
from hwsim.analysis.result import Result
from hwsim.errors import InputError
from hwsim.registry import draw
from hwsim.specs.assumed import MARK
from hwsim.specs.base import Spec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pair:
    """Whether two cells can be told apart.

    Attributes
    ----------
    ratio : float
        Time of ``b`` over time of ``a``.
    interval_90 : (float, float) or None
        Of the ratio; None where a cell has no interval.
    shared : tuple of str
        Operator families whose errors both cells share.
    correlation : float
        How far these go together.
    """

    a: str
    b: str
    ratio: float
    interval_90: tuple[float, float] | None
    shared: tuple[str, ...]
    correlation: float = 0.0

    @property
    def distinguishable(self) -> bool | None:
        """Whether the interval of the ratio leaves out 1; None if unknown."""
        if self.interval_90 is None:
            return None
        low, high = self.interval_90
        return not low <= 1.0 <= high

    def sentence(self) -> str:
        """Say which is faster, if that can be said."""
        if self.distinguishable is None:
            return f"{self.a} and {self.b}: no interval is known"
        low, high = self.interval_90 or (math.nan, math.nan)
        if not self.distinguishable:
            return (
                f"{self.a} and {self.b} are not distinguishable: "
                f"the time of the second is {low:.2f} to {high:.2f} times the first's"
            )
        fast, slow = (self.a, self.b) if self.ratio > 1 else (self.b, self.a)
        r = self.ratio if self.ratio > 1 else 1 / self.ratio
        ends = sorted((low, high) if self.ratio > 1 else (1 / low, 1 / high))
        return (
            f"{fast} is {r:.2f} times as fast as {slow} "
            f"(90 %: {ends[0]:.2f} to {ends[1]:.2f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "a": self.a, "b": self.b, "time_ratio": self.ratio,
            "interval_90": self.interval_90, "distinguishable": self.distinguishable,
            "shared_errors": list(self.shared), "correlation": self.correlation,
            "sentence": self.sentence(),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Cells of one comparison.

    Attributes
    ----------
    cells : tuple of CompareCell
        In the order asked; each has its figures, or why it has none.
    pairs : tuple of Pair
        Every two cells that run.
    waterfalls : tuple of Waterfall
        From the first cell that runs to each other one.
    complete : bool
        Whether all was answered; else it was interrupted.
    """

    task: str
    title: str
    cells: tuple[CompareCell, ...]
    pairs: tuple[Pair, ...]
    waterfalls: tuple[Waterfall, ...]
    money: Money
    complete: bool = True

    kind = "comparison"

    @property
    def best(self) -> CompareCell | None:
        """The fastest cell that runs, if any does."""
        return min((c for c in self.cells if c.ok), key=speed_key, default=None)

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        best = self.best
        if best is None:
            return "None of them can run it."
        rivals = [
            p for p in self.pairs
            if best.label in (p.a, p.b) and p.distinguishable is False
        ]  # fmt: skip
        names = [p.b if p.a == best.label else p.a for p in rivals]
        ends = best.interval_90 or {}
        if self.task == "serve":
            text = f"{best.label} answers soonest: {best.time_s:.3g} s on average"
            if ends.get("time_s") is not None:
                low, high = ends["time_s"]
                text += f" (90 %: {low:.3g} to {high:.3g})"
            unsteady = [
                c.label for c in self.cells if c.ok and c.result.stable is False
            ]
            if unsteady:
                text += f"; {' and '.join(unsteady)} cannot keep up"
        else:
            text = f"{best.label} is fastest: {best.tokens_per_s:,.0f} tokens/s"
            if ends.get("tokens_per_s") is not None:
                low, high = ends["tokens_per_s"]
                text += f" (90 %: {low:,.0f} to {high:,.0f})"
        if names:
            text += f"; not distinguishable from {' or '.join(names)}"
        return text + "."

    def to_dict(self) -> dict[str, Any]:
        """Return question, answer, cells and what explains them, in SI."""
        return {
            **self.header(),
            "question": {"text": self.title, "task": self.task},
            "answer": self.answer,
            "time_is": TIMES[self.task][1],  # type: ignore[index]
            "cells": [cell.to_dict() for cell in self.cells],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "waterfalls": [fall.to_dict() for fall in self.waterfalls],
            "complete": self.complete,
            "rests_on": rests_on(self.cells, self.money),
        }

    def specs(self) -> dict[str, Spec]:
        """Return the specs of all cells, each once, as ``role:id``."""
        found: dict[str, Spec] = {}
        for case in (cell.case for cell in self.cells):
            for role in ("model", "system", "stack"):
                spec = getattr(case, role)
                key, at = f"{role}:{spec.id}", 2
                while found.get(key, spec) is not spec:
                    key, at = f"{role}:{spec.id} ({at})", at + 1
                found[key] = spec
        return found

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of each cell, by label."""
        found = {}
        for cell in self.cells:
            if cell.ok and cell.result.fidelity != "roofline":
                used = cell.figures()["fidelity_by_family"]
                device = cell.case.system.device
                found[cell.label] = evidence(device, used, self.task)
        return found

    def plot(self, path: str | None = None) -> Any:
        """Draw the waterfall to the last cell; return the figure."""
        if not self.waterfalls:
            raise InputError("there is no waterfall; compare two cells that run")
        return draw("waterfall", self.waterfalls[-1], path=path)

    @property
    def table(self) -> pd.DataFrame:
        """One row per cell, nested figures in columns with dotted names."""
        import pandas as pd

        return pd.json_normalize([cell.to_dict() for cell in self.cells])


def compared(
    title: str,
    cases: Sequence[Case],
    money: Sequence[Money],
    *,
    explain: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Answer all questions and compare the answers."""
    tasks = {case.task for case in cases}
    if len(tasks) != 1:
        raise InputError("nothing to compare; name systems and one task")
    cells: list[CompareCell] = []
    falls: list[Waterfall] = []
    complete = True
    try:
        for at, (case, price) in enumerate(zip(_unique(cases), money, strict=True)):
            if progress is not None:
                progress(at, len(cases))
            cells.append(answered(case, price))
        _refuse_all_alike(cells)
        running = [cell for cell in cells if cell.ok]
        others = running[1:] if explain else []
        falls.extend(waterfall(running[0], other) for other in others)
    except KeyboardInterrupt:
        if not cells:
            raise
        complete = False
    running = [cell for cell in cells if cell.ok]
    pairs = [pair_of(a, b) for i, a in enumerate(running) for b in running[i + 1 :]]
    return Comparison(
        cases[0].task, title, tuple(cells), tuple(pairs), tuple(falls), money[0],
        complete,
    )  # fmt: skip


def _refuse_all_alike(cells: Sequence[CompareCell]) -> None:
    """Refuse a question that no system can answer, for one and the same reason."""
    reasons = {cell.reason for cell in cells}
    if len(reasons) == 1 and all(cell.status == "cannot_run" for cell in cells):
        raise InputError(reasons.pop())


def pair_of(a: CompareCell, b: CompareCell) -> Pair:
    """Compare the times of two cells with errors that they share."""
    one, two = a.errors, b.errors
    ratio = speed_key(b) / speed_key(a)
    if one is None or two is None:
        return Pair(a.label, b.label, ratio, None, ())
    ends = ratio_interval(one, two).around(ratio)
    return Pair(a.label, b.label, ratio, ends, tuple(common(one, two)),
                one.correlation(two))  # fmt: skip


def speed_key(cell: CompareCell) -> float:
    """Return what is less for the faster cell. [s]

    Time per token, as batches and layouts may differ; of a service, whose
    traffic sets the tokens, the time of an answer.
    """
    if cell.case.task == "serve":
        return cell.time_s
    return 1.0 / cell.tokens_per_s


def _unique(cases: Sequence[Case]) -> list[Case]:
    """Return cases with labels that tell them apart."""
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        names = [_longer(case, cases) for case in cases]
    counts: dict[str, int] = {}
    labels = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        labels.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return [replace(c, label=label) for c, label in zip(cases, labels, strict=True)]


def _longer(case: Case, cases: Sequence[Case]) -> str:
    """Return a name made of what tells a case from the others."""
    what: Mapping[str, Callable[[Case], Any]] = {
        "system": lambda c: c.system.id,
        "model": lambda c: c.model.name,
        "stack": lambda c: c.stack.id,
        **{k: _option(k) for k in dict.fromkeys(k for c in cases for k in c.options)},
    }
    parts = []
    for key, get in what.items():
        if len({str(get(c)) for c in cases}) > 1 and get(case) is not None:
            shown = str(get(case))
            named = key in {"system", "model", "stack", "dtype", "engine"}
            parts.append(shown if named else f"{key} {shown}")
    marked = case.name.endswith(MARK) and parts
    return ", ".join(parts) + (MARK if marked else "") or case.name


def _option(key: str) -> Callable[[Case], Any]:
    return lambda case: case.options.get(key)
