"""The page of a plan for a service: the cheapest deployment, and what else there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from hwsim.report.figures.tables import lines_figure
from hwsim.report.pages.serve import service_sections
from hwsim.report.pieces import assumed, closing, name_of, number

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

Row = Mapping[str, Any]
_LIMITS = {
    "ttft": "first token", "tpot": "time per token", "itl": "gap between tokens",
    "e2e": "whole answer",
}  # fmt: skip
_ROWS = 30


def serve_plan_page(saved: SavedResult) -> Page:
    """Return the page of a search over deployments of a service."""
    best, c = saved.need("cheapest"), saved.need("config")
    lengths = (
        f"{fmt.count(c['mean_prompt'], 3)} prompt and {fmt.count(c['mean_output'], 3)} "
        "output tokens in the mean"
    )
    rate = number(saved.need("rate_rps"))
    return Page(
        title=f"How to serve {name_of(saved, 'model')} at {rate} requests/s",
        question=(
            f"Which deployment of {name_of(saved, 'model')} on "
            f"{fmt.listed(saved.need('systems'), 'or')} answers {rate} requests/s "
            f"({lengths}) within {_limits(saved.need('slo_s'))}, for the least "
            f"{saved.need('cheapest_by')}?"
        ),
        answer=_answer(best),
        facts=_facts(saved, best),
        sections=(
            _checks(best),
            _others(saved),
            *service_sections(service_of(saved)),
            *closing(saved),
        ),
        notice="The search was interrupted: the best of what was looked at."
        if saved.need("interrupted") else "",
        assumed=assumed(saved),
    )  # fmt: skip


def service_of(saved: SavedResult) -> SavedResult:
    """Return the cheapest deployment's service as a result of its own."""
    from hwsim.analysis.saved import SavedResult

    return SavedResult(
        {**saved.data, **saved.need("cheapest", "service")}, saved.origin
    )


def _limits(limits: Mapping[str, Any]) -> str:
    told = []
    for key, seconds in limits.items():
        name, _, stat = key.partition(".")
        share = {"mean": "in the mean"}.get(stat, f"for {stat.removeprefix('p')} %")
        told.append(f"{fmt.seconds(float(seconds))} {_LIMITS.get(name, name)} {share}")
    return fmt.listed(told)


def deployment(row: Row) -> str:
    """Return a deployment in words."""
    degrees = [
        f"{row[key]}-way {word}"
        for key, word in (
            ("tp", "tensor"), ("pp", "pipeline"), ("ep", "expert"),
            ("attention_dp", "attention data"),
        )
        if row.get(key, 1) > 1
    ]  # fmt: skip
    each = fmt.plural(row["devices_per_replica"], "device")
    layout = f", {' and '.join(degrees)} parallel" if degrees else ""
    types = dict.fromkeys((row["dtype"], row["weight_dtype"], row["kv_dtype"]))
    return (
        f"{fmt.plural(row['replicas'], 'replica')} of {each} of {row['system']}"
        f"{layout}, {'/'.join(map(str, types))}, {row['engine']}{_prompts(row)}"
    )


def _prompts(row: Row) -> str:
    """Return the replicas for prompts in words, where they have their own."""
    degrees = [row.get(f"prompts_{n}") for n in ("tp", "pp", "attention_dp")]
    if not all(degrees):
        return ""
    count = row.get("prompt_replicas") or 1
    each = fmt.plural(math.prod(int(d or 1) for d in degrees), "device")
    return f"; prompts on {fmt.plural(count, 'replica')} of {each}"


def _answer(best: Row) -> str:
    ends = [_end(c) for c in best["checks"] if c.get("at_upper_model_s") is not None]
    money = ""
    if best["usd_per_hour"] is not None:
        money = f", USD {fmt.count(best['usd_per_hour'], 4)} an hour"
    told = f" ({'; '.join(ends)})" if ends else ""
    return f"{deployment(best)}{money}{told}."


def _end(check: Row) -> str:
    name = str(check["limit_of"]).partition(".")[0]
    value, upper = (
        fmt.seconds(float(check[k])) for k in ("value_s", "at_upper_model_s")
    )
    return (
        f"{_LIMITS.get(name, name)} {value}, {upper} at the upper end of the 90 % "
        "interval"
    )


def _facts(saved: SavedResult, best: Row) -> tuple[Fact, ...]:
    facts = [
        Fact("Devices", fmt.count(best["devices"]),
             f"{fmt.plural(best['replicas'], 'replica')}"),
    ]  # fmt: skip
    if best["usd_per_million_tokens"] is not None:
        facts.append(
            Fact("Rent", f"USD {fmt.count(best['usd_per_million_tokens'], 3)}",
                 "per million output tokens")
        )  # fmt: skip
    energy = best["service"].get("energy_j_per_token")
    if energy is not None:
        facts.append(Fact("Energy", f"{number(energy)} J", "per output token"))
    margin = min(float(check["margin"]) for check in best["checks"])
    facts += [
        Fact("Least margin", fmt.percent(margin, 0), "left of the tightest limit"),
        Fact("Deployments", fmt.count(saved.need("candidates")),
             f"{fmt.count(saved.need('simulated'))} confirmed by simulation"),
    ]  # fmt: skip
    return tuple(facts)


def _checks(best: Row) -> Section:
    rows = [
        [
            Cell(str(c["limit_of"])),
            *(
                Cell(fmt.seconds(None if c[key] is None else float(c[key])),
                     number=True)
                for key in ("limit_s", "value_s", "upper_95_s", "at_upper_model_s")
            ),
            Cell(fmt.percent(float(c["margin"]), 0), number=True,
                 tone="good" if c["holds_at_upper_model"] else ""),
        ]
        for c in best["checks"]
    ]  # fmt: skip
    heads = (
        "Limit of|#Limit|#Simulated|#With chance of the draw, 95 %|"
        "#At the upper end of the 90 % interval|#Left of the limit"
    )
    made = table("The limits, and how near they come", heads, rows)
    text = (
        "A margin in green is kept even where every step is as slow as the upper end "
        "of the 90 % interval of its prediction.",
    )
    return Section("checks", "Does it meet the limits?", text, (made,))


def _others(saved: SavedResult) -> Section:
    items: list[Table | Picture] = []
    curve = [p for p in saved.need("goodput_curve") if p.get("goodput_rps") is not None]
    if len(curve) > 1:
        series = {
            "requests within the limits": tuple(
                (float(p["rate_rps"]), float(p["goodput_rps"])) for p in curve
            ),
        }
        drawn = picture(
            "goodput", "What the cheapest does at other rates",
            lambda width: lines_figure(
                series, x=("arriving", "/s"), y=("within the limits", "/s"), width=width
            ),
        )  # fmt: skip
        items.append(drawn)
    items += _front(saved.data.get("pareto") or ())
    items.append(_ranking(saved.need("ranking")))
    rejected = saved.need("rejected")
    if rejected:
        rows = [[Cell(deployment({"replicas": 1, **row})), Cell(row["why"])]
                for row in rejected[:_ROWS]]  # fmt: skip
        more = f", the first {_ROWS}" if len(rejected) > _ROWS else ""
        caption = f"What is not the answer, and why{more}"
        items.append(table(caption, "Deployment|Why not", rows))
    return Section("others", "What else there is", (), tuple(items))


def _front(rows: Sequence[Row]) -> list[Picture]:
    """Return loads that no other beats for users and for devices, by system."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points = series.setdefault(str(row["system"]), [])
        points.append((
            float(row["tokens_per_s_per_user"]), float(row["tokens_per_s_per_device"])
        ))  # fmt: skip
    if len(rows) < 2:
        return []
    drawn = picture(
        "front", "What no other deployment or load is better in, in closed form",
        lambda width: lines_figure(
            series, x=("tokens/s of a user", "/s"), y=("tokens/s of a device", "/s"),
            width=width,
        ),
    )  # fmt: skip
    return [drawn]


def _ranking(rows: Sequence[Row]) -> Table:
    lines = [
        [
            Cell(deployment(row)),
            Cell(fmt.count(row["devices"]), number=True),
            Cell(_usd(row["usd_per_hour"]), number=True),
            Cell(fmt.seconds(float(row["ttft_p99_s"])), number=True),
            Cell(fmt.seconds(float(row["tpot_p99_s"])), number=True),
            Cell(_known(row["energy_j_per_token"]), number=True),
            Cell(fmt.percent(float(row["utilisation"]), 0), number=True),
        ]
        for row in rows[:_ROWS]
    ]
    heads = (
        "Deployment|#Devices|#Per hour|#First token, 99 %|#Per token, 99 %|"
        "#Energy per token|#Busy"
    )
    return table("Deployments that meet the limits, cheapest first", heads, lines)


def _usd(value: Any) -> str:
    return fmt.NONE if value is None else f"USD {fmt.count(float(value), 4)}"


def _known(value: Any) -> str:
    return fmt.NONE if value is None else f"{number(value)} J"
