"""Tables, JSON and files; people read stdout, so notes go to stderr."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hwsim.analysis.resolve import unread
from hwsim.analysis.result import Result
from hwsim.cli.settings import manners
from hwsim.errors import InputError
from hwsim.report.format import plural
from hwsim.report.write import check_place, write_atomic
from hwsim.sim.records import Record

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED = 130
_FREE = 10_000  # width at which nothing wraps
_ROOMY = 80  # columns of a terminal that any table fits, if it must by folding


def drop_stdout() -> None:
    """Send what is still to be said on stdout nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Printer(Console):
    """A console whose reader may go away: files are still to be written then."""

    def on_broken_pipe(self) -> None:
        """Go on without a word."""
        drop_stdout()


def console() -> Console:
    """Return a console for stdout: no colours when piped or NO_COLOR is set."""
    width = None if sys.stdout.isatty() else 120
    return _Printer(highlight=False, soft_wrap=False, width=width)


def note(text: str) -> None:
    """Say something that is not the answer, unless asked to be quiet."""
    if manners.quiet:
        return
    sys.stderr.write(text + "\n")


def note_unread(overrides: list[str] | None) -> None:
    """Say which overrides cannot have changed the answer."""
    for key in unread(overrides or ()):
        note(f"note: {key} is for reference; no time depends on it")


def print_json(value: Any) -> None:
    """Print plain JSON."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


class FittedTable:
    """A table; on a terminal too narrow for it, its rows one below the other."""

    def __init__(
        self,
        title: str | None,
        columns: Sequence[str] | None,
        rows: Iterable[Sequence[str]],
        right: Sequence[str],
    ) -> None:
        self._title, self._columns = title, columns
        self._rows, self._right = [list(row) for row in rows], right

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        whole = self._drawn(whole=True)
        free = options.update(max_width=_FREE)
        least = Measurement.get(console, free, whole).minimum
        narrow = self._columns is not None and options.max_width < _ROOMY
        if narrow and least > options.max_width:
            yield from self._records()
        else:
            yield self._drawn(whole=False)

    def _drawn(self, *, whole: bool) -> Table:
        """Return the table; ``whole``: cells of numbers stay in one line."""
        drawn = Table(
            title=self._title, title_justify="left", header_style="bold", box=None,
            show_header=self._columns is not None,
        )  # fmt: skip
        for name in self._columns or ():
            side: Any = "right" if name in self._right else "left"
            first = name == (self._columns or ("",))[0]  # ids are copied: keep whole
            kept = first or (whole and side == "right")
            drawn.add_column(name, justify=side, overflow="fold", no_wrap=kept)
        for row in self._rows:
            drawn.add_row(*row)
        return drawn

    def _records(self) -> Iterator[RenderableType]:
        if self._title:
            yield Text.from_markup(self._title)
        names = list(self._columns or ())
        for head, *cells in self._rows:
            if head.strip():
                yield Text.from_markup(f" {head}", style="bold", overflow="fold")
            grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            for name, cell in zip(names[1:], cells, strict=False):
                if cell.strip():
                    grid.add_row(f"   {name}", cell)
            yield grid


def table(
    title: str | None,
    columns: Sequence[str] | None,
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
) -> FittedTable:
    """Return a table; the named columns are aligned to the right.

    Without columns it has no header.
    """
    return FittedTable(title, columns, rows, right)


def end_if_interrupted(interrupted: bool, told: str) -> None:
    """Say what an interrupted command did, and end it with the code of one.

    Parameters
    ----------
    told : str
        What there is, for example ``12 rows were done``.
    """
    if interrupted:
        note(f"interrupted: {told}")
        raise typer.Exit(INTERRUPTED)


def check_outputs(*places: Path | None) -> None:
    """Refuse outputs that cannot be written before the work is done."""
    for place in places:
        if place is not None:
            check_place(place)


def command_line() -> str:
    """Return the command as it was typed, for readers to repeat."""
    return shlex.join(["hwsim", *sys.argv[1:]])


def save(result: Result, out: Path | None) -> None:
    """Save a result as JSON, if asked to."""
    if out is not None:
        write_atomic(out, result.saved_text(command_line()))
        note(f"saved {out}")


def save_outputs(
    result: Result, *, out: Path | None, trace: Path | None, report: Path | None
) -> None:
    """Write what was asked for besides the answer."""
    save(result, out)
    if trace is not None:
        write_atomic(trace, trace_text(result))
        note(f"wrote {trace}: open it at ui.perfetto.dev")
    if report is not None:
        from hwsim.report.page import write_page

        write_page(result, report, command=command_line())
        note(f"wrote {report}")


def trace_text(result: Any) -> str:
    """Return the timelines of a result as one trace.

    A pipeline is shown whole, a row per stage and stream; graphs are shown one
    after another.
    """
    from hwsim.sim.trace import trace_json

    made = getattr(result, "made", None)
    if made is not None and made.pipeline is not None:
        names = result.rank_names()
        return trace_json(made.records, names, result=type(result).__name__)
    records: list[Record] = []
    at = 0.0
    for graph in result.graphs:
        name = graph.graph.name
        records += [
            r._replace(start=r.start + at, end=r.end + at, block=f"{name}: {r.block}")
            for r in graph.records
        ]
        at += graph.time_s
    return trace_json(records, result=type(result).__name__)


def check_parquet(place: Path | None) -> None:
    """Refuse to promise a Parquet file that cannot be written."""
    from importlib.util import find_spec

    if place is not None and find_spec("pyarrow") is None:
        raise InputError(
            f"{place} needs pyarrow to be written; pip install pyarrow, or write CSV"
        )


def save_table(
    rows: pd.DataFrame, csv: Path | None, parquet: Path | None, what: str
) -> None:
    """Write a table where it was asked for.

    Parameters
    ----------
    what : str
        Word for one of its rows.
    """
    if csv is not None:
        write_atomic(csv, rows.to_csv(index=False))
    if parquet is not None:
        buffer = io.BytesIO()
        rows.to_parquet(buffer, index=False)
        write_atomic(parquet, buffer.getvalue())
    for place in (csv, parquet):
        if place is not None:
            note(f"wrote {place}: {plural(len(rows), what)}")
