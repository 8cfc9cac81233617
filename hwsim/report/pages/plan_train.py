"""The page of a plan: the best layout, why, and what else there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import (
    Cell,
    Fact,
    Page,
    Picture,
    Section,
    Table,
    picture,
    table,
)
from hwsim.report.figures.tables import pareto_figure
from hwsim.report.pages.run import global_batch, step_facts, step_sections
from hwsim.report.pieces import around, assumed, memory_warning, name_of

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_DEGREES = (
    ("dp", "data"), ("tp", "tensor"), ("pp", "pipeline"), ("cp", "context"),
    ("ep", "expert"),
)  # fmt: skip
_LEAST = {
    "time": "fastest", "energy": "least energy", "money": "cheapest",
    "memory": "least memory",
}  # fmt: skip
_COLUMNS = (
    "Layout|#Step|#Memory|#Energy of a step|#Rent of a step"
)  # fmt: skip
_LIMITS: dict[str, Callable[[float], str]] = {
    "memory": lambda v: f"{fmt.nbytes(v)} of memory at most",
    "step_time": lambda v: f"{fmt.seconds(v)} a step at most",
    "deadline": lambda v: f"{fmt.seconds(v)} for the run at most",
    "budget": lambda v: f"USD {v:,.0f} at most",
    "power": lambda v: f"{fmt.quantity(v, 'W')} at most",
}
_ROWS = 10
_CHANGES = 12


def train_plan_page(saved: SavedResult) -> Page:
    """Return the page of a search over training layouts."""
    best = best_of(saved)
    c, config = saved.need("config"), best.need("config")
    model, where = name_of(saved, "model"), name_of(saved, "system")
    objective = str(saved.need("objective"))
    devices = fmt.listed(saved.need("devices"), "or")
    return Page(
        title=f"How to lay out the training of {model}",
        question=(
            f"Which layout of {model} over {devices} devices is the "
            f"{_LEAST.get(objective, objective)} ({fmt.listed(saved.need('systems'))}; "
            f"{global_batch(c)} a step, {c['dtype']}, {c['optimizer']}"
            f"{_limits(saved.need('limits'))})?"
        ),
        answer=(
            f"{_sentence(layout_words(config))} on "
            f"{fmt.plural(config['devices'], 'device')} of {where}: "
            f"{around(best, 'step_s')} a step, the best of "
            f"{fmt.count(saved.need('layouts'))} valid layouts."
        ),
        facts=(
            *step_facts(best),
            Fact("Layouts", fmt.count(saved.need("layouts")),
                 f"{fmt.count(saved.need('excluded_by_memory'))} of them do not fit"),
        ),
        sections=(_why(saved), _others(saved), *step_sections(best)),
        warning=memory_warning(best),
        assumed=assumed(saved),
    )  # fmt: skip


def best_of(saved: SavedResult) -> SavedResult:
    """Return the best layout as a result of its own."""
    from hwsim.analysis.saved import SavedResult

    return SavedResult({**saved.data, **saved.need("best")}, saved.origin)


def _limits(limits: Mapping[str, Any]) -> str:
    told = [_LIMITS[k](v) for k, v in limits.items() if v and k in _LIMITS]
    tokens = f", {fmt.large(limits['tokens'])} tokens" if limits.get("tokens") else ""
    return f"{tokens}; {', '.join(told)}" if told else tokens


def layout_words(config: Mapping[str, Any]) -> str:
    """Return a layout in words; what is not divided is left out."""
    parts = [f"{config[k]}-way {word}" for k, word in _DEGREES if config.get(k, 1) > 1]
    layout = f"{fmt.listed(parts)} parallel" if parts else "one device"
    details = [f"micro-batches of {config['micro_batch']}"]
    if config.get("zero_stage"):
        details.append(f"ZeRO {config['zero_stage']}")
    if config.get("recompute", "none") != "none":
        details.append(f"{config['recompute']} recomputation")
    if config.get("pp", 1) > 1:
        details.append(f"{config['schedule']} schedule")
    away = [w for w in ("optimizer", "activations") if config.get(f"offload_{w}")]
    details += [f"{what} kept in host memory" for what in away]
    return f"{layout}, {', '.join(details)}"


def _why(saved: SavedResult) -> Section:
    lines = [*map(str, saved.need("why"))]
    rows = [
        [
            Cell(_choice(change)),
            Cell(
                fmt.signed_percent(float(change["costs"])),
                number=True,
                bar=min(max(float(change["costs"]), 0.0), 1.0),
            ),
        ]
        for change in sorted(saved.need("one_change"), key=lambda c: float(c["costs"]))
    ][:_CHANGES]
    items: list[Table] = []
    if rows:
        caption = "The choices that cost least to make otherwise"
        items.append(table(caption, "Choice|#Worse by", rows))
    lacks = [_of_runner_up(str(line)) for line in saved.need("runner_up_lacks")]
    text = [f"{_sentence(line)}." for line in lines]
    if lacks:
        text.append(" ".join(lacks))
    return Section("why", "Why this layout", tuple(text), tuple(items))


def _choice(change: Mapping[str, Any]) -> str:
    name, value = str(change["choice"]).replace("_", " "), change["value"]
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_runner_up(line: str) -> str:
    whole = line.startswith(("the ", "it "))
    return f"{_sentence(line)}." if whole else f"It has {line}."


def _others(saved: SavedResult) -> Section:
    front = saved.need("pareto")
    every = (saved.data.get("detail") or {}).get("table") or []
    items: list[Table | Picture] = []
    if len(front) > 1:
        best = best_of(saved)
        chosen = (
            float(best.need("step_s")), float(best.need("memory_bytes", "total"))
        )  # fmt: skip
        drawn = picture(
            "pareto", "Step time against memory",
            lambda width: pareto_figure(
                _points(every), _points(front), units=("s", "B"),
                names=("step time", "memory per device"), marked=chosen, width=width,
            ),
        )  # fmt: skip
        items.append(drawn)
    listed = (every or front)[:_ROWS]
    rows = [_layout_row(row) for row in listed]
    items.append(table("The best layouts, in closed form", _COLUMNS, rows))
    text = (
        f"{fmt.plural(len(front), 'layout')} cannot be beaten in time, memory, "
        "devices, energy and money at once.",
    )
    return Section("others", "What else there is", text, tuple(items))


def _points(rows: list[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(float(row["step_s"]), float(row["memory_bytes"])) for row in rows]


def _layout_row(row: Mapping[str, Any]) -> list[Cell]:
    cost = row.get("cost_usd")
    energy = row.get("energy_j")
    return [
        Cell(layout_words(row), note=f"{row['devices']} devices of {row['system']}"),
        Cell(fmt.seconds(float(row["step_s"])), number=True),
        Cell(fmt.nbytes(float(row["memory_bytes"]), 3), number=True),
        Cell(fmt.NONE if energy is None else fmt.quantity(energy, "J", 3), number=True),
        Cell(fmt.NONE if cost is None else f"USD {fmt.count(cost, 3)}", number=True),
    ]
