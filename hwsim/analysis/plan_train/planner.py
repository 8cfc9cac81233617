"""The best layout of a training job: search, ranking, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwsim.analysis.check import context_within, dtype_on, positive_int
from hwsim.analysis.economy import Economy, Limits, front
from hwsim.analysis.plan_train.choices import RECOMPUTE, Choices
from hwsim.analysis.plan_train.reasons import Reasons, reasons
from hwsim.analysis.plan_train.rows import layout_of, rows_of
from hwsim.analysis.plan_train.search import (
    FIGURES,
    Batch,
    Candidate,
    Progress,
    Runner,
    Search,
    Tally,
    in_this_process,
)
from hwsim.analysis.plan_train.units import Question
from hwsim.analysis.result import Result
from hwsim.analysis.training.config import TRAINING_DTYPES
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.cost.cost import FloatArray
from hwsim.errors import HwsimError, InputError
from hwsim.graph.optimizer import optimizer_named
from hwsim.specs.base import Spec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.units import format_quantity

if TYPE_CHECKING:
    import pandas as pd

Objective = Literal["time", "energy", "money", "memory"]
COLUMN = {
    "time": "step_s", "energy": "energy_j", "money": "cost_usd",
    "memory": "memory_bytes",
}  # fmt: skip
_SHOWN = 10
_SAVED = 100  # layouts of the ranking in a saved file


@dataclass(frozen=True, repr=False)
class TrainPlan(Result):
    """What a search over layouts found.

    Attributes
    ----------
    batches : list of Batch
        Layouts that keep to all limits, in the order of the search.
    played : list of TrainResult
        The best ones, simulated exactly, fastest (or cheapest) first.
    simulate_s : float
        Time that these simulations took. [s]
    """

    model: ModelSpec
    stack: StackSpec
    candidates: tuple[Candidate, ...]
    config: dict[str, Any]
    objective: Objective
    limits: Limits
    tally: Tally
    batches: list[Batch]
    played: tuple[TrainResult, ...] = ()
    predicted: tuple[float, ...] = ()
    simulate_s: float = 0.0
    passed_over: tuple[str, ...] = ()
    reasons: Reasons = field(default_factory=Reasons)

    kind = "train_plan"

    @property
    def layouts(self) -> int:
        """Valid layouts that were looked at."""
        return self.tally.layouts

    @property
    def search_s(self) -> float:
        """Time of the search, simulations apart. [s]"""
        return self.tally.search_s

    @cached_property
    def figures(self) -> dict[str, FloatArray]:
        """Figures of every layout that keeps to all limits, by name."""
        return {
            name: np.concatenate([b.figures[name] for b in self.batches])
            for name in FIGURES
        }

    @cached_property
    def order(self) -> Any:
        """Places of all layouts, best first; of equals the one with least memory."""
        return ranked(self.batches, self.objective)

    @property
    def best(self) -> TrainResult:
        """The best layout, simulated."""
        return self.played[0]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every layout that keeps to all limits, best first, in closed form."""
        return self._frame(self.order)

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """Layouts that no other beats: time, memory, devices, energy, money."""
        figures = self.figures
        devices = np.concatenate(
            [
                np.full(len(b.space), self.candidates[b.candidate].devices, float)
                for b in self.batches
            ]
        )
        names = ("step_s", "memory_bytes", "energy_j", "cost_usd")
        return self._frame(front([*(figures[n] for n in names), devices]))

    def _frame(self, places: Any) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {"system": [], "devices": []}
        bounds = np.cumsum([0, *(len(b.space) for b in self.batches)])
        which = np.searchsorted(bounds, places, side="right") - 1
        of_batch = np.array([b.candidate for b in self.batches], dtype=np.int64)[which]
        names = np.array([c.system.id for c in self.candidates], dtype=object)
        sizes = np.array([c.devices for c in self.candidates])
        columns["system"], columns["devices"] = names[of_batch], sizes[of_batch]
        for name in self.batches[0].space.columns:
            column = np.concatenate([b.space[name] for b in self.batches])[places]
            columns[name] = self._named(name, column)
        for name in FIGURES:
            columns[name] = self.figures[name][places]
        return pd.DataFrame(columns)

    def _named(self, name: str, column: Any) -> Any:
        if name == "schedule":
            return np.array(self.batches[0].space.schedules, dtype=object)[column]
        if name == "recompute":
            return np.array(RECOMPUTE, dtype=object)[column]
        return column.astype(bool) if name.startswith("offload") else column

    @property
    def fidelity(self) -> str:
        """What the costs of the best layout rest on."""
        return self.best.fidelity

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family of the best layout rest on."""
        return self.best.fidelity_by_family

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the best layout."""
        return self.best.specs()

    def details(self) -> dict[str, Any]:
        """Return the best layout's, and the first layouts of the ranking."""
        listed = rows_of(self.table.head(_SAVED))
        return {**self.best.details(), "table": listed}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        return {
            **self.header(),
            "model": self.model.id,
            "systems": list(dict.fromkeys(c.system.id for c in self.candidates)),
            "devices": sorted({c.devices for c in self.candidates}),
            "stack": self.stack.id,
            "config": self.config,
            "objective": self.objective,
            "limits": self.limits.to_dict(),
            **self.tally.to_dict(),
            "simulate_s": self.simulate_s,
            "step_s": self.best.step_s,
            "best": self.best.to_dict(),
            "ranking": [
                {**layout_of(r), "step_s": r.step_s, "closed_form_step_s": closed,
                 "mfu": r.mfu, "memory_bytes": r.footprint.total,
                 "breakdown": dict(r.parts)}
                for r, closed in zip(self.played, self.predicted, strict=True)
            ],
            "why": list(self.reasons.why),
            "runner_up_lacks": list(self.reasons.lacks),
            "one_change": self.reasons.changes,
            "pareto": rows_of(self.pareto),
            "passed_over": list(self.passed_over),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        from html import escape

        head = (
            f"{self.model.id}: {self.layouts:,} layouts in {self.search_s:.2f} s; "
            f"best step {self.best.step_s:.4g} s"
        )
        why = "".join(f"<li>{escape(w)}</li>" for w in self.reasons.why)
        shown: str = self.table.head(_SHOWN).to_html(index=False)
        return f"<p>{escape(head)}</p><ul>{why}</ul>{shown}"


def ranked(batches: Sequence[Batch], objective: Objective) -> Any:
    """Return the places of layouts, best first."""
    values = np.concatenate([b.figures[COLUMN[objective]] for b in batches])
    if len(values) and np.isnan(values).all():
        remedy = "give a price" if objective == "money" else "set device.power.tdp"
        raise InputError(f"objective {objective} is not known here; {remedy}")
    memory = np.concatenate([b.figures["memory_bytes"] for b in batches])
    step = np.concatenate([b.figures["step_s"] for b in batches])
    return np.lexsort((memory, step, values))


@dataclass(frozen=True)
class Planner:
    """Answers one question; see :func:`hwsim.plan_train`."""

    model: ModelSpec
    systems: Sequence[SystemSpec]
    stack: StackSpec
    devices: Sequence[int] | None
    global_batch: int
    seq: int
    dtype: str
    optimizer: str
    fidelity: Any
    sequence_parallel: bool
    choices: Choices
    limits: Limits
    economy: Economy
    objective: Objective
    simulate: int
    runner: Runner = in_this_process

    def plan(self, progress: Progress | None = None) -> TrainPlan:
        """Search, simulate the best, and say why they are the best."""
        self._check()
        candidates, passed_over = self._candidates()
        question = Question(
            self.model, candidates[0].system, self.stack, self.dtype, self.optimizer,
            self.seq, self.fidelity, self.sequence_parallel,
        )  # fmt: skip
        search = Search(
            question, candidates, self.choices, self.limits, self.economy,
            self.global_batch, progress, self.runner,
        )  # fmt: skip
        batches = search.run()
        if not any(len(b.space) for b in batches):
            raise InputError(nothing_found(search))
        batches = [b for b in batches if len(b.space)]
        started = time.perf_counter()
        played, closed = self._simulated(candidates, batches, question)
        spent = time.perf_counter() - started
        config = {
            "global_batch": self.global_batch, "seq": self.seq, "dtype": self.dtype,
            "optimizer": self.optimizer, "sequence_parallel": self.sequence_parallel,
            "choices": {k: v for k, v in vars(self.choices).items() if v is not None},
        }  # fmt: skip
        return TrainPlan(
            self.model, self.stack, tuple(candidates), config, self.objective,
            self.limits, search.tally, batches, tuple(played), tuple(closed), spent,
            tuple(passed_over), reasons(played, candidates, batches, self.objective),
        )  # fmt: skip

    def _check(self) -> None:
        positive_int("global_batch", self.global_batch)
        positive_int("seq", self.seq)
        positive_int("simulate", self.simulate)
        context_within(self.model, self.seq, "seq")
        optimizer_named(self.optimizer)
        if self.objective not in COLUMN:
            raise InputError(
                f"objective {self.objective!r} is unknown; choose {', '.join(COLUMN)}"
            )
        if not self.systems:
            raise InputError("no system is given; name at least one")
        for system in self.systems:
            dtype_on(system.device, self.dtype)
        if self.dtype not in TRAINING_DTYPES:
            raise InputError(
                f"dtype {self.dtype} is not one to train in; choose "
                f"{', '.join(TRAINING_DTYPES)}"
            )

    def _candidates(self) -> tuple[list[Candidate], list[str]]:
        """Return systems at the sizes asked for; those that cannot be, in words."""
        found, faults = [], []
        for system in self.systems:
            for count in self.devices or (system.num_devices,):
                try:
                    part = system.subsystem(positive_int("devices", count))
                except HwsimError as error:
                    faults.append(str(error))
                    continue
                found.append(Candidate(part, count))
        if not found:
            raise InputError(faults[0])
        return found, faults

    def _simulated(
        self,
        candidates: Sequence[Candidate],
        batches: Sequence[Batch],
        question: Question,
    ) -> tuple[list[TrainResult], list[float]]:
        """Play the best layouts; rank them by what the simulation says."""
        order = ranked(batches, self.objective)
        bounds = np.cumsum([0, *(len(b.space) for b in batches)])
        played: list[tuple[float, TrainResult, float]] = []
        for place in order.tolist():
            at = int(np.searchsorted(bounds, place, side="right")) - 1
            batch, index = batches[at], int(place - bounds[at])
            try:
                result = self._played(
                    candidates[batch.candidate], batch, index, question
                )
            except KeyboardInterrupt:
                if not played:
                    raise
                break
            if result is None:
                continue
            closed = float(batch.figures["step_s"][index])
            value = float(batch.figures[COLUMN[self.objective]][index])
            scale = 1.0 if self.objective == "memory" else result.step_s / closed
            played.append((value * scale, result, closed))
            if len(played) >= self.simulate:
                break
        if not played:
            raise InputError("no layout that was found fits in the simulation")
        played.sort(key=lambda p: p[0])
        return [p[1] for p in played], [p[2] for p in played]

    def _played(
        self, candidate: Candidate, batch: Batch, index: int, question: Question
    ) -> TrainResult | None:
        row = batch.space.row(index)
        split = question.splits(row["tp"], row["cp"])
        result = run_training(
            self.model, candidate.system, self.stack, fidelity=self.fidelity,
            devices=candidate.devices, global_batch=self.global_batch, seq=self.seq,
            dtype=self.dtype, optimizer=self.optimizer, sequence_parallel=split, **row,
        )  # fmt: skip
        return result if result.fits else None


def nothing_found(search: Search) -> str:
    """Say why nothing is left, and what is nearest."""
    tally = search.tally
    if not tally.layouts:
        why = tally.why[0] if tally.why else "leave out a choice"
        return f"no valid layout: the search space is empty; {why}"
    if not tally.timed:
        least = format_quantity(tally.least_memory, "B")
        return (
            f"none of {tally.layouts:,} layouts fits in memory: the least needs "
            f"{least} per device; use more devices, a smaller micro-batch, full "
            "recomputation or offloading"
        )
    name = max(tally.outside, key=lambda key: tally.outside[key])
    return f"none of {tally.timed:,} layouts that fit keeps to the {name}; " + _near(
        search, name
    )


def _near(search: Search, name: str) -> str:
    tally, limits = search.tally, search.limits
    value = tally.nearest[name]
    tokens = search.global_batch * search.question.seq
    steps = math.ceil((limits.tokens or 0.0) / tokens)
    if name == "step_time":
        return f"the fastest step is {value:.4g} s"
    if name == "deadline":
        return f"the fastest run takes {steps * value / 86_400:.4g} days"
    if name == "budget":
        return f"the cheapest run is {steps * value:,.0f} USD"
    return f"the least power is {format_quantity(value, 'W')}"


def device_counts(devices: int | Iterable[int] | None) -> tuple[int, ...] | None:
    """Return device counts from one, several or a range."""
    if devices is None:
        return None
    if isinstance(devices, Iterable):
        found = tuple(dict.fromkeys(positive_int("devices", d) for d in devices))
        if not found:
            raise InputError("devices has no values; give at least one count")
        return found
    return (positive_int("devices", devices),)
