"""What would have to be true: the value of a parameter at which a target is met."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.optimize import brentq

from hwsim.analysis.case import Case, numbers
from hwsim.analysis.comparing.cell import CompareCell, Money, answered
from hwsim.analysis.evidence import case_accuracy
from hwsim.analysis.result import Result
from hwsim.analysis.varying.sweep import Interval, interval_of, metric_of
from hwsim.analysis.varying.vary import Parameter, parameter, short_names
from hwsim.errors import HwsimError, InputError
from hwsim.specs.base import Spec
from hwsim.units import DIMENSIONS, format_quantity, parse_quantity

REACH = 64.0  # parameters are tried from today's value over this to times this
_STEP = 2.0
_TARGET = re.compile(r"^\s*([A-Za-z0-9_.]+)\s*(<=|>=|=|<|>)\s*(.+?)\s*$")
_BATCHES = {"infer": "batch", "train": "micro_batch", "serve": "rate"}


@dataclass(frozen=True)
class Target:
    """A figure of the answer and what it must be.

    Attributes
    ----------
    at_most : bool
        Whether less is better.
    """

    key: str
    value: float
    at_most: bool

    def met(self, figure: float) -> bool:
        """Whether a figure meets the target."""
        return figure <= self.value if self.at_most else figure >= self.value

    def shown(self, figure: float) -> str:
        """Return a figure as people read it."""
        if self.key.endswith("_s") and not self.key.endswith("per_s"):
            return format_quantity(figure, "s")
        return f"{figure:,.4g}"

    def __str__(self) -> str:
        return f"{self.key} {'<=' if self.at_most else '>='} {self.shown(self.value)}"


def parse_target(text: str) -> Target:
    """Return a target from text like ``tpot_s<=5ms`` or ``tokens_per_s>=2000``.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    match = _TARGET.match(text)
    if match is None:
        raise InputError(
            f"target {text!r} is not FIGURE<=VALUE; write tpot_s<=5ms or "
            "tokens_per_s>=2000"
        )
    key, sign, value = match.groups()
    try:
        number = float(value)
    except ValueError:
        number = _seconds(text, value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"target {text!r}: {value} is not a number above 0")
    # A bare = is met from the side on which the figure is wanted: times below.
    at_most = sign.startswith("<") or (sign == "=" and key.endswith("_s"))
    at_most = at_most and not (sign == "=" and key.endswith("per_s"))
    return Target(key, number, at_most)


def _seconds(text: str, value: str) -> float:
    try:
        return parse_quantity(value, DIMENSIONS["time"])
    except ValueError as error:
        raise InputError(f"target {text!r}: {error}") from None


@dataclass(frozen=True)
class Solution:
    """What one parameter would have to be.

    Attributes
    ----------
    value : float or None
        Where the target is just met; None where nothing meets it. [SI]
    reason : str
        Why there is none, or that it is met already.
    ends : (float or None, float or None) or None
        The same where the answer comes out at the good, and at the bad end of
        its 90 % prediction interval; None where nothing in reach meets the
        target then. The second is what to have to be 95 % sure.
    """

    parameter: Parameter
    value: float | None
    met_now: bool
    reason: str
    ends: tuple[float | None, float | None] | None = None

    @property
    def factor(self) -> float | None:
        """The value over today's."""
        if self.value is None or not self.parameter.value:
            return None
        return self.value / self.parameter.value

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, in SI."""
        return {
            "parameter": self.parameter.key, "now": self.parameter.value,
            "unit": self.parameter.unit, "needed": self.value, "factor": self.factor,
            "needed_interval_90": self.ends,
            "met_now": self.met_now, "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Solved(Result):
    """What would have to be true for a target, parameter by parameter."""

    case: Case
    target: Target
    now: float
    solutions: tuple[Solution, ...]
    interval: Interval = None
    complete: bool = True

    kind = "solve"

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the question as it stands."""
        case = self.case
        return {"model": case.model, "system": case.system, "stack": case.stack}

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of the question's answer."""
        return case_accuracy(self.case)

    def to_dict(self) -> dict[str, Any]:
        """Return target and solutions with keys in SI."""
        return {
            **self.header(),
            "question": {"text": f"What gives {self.target}?", **self.case.to_dict()},
            "target": {
                "figure": self.target.key, "value": self.target.value,
                "at_most": self.target.at_most,
            },
            "now": self.now,
            "now_interval_90": self.interval,
            "met_now": self.target.met(self.now),
            "solutions": [one.to_dict() for one in self.solutions],
            "complete": self.complete,
        }  # fmt: skip


def solve(
    case: Case,
    target: Target,
    by: Sequence[str],
    money: Money,
    progress: Callable[[int], None] | None = None,
) -> Solved:
    """Find the value of each parameter at which a target is just met.

    Parameters
    ----------
    progress : callable, optional
        Told how many answers were worked out.

    Raises
    ------
    InputError, SpecError
        If the question cannot be answered as it stands, or a parameter or
        figure is unknown.
    """
    cell = answered(case, money)
    if cell.result is None:
        raise InputError(f"as it stands it cannot run: {cell.reason}")
    now = _now(cell, target.key)
    interval = interval_of(cell, target.key) if cell.ok else None
    names = by or default_parameters(case)
    wanted = [parameter(case, name) for name in names]
    asker = _Asker(case, target, money, now, interval, progress)
    found: list[Solution] = []
    try:
        for p in wanted:
            found.append(asker.solved(p))  # noqa: PERF401, kept when interrupted
    except KeyboardInterrupt:
        if not found:
            raise
    complete = len(found) == len(wanted)
    return Solved(case, target, now, tuple(found), interval, complete)


def _now(cell: CompareCell, key: str) -> float:
    if cell.ok:
        return metric_of(cell, key)
    return numbers(cell.result.to_dict()).get(key, math.nan)


def default_parameters(case: Case) -> list[str]:
    """Return what a target is usually met by: memory, peak, link, batch."""
    short = short_names(case)
    names = [short["bandwidth"], short["peak"]]
    used = max(int(case.options.get("tp") or 1), int(case.options.get("devices") or 1))
    if "link" in short and (used > 1 or case.task == "train"):
        names.append(short["link"])
    return [*names, _BATCHES[case.task]]


Figure = Callable[[float], tuple[float | None, str]]


class _Asker:
    """Answers at values of one parameter, each worked out once."""

    def __init__(
        self,
        case: Case,
        target: Target,
        money: Money,
        now: float,
        interval: Interval,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._case, self._target, self._money = case, target, money
        self._now, self._interval, self._progress = now, interval, progress
        self._asked = 0

    def solved(self, p: Parameter) -> Solution:
        """Return what one parameter would have to be."""
        if p.value is None or not p.value > 0:
            why = f"{p.key} has no value above 0 to start from; set one"
            return Solution(p, None, False, why)
        figure = functools.cache(functools.partial(self._figure, p))
        search = _whole if p.whole else _continuous
        found = search(p, self._target, self._now, _part(figure, None))
        if self._interval is None:
            return found
        good = 0 if self._target.at_most else 1
        ends = tuple(
            search(p, self._target, self._interval[end], _part(figure, end)).value
            for end in (good, 1 - good)
        )
        return replace(found, ends=(ends[0], ends[1]))

    def _figure(self, p: Parameter, value: float) -> tuple[float | None, Interval, str]:
        """Return the target's figure, its interval and the bound; None: cannot run."""
        self._asked += 1
        if self._progress is not None:
            self._progress(self._asked)
        try:
            changed = p.set(self._case, value)
        except HwsimError as error:
            return None, None, str(error)
        cell, key = answered(changed, self._money), self._target.key
        if not cell.ok:
            return None, None, cell.reason
        return metric_of(cell, key), interval_of(cell, key), cell.bound


def _part(
    figure: Callable[[float], tuple[float | None, Interval, str]], end: int | None
) -> Figure:
    """Return a figure, or one end of its interval, as a function of a value."""

    def at(value: float) -> tuple[float | None, str]:
        found, interval, why = figure(value)
        if end is not None and interval is not None:
            found = interval[end]
        return found, why

    return at


def _continuous(p: Parameter, target: Target, now: float, figure: Figure) -> Solution:
    """Walk away from today's value until the target changes sides; then bisect."""
    start = float(p.value or 0.0)
    met = target.met(now)
    seen: list[tuple[float, float | None, str]] = []
    for direction in (1.0, -1.0):
        low, factor = start, _STEP
        while factor <= REACH:
            value = start * factor**direction
            found, why = figure(value)
            seen.append((value, found, why))
            if found is None:
                break
            if target.met(found) != met:
                root = _root(target, figure, low, value)
                return Solution(p, root, met, "met already; holds up to here" if met
                                else "")  # fmt: skip
            low, factor = value, factor * _STEP
    return Solution(p, None, met, _why_not(p, target, met, seen, now))


def _root(target: Target, figure: Figure, a: float, b: float) -> float:
    def miss(log: float) -> float:
        found = figure(math.exp(log))[0]
        return math.log((found or target.value) / target.value)

    log = brentq(miss, math.log(a), math.log(b), xtol=1e-6, rtol=1e-9)
    return math.exp(float(log))


def _whole(p: Parameter, target: Target, now: float, figure: Figure) -> Solution:
    """Return the whole number nearest to today's at which the target is met."""
    start, met = round(float(p.value or 1)), target.met(now)
    seen: list[tuple[float, float | None, str]] = []
    for up in (True, False):
        low, value = start, start
        while True:
            value = value * 2 if up else value // 2
            if value < 1 or value > start * REACH * 16:
                break
            found, why = figure(float(value))
            seen.append((float(value), found, why))
            if found is None:
                break
            if target.met(found) != met:
                last = _last_alike(target, met, figure, low, value)
                note = "met already; holds up to here" if met else ""
                kept = last if met else last + (1 if up else -1)
                return Solution(p, float(kept), met, note)
            low = value
    return Solution(p, None, met, _why_not(p, target, met, seen, now))


def _last_alike(target: Target, met: bool, figure: Figure, a: int, b: int) -> int:
    """Return the last whole number on the side of ``a``, going towards ``b``."""
    while abs(b - a) > 1:
        middle = (a + b) // 2
        found = figure(float(middle))[0]
        if found is not None and target.met(found) == met:
            a = middle
        else:
            b = middle
    return a


def _why_not(
    p: Parameter,
    target: Target,
    met: bool,
    seen: Sequence[tuple[float, float | None, str]],
    now: float,
) -> str:
    known = [(value, found, why) for value, found, why in seen if found is not None]
    if met:
        return f"met already, and from {_span(p, known)} too"
    if not known:
        return f"nothing else can run: {seen[0][2] if seen else 'no value to try'}"
    pick = min if target.at_most else max
    value, best, bound = pick(known, key=lambda item: item[1])
    if (best > now if target.at_most else best < now) and abs(best / now - 1) > 1e-3:
        return f"no other value comes nearer than today's {target.shown(now)}"
    if abs(best - now) <= 1e-3 * abs(now):
        return f"it hardly moves {target.key}, which stays at {target.shown(best)}"
    text = (
        f"{target.key} comes no nearer than {target.shown(best)}, at "
        f"{p.shown(value)}, where {bound} binds"
    )
    start = float(p.value or 0.0)
    # Only what stopped the search on the side of the best value matters.
    ends = [why for v, found, why in seen
            if found is None and (v > start) == (value > start)]  # fmt: skip
    return f"{text}; beyond that it {_first(ends[0])}" if ends else text


def _first(reason: str) -> str:
    """Return a reason without its remedies."""
    return reason.partition(";")[0]


def _span(p: Parameter, known: Sequence[tuple[float, float | None, str]]) -> str:
    values = [value for value, _, _ in known] or [float(p.value or 0.0)]
    return f"{p.shown(min(values))} to {p.shown(max(values))}"
