"""The demo command: predictions beside published runs, errors printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hwsim.cli.examples import examples
from hwsim.cli.options import Fidelity, FidelityChoice, Json, Set
from hwsim.cli.output import (
    console,
    end_if_interrupted,
    note,
    note_unread,
    print_json,
    save,
    table,
)
from hwsim.cli.progress import Meter
from hwsim.errors import InputError
from hwsim.report import format as fmt

if TYPE_CHECKING:
    from hwsim.analysis.published.runs import ComparedRow


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo", epilog=examples("demo"))(demo)


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the HTML page, the scatter plot and the saved result."
        ),
    ] = None,
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Predict published runs and print predicted, published and signed error."""
    from hwsim.analysis.published.runs import PublishedComparison, compare_each
    from hwsim.report.write import make_folder

    if out is not None:
        make_folder(out)

    each = compare_each(fidelity=fidelity.value, overrides=set_ or ())
    rows, complete = _predicted(each)
    comparison = PublishedComparison(rows, fidelity.value, tuple(set_ or ()))
    if set_ and not comparison.answered:
        raise InputError(f"no run can be predicted: {rows[0].reason}")
    note_unread(set_)
    if json:
        print_json(comparison.to_dict())
    else:
        _print(comparison)
    if out is not None:
        _write(comparison, out)
    end_if_interrupted(not complete, f"{len(rows)} runs were done")


def _predicted(each: Iterator[ComparedRow]) -> tuple[tuple[ComparedRow, ...], bool]:
    """Return the rows that were predicted, and whether these are all."""
    from hwsim.specs.published.runs import iter_rows, load_published

    found: list[ComparedRow] = []
    whole = sum(1 for _ in iter_rows(load_published()))
    try:
        with Meter("runs") as meter:
            for row in each:
                found.append(row)
                meter.show(len(found), whole)
    except KeyboardInterrupt:
        if not found:
            raise
        return tuple(found), False
    return tuple(found), True


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return fmt.NONE
    return fmt.seconds(value) if unit == "s" else f"{fmt.count(value)} {unit}"


def _print(comparison: Any) -> None:
    cells = []
    for row in comparison.answered:
        r = row.row
        cells.append(
            (
                escape(r.id), escape(r.system), str(r.num_devices),
                _value(row.predicted, r.unit), _value(r.value, r.unit),
                fmt.signed_percent(row.error) if row.error is not None else fmt.NONE,
                escape(row.bound),
            )
        )  # fmt: skip
    columns = (
        "published run", "system", "devices", "predicted", "published", "error",
        "bound by",
    )  # fmt: skip
    right = ("devices", "predicted", "published", "error")
    out = console()
    if comparison.overrides:
        out.print(escape(f"assumed: {', '.join(comparison.overrides)}"))
    out.print(table(None, columns, cells, right=right))
    groups = [("all", comparison.summary()), *comparison.by("task").items()]
    lines = [
        (
            name, str(s["rows"]), fmt.percent(s["median_ape"]), fmt.percent(s["mape"]),
            fmt.signed_percent(s["bias"]), fmt.percent(s["worst_ape"]),
        )
        for name, s in groups
        if s["rows"]
    ]  # fmt: skip
    names = ("task", "rows", "median |error|", "mean |error|", "median error", "worst")
    out.print()
    out.print(table(None, names, lines, right=names[1:]))
    if comparison.unanswered:
        out.print(f"Not answered, {len(comparison.unanswered)} rows:")
        for row in comparison.unanswered:
            out.print(escape(f"  {row.row.id}: {row.reason}"))
    out.print("No row has a parameter of its own.")


def _write(comparison: Any, folder: Path) -> None:
    from hwsim.report.figures.graphs import scatter_figure
    from hwsim.report.page import write_page

    write_page(comparison, folder / "published.html", command="hwsim demo")
    scatter_figure(comparison.answered, path=folder / "published.png")
    save(comparison, folder / "published.json")
    note(f"wrote {folder / 'published.html'} and {folder / 'published.png'}")
