"""Pages of what-if questions: sweeps, sensitivities, what would have to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hwsim.analysis.varying.sensitivity import Sensitivity
from hwsim.analysis.varying.sweep import Knee, Point
from hwsim.analysis.varying.vary import Axis, Parameter
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, Table, picture, table
from hwsim.report.figures.sweep import (
    ends_text,
    metric_text,
    tornado_figure,
    whatif_figure,
)
from hwsim.report.pages.words import metric_words, parameter_words
from hwsim.report.pieces import assumed, bound_word, closing, name_of
from hwsim.units import DIMENSIONS

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_ROWS = 60
_SURE = (
    "Needed is where the prediction meets the target; to be 95 % sure, its value must "
    "meet it at the bad end of the 90 % prediction interval."
)


def whatif_page(saved: SavedResult) -> Page:
    """Return the page of a sweep over one or two parameters."""
    sweep = _sweep(saved)
    keys = fmt.listed(parameter_words(axis.parameter.key) for axis in sweep.axes)
    what = metric_words(sweep.metric)
    known = [p for p in sweep.points if p.metric is not None]
    drawn = picture(
        "sweep", f"{what[:1].upper()}{what[1:]} over {keys}",
        lambda width: whatif_figure(sweep, width=width),
    )  # fmt: skip
    items = (drawn, _knees(sweep), _points(sweep)) if sweep.knees else (
        drawn, _points(sweep)
    )  # fmt: skip
    complete = saved.data.get("complete", True)
    return Page(
        title=f"{_subject(saved)}: what if {keys} changed?",
        question=f"What does {keys} do to {what} of {_subject(saved)}?",
        answer=_sweep_answer(sweep, known),
        facts=_sweep_facts(sweep, known),
        sections=(Section("sweep", "What it does", (), items), *closing(saved)),
        notice="" if complete else "The sweep was interrupted: values are missing.",
        assumed=assumed(saved),
    )


def sensitivity_page(saved: SavedResult) -> Page:
    """Return the page of the sensitivities of one answer."""
    rows = [_sensitivity(row) for row in saved.need("rows")]
    metric, now = str(saved.need("metric")), float(saved.need("now"))
    span = saved.data.get("now_interval_90")
    swing = float(saved.need("swing"))
    tornado = SimpleNamespace(
        rows=rows, metric=metric, now=now, swing=swing, title=_subject(saved)
    )
    items: list[Any] = []
    if rows:
        drawn = picture(
            "tornado", f"A swing of {fmt.percent(swing, 0)} of each parameter",
            lambda width: tornado_figure(tornado, width=width),  # type: ignore[arg-type]
        )  # fmt: skip
        items = [drawn, _sensitivities(rows, metric)]
    still = fmt.listed(saved.need("no_effect"))
    text = [f"These change nothing: {still}."] if still else []
    return Page(
        title=f"{_subject(saved)}: what matters",
        question=f"Which figures does {metric_words(metric)} of {_subject(saved)} "
        "turn on?",
        answer=_sensitivity_answer(rows, metric, now, span),
        facts=(_now_fact(metric, now, span),),
        sections=(
            Section("sensitivity", "Parameter by parameter", tuple(text), tuple(items)),
            *closing(saved),
        ),
        assumed=assumed(saved),
    )


def solve_page(saved: SavedResult) -> Page:
    """Return the page of what would have to be true for a target."""
    target, now = saved.need("target"), float(saved.need("now"))
    key = str(target["figure"])
    sign = "at most" if target["at_most"] else "at least"
    wanted = f"{metric_words(key)} of {sign} {metric_text(key, float(target['value']))}"
    span = saved.data.get("now_interval_90")
    rows = [_solution(row, bool(span)) for row in saved.need("solutions")]
    sure = "#To be 95 % sure|" if span else ""
    heads = f"Parameter|#Now|#Needed|#Times|{sure}Remark"
    found = [s for s in saved.need("solutions") if s["needed"] is not None]
    return Page(
        title=f"{_subject(saved)}: what would have to be true",
        question=f"What gives {_subject(saved)} {wanted}?",
        answer=_solve_answer(saved, found, key, now),
        facts=(_now_fact(key, now, span),),
        sections=(
            Section(
                "solutions", "One parameter at a time", (_SURE,) if span else (),
                (table("What each would have to be", heads, rows),),
            ),
            *closing(saved),
        ),
        assumed=assumed(saved),
    )  # fmt: skip


def _now_fact(key: str, now: float, span: Sequence[float] | None) -> Fact:
    note = metric_words(key) + (f"; 90 %: {ends_text(key, span)}" if span else "")
    return Fact("Now", metric_text(key, now), note)


def _subject(saved: SavedResult) -> str:
    return f"{name_of(saved, 'model')} on {name_of(saved, 'system')}"


def _parameter(key: str, now: Any, unit: str, values: Sequence[Any] = ()) -> Parameter:
    dimension = next((d for d in DIMENSIONS.values() if d.unit == unit), None)
    known = [v for v in (*values, now) if isinstance(v, int | float)]
    whole = not unit and all(float(v).is_integer() for v in known)
    return Parameter(
        key, None if now is None else float(now), dimension if unit else None, whole
    )


def _sweep(saved: SavedResult) -> Any:
    """Return a sweep as figures take it."""
    axes = [
        Axis(
            _parameter(a["parameter"], a["now"], a["unit"] or "", a["values"]),
            tuple(a["values"]),
        )
        for a in saved.need("axes")
    ]
    return SimpleNamespace(
        axes=axes,
        metric=str(saved.need("metric")),
        points=[_point(p) for p in saved.need("points")],
        knees=[Knee(**knee) for knee in saved.need("knees")],
        now=_point(saved.need("now")),
        title=_subject(saved),
    )


def _point(told: Mapping[str, Any]) -> Point:
    return Point(
        tuple(told["values"]), told["metric"], told["status"], told["reason"],
        told["bound"], dict(told), told.get("metric_interval_90"),
    )  # fmt: skip


def _at(sweep: Any, point: Point) -> str:
    pairs = zip(sweep.axes, point.values, strict=True)
    return " and ".join(
        f"{parameter_words(a.parameter.key)} {a.parameter.shown(v)}" for a, v in pairs
    )


def _sweep_answer(sweep: Any, known: Sequence[Point]) -> str:
    if not known:
        return "No value can run."
    if len(sweep.axes) == 1:
        first, last = known[0], known[-1]
        shown = sweep.axes[0].parameter.shown
        text = (
            f"From {_with_interval(sweep, first)} at {shown(first.values[0])} to "
            f"{_with_interval(sweep, last)} at {shown(last.values[0])}"
        )
        if sweep.knees:
            changes = fmt.listed(
                f"from {bound_word(k.before)} to {bound_word(k.after)} at {shown(k.at)}"
                for k in sweep.knees
            )
            return f"{text}; what binds changes {changes}."
        return f"{text}, bound by {bound_word(known[0].bound)} throughout."
    low, high = (
        pick(known, key=lambda p: float(p.metric or 0.0)) for pick in (min, max)
    )
    return (
        f"From {_with_interval(sweep, low)} with {_at(sweep, low)} to "
        f"{_with_interval(sweep, high)} with {_at(sweep, high)}."
    )


def _with_interval(sweep: Any, point: Point) -> str:
    value = metric_text(sweep.metric, point.metric)
    return _spanned(sweep.metric, value, point.interval)


def _spanned(key: str, value: str, span: Sequence[float] | None) -> str:
    if not span:
        return value
    low, high = (metric_text(key, float(end)) for end in span)
    return f"{value} (90 % interval {low} to {high})"


def _sweep_facts(sweep: Any, known: Sequence[Point]) -> tuple[Fact, ...]:
    facts = []
    if sweep.now.metric is not None:
        note = f"bound by {bound_word(sweep.now.bound)}"
        facts.append(Fact("Now", metric_text(sweep.metric, sweep.now.metric), note))
    for label, pick in (("Least", min), ("Most", max)):
        if known:
            found = pick(known, key=lambda p: float(p.metric or 0.0))
            told = metric_text(sweep.metric, found.metric)
            facts.append(Fact(label, told, f"at {_at(sweep, found)}"))
    return tuple(facts)


def _knees(sweep: Any) -> Table:
    shown = sweep.axes[0].parameter.shown
    now = sweep.axes[0].parameter.value
    rows = [
        [
            Cell(shown(k.at)),
            Cell(f"{fmt.count(k.at / now, 3)} times" if now else fmt.NONE, number=True),
            Cell(bound_word(k.before)), Cell(bound_word(k.after)),
        ]
        for k in sweep.knees
    ]  # fmt: skip
    return table("Where the bound changes", "At|#Of today's|Below it|Above it", rows)


def _points(sweep: Any) -> Table:
    keys = [f"#{parameter_words(axis.parameter.key)}" for axis in sweep.axes]
    rows = []
    for point in sweep.points[:_ROWS]:
        values = [
            Cell(axis.parameter.shown(v), number=True)
            for axis, v in zip(sweep.axes, point.values, strict=True)
        ]
        told = bound_word(point.bound) if point.metric is not None else point.reason
        rows.append(
            [*values, Cell(metric_text(sweep.metric, point.metric), number=True),
             Cell(ends_text(sweep.metric, point.interval), number=True), Cell(told)]
        )  # fmt: skip
    more = len(sweep.points) - _ROWS
    caption = "All values" if more <= 0 else f"The first {_ROWS} values"
    return table(
        caption, [*keys, f"#{sweep.metric}", "#90 %", "Mostly, or why not"], rows
    )


def _sensitivity(told: Mapping[str, Any]) -> Sensitivity:
    return Sensitivity(
        _parameter(told["parameter"], told["now"], told["unit"] or ""),
        float(told["elasticity"]), told["low"], told["high"], str(told["source"]),
        told["sobol_first"], told["sobol_total"], told.get("low_interval_90"),
        told.get("high_interval_90"),
    )  # fmt: skip


def _sensitivity_answer(
    rows: Sequence[Sensitivity],
    metric: str,
    now: float,
    span: Sequence[float] | None,
) -> str:
    if not rows:
        return f"Nothing that was tried moves it from {metric_text(metric, now)}."
    told = [
        f"{parameter_words(row.parameter.key)} "
        f"({fmt.signed_percent(row.elasticity / 100, 2)} for 1 % more)"
        for row in rows[:3]
    ]
    value = _spanned(metric, metric_text(metric, now), span)
    return f"Of {value}, most turns on {fmt.listed(told)}."


def _sensitivities(rows: Sequence[Sensitivity], metric: str) -> Table:
    lines = []
    drawn = any(row.st for row in rows)
    for row in rows[:_ROWS]:
        sobol = fmt.NONE if row.st is None else f"{float(row.st[0]):.2f}"
        now = row.parameter.value
        lines.append(
            [
                Cell(row.parameter.key, code=True),
                Cell(fmt.NONE if now is None else row.parameter.shown(now),
                     number=True),
                Cell(fmt.signed_percent(row.elasticity / 100, 2), number=True),
                Cell(metric_text(metric, row.low), number=True),
                Cell(metric_text(metric, row.high), number=True),
                *([Cell(sobol, number=True)] if drawn else []),
                Cell("", badge="assumed") if row.source == "assumed"
                else Cell(row.source),
            ]
        )  # fmt: skip
    total = "#Sobol, total|" if drawn else ""
    heads = f"Parameter|#Now|#For 1 % more|#Lower|#Higher|{total}Source"
    return table("Sensitivities, strongest first", heads, lines)


def _solve_answer(
    saved: SavedResult, found: Sequence[Mapping[str, Any]], key: str, now: float
) -> str:
    span = saved.data.get("now_interval_90")
    value = _spanned(key, metric_text(key, now), span)
    if saved.need("met_now"):
        return f"It is met already: {value} now."
    if not found:
        return f"No single change that was tried gives it; it is {value} now."
    told = [
        f"{parameter_words(s['parameter'])} of {_parameter_text(s, s['needed'])}"
        f"{_needed_note(s)}"
        for s in found
    ]
    text = fmt.listed(told, "or")
    return f"{text[:1].upper()}{text[1:]}; it is {value} now."


def _needed_note(told: Mapping[str, Any]) -> str:
    notes = []
    if told["factor"]:
        notes.append(f"{fmt.count(told['factor'], 3)} times today's")
    ends = told.get("needed_interval_90")
    if ends:
        sure = ends[1] is not None
        notes.append(
            f"{_parameter_text(told, ends[1])} to be 95 % sure"
            if sure
            else "no value makes it 95 % sure"
        )
    return f" ({'; '.join(notes)})" if notes else ""


def _parameter_text(told: Mapping[str, Any], value: Any) -> str:
    if value is None:
        return fmt.NONE
    shown = _parameter(told["parameter"], told["now"], told["unit"] or "", [value])
    return shown.shown(value)


def _solution(told: Mapping[str, Any], spanned: bool) -> list[Cell]:
    factor = told["factor"]
    ends = told.get("needed_interval_90") or (None, None)
    sure = [Cell(_parameter_text(told, ends[1]), number=True)] if spanned else []
    return [
        Cell(told["parameter"], code=True),
        Cell(_parameter_text(told, told["now"]), number=True),
        Cell(_parameter_text(told, told["needed"]), number=True),
        Cell(fmt.NONE if factor is None else fmt.count(factor, 3), number=True),
        *sure,
        Cell(told["reason"]),
    ]
