"""The page of a comparison: systems side by side, and what makes the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    slug,
    table,
)
from hwsim.report.figures.graphs import breakdown_figure
from hwsim.report.figures.tables import bars_figure
from hwsim.report.figures.waterfall import waterfall_figure
from hwsim.report.pieces import bound_word, closing

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

Row = Mapping[str, Any]
_ASKED = {
    "batch": "sequences together", "prompt": "prompt tokens", "output": "output tokens",
    "global_batch": "sequences a step", "seq": "tokens each",
}  # fmt: skip
_WATERFALLS = 4
_SENTENCES = 3  # pairs, beyond which they stand in a table


def comparison_page(saved: SavedResult) -> Page:
    """Return the page of a comparison."""
    cells = saved.need("cells")
    running = [cell for cell in cells if cell["status"] == "ok"]
    sections = [_figures(saved, running)] if running else []
    if len(running) < len(cells):
        sections.append(_refused([c for c in cells if c["status"] != "ok"]))
    if len(running) > 1:
        sections.append(_differences(saved))
    if running:
        sections.append(_spent(running))
    return Page(
        title=_title(saved, cells),
        question=_question(saved, cells),
        answer=_answer(saved, running),
        facts=_facts(saved, running),
        sections=(*sections, *closing(saved)),
        assumed=tuple(
            dict.fromkeys(f"{c['label']}: {a}" for c in cells for a in c["assumed"])
        ),
    )


def _title(saved: SavedResult, cells: Sequence[Row]) -> str:
    head = str(saved.need("question", "text")).partition(":")[0]
    return f"{head}: {fmt.plural(len(cells), 'choice')} side by side"


def _question(saved: SavedResult, cells: Sequence[Row]) -> str:
    names = fmt.listed([cell["label"] for cell in cells], "or")
    text = str(saved.need("question", "text"))
    return f"Which is fastest, {names}? {text.replace('_', ' ')}{_work(cells, text)}."


def _work(cells: Sequence[Row], text: str) -> str:
    """Return what is the same in all cells and not in the text yet."""
    configs = [c["config"] for c in cells if c["config"]]
    if not configs:
        return ""
    first = configs[0]
    same = [
        f"{fmt.count(first[key])} {words}"
        for key, words in _ASKED.items()
        if isinstance(first.get(key), int) and f"{key} " not in text
        and all(c.get(key) == first[key] for c in configs)
    ]  # fmt: skip
    return f" ({', '.join(same)})" if same else ""


def _answer(saved: SavedResult, running: Sequence[Row]) -> str:
    answer = str(saved.need("answer"))
    if not running or saved.need("question", "task") != "serve":
        return answer
    best = min(running, key=lambda c: float(c["time_s"]))["label"]
    told = [
        pair for pair in saved.need("pairs")
        if best in (pair["a"], pair["b"]) and pair["interval_90"]
    ]  # fmt: skip
    if not told:
        return answer
    spans = []
    for pair in told:
        low, high = map(float, pair["interval_90"])
        other, ends = pair["b"], (low, high)
        if pair["b"] == best:
            other, ends = pair["a"], (1.0 / high, 1.0 / low)
        spans.append(f"{other} takes {ends[0]:.2f} to {ends[1]:.2f} times as long")
    return f"{answer.rstrip('.')} (90 % intervals: {'; '.join(spans)})."


def _facts(saved: SavedResult, running: Sequence[Row]) -> tuple[Fact, ...]:
    """Return who is best at what."""
    facts = []
    for label, key, show, least in (
        ("Fastest", _speed(saved), None, _speed(saved) == "time_s"),
        ("Cheapest per token", "usd_per_mtok", _usd, True),
        ("Least energy per token", "kwh_per_mtok", _kwh, True),
        ("Most room in memory", "memory_headroom", fmt.percent, False),
    ):
        known = [c for c in running if c.get(key) is not None]
        if not known:
            continue
        pick: Callable[..., Row] = min if least else max
        best = pick(known, key=lambda c: float(c[key]))
        shown = show or (fmt.seconds if key == "time_s" else _rate)
        left = "" if len(known) == len(running) else "; not known of all"
        facts.append(Fact(label, shown(float(best[key])), f"{best['label']}{left}"))
    return tuple(facts)


def _speed(saved: SavedResult) -> str:
    return "time_s" if saved.need("question", "task") == "serve" else "tokens_per_s"


def _rate(value: float) -> str:
    return f"{fmt.count(value, 4)} tokens/s"


def _usd(value: float) -> str:
    return f"USD {fmt.count(value, 3)} per million"


def _kwh(value: float) -> str:
    return f"{fmt.quantity(value * 1e3, 'Wh', 3)} per million"


def _figures(saved: SavedResult, running: Sequence[Row]) -> Section:
    task = saved.need("question", "task")
    speed = _speed(saved)
    best = (min if speed == "time_s" else max)(running, key=lambda c: float(c[speed]))
    values = {c["label"]: float(c[speed]) for c in running}
    ends = {
        c["label"]: tuple(map(float, found))
        for c in running
        if (found := (c.get("interval_90") or {}).get(speed))
    }
    what = str(saved.need("time_is")) if speed == "time_s" else "tokens per second"
    unit = "s" if speed == "time_s" else ""
    drawn = picture(
        "figures", what[:1].upper() + what[1:],
        lambda width: bars_figure(
            values, unit=unit, what=what, ends=ends or None,  # type: ignore[arg-type]
            best=best["label"], width=width,
        ),
    )  # fmt: skip
    heads = "System|#Time|#Tokens/s|Mostly|#Memory left|#Power|#Energy|#Rent|Basis"
    rows = [_row(cell) for cell in running]
    text = (
        f"Time is: {saved.need('time_is')}. Energy and rent are per million tokens.",
    )
    items: list[Table | Picture] = [drawn, table("Side by side", heads, rows)]
    if task == "serve":
        items.append(_service(running))
    return Section("figures", "Side by side", text, tuple(items))


def _row(cell: Row) -> list[Cell]:
    ends = cell.get("interval_90") or {}
    return [
        Cell(cell["label"], note=fmt.plural(cell["devices"], "device")),
        Cell(fmt.seconds(cell["time_s"]), number=True,
             note=_span(ends.get("time_s"), fmt.seconds)),
        Cell(fmt.count(cell["tokens_per_s"], 4), number=True,
             note=_span(ends.get("tokens_per_s"), lambda v: fmt.count(v, 3))),
        Cell(bound_word(cell["bound"])),
        Cell(fmt.percent(cell["memory_headroom"], 0), number=True),
        Cell(fmt.quantity(cell["power_w"], "W", 3), number=True),
        Cell(_per_million(cell, "kwh_per_mtok", "Wh", 1e3), number=True),
        Cell(_money(cell), number=True),
        Cell(cell["fidelity"]),
    ]  # fmt: skip


def _per_million(cell: Row, key: str, unit: str, scale: float) -> str:
    value = cell.get(key)
    return fmt.NONE if value is None else fmt.quantity(float(value) * scale, unit, 3)


def _money(cell: Row) -> str:
    value = cell.get("usd_per_mtok")
    return fmt.NONE if value is None else f"USD {fmt.count(float(value), 3)}"


def _span(ends: Any, show: Callable[[float], str]) -> str:
    if not ends:
        return ""
    low, high = (show(float(end)) for end in ends)
    return f"{low} to {high}"


def _service(running: Sequence[Row]) -> Table:
    rows = []
    for cell in running:
        good, total = cell.get("goodput_rps"), cell["requests_per_s"]
        share = None if good is None or not total else float(good) / float(total)
        most = cell.get("stable_rate_rps")
        rows.append(
            [
                Cell(cell["label"]),
                *(Cell(fmt.seconds(cell[key][q]), number=True)
                  for key in ("ttft_s", "tpot_s") for q in ("p50", "p99")),
                Cell(fmt.percent(share), number=True,
                     tone="good" if share is not None and share >= 0.99 else ""),
                Cell(fmt.count(most, 3), number=True),
            ]
        )  # fmt: skip
    heads = (
        "System|#First token, median|#99 %|#Per token, median|#99 %|#Meet the SLO|"
        "#Requests/s for long"
    )
    return table("The service of each", heads, rows)


def _refused(cells: Sequence[Row]) -> Section:
    rows = [
        [Cell(c["label"]), Cell(c["status"].replace("_", " "), tone="bad"),
         Cell(c["reason"])]
        for c in cells
    ]  # fmt: skip
    made = table("What cannot run it, and why", "System|Status|Why", rows)
    return Section("refused", "Not in the running", (), (made,))


def _differences(saved: SavedResult) -> Section:
    from hwsim.analysis.comparing.waterfall import Waterfall

    pairs = saved.need("pairs")
    text = [f"{pair['sentence']}." for pair in pairs]
    items: list[Table | Picture] = []
    if len(pairs) > _SENTENCES:
        text, items = [], [_pairs(pairs)]
    falls = [
        Waterfall(
            fall["from"], fall["to"], float(fall["from_s"]), float(fall["to_s"]),
            {s["mechanism"]: float(s["seconds"]) for s in fall["steps"]}, fall["of"],
            fall["reason"],
        )
        for fall in saved.need("waterfalls")
    ]  # fmt: skip
    drawn = [_waterfall(fall) for fall in falls if fall.steps]
    items += drawn[:_WATERFALLS]
    text += [f"{f.source} to {f.target}: {f.reason}." for f in falls if f.reason]
    left = len(drawn) - _WATERFALLS
    if left > 0:
        text.append(f"{fmt.plural(left, 'more waterfall')} are in the saved file.")
    return Section(
        "differences", "What makes the difference", tuple(text), tuple(items)
    )  # fmt: skip


def _pairs(pairs: Sequence[Row]) -> Table:
    verdicts = {True: "yes", False: "no, within their intervals", None: "not known"}
    rows = [
        [
            Cell(f"{pair['b']} over {pair['a']}"),
            Cell(fmt.count(float(pair["time_ratio"]), 3), number=True),
            Cell(_span(pair["interval_90"], lambda v: f"{v:.2f}") or fmt.NONE,
                 number=True),
            Cell(verdicts[pair["distinguishable"]]),
        ]
        for pair in pairs
    ]  # fmt: skip
    heads = "Times|#Ratio|#90 % interval|Can they be told apart?"
    return table("Each against each", heads, rows)


def _waterfall(fall: Any) -> Picture:
    return picture(
        f"waterfall-{slug(fall.target)}",
        f"From {fall.source} to {fall.target}",
        lambda width: waterfall_figure(fall, width=width),
    )


def _spent(running: Sequence[Row]) -> Section:
    bars = {cell["label"]: cell["breakdown"] for cell in running}
    drawn = picture(
        "breakdown", "Where the time of each goes",
        lambda width: breakdown_figure(bars, width=width),
    )  # fmt: skip
    return Section("breakdown", "Where the time goes", (), (drawn,))
