"""The page of a whole training run: days, failures, energy, money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, picture, table
from hwsim.report.figures.tables import cdf_figure
from hwsim.report.pages.run import step_facts, step_sections, train_question
from hwsim.report.pieces import assumed, memory_warning, name_of

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_DAY = 86_400.0
_SPREAD = 0.02  # of wall times, from which on they are worth a picture


def training_run_page(saved: SavedResult) -> Page:
    """Return the page of a whole training run."""
    step = step_of(saved)
    config = saved.need("config")
    model, where = name_of(step, "model"), name_of(step, "system")
    tokens = fmt.large(float(config["tokens"]))
    return Page(
        title=f"Training {model} on {where}: the whole run",
        question=(
            f"How long does a run over {tokens} tokens take, and what does it cost: "
            f"{train_question(step)}?"
        ),
        answer=_answer(saved),
        facts=(*_facts(saved), *step_facts(step)[:1]),
        sections=(_run(saved), *step_sections(step)),
        warning=memory_warning(step),
        assumed=assumed(saved),
    )


def step_of(saved: SavedResult) -> SavedResult:
    """Return the result of one step that a run is made of."""
    from hwsim.analysis.saved import SavedResult

    step = {**saved.data, **saved.need("step")}
    step["config"] = {**step["config"], "seed": saved.need("config").get("seed")}
    return SavedResult(step, saved.origin)


def _answer(saved: SavedResult) -> str:
    wall, spread = float(saved.need("wall_s")), saved.need("wall_percentiles_s")
    low, high = wall_ends(saved)
    devices = saved.need("step", "config", "devices")
    cost = saved.need("cost_usd")
    money = "" if cost is None else f", USD {fmt.count(cost, 3)}"
    energy = saved.need("energy_kwh")
    drawn = "" if energy is None else f", {fmt.quantity(energy * 1e3, 'Wh', 3)}"
    return (
        f"{fmt.seconds(wall)} on {fmt.plural(devices, 'device')} (90 % interval "
        f"{low} to {high}; failures alone spread it from "
        f"{fmt.seconds(spread['p10'])} to {fmt.seconds(spread['p90'])})"
        f"{drawn}{money}."
    )


def wall_ends(saved: SavedResult) -> tuple[str, str]:
    """Return the 90 % interval of the wall time: that of the step, over all steps."""
    wall, step = float(saved.need("wall_s")), float(saved.need("step", "step_s"))
    interval = (saved.need("step").get("interval_90") or {}).get("step_s")
    if not interval:
        return fmt.NONE, fmt.NONE
    low, high = (wall * float(end) / step for end in interval)
    return fmt.seconds(low), fmt.seconds(high)


def _facts(saved: SavedResult) -> tuple[Fact, ...]:
    low, high = wall_ends(saved)
    cost = saved.need("cost_usd")
    price = saved.need("config").get("price")
    facts = [
        Fact("Wall time", fmt.seconds(saved.need("wall_s")), f"90 %: {low} to {high}"),
        Fact("Useful share", fmt.percent(saved.need("goodput")),
             f"{saved.need('failures'):.1f} failures"),
        Fact("Device hours", fmt.count(saved.need("device_hours"), 3)),
    ]  # fmt: skip
    energy = saved.need("energy_kwh")
    if energy is not None:
        facts += [
            Fact("Energy", fmt.quantity(energy * 1e3, "Wh", 3),
                 f"{saved.need('power_per_device_w'):.0f} W per device, hosts beside"),
            Fact("Carbon", f"{fmt.count(saved.need('carbon_kg') / 1e3, 3)} t",
                 f"CO2 equivalent at {saved.need('config', 'grid'):g} g/kWh"),
        ]  # fmt: skip
    if cost is not None:
        told = f"at USD {price:g} per device and hour"
        facts.append(Fact("Rent", f"USD {fmt.count(cost, 3)}", told))
    return tuple(facts)


def _run(saved: SavedResult) -> Section:
    c = saved.need("config")
    shares: list[tuple[str, float, str]] = [
        ("useful work", float(saved.need("useful_s")),
         f"{saved.need('steps'):,} steps"),
        ("writing checkpoints", float(saved.need("checkpoint_s")),
         f"one every {fmt.seconds(saved.need('checkpoint_interval_s'))}"),
        ("work lost to failures", float(saved.need("lost_s")),
         f"one failure every {fmt.seconds(saved.need('mtbf_s'))}"),
        ("restarting", float(saved.need("restart_s")),
         f"{fmt.seconds(c['restart_time'])} each"),
        ("waiting for a node", float(saved.need("waiting_s")),
         fmt.plural(c["spares"], "spare node")),
    ]  # fmt: skip
    wall = float(saved.need("wall_s"))
    rows = [
        [Cell(name, note=note), Cell(fmt.seconds(time), number=True),
         Cell(fmt.percent(time / wall), number=True, bar=min(time / wall, 1.0))]
        for name, time, note in shares
    ]  # fmt: skip
    items: list[Any] = [table("Where the wall time goes", "What|#Time|#Share", rows)]
    walls = (saved.data.get("detail") or {}).get("wall_s")
    if walls and max(walls) > (1.0 + _SPREAD) * min(walls):
        days = [wall / _DAY for wall in walls]
        drawn = picture(
            "walls", "Wall time of simulated runs",
            lambda width: cdf_figure(
                {"simulated runs": days}, unit="days", what="wall time", width=width
            ),
        )  # fmt: skip
        items.append(drawn)
    text = (
        f"{fmt.plural(c['replications'], 'run')} with random failures were simulated; "
        "figures are their mean.",
    )
    return Section("run", "The whole run", text, tuple(items))
