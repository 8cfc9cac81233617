"""Results as one self-contained HTML page each."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.errors import HwsimError, InputError
from hwsim.report.content import Page
from hwsim.report.published_page import published_page
from hwsim.report.published_runs import published_runs_page
from hwsim.report.run_page import graph_page, infer_page, train_page
from hwsim.report.validation import validation_page
from hwsim.report.write import write_atomic
from hwsim.resources import builtin_path
from hwsim.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_PAGES: dict[str, Callable[[Any, str | None], Page]] = {
    "infer": infer_page,
    "train": train_page,
    "graph": graph_page,
    "published": published_page,
    "published_validation": published_runs_page,
    "validation": validation_page,
}
_TEMPLATE = "page.html.j2"
# A number and its unit stay on one line.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|[kMGTPEmµnp]?(?:s|B|W|J|Hz|FLOP)(?:/s)?\b)")


def write_page(
    result: Any, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write a result as one HTML page that needs nothing beside it.

    Parameters
    ----------
    result : InferResult, TrainResult, GraphResult or PublishedComparison
        What the page is about.
    path : str or path-like
        The file; written whole or not at all.
    command : str, optional
        The command line that made the result, for its readers to repeat.

    Raises
    ------
    InputError
        If there is no page for such a result.
    OutputError
        If the file cannot be written.
    """
    return write_atomic(path, render_page(result, command=command))


def render_page(result: Any, *, command: str | None = None) -> str:
    """Return the page's HTML; equal results give equal pages."""
    kind = getattr(result, "kind", type(result).__name__)
    if kind not in _PAGES:
        raise InputError(
            f"no report for {kind!r}; there is one for {', '.join(_PAGES)}"
        )
    page = _PAGES[kind](result, command)
    template = _environment().get_template(_TEMPLATE)
    return template.render(page=page, version=__version__)


def _unbroken(value: Any) -> Any:
    # Exactly str: markup (figures, macros) is left alone.
    return (
        _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", value) if type(value) is str else value
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = builtin_path("reports")
    if not (folder / _TEMPLATE).is_file():
        raise HwsimError(f"{folder}: {_TEMPLATE} is missing; reinstall hwsim")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    environment.tests["table"] = lambda item: hasattr(item, "columns")
    return environment
