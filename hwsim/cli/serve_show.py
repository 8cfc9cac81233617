"""What ``hwsim serve`` says of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwsim.cli.output import console, note, table
from hwsim.specs.assumed import labelled

if TYPE_CHECKING:
    from hwsim.analysis.serving.serve import ServeResult

_LATENCIES = {
    "ttft_s": "first token",
    "tpot_s": "per output token",
    "itl_s": "between tokens",
    "e2e_s": "whole answer",
}


def serve_notes(result: ServeResult) -> None:
    """Say what a reader of the figures must know."""
    if not result.complete:
        note(
            f"interrupted: the figures are of {result.run.outputs.size:,} of "
            f"{result.run.asked:,} requests"
        )
    if result.engine.prefix_caching and result.run.cached is None:
        note(
            "prefix caching: no prompt shares a beginning with another; give --turns, "
            "or a --trace with hash_ids or session_id"
        )
    if result.stable is False:
        note(
            f"hwsim: unstable: {result.run.rate:.4g} requests/s arrive but at most "
            f"{result.stable_rate:.4g} can be served for long; queues grow, and "
            "latencies depend on how long the run is"
        )
    least = (result.interval_90 or {}).get("stable_rate_rps")
    if result.stable and least and (result.run.rate or 0.0) > least[0]:
        note(
            f"within the 90 % interval of step times as few as {least[0]:.4g} "
            f"requests/s may be all that can be served for long; "
            f"{result.run.rate:.4g} arrive"
        )


def show_service(result: ServeResult) -> None:
    """Print latencies, throughput, memory and energy as tables."""
    from hwsim.report import format as fmt

    d = result.to_dict()
    arrive = "closed loop" if d["rate_rps"] is None else f"{d['rate_rps']:.4g} /s"
    out = console()
    out.print(
        f"[bold]{result.model.name} on {result.config.replicas} x "
        f"{result.config.layout.devices} x {labelled(result.system)}[/bold]: "
        f"{result.engine.name}"
    )
    rows: list[list[str]] = []
    for key, label in _LATENCIES.items():
        ends = d[key]
        cells = [fmt.seconds(v) if v == v else "–" for v in ends.values()]
        rows.append([label, *cells, _ends(d, key)])
    names = ["", "mean", "p50", "p90", "p99", "90 % interval of the mean"]
    out.print(table(None, names, rows, right=names[1:]))
    out.print(table(None, None, _lines(d, arrive)))


def _ends(d: dict[str, Any], key: str) -> str:
    """Return the interval of a latency's mean, as text."""
    from hwsim.report import format as fmt

    ends = ((d["interval_90"] or {}).get(key) or {}).get("mean")
    return "" if ends is None else " – ".join(fmt.seconds(end) for end in ends)


def _rate_ends(d: dict[str, Any]) -> str:
    ends = (d["interval_90"] or {}).get("tokens_per_s")
    return "" if not ends else f"90 %: {ends[0]:,.1f} – {ends[1]:,.1f}; "


def _lines(d: dict[str, Any], arrive: str) -> list[tuple[str, str, str]]:
    from hwsim.report import format as fmt

    kv = d["kv_occupancy"]
    busiest = f"at most {kv['max']:.0%} of {d['kv_tokens']:,} tokens per replica"
    lines = [
        ("answered", f"{d['requests']:,} requests", f"arriving: {arrive}"),
        ("throughput", f"{d['tokens_per_s']:,.1f} tokens/s",
         _rate_ends(d) + f"{d['requests_per_s']:.4g} requests/s"),
        ("busy", f"{d['utilisation']:.0%}", f"mean batch {d['mean_batch']:.1f}"),
        ("KV cache", f"{kv['mean']:.0%}", busiest),
        ("preemptions", f"{d['preemptions']:,}", ""),
    ]  # fmt: skip
    if d["prefix_hit_rate"] is not None:
        lines.append(("prefixes", f"{d['prefix_hit_rate']:.1%}",
                      "of prompt tokens were in the cache"))  # fmt: skip
    lost = d["rejected"] + d["timed_out"] + d["failed"]
    if lost or d["retries"]:
        lines.append((
            "given up", f"{lost:,}",
            f"{d['rejected']:,} turned away, {d['timed_out']:,} timed out, "
            f"{d['failed']:,} failed, {d['retries']:,} retries",
        ))  # fmt: skip
    if d["mean_replicas"] != d["config"]["replicas"]:
        lines.append(("replicas", f"{d['mean_replicas']:.2f}", "in the mean"))
    if d["prefill_pool"] is not None:
        pool = d["prefill_pool"]
        moved = fmt.seconds(pool["kv_transfer_s"]["mean"])
        lines.append(("prefill pool", f"{pool['utilisation']:.0%} busy",
                      f"keys and values move in {moved}"))  # fmt: skip
    if d["goodput_rps"] is not None:
        good = d["goodput_rps"] / d["requests_per_s"]
        lines.append(("goodput", f"{d['goodput_rps']:.4g} /s", f"{good:.1%} of all"))
    if d["stable_rate_rps"] is not None:
        ends = (d["interval_90"] or {}).get("stable_rate_rps")
        span = "" if not ends else f"90 %: {ends[0]:.4g} – {ends[1]:.4g} /s; "
        lines.append(
            ("stable up to", f"{d['stable_rate_rps']:.4g} /s", span + "all replicas")
        )
    if d["energy_j_per_token"] is not None:
        lines.append(("energy", f"{d['energy_j_per_token']:.3g} J", "per output token"))
    speed = f"{d['simulated_requests_per_wall_s']:,.0f} requests/s"
    lines.append(("simulated at", speed, f"fidelity {d['fidelity']}"))
    return lines
