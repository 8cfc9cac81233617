"""The search: enumerate, weigh, time, keep what keeps to the limits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwsim.analysis.plan_choices import Choices
from hwsim.analysis.plan_economy import Economy, Limits, kept_to
from hwsim.analysis.plan_memory import MemoryModel
from hwsim.analysis.plan_space import Enumerator, Listed, Space
from hwsim.analysis.plan_stages import StageMaker
from hwsim.analysis.plan_time import TimeModel
from hwsim.analysis.plan_units import Question
from hwsim.cost.cost import FloatArray
from hwsim.schedule.pipeline import pipeline_schedule
from hwsim.specs.system import SystemSpec

# Enough to spread NumPy's fixed costs, little enough to show progress.
AT_ONCE = 100_000
FIGURES = ("step_s", "memory_bytes", "power_w", "energy_j", "cost_usd")
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Candidate:
    """One system at one size."""

    system: SystemSpec
    devices: int


@dataclass
class Tally:
    """What the search has seen.

    Attributes
    ----------
    layouts, timed : int
        Valid layouts whose memory was worked out; those that fit, whose step
        was worked out too.
    invalid, no_memory : int
        Combinations that a rule forbids; layouts that do not fit.
    outside : Counter
        Layouts that fit but break a limit, by limit.
    """

    layouts: int = 0
    timed: int = 0
    invalid: int = 0
    no_memory: int = 0
    least_memory: float = float("inf")
    outside: Counter[str] = field(default_factory=Counter)
    nearest: dict[str, float] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    search_s: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "layouts": self.layouts,
            "timed": self.timed,
            "invalid": self.invalid,
            "excluded_by_memory": self.no_memory,
            "excluded_by_limit": dict(self.outside),
            "search_s": self.search_s,
            "layouts_per_s": self.layouts / self.search_s if self.search_s else None,
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class Batch:
    """Layouts of one candidate that keep to all limits, and their figures."""

    candidate: int
    space: Space
    figures: dict[str, FloatArray]
    parts: dict[str, FloatArray]


@dataclass
class Search:
    """Looks through the layouts of several candidates."""

    question: Question
    candidates: Sequence[Candidate]
    choices: Choices
    limits: Limits
    economy: Economy
    global_batch: int
    progress: Progress | None = None
    tally: Tally = field(default_factory=Tally)

    def run(self) -> list[Batch]:
        """Return what was found; an interrupt ends the search, not the answer."""
        started, found = time.perf_counter(), []
        try:
            spaces = [self._space(candidate) for candidate in self.candidates]
            whole = sum(map(len, spaces))
            for index, space in enumerate(spaces):
                for batch in self._searched(index, space):
                    found.append(batch)
                    self._report(found, whole)
        except KeyboardInterrupt:
            if not found:
                raise
            self.tally.interrupted = True
        self.tally.search_s = time.perf_counter() - started
        return found

    def _space(self, candidate: Candidate) -> Listed:
        question = self.question
        space = Enumerator(
            question.model, candidate.system, question.stack, self.choices,
            self.global_batch, question.seq,
        ).listed(candidate.devices)  # fmt: skip
        self.tally.invalid += space.empty.invalid
        self.tally.why += space.empty.why
        return space

    def _searched(self, index: int, space: Listed) -> Iterator[Batch]:
        question = replace(self.question, system=self.candidates[index].system)
        stages = StageMaker(question.model, question.seq)
        memory = MemoryModel(question, stages)
        split = any(pipeline_schedule(n).splits_backward for n in space.empty.schedules)
        times = TimeModel(question, stages, memory, split=split)
        for some in space.batches(AT_ONCE) if len(space) else ():
            yield self._batch(index, some, memory, times)

    def _batch(
        self, index: int, space: Space, memory: MemoryModel, times: TimeModel
    ) -> Batch:
        tally, candidate = self.tally, self.candidates[index]
        needed = memory.needed(space)
        fits = np.flatnonzero(needed <= self._usable(candidate.system))
        some = space.taken(fits)
        tally.layouts += len(space)
        tally.no_memory += len(space) - len(some)
        tally.least_memory = min(tally.least_memory, needed.min(initial=np.inf))
        if not len(some):
            nothing = {name: np.zeros(0) for name in FIGURES}
            return Batch(index, some, nothing, {})
        step = times.times(some)
        tally.timed += len(some)
        figures = {"step_s": step.step, "memory_bytes": needed[fits]}
        figures |= self.economy.figures(
            candidate.system, candidate.devices, step.step, step.parts
        )
        inside = self._inside(figures)
        return Batch(
            index, some.taken(inside), {k: v[inside] for k, v in figures.items()},
            {k: v[inside] for k, v in step.parts.items()},
        )  # fmt: skip

    def _usable(self, system: SystemSpec) -> float:
        whole = system.device.main_memory.size
        usable = whole * (1.0 - self.question.stack.memory_reserve)
        return float(min(usable, self.limits.memory or usable))

    def _inside(self, figures: dict[str, FloatArray]) -> Any:
        tokens = float(self.global_batch * self.question.seq)
        kept = kept_to(self.limits, tokens, figures)
        inside = np.ones(len(figures["step_s"]), dtype=bool)
        for name, keeps in kept.items():
            self.tally.outside[name] += int((~keeps).sum())
            least = {"budget": "cost_usd", "power": "power_w"}.get(name, "step_s")
            near = float(np.nanmin(figures[least], initial=np.inf))
            had = self.tally.nearest.get(name, np.inf)
            self.tally.nearest[name] = min(near, had)
            inside &= keeps
        return np.flatnonzero(inside)

    def _report(self, found: Sequence[Batch], whole: int) -> None:
        if self.progress is not None:
            best = min(b.figures["step_s"].min(initial=np.inf) for b in found)
            self.progress(self.tally.layouts, whole, float(best))
