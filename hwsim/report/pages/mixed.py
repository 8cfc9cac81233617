"""The page of a model spread over devices of several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, table
from hwsim.report.pages.run_sections import breakdown_section
from hwsim.report.pieces import (
    around,
    assumed,
    bound_clause,
    closing,
    interval_note,
    name_of,
    number,
    parts_of,
)

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_ROLES = {"both": "prompt and output", "prefill": "prompt", "decode": "output"}


def mixed_page(saved: SavedResult) -> Page:
    """Return the page of a request on devices of several kinds."""
    c, stages = saved.need("config"), saved.need("stages")
    model = name_of(saved, "model")
    names = fmt.listed(dict.fromkeys(stage["device"] for stage in stages))
    fits = bool(saved.need("fits"))
    parts = parts_of(saved)
    return Page(
        title=f"{model} on {names} together",
        question=(
            f"How long does {model} take for {fmt.plural(c['batch'], 'request')} of "
            f"{fmt.plural(c['prompt'], 'prompt token')} and "
            f"{fmt.plural(c['output'], 'output token')}, spread over {names} "
            f"({c['dtype']})?"
        ),
        answer=(
            f"{around(saved, 'latency_s')} to the last token, the first after "
            f"{fmt.seconds(saved.need('ttft_s'))}; {bound_clause(parts)}, and it "
            f"{'fits' if fits else 'does not fit'} in memory."
        ),
        facts=_facts(saved),
        sections=(
            _stages(saved),
            breakdown_section({"whole request": parts}, []),
            *closing(saved),
        ),
        warning="" if fits else "Some place needs more memory than it has.",
        assumed=assumed(saved),
    )


def _facts(saved: SavedResult) -> tuple[Fact, ...]:
    facts = [
        Fact("Time to first token", fmt.seconds(saved.need("ttft_s"))),
        Fact("Whole request", fmt.seconds(saved.need("latency_s")),
             interval_note(saved, "latency_s")),
        Fact("Tokens per second", number(saved.need("tokens_per_s"))),
    ]  # fmt: skip
    tpot, most = saved.need("tpot_s"), saved.need("saturated_tokens_per_s")
    if tpot is not None:
        facts.insert(1, Fact("Time per output token", fmt.seconds(tpot)))
    if most is not None:
        facts.append(Fact("At most", number(most), "tokens/s with requests waiting"))
    handover = float(saved.need("handover_s"))
    if handover:
        facts.append(Fact("Handover", fmt.seconds(handover), "of keys and values"))
    return tuple(facts)


def _stages(saved: SavedResult) -> Section:
    rows = [_row(stage) for stage in saved.need("stages")]
    heads = "Device|#Layers|#Prompt|#One step|#Memory needed|#Usable"
    made = table("Places, in the order that tokens pass them", heads, rows)
    link = saved.need("link")
    text = (
        f"Between them: {fmt.rate(float(link['bandwidth']), 'B/s')}, "
        f"{fmt.seconds(float(link['latency']))} latency.",
    )
    return Section("places", "What runs where", text, (made,))


def _row(stage: Mapping[str, Any]) -> list[Cell]:
    first, last = stage["layers"]
    role = _ROLES.get(stage["role"], stage["role"])
    return [
        Cell(stage["device"], note=f"{fmt.plural(stage['tp'], 'device')}, {role}"),
        Cell(f"{first + 1} to {last}", number=True),
        Cell(fmt.seconds(stage["prefill_s"]), number=True),
        Cell(fmt.seconds(stage["decode_s"]), number=True),
        Cell(fmt.nbytes(stage["memory_needed_bytes"], 3), number=True,
             tone="" if stage["fits"] else "bad"),
        Cell(fmt.nbytes(stage["memory_usable_bytes"], 3), number=True),
    ]  # fmt: skip
