"""The search: enumerate, weigh, time, keep what keeps to the limits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwsim.analysis.economy import Economy, Limits, kept_to
from hwsim.analysis.plan_train.choices import Choices
from hwsim.analysis.plan_train.listed import Listed, Space
from hwsim.analysis.plan_train.memory import MemoryModel
from hwsim.analysis.plan_train.space import Enumerator
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.time import TimeModel
from hwsim.analysis.plan_train.units import Question
from hwsim.cost.cost import FloatArray
from hwsim.schedule.pipeline.schedules import pipeline_schedule
from hwsim.specs.system import SystemSpec

# Enough to spread NumPy's fixed costs, little enough to show progress.
AT_ONCE = 100_000
AT_FIRST = 2_000  # an interrupt soon after the start has something to answer with
FIGURES = ("step_s", "memory_bytes", "power_w", "energy_j", "cost_usd")
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Candidate:
    """One system at one size, and what it computes in."""

    system: SystemSpec
    devices: int
    dtype: str


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
        Layouts that fit but break a limit, by limit; some break several.
    broken : int
        Layouts that fit but break some limit.
    """

    layouts: int = 0
    timed: int = 0
    invalid: int = 0
    no_memory: int = 0
    broken: int = 0
    least_memory: float = float("inf")
    outside: Counter[str] = field(default_factory=Counter)
    nearest: dict[str, float] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    search_s: float = 0.0
    interrupted: bool = False

    def add(self, other: Tally) -> None:
        """Count what another part of the search has seen."""
        self.layouts += other.layouts
        self.timed += other.timed
        self.no_memory += other.no_memory
        self.broken += other.broken
        self.least_memory = min(self.least_memory, other.least_memory)
        self.outside.update(other.outside)
        for name, value in other.nearest.items():
            self.nearest[name] = min(value, self.nearest.get(name, np.inf))

    def to_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "layouts": self.layouts,
            "timed": self.timed,
            "invalid": self.invalid,
            "excluded_by_memory": self.no_memory,
            "excluded_by_any_limit": self.broken,
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


@dataclass(frozen=True)
class Job:
    """Layouts of one candidate to look through; any process can.

    Attributes
    ----------
    place : int
        In the order of the search.
    index : int
        Of the candidate.
    tokens : float
        Of one step.
    """

    place: int
    index: int
    question: Question
    candidate: Candidate
    space: Space
    limits: Limits
    economy: Economy
    tokens: float


@dataclass(frozen=True)
class Part:
    """What a job found, and what it saw."""

    place: int
    batch: Batch
    tally: Tally


Runner = Callable[[Iterable[Job]], Iterator[Part]]


class Models:
    """Memory and time of layouts on one candidate; layers are costed once."""

    def __init__(self, job: Job) -> None:
        question = job.question
        stages = StageMaker(question.model, question.seq)
        names = job.space.schedules
        split = any(pipeline_schedule(name).splits_backward for name in names)
        self.index = job.index
        self.memory = MemoryModel(question, stages)
        self.times = TimeModel(question, stages, self.memory, split=split)


def look_through(job: Job, models: Models | None = None) -> Part:
    """Return the layouts of a job that fit and keep to all limits."""
    models = models or Models(job)
    tally = Tally(layouts=len(job.space))
    needed = models.memory.needed(job.space)
    fits = np.flatnonzero(needed <= _usable(job))
    some = job.space.taken(fits)
    tally.no_memory = len(job.space) - len(some)
    tally.least_memory = float(needed.min(initial=np.inf))
    if not len(some):
        nothing = {name: np.zeros(0) for name in FIGURES}
        return Part(job.place, Batch(job.index, some, nothing, {}), tally)
    step = models.times.times(some)
    tally.timed = len(some)
    figures = {"step_s": step.step, "memory_bytes": needed[fits]}
    figures |= job.economy.figures(
        job.candidate.system, job.candidate.devices, step.step, step.parts,
        some["pp"] > 1,
    )  # fmt: skip
    inside = _inside(job, figures, tally)
    tally.broken = len(some) - len(inside)
    batch = Batch(
        job.index, some.taken(inside), {k: v[inside] for k, v in figures.items()},
        {k: v[inside] for k, v in step.parts.items()},
    )  # fmt: skip
    return Part(job.place, batch, tally)


def _usable(job: Job) -> float:
    whole = job.candidate.system.device.main_memory.size
    usable = whole * (1.0 - job.question.stack.memory_reserve)
    return float(min(usable, job.limits.memory or usable))


def _inside(job: Job, figures: dict[str, FloatArray], tally: Tally) -> Any:
    inside = np.ones(len(figures["step_s"]), dtype=bool)
    for name, keeps in kept_to(job.limits, job.tokens, figures).items():
        tally.outside[name] += int((~keeps).sum())
        least = {"budget": "cost_usd", "power": "power_w"}.get(name, "step_s")
        tally.nearest[name] = float(np.nanmin(figures[least], initial=np.inf))
        inside &= keeps
    return np.flatnonzero(inside)


def in_this_process(jobs: Iterable[Job]) -> Iterator[Part]:
    """Look through one job after the other."""
    models: Models | None = None
    for job in jobs:
        if models is None or models.index != job.index:
            models = Models(job)
        yield look_through(job, models)


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
    runner: Runner = in_this_process
    tally: Tally = field(default_factory=Tally)

    def run(self) -> list[Batch]:
        """Return what was found; an interrupt ends the search, not the answer."""
        started = time.perf_counter()
        found: list[Part] = []
        try:
            spaces = [self._space(candidate) for candidate in self.candidates]
            whole = sum(map(len, spaces))
            for part in self.runner(self._jobs(spaces)):
                found.append(part)
                self.tally.add(part.tally)
                self._report(found, whole)
        except KeyboardInterrupt:
            if not found:
                raise
            self.tally.interrupted = True
        self.tally.search_s = time.perf_counter() - started
        # However they came in: the same search has the same answer.
        return [part.batch for part in sorted(found, key=lambda part: part.place)]

    def _space(self, candidate: Candidate) -> Listed:
        question = self.question
        space = Enumerator(
            question.model, candidate.system, question.stack, self.choices,
            self.global_batch, question.seq,
        ).listed(candidate.devices)  # fmt: skip
        self.tally.invalid += space.empty.invalid
        self.tally.why += space.empty.why
        return space

    def _jobs(self, spaces: Sequence[Listed]) -> Iterator[Job]:
        tokens, place = float(self.global_batch * self.question.seq), 0
        for index, space in enumerate(spaces):
            candidate = self.candidates[index]
            question = replace(
                self.question, system=candidate.system, dtype=candidate.dtype
            )
            for some in space.batches(AT_ONCE, AT_FIRST) if len(space) else ():
                yield Job(
                    place, index, question, candidate, some, self.limits, self.economy,
                    tokens,
                )  # fmt: skip
                place += 1

    def _report(self, found: Sequence[Part], whole: int) -> None:
        if self.progress is not None:
            steps = (part.batch.figures["step_s"] for part in found)
            best = min(step.min(initial=np.inf) for step in steps)
            self.progress(self.tally.layouts, whole, float(best))
