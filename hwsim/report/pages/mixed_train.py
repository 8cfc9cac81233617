"""The page of a training step over pipeline stages on several kinds of device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.analysis.packing import unpack_records
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, picture, table
from hwsim.report.figures.graphs import timeline_figure
from hwsim.report.pages.run_sections import breakdown_section
from hwsim.report.pieces import (
    around,
    assumed,
    closing,
    interval_note,
    name_of,
    number,
    parts_of,
)

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult


def mixed_train_page(saved: SavedResult) -> Page:
    """Return the page of a step over unlike pipeline stages."""
    c, places = saved.need("config"), saved.need("places")
    model = name_of(saved, "model")
    names = fmt.listed(dict.fromkeys(place["device"] for place in places))
    fits = bool(saved.need("fits"))
    waiting = float(saved.need("bubble_fraction"))
    return Page(
        title=f"Training {model} on {names} together",
        question=(
            f"How long does a training step of {model} take on "
            f"{fmt.plural(c['devices'], 'device')}, its {c['pp']} pipeline stages "
            f"on {names} ({c['schedule']}, {c['global_batch']} sequences of "
            f"{c['seq']} tokens, {c['dtype']})?"
        ),
        answer=(
            f"{around(saved, 'step_s')} a step, "
            f"{number(saved.need('tokens_per_s'))} tokens per second; stages wait for "
            f"each other {fmt.percent(waiting)} of the time, and it "
            f"{'fits' if fits else 'does not fit'} in memory."
        ),
        facts=_facts(saved),
        sections=(
            _places(saved),
            breakdown_section(
                {"mean device": parts_of(saved)}
                | {
                    f"{p['device']}, stages {_ranks(p)}": p["breakdown"] for p in places
                },
                [],
            ),
            *_timeline(saved),
            *closing(saved),
        ),
        warning="" if fits else "Some stage needs more memory than it has.",
        assumed=assumed(saved),
    )


def _facts(saved: SavedResult) -> tuple[Fact, ...]:
    facts = [
        Fact("Step", fmt.seconds(saved.need("step_s")), interval_note(saved, "step_s")),
        Fact("Tokens per second", number(saved.need("tokens_per_s"))),
        Fact("MFU", fmt.percent(saved.need("mfu")), "of all peaks together"),
    ]
    energy, money = saved.need("energy_j"), saved.need("cost_usd")
    if energy is not None:
        facts.append(Fact("Energy", fmt.quantity(float(energy), "J"), "of a step"))
    if money is not None:
        facts.append(Fact("Rent", f"USD {number(money)}", "of a step"))
    return tuple(facts)


def _phases(saved: SavedResult) -> dict[str, Mapping[str, float]]:
    found: dict[str, Mapping[str, float]] = {"mean device": parts_of(saved)}
    for place in saved.need("places"):
        found[f"{place['device']}, stages {_ranks(place)}"] = place["breakdown"]
    return found


def _ranks(place: Mapping[str, Any]) -> str:
    first, end = place["ranks"]
    return str(first) if end - first == 1 else f"{first} to {end - 1}"


def _places(saved: SavedResult) -> Section:
    rows = [_row(place) for place in saved.need("places")]
    heads = "Stages|#Layers|#A microbatch|#Waiting|#Memory needed|#Usable|#USD/h"
    made = table("Stages, in the order that microbatches pass them", heads, rows)
    text = [_link(link) for link in saved.need("links")]
    return Section("places", "What runs where", tuple(text), (made,))


def _link(link: Mapping[str, Any]) -> str:
    time = float(link["fixed_s"]) + float(link["transfer_s"])
    return (
        f"Between kinds: {fmt.nbytes(float(link['message_bytes']), 3)} of every "
        f"microbatch in {fmt.seconds(time)} ({link['basis']})."
    )


def _row(place: Mapping[str, Any]) -> list[Cell]:
    price = place["price_usd_per_h"]
    return [
        Cell(place["device"],
             note=f"{fmt.plural(place['devices'], 'device')}, stages {_ranks(place)}, "
             f"tp {place['tp']}, dp {place['dp']}"),
        Cell(" + ".join(map(str, place["layers_per_stage"])), number=True),
        Cell(fmt.seconds(place["microbatch_s"]), number=True),
        Cell(fmt.percent(place["idle_share"]), number=True),
        Cell(fmt.nbytes(place["memory_bytes"]["total"], 3), number=True,
             tone="" if place["fits"] else "bad"),
        Cell(fmt.nbytes(place["memory_usable_bytes"], 3), number=True),
        Cell(fmt.NONE if price is None else f"{price:.2f}", number=True),
    ]  # fmt: skip


def _timeline(saved: SavedResult) -> tuple[Section, ...]:
    packed = (saved.data.get("detail") or {}).get("timeline")
    if packed is None:
        return ()
    records = unpack_records(packed)
    drawn = picture(
        "timeline-pipeline", "Simulated timeline: pipeline",
        lambda width: timeline_figure(records, width=width),
    )  # fmt: skip
    return (Section("timeline", "Timeline", (), (drawn,)),)
