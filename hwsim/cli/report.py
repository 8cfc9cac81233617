"""The report command: saved results as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwsim.cli.examples import examples
from hwsim.cli.output import note
from hwsim.cli.progress import Meter


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "report",
        epilog=examples("report"),
    )(report)


def report(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Results that --out saved: of infer, train, op, run, serve, plan, "
            "compare, validate, …",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the pages.")
    ] = Path("reports/out"),
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="html,md,pdf",
            help="Which to write, with commas between.  [default: all there can be]",
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="Folder of templates that replace those of hwsim, by name."),
    ] = None,
) -> None:
    """Turn saved results into pages: one HTML file each, Markdown, PDF."""
    import hwsim
    from hwsim.report.templates import NO_PDF, has_pdf

    asked = None if formats is None else formats.split(",")
    with Meter("pages") as meter:
        written = hwsim.write_reports(
            files, out, formats=asked, templates=templates, progress=meter.show
        )
    for path in written:
        note(f"wrote {path}")
    if asked is None and not has_pdf():
        note(f"no PDF: {NO_PDF}")
