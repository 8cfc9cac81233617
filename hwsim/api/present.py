"""Figures and pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hwsim.analysis.resolve import (
    as_system,
    changed_system,
    parsed,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.system import SystemSpec


def roofline(
    device: str | DeviceSpec | SystemSpec,
    results: Sequence[Any] = (),
    *,
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
) -> Any:
    """Draw a device's ceilings and, given results, their operators.

    Returns
    -------
    matplotlib.figure.Figure
        Saved too, when ``path`` names an svg, png or pdf file.
    """
    from hwsim.report.figures.roofline import roofline_figure

    system = changed_system(as_system(device), parsed(overrides))
    graphs = [g for r in results for g in getattr(r, "graphs", [r])]
    return roofline_figure(graphs, device=system.device, path=path)


def write_report(
    result: Any,
    path: str | os.PathLike[str],
    *,
    command: str | None = None,
    templates: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a result as one page: HTML, Markdown or PDF, as the suffix says.

    HTML and PDF need nothing beside them; Markdown has its pictures beside it.

    Parameters
    ----------
    result : Result
        Computed, or loaded with :func:`hwsim.load_result`.
    path : str or path-like
        Ends in ``.md`` or ``.pdf`` for these; anything else is HTML.
    command : str, optional
        The command line that made the result, for readers to repeat.
    templates : path, optional
        Folder of templates that replace those of hwsim, by name.

    Raises
    ------
    InputError
        If it is no result, or PDF is asked for without WeasyPrint.
    OutputError
        If the file cannot be written; nothing half-written is left.
    """
    from hwsim.report.page import write_page

    return write_page(result, Path(path), command=command, templates=templates)


def write_reports(
    results: Iterable[Any],
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] | None = None,
    templates: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one page per result, and an index where there are several.

    Parameters
    ----------
    results : iterable of Result or path
        Results, or files that hold one.
    folder : path
        Made if it is not there. Pages are named after the files, or the kinds.
    formats : sequence of str, optional
        Of ``html``, ``md`` and ``pdf``; all by default, PDF where WeasyPrint
        is installed.
    progress : callable, optional
        Told how many pages are written, of how many.

    Returns
    -------
    list of Path
        The pages, in order; pictures of Markdown are not listed.

    Raises
    ------
    InputError
        If a file holds no result, a format is unknown or cannot be made.
    OutputError
        If a file cannot be written.
    """
    from hwsim.report.reports import write_all

    return write_all(results, Path(folder), formats, templates, progress)
