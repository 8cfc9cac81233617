"""The page of a service under load."""

from __future__ import annotations

from collections.abc import Mapping
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
from hwsim.report.figures.service import service_figure
from hwsim.report.figures.tables import cdf_figure
from hwsim.report.pieces import assumed, closing, name_of, number

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

LATENCIES = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "gap between two tokens",
    "e2e_s": "whole answer",
}
_SLO = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}


def serve_page(saved: SavedResult) -> Page:
    """Return the page of a simulated service."""
    c = saved.need("config")
    model, where = name_of(saved, "model"), name_of(saved, "system")
    return Page(
        title=f"Serving {model} on {where}",
        question=(
            f"How does {model} serve {_traffic(saved)} on "
            f"{fmt.plural(c['replicas'], 'replica')} of "
            f"{fmt.plural(c['tp'], 'device')} each ({where}, {c['dtype']}, engine "
            f"{name_of(saved, 'engine')})?"
        ),
        answer=_answer(saved),
        facts=_facts(saved),
        sections=(*service_sections(saved), *closing(saved)),
        warning="",
        notice=_notice(saved),
        assumed=assumed(saved),
    )


def service_sections(saved: SavedResult) -> tuple[Section, ...]:
    """Return what a service did: how long requests wait, how it was used."""
    return _latency(saved), _load(saved)


def _traffic(saved: SavedResult) -> str:
    told = (saved.data.get("detail") or {}).get("traffic") or {}
    rate = saved.need("rate_rps")
    if rate is None:
        clients = told.get("concurrency")
        arriving = f"{fmt.count(clients)} clients in turn" if clients else "clients"
    else:
        arriving = f"{number(rate)} requests/s"
    lengths = told.get("lengths", "")
    return f"{arriving}{f' of {lengths}' if lengths else ''}"


def _answer(saved: SavedResult) -> str:
    ttft, tpot = saved.need("ttft_s"), saved.need("tpot_s")
    throughput = (
        f"{number(saved.need('tokens_per_s'))} output tokens/s "
        f"({number(saved.need('requests_per_s'))} requests/s)"
    )
    good = _good_share(saved)
    met = "" if good is None else f"; {fmt.percent(good)} of the requests meet the SLO"
    spread = _spread(saved)
    return (
        f"{throughput}, the first token within {_time(ttft, 'p50')} for half of the "
        f"requests and {_time(ttft, 'p99')} for 99 %, then a token every "
        f"{_time(tpot, 'p50')} in the median{spread}{met}."
    )


def _spread(saved: SavedResult) -> str:
    """Return how far the figures may be off, where the file says so."""
    ends = saved.data.get("interval_90") or {}
    tpot, rate = (ends.get("tpot_s") or {}).get("p50"), ends.get("tokens_per_s")
    if tpot and rate:
        times = " to ".join(fmt.seconds(float(end)) for end in tpot)
        rates = " to ".join(number(end) for end in rate)
        return f" (90 % interval {times}; of the throughput {rates} tokens/s)"
    interval = (saved.data.get("detail") or {}).get("step_interval_90")
    if not interval:
        return ""
    low, high = (f"{float(end):.2f}" for end in interval)
    return f" (90 % interval of a step's time: {low} to {high} times the predicted one)"


def _time(ends: Mapping[str, Any], key: str) -> str:
    value = ends.get(key)
    return fmt.NONE if value is None else fmt.seconds(float(value))


def _good_share(saved: SavedResult) -> float | None:
    good, all_of = saved.need("goodput_rps"), saved.need("requests_per_s")
    return None if good is None or not all_of else float(good) / float(all_of)


def _notice(saved: SavedResult) -> str:
    if not saved.need("complete"):
        return (
            f"The run was interrupted: figures are of {saved.need('requests'):,} of "
            f"{saved.need('requests_asked'):,} requests."
        )
    if saved.need("stable") is False:
        return (
            f"The service does not keep up: {number(saved.need('rate_rps'))} "
            f"requests/s arrive, at most {number(saved.need('stable_rate_rps'))} can "
            "be served for long. Queues grow, and latencies depend on how long the "
            "run is."
        )
    return ""


def _facts(saved: SavedResult) -> tuple[Fact, ...]:
    kv, ttft = saved.need("kv_occupancy"), saved.need("ttft_s")
    facts = [
        Fact("Output tokens/s", number(saved.need("tokens_per_s")),
             f"{number(saved.need('requests_per_s'))} requests/s"),
        Fact("First token", _time(ttft, "p50"), f"99 % within {_time(ttft, 'p99')}"),
        Fact("Per output token", _time(saved.need("tpot_s"), "p50"),
             f"99 % within {_time(saved.need('tpot_s'), 'p99')}"),
        Fact("Busy", fmt.percent(saved.need("utilisation"), 0),
             f"{number(saved.need('mean_batch'))} requests at a time"),
        Fact("KV cache in use", fmt.percent(kv["mean"], 0),
             f"at most {fmt.percent(kv['max'], 0)}"),
    ]  # fmt: skip
    good = _good_share(saved)
    if good is not None:
        facts.insert(0, Fact("Requests that meet the SLO", fmt.percent(good),
                             f"{number(saved.need('goodput_rps'))} requests/s",
                             "good" if good >= 0.99 else ""))  # fmt: skip
    energy = saved.need("energy_j_per_token")
    if energy is not None:
        facts.append(Fact("Energy", f"{number(energy)} J", "per output token"))
    return tuple(facts)


def _latency(saved: SavedResult) -> Section:
    names = ("mean", "p50", "p90", "p99")
    rows = [
        [Cell(label), *(Cell(_time(saved.need(key), n), number=True) for n in names)]
        for key, label in LATENCIES.items()
    ]
    items: list[Table | Picture] = [
        table("Latencies of all requests", "What|#Mean|#Median|#90 %|#99 %", rows)
    ]
    quantiles = (saved.data.get("detail") or {}).get("quantiles")
    if quantiles:
        items.insert(0, _cdf(saved, quantiles))
    slo = saved.need("config").get("slo") or {}
    text = []
    if slo:
        told = ", ".join(
            f"{LATENCIES[_SLO[key]]} within {fmt.seconds(float(limit))}"
            for key, limit in slo.items()
        )
        text.append(f"A request meets the service-level objective (SLO) with {told}.")
    return Section("latency", "How long requests wait", tuple(text), tuple(items))


def _cdf(saved: SavedResult, quantiles: Mapping[str, Any]) -> Picture:
    slo = saved.need("config").get("slo") or {}
    curves = {
        LATENCIES[key]: [v for v in quantiles[key] if v is not None]
        for key in ("ttft_s", "tpot_s", "e2e_s")
    }
    shares = quantiles["shares"]
    curves = {n: v for n, v in curves.items() if len(v) == len(shares)}
    limits = {LATENCIES[_SLO[key]]: float(v) for key, v in slo.items()}
    return picture(
        "latencies", "Latencies of the requests",
        lambda width: cdf_figure(
            curves, shares=shares, limits=limits, width=width
        ),
    )  # fmt: skip


def _load(saved: SavedResult) -> Section:
    kv = saved.need("kv_occupancy")
    stable = saved.need("stable_rate_rps")
    rows = [
        ("Requests answered", f"{saved.need('requests'):,}"),
        ("Simulated time", fmt.seconds(float(saved.need("duration_s")))),
        ("Engine steps", fmt.count(saved.need("engine_steps"))),
        ("Requests in a step, mean over time", number(saved.need("mean_batch"))),
        ("KV cache of a replica", f"{saved.need('kv_tokens'):,} tokens"),
        ("of it in use, mean and most",
         f"{fmt.percent(kv['mean'])}, {fmt.percent(kv['max'])}"),
        ("Requests put back for lack of cache", f"{saved.need('preemptions'):,}"),
    ]  # fmt: skip
    if stable is not None:
        rows.append(("Most requests per second for long", number(stable)))
    made = table("What the service did", "What|#Value", rows)
    items: list[Table | Picture] = [made]
    series = (saved.data.get("detail") or {}).get("series")
    if series:
        drawn = picture(
            "over-time", "The service over time",
            lambda width: service_figure(series, width=width),
        )  # fmt: skip
        items.insert(0, drawn)
    return Section("load", "How the service was used", (), tuple(items))
