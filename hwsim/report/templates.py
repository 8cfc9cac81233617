"""Jinja2 templates: those of hwsim, and a user's own that replace them by name."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hwsim.errors import HwsimError, InputError
from hwsim.report.content import Page
from hwsim.resources import builtin_path
from hwsim.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

HTML, MARKDOWN, INDEX = "page.html.j2", "page.md.j2", "index.html.j2"
NO_PDF = "PDF needs WeasyPrint: pip install 'hwsim[pdf]'"
# A number and its unit stay on one line.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|[kMGTPEmµnp]?(?:s|B|W|J|Hz|FLOP)(?:/s)?\b)")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_BLOCK = re.compile(r"^(\d+)([.)])|^([-+=])")


class Templates:
    """Turns pages into HTML, Markdown and PDF.

    Parameters
    ----------
    folder : path, optional
        Templates there go first; see ``docs/guides/reports.md`` for their names
        and what they are given.

    Raises
    ------
    InputError
        If there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        own = None if folder is None else Path(folder).expanduser()
        if own is not None and not own.is_dir():
            raise InputError(
                f"{folder}: there is no such folder of templates; make it, or leave "
                "--templates out"
            )
        self._environment = _environment(own)

    def html(self, page: Page, *, paper: bool = False) -> str:
        """Return a page as one HTML document; ``paper`` is for making a PDF."""
        return self._rendered(HTML, page=page, paper=paper)

    def markdown(self, page: Page, places: Mapping[str, str]) -> str:
        """Return a page as Markdown; ``places`` are the files of its pictures."""
        text = self._rendered(MARKDOWN, page=page, places=places)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def index(self, entries: Any) -> str:
        """Return a page that leads to several."""
        return self._rendered(INDEX, entries=entries)

    def pdf(self, page: Page) -> bytes:
        """Return a page as PDF; nothing is fetched.

        Raises
        ------
        InputError
            If WeasyPrint is not installed.
        """
        return to_pdf(self.html(page, paper=True))

    def _rendered(self, name: str, **content: Any) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            template = self._environment.get_template(name)
            return template.render(version=__version__, **content)
        except TemplateSyntaxError as error:
            where = f"{error.filename or error.name}: line {error.lineno}"
            raise InputError(
                f"{where}: {error.message}; correct the template"
            ) from None
        except TemplateError as error:
            raise InputError(
                f"template {name}: {type(error).__name__}: {error}; correct the "
                "template, or leave --templates out"
            ) from None


def has_pdf() -> bool:
    """Return whether what PDF needs is installed."""
    return importlib.util.find_spec("weasyprint") is not None


def to_pdf(html: str) -> bytes:
    """Return an HTML document as PDF, without looking at anything outside it."""
    if not has_pdf():
        raise InputError(f"{NO_PDF}; or write .html and .md")
    import logging

    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    try:
        weasyprint: Any = importlib.import_module("weasyprint")
        urls: Any = importlib.import_module("weasyprint.urls")
    except OSError as error:  # its libraries of the system are missing
        raise InputError(f"{NO_PDF}, and Pango: {error}") from None
    fetcher = urls.URLFetcher(allowed_protocols={"data"})
    content: bytes = weasyprint.HTML(string=html, url_fetcher=fetcher).write_pdf()
    return content


def unbroken(value: Any) -> Any:
    """Keep numbers and units on one line; markup is left alone."""
    return (
        _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", value) if type(value) is str else value
    )


def markdown_text(value: Any) -> Markup:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join(str(value).split())
    text = _SPECIAL.sub(r"\\\1", text)
    text = _BLOCK.sub(lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", text)
    return Markup(text.replace("&", "&amp;"))  # noqa: S704 - escaped just above


def markdown_code(value: Any) -> Markup:
    """Return text in fixed width, for Markdown."""
    text = " ".join(str(value).split())
    if not text:
        return Markup()
    if "`" in text or "|" in text:
        # Markdown is read inside the element too: its text is escaped likewise.
        return Markup("<code>") + markdown_text(text) + Markup("</code>")
    return Markup(f"`{text}`")  # noqa: S704 - code spans show their text as it is


@functools.lru_cache(maxsize=8)
def _environment(own: Path | None) -> Environment:
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    folder = builtin_path("reports")
    if not (folder / HTML).is_file():
        raise HwsimError(f"{folder}: {HTML} is missing; reinstall hwsim")
    environment = SandboxedEnvironment(
        loader=FileSystemLoader([*([own] if own else []), folder]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=unbroken,
        auto_reload=own is not None,
    )
    environment.tests["table"] = lambda item: hasattr(item, "columns")
    environment.filters["md"] = markdown_text
    environment.filters["mdcode"] = markdown_code
    return environment
