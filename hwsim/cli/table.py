"""Tables of comparisons, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hwsim.cli.output import console, table
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.comparing.compare import Comparison
    from hwsim.analysis.comparing.waterfall import Waterfall

_NAMES, _CELL = 22, 23  # columns: of the names, of a cell at least
Shown = Callable[[dict[str, Any]], str]


def _ends(key: str, show: Callable[[float], str]) -> Shown:
    def cell(c: dict[str, Any]) -> str:
        ends = (c.get("interval_90") or {}).get(key)
        return "" if ends is None else f"{show(ends[0])} – {show(ends[1])}"

    return cell


def _number(key: str, digits: int = 4) -> Shown:
    return lambda c: "" if c.get(key) is None else fmt.count(c[key], digits)


def _time(key: str) -> Shown:
    def cell(c: dict[str, Any]) -> str:
        value = c.get(key)
        value = value.get("mean") if isinstance(value, dict) else value
        return "" if value is None else fmt.seconds(value)

    return cell


def _fidelity(c: dict[str, Any]) -> str:
    used = c.get("fidelity_by_family") or {}
    rest = [k for k, v in used.items() if v != c.get("fidelity")]
    more = f" ({', '.join(rest)} structured)" if rest else ""
    return str(c.get("fidelity", "")) + more


def _money(key: str, unit: str = "") -> Shown:
    return lambda c: "" if c.get(key) is None else f"USD {c[key]:,.4g}{unit}"


ROWS: tuple[tuple[str, Shown], ...] = (
    ("time", _time("time_s")),
    ("  90 %", _ends("time_s", fmt.seconds)),
    ("time to first token", _time("ttft_s")),
    ("time per output token", _time("tpot_s")),
    ("tokens/s", _number("tokens_per_s")),
    ("  90 %", _ends("tokens_per_s", lambda v: fmt.count(v, 3))),
    ("goodput, requests/s", _number("goodput_rps")),
    ("stable up to, /s", _number("stable_rate_rps")),
    ("bound by", lambda c: str(c.get("bound", ""))),
    ("memory left", lambda c: fmt.percent(c["memory_headroom"], 0)
     if c.get("memory_headroom") is not None else ""),
    ("devices", _number("devices")),
    ("power", lambda c: fmt.quantity(c["power_w"], "W", 3) if c.get("power_w") else ""),
    ("price", _money("usd_per_hour", " /h")),
    ("tokens/s per device", _number("tokens_per_s_per_device")),
    ("tokens per joule", _number("tokens_per_s_per_w", 3)),
    ("tokens per USD", _number("tokens_per_usd")),
    ("USD per Mtoken", _number("usd_per_mtok", 3)),
    ("kWh per Mtoken", _number("kwh_per_mtok", 3)),
    ("kg CO2e per Mtoken", _number("kg_co2e_per_mtok", 3)),
    ("fidelity", _fidelity),
)  # fmt: skip
_SAID = {"does_not_fit": "does not fit", "cannot_run": "cannot run"}


def comparison_tables(result: Comparison) -> None:
    """Print a comparison: cells, what is distinguishable, waterfalls."""
    out = console()
    cells = [cell.to_dict() for cell in result.cells]
    out.print(f"[bold]{escape(result.title)}[/bold]")
    across = max((out.width - _NAMES) // _CELL, 1)
    for at in range(0, len(cells), across):
        out.print(_block(cells[at : at + across]))
    for cell in cells:
        if cell["status"] != "ok":
            said = _SAID[cell["status"]]
            reason = cell["reason"].removeprefix(f"{said}: ")
            out.print(escape(f"{cell['label']} {said}: {reason}"))
    out.print(f"\n{escape(result.answer)}")
    unclear = [p for p in result.pairs if p.distinguishable is False]
    for pair in unclear:
        out.print(escape(pair.sentence() + "."), style="yellow")
    for fall in result.waterfalls:
        out.print()
        _waterfall(out, fall)


def _block(cells: Sequence[dict[str, Any]]) -> Any:
    rows = []
    for name, show in ROWS:
        shown = [show(c) if _has(c, name) else "" for c in cells]
        if any(shown):
            rows.append([name, *(escape(text) or "–" for text in shown)])
    status = ["", *(_SAID.get(c["status"], "") for c in cells)]
    if any(status):
        rows.insert(0, status)
    names = ["", *(escape(c["label"]) for c in cells)]
    return table(None, names, rows, right=names[1:])


def _has(cell: dict[str, Any], name: str) -> bool:
    return cell["status"] == "ok" or name in {"memory left", "devices"}


def _waterfall(out: Any, fall: Waterfall) -> None:
    head = f"{fall.source} → {fall.target}: {fall.of}"
    if fall.reason:
        out.print(escape(f"{head}: {fall.reason}"))
        return
    rows = [["", fmt.seconds(fall.from_s, 4), ""]]
    least = 5e-4 * abs(fall.from_s)
    for name, value in fall.steps.items():
        if abs(value) >= least:
            share = fmt.signed_percent(value / fall.from_s)
            sign = "−" if value < 0 else "+"
            rows.append([name, sign + fmt.seconds(abs(value)), share])
    rest = sum(v for v in fall.steps.values() if abs(v) < least)
    if rest:
        rows.append(
            ["all others", ("−" if rest < 0 else "+") + fmt.seconds(abs(rest)), ""]
        )
    rows.append(["", fmt.seconds(fall.to_s, 4),
                 fmt.signed_percent(fall.to_s / fall.from_s - 1)])  # fmt: skip
    out.print(f"[bold]{escape(head)}[/bold]")
    out.print(table(None, ["mechanism", "time", "of the first"], rows,
                    right=("time", "of the first")))  # fmt: skip
