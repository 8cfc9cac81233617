"""The best layout of a training job: search, ranking, reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwsim.analysis.check import context_within, dtype_on, positive_int
from hwsim.analysis.economy import Economy, Limits
from hwsim.analysis.plan_train.choices import Choices
from hwsim.analysis.plan_train.plan import COLUMN, Objective, TrainPlan, ranked
from hwsim.analysis.plan_train.reasons import reasons
from hwsim.analysis.plan_train.rows import Names
from hwsim.analysis.plan_train.search import (
    Batch,
    Candidate,
    Progress,
    Runner,
    Search,
    Tally,
    in_this_process,
)
from hwsim.analysis.plan_train.units import Question
from hwsim.analysis.resolve import default_dtype, part_of
from hwsim.analysis.training.config import TRAINING_DTYPES
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.errors import HwsimError, InputError
from hwsim.graph.optimizer import optimizer_named
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.units import format_quantity


class _Played(NamedTuple):
    """A simulated layout: what it is ranked by, and where the search found it."""

    value: float
    place: int
    result: TrainResult
    closed: float


@dataclass(frozen=True)
class Planner:
    """Answers one question; see :func:`hwsim.plan_train`."""

    model: ModelSpec
    systems: Sequence[SystemSpec]
    stack: StackSpec
    devices: Sequence[int] | None
    global_batch: int
    seq: int
    dtype: str | None
    optimizer: str
    fidelity: Any
    sequence_parallel: bool
    choices: Choices
    limits: Limits
    economy: Economy
    objective: Objective
    simulate: int
    runner: Runner = in_this_process
    names: Names | None = None

    def plan(self, progress: Progress | None = None) -> TrainPlan:
        """Search, simulate the best, and say why they are the best."""
        self._check()
        candidates, passed_over = self._candidates()
        question = Question(
            self.model, candidates[0].system, self.stack, candidates[0].dtype,
            self.optimizer, self.seq, self.fidelity, self.sequence_parallel,
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
        played = self._simulated(candidates, batches, question, search.tally)
        spent = time.perf_counter() - started
        results = [one.result for one in played]
        return TrainPlan(
            self.model, self.stack, tuple(candidates), self._config(candidates),
            self.objective, self.limits, search.tally, batches, tuple(results),
            tuple(one.closed for one in played), tuple(one.place for one in played),
            spent, tuple(passed_over),
            reasons(results, candidates, batches, self.objective), self._named(),
        )  # fmt: skip

    def _config(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        dtypes = {c.system.id: c.dtype for c in candidates}
        alike = len(set(dtypes.values())) == 1
        return {
            "global_batch": self.global_batch, "seq": self.seq,
            "dtype": candidates[0].dtype if alike else dtypes,
            "optimizer": self.optimizer, "sequence_parallel": self.sequence_parallel,
            "choices": {k: v for k, v in vars(self.choices).items() if v is not None},
        }  # fmt: skip

    def _named(self) -> Names:
        return self.names or Names(self.model.id, self.stack.id)

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
        if self.dtype is not None and self.dtype not in TRAINING_DTYPES:
            raise InputError(
                f"dtype {self.dtype} is not one to train in; choose "
                f"{', '.join(TRAINING_DTYPES)}"
            )

    def _candidates(self) -> tuple[list[Candidate], list[str]]:
        """Return systems at the sizes asked for; those that cannot be, in words."""
        found, faults = [], []
        for system in self.systems:
            dtype = self.dtype or default_dtype(system.device)
            for count in self.devices or (system.num_devices,):
                try:
                    self._check_known(system)
                    dtype_on(system.device, dtype)
                    part = part_of(system, positive_int("devices", count))
                except HwsimError as error:
                    faults.append(str(error))
                    continue
                found.append(Candidate(part, count, dtype))
        if not found:
            raise InputError(faults[0])
        return found, list(dict.fromkeys(faults))

    def _check_known(self, system: SystemSpec) -> None:
        """Refuse a system of which what is asked for is not known."""
        limits, device = self.limits, system.device
        paid = self.objective == "money" or limits.budget is not None
        if paid and self.economy.price_of(system) is None:
            raise InputError(
                f"system {system.id}: no price of {device.id} is known; give price in "
                "USD per device hour"
            )
        drawn = self.objective == "energy" or limits.power is not None
        if drawn and device.power.tdp is None:
            raise InputError(
                f"system {system.id}: {device.id} quotes no power; set device.power.tdp"
            )

    def _simulated(
        self,
        candidates: Sequence[Candidate],
        batches: Sequence[Batch],
        question: Question,
        tally: Tally,
    ) -> list[_Played]:
        """Play the best layouts; rank them by what the simulation says."""
        order = ranked(batches, self.objective)
        bounds = np.cumsum([0, *(len(b.space) for b in batches)])
        played: list[_Played] = []
        for place in order.tolist():
            at = int(np.searchsorted(bounds, place, side="right")) - 1
            batch, index = batches[at], int(place - bounds[at])
            candidate = candidates[batch.candidate]
            try:
                result = self._played(candidate, batch, index, question)
            except KeyboardInterrupt:
                tally.interrupted = True
                if played:
                    break
                # One is played whatever: without it there is no answer.
                result = self._played(candidate, batch, index, question)
            if result is None:
                continue
            closed = float(batch.figures["step_s"][index])
            value = float(batch.figures[COLUMN[self.objective]][index])
            scale = 1.0 if self.objective == "memory" else result.step_s / closed
            played.append(_Played(value * scale, place, result, closed))
            if tally.interrupted or len(played) >= self.simulate:
                break
        if not played:
            raise InputError("no layout that was found fits in the simulation")
        return sorted(played, key=lambda one: one.value)

    def _played(
        self, candidate: Candidate, batch: Batch, index: int, question: Question
    ) -> TrainResult | None:
        row = batch.space.row(index)
        split = question.splits(row["tp"], row["cp"])
        result = run_training(
            self.model, candidate.system, self.stack, fidelity=self.fidelity,
            devices=candidate.devices, global_batch=self.global_batch, seq=self.seq,
            dtype=candidate.dtype, optimizer=self.optimizer, sequence_parallel=split,
            **row,
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
            f"{least} per device; use {_more_devices(search)}"
        )
    name = max(tally.outside, key=lambda key: tally.outside[key])
    return f"none of {tally.timed:,} layouts that fit keeps to the {name}; " + _near(
        search, name
    )


def _more_devices(search: Search) -> str:
    """Return what would give the layout that needs least the memory that it needs."""
    limits, stack = search.limits, search.question.stack
    largest = max(search.candidates, key=lambda c: c.devices)
    free = largest.system.device.main_memory.size * (1.0 - stack.memory_reserve)
    usable = min(free, limits.memory or free)
    most = math.ceil(largest.devices * search.tally.least_memory / usable)
    held = vars(search.choices).values()
    others = "" if all(v is None for v in held) else ", or hold fewer choices"
    return f"more devices, {most:,} or so{others}"


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
