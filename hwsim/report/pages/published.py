"""The page of predictions beside published runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwsim.analysis.published.runs import saved_comparison
from hwsim.analysis.saved import as_saved
from hwsim.report import format as fmt
from hwsim.report.content import Cell, Fact, Page, Section, Table, picture, table
from hwsim.report.figures.graphs import scatter_figure
from hwsim.report.pages.generic import generic_page
from hwsim.report.provenance import Sources, reproducibility

if TYPE_CHECKING:
    from hwsim.analysis.published.runs import ComparedRow, PublishedComparison
    from hwsim.analysis.saved import SavedResult

GOOD, BAD = 0.10, 0.25
_METRICS = {
    "step_time": "step time",
    "latency": "latency",
    "time_to_first_token": "time to first token",
    "next_token_latency": "time per token",
    "tokens_per_s_per_device": "tokens/s per device",
    "sequences_per_s": "sequences/s",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "output_tokens_per_s": "output tokens/s",
    "output_tokens_per_s_per_device": "output tokens/s per device",
}
_KEYS = (("task", "Task"), ("system", "System"), ("source", "Source"))


def saved_published_page(saved: SavedResult) -> Page:
    """Return the page of a saved comparison with published runs."""
    found = saved_comparison(saved)
    return generic_page(saved) if found is None else published_page(found, None, saved)


def published_page(
    result: PublishedComparison, command: str | None, saved: SavedResult | None = None
) -> Page:
    """Return the page of a comparison with published runs."""
    numbers = Sources()
    sections = [Section("rows", "Every run", _rule(), (_rows(result, numbers),))]
    if result.answered:
        drawn = picture(
            "scatter", "Predicted against published time",
            lambda width: scatter_figure(result.rows, width=width),
        )  # fmt: skip
        sections.insert(0, Section("picture", "Picture", items=(drawn,)))
        groups = tuple(_group(result, key, title) for key, title in _KEYS)
        sections.append(Section("groups", "By group", items=groups))
    if result.unanswered:
        sections.append(_missing(result, numbers))
    sections.append(_documents(result, numbers))
    sections.append(reproducibility(saved or as_saved(result, command)))
    return Page(
        title="Predictions beside published runs",
        question=(
            "How far are hwsim's predictions from what others measured and "
            f"published (fidelity {result.fidelity})?"
        ),
        answer=_answer(result),
        facts=_facts(result),
        sections=tuple(sections),
        assumed=result.overrides,
    )


def _answer(result: PublishedComparison) -> str:
    summary, left = result.summary(), len(result.unanswered)
    rest = f"; {fmt.plural(left, 'row')} could not be predicted yet" if left else ""
    if not summary["rows"]:
        return f"No published run could be predicted{rest}."
    worst = max(result.answered, key=lambda row: abs(row.error or 0.0))
    return (
        f"Over {fmt.plural(summary['rows'], 'published run')} the absolute error is "
        f"{fmt.percent(summary['median_ape'])} in the median and "
        f"{fmt.percent(summary['mape'])} in the mean; the worst, {worst.row.id}, is "
        f"{fmt.signed_percent(worst.error)} off{rest}."
    )


def _facts(result: PublishedComparison) -> tuple[Fact, ...]:
    summary, errors = result.summary(), [abs(e) for e in result.errors()]
    total = f"of {fmt.count(len(result.rows))} carried"
    if not errors:
        return (Fact("Runs predicted", "0", total),)
    within = {band: sum(e <= band for e in errors) for band in (GOOD, BAD)}
    return (
        Fact("Runs predicted", fmt.count(len(errors)), total),
        Fact("Median absolute error", fmt.percent(summary["median_ape"])),
        Fact("Mean absolute error", fmt.percent(summary["mape"])),
        Fact("Bias", fmt.signed_percent(summary["bias"]), "median signed error"),
        Fact(
            "Within 10 %", fmt.count(within[GOOD]),
            f"{fmt.count(within[BAD])} within 25 %",
        ),
    )  # fmt: skip


def _rule() -> tuple[str, ...]:
    return (
        "An error is (predicted − published) / published of the figure as it was "
        "published: above zero, a time is predicted too long, a rate too fast. No "
        "row has a constant of its own.",
    )


def _rows(result: PublishedComparison, numbers: Sources) -> Table:
    rows = [_row(row, numbers) for row in result.answered]
    return table(
        "Published runs with their prediction",
        "Run|#Error|#Published|#Predicted|Setup|Bound|Source", rows,
    )  # fmt: skip


def _row(compared: ComparedRow, numbers: Sources) -> list[Cell]:
    row, error = compared.row, compared.error
    size = abs(error or 0.0)
    tone = "good" if size <= GOOD else "bad" if size > BAD else ""
    badge = "" if row.confidence == "high" else f"{row.confidence} confidence"
    return [
        Cell(row.id, note=f"{row.model}, {row.task}. {row.note or ''}", badge=badge),
        Cell(fmt.signed_percent(error), number=True, tone=tone, bar=min(size, 1.0)),
        Cell(
            _value(row.value, row.unit),
            number=True,
            note=_METRICS.get(row.metric, row.metric) + _printed(compared),
        ),
        Cell(_value(compared.predicted, row.unit), number=True),
        _setup(compared),
        Cell(compared.bound),
        numbers.cell(compared.source.source),
    ]


def _setup(compared: ComparedRow) -> Cell:
    row = compared.row
    degrees = [
        f"{name} {getattr(row, name)}"
        for name in ("tp", "pp", "dp", "cp", "ep")
        if getattr(row, name) > 1
    ]
    note = fmt.plural(row.num_devices, "device")
    return Cell(row.system, note=", ".join([note, *degrees, row.stack]))


def _printed(compared: ComparedRow) -> str:
    """Return the figure as its source prints it, where that reads differently."""
    row = compared.row
    words = row.printed.replace(",", "").split()
    shown = _value(row.value, row.unit)
    same = row.printed == shown or (row.is_rate and words[0] == f"{row.value:.10g}")
    return "" if same else f"; printed as {row.printed}"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return fmt.NONE
    if unit == "s":
        return fmt.seconds(value, 4)
    return f"{fmt.count(value, 4)}/s"


def _group(result: PublishedComparison, key: str, title: str) -> Table:
    groups: Mapping[str, Mapping[str, float]] = result.by(key)
    rows = [_summary_row(name, s) for name, s in groups.items()]
    rows.append(_summary_row("all", result.summary()))
    return table(
        f"Errors by {title.lower()}",
        f"{title}|#Runs|#Median absolute|#Mean absolute|#Bias|#Worst absolute", rows,
    )  # fmt: skip


def _summary_row(name: str, summary: Mapping[str, float]) -> list[Cell]:
    return [
        Cell(name),
        Cell(fmt.count(summary["rows"]), number=True),
        Cell(
            fmt.percent(summary["median_ape"]), number=True,
            bar=min(summary["median_ape"], 1.0),
        ),
        Cell(fmt.percent(summary["mape"]), number=True),
        Cell(fmt.signed_percent(summary["bias"]), number=True),
        Cell(fmt.percent(summary["worst_ape"]), number=True),
    ]  # fmt: skip


def _missing(result: PublishedComparison, numbers: Sources) -> Section:
    rows = [
        [
            Cell(c.row.id, note=f"{c.row.model}, {c.row.task}"),
            _setup(c),
            Cell(c.row.printed, number=True),
            Cell(c.reason),
            numbers.cell(c.source.source),
        ]
        for c in result.unanswered
    ]
    caption = "Published runs that have no prediction yet"
    return Section(
        "missing", "Not predicted yet",
        ("These are carried so that they are not forgotten.",),
        (table(caption, "Run|Setup|#Published|Why|Source", rows),),
    )  # fmt: skip


def _documents(result: PublishedComparison, numbers: Sources) -> Section:
    files = {compared.source.id: compared.source for compared in result.rows}
    rows = [
        [
            Cell(file.id, note=file.name),
            numbers.cell(file.source),
            Cell(file.selection, note=" ".join(file.notes)),
            Cell(file.licence),
        ]
        for file in files.values()
    ]
    rules = table("How rows were chosen", "File|Source|Rule|Licence", rows)
    return Section(
        "sources", "Where the figures come from", (), (rules, numbers.table())
    )
