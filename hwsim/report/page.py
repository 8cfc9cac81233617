"""Results as pages: one self-contained HTML file, Markdown, PDF."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsim.analysis.result import Result
from hwsim.analysis.saved import SavedResult, as_saved
from hwsim.errors import InputError
from hwsim.report.content import Page
from hwsim.report.pages.calibration import calibration_page
from hwsim.report.pages.compare import comparison_page
from hwsim.report.pages.generic import generic_page
from hwsim.report.pages.mixed import mixed_page
from hwsim.report.pages.mixed_train import mixed_train_page
from hwsim.report.pages.op import op_page
from hwsim.report.pages.plan_serve import serve_plan_page
from hwsim.report.pages.plan_train import train_plan_page
from hwsim.report.pages.published import published_page, saved_published_page
from hwsim.report.pages.published_runs import published_runs_page
from hwsim.report.pages.run import graph_page, infer_page, train_page
from hwsim.report.pages.serve import serve_page
from hwsim.report.pages.study import study_page
from hwsim.report.pages.sweep import sensitivity_page, solve_page, whatif_page
from hwsim.report.pages.validation import validation_page
from hwsim.report.pages.whole_run import training_run_page
from hwsim.report.templates import Templates
from hwsim.report.write import write_atomic

PAGES: dict[str, Callable[[SavedResult], Page]] = {
    "infer": infer_page,
    "train": train_page,
    "training_run": training_run_page,
    "mixed": mixed_page,
    "mixed_train": mixed_train_page,
    "op": op_page,
    "graph": graph_page,
    "serve": serve_page,
    "comparison": comparison_page,
    "study": study_page,
    "whatif": whatif_page,
    "sensitivity": sensitivity_page,
    "solve": solve_page,
    "train_plan": train_plan_page,
    "serve_plan": serve_plan_page,
    "calibration": calibration_page,
    "validation": validation_page,
    "published_validation": published_runs_page,
}
FORMATS = ("html", "md", "pdf")


def page_of(result: Any, command: str | None = None) -> Page:
    """Return the page of a result, computed or loaded.

    Raises
    ------
    InputError
        If it is no result, or its file lacks what the page needs.
    """
    if not isinstance(result, Result):
        raise InputError(
            f"no report for {type(result).__name__}; give a result of hwsim or load "
            "one with hwsim.load_result"
        )
    if result.kind == "published" and not isinstance(result, SavedResult):
        return published_page(result, command)  # type: ignore[arg-type]
    saved = as_saved(result, command)
    build = PAGES.get(saved.kind, generic_page)
    try:
        if saved.kind == "published":
            return saved_published_page(saved)
        return build(saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if not isinstance(result, SavedResult):
            raise
        raise InputError(
            f"{saved.origin}: this {saved.kind} result is damaged "
            f"({type(error).__name__}: {error}); save it again with --out"
        ) from error


def write_page(
    result: Any,
    path: str | os.PathLike[str],
    *,
    command: str | None = None,
    templates: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a result as one page: HTML, Markdown or PDF, as the suffix says.

    Parameters
    ----------
    result : Result
        What the page is about.
    path : str or path-like
        The file; written whole or not at all. HTML (any suffix but ``.md`` and
        ``.pdf``) and PDF need nothing beside them; Markdown has its pictures
        beside it, as SVG.
    command : str, optional
        The command line that made the result, for its readers to repeat.
    templates : path, optional
        A folder of templates that replace those of hwsim, by name.

    Raises
    ------
    InputError
        If there is no page for such a result.
    OutputError
        If the file cannot be written.
    """
    page, made = page_of(result, command), Templates(templates)
    suffix = Path(path).suffix.casefold().removeprefix(".")
    if suffix == "md":
        return write_markdown(page, Path(path), made)
    if suffix == "pdf":
        return write_atomic(path, made.pdf(page))
    return write_atomic(path, made.html(page))


def write_markdown(page: Page, path: Path, templates: Templates) -> Path:
    """Write a page as Markdown, its pictures beside it."""
    places = {}
    for picture in page.pictures:
        place = path.with_name(f"{path.stem}-{picture.name}.svg")
        write_atomic(place, picture.file)
        places[picture.name] = place.name
    return write_atomic(path, templates.markdown(page, places))


def render_page(result: Any, *, command: str | None = None) -> str:
    """Return the page's HTML; equal results give equal pages."""
    return Templates().html(page_of(result, command))
