"""Figures as inline SVG: small, unique ids, and colours that follow the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from markupsafe import Markup

from hwsim.report.style import GRID, INK, MUTED, SURFACE, ReportFigure, render

# Custom properties that the page's style sheet sets for light, dark and print.
_ROLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"}
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_STYLE = re.compile(r"<style[^>]*>.*?</style>\s*", re.DOTALL)
_OPENING = re.compile(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>", re.DOTALL)
_REFERENCE = re.compile(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"")
_ID = re.compile(r" id=\"([^\"]*)\"")
_FONT = re.compile(r"font: ([^;\"]*?px) [^;\"]*")
_COMMENT = re.compile(r"\s*<!--.*?-->", re.DOTALL)


def inline_svg(figure: ReportFigure, name: str, title: str) -> Markup:
    """Return a figure as an ``<svg>`` element for a page.

    Parameters
    ----------
    figure : ReportFigure
        Its caption becomes the description that screen readers say.
    name : str
        Prefix that keeps this figure's ids apart from others' on the page.
    title : str
        Short accessible name.
    """
    return inline(render(figure, "svg"), figure.caption, name, title)


def inline(file: bytes, caption: str, name: str, title: str) -> Markup:
    """Return a rendered figure as an ``<svg>`` element; see :func:`inline_svg`."""
    text = _PROLOGUE.sub("", file.decode("utf-8"), count=1)
    for pattern in (_METADATA, _STYLE, _COMMENT):
        text = pattern.sub("", text)
    used = {a or b for a, b in _REFERENCE.findall(text)}
    text = _ID.sub(_renamed(name, used), text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = text.replace('xlink:href="#', f'xlink:href="#{name}-')
    for colour, role in _ROLES.items():
        text = text.replace(colour, f"var({role}, {colour})")
    text = _FONT.sub(r"font: \1 var(--font, sans-serif)", text)
    opening = (
        rf'<svg viewBox="\1" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{_safe(title)}</title>'
        f'<desc id="{name}-desc">{_safe(caption)}</desc>'
    )
    return Markup(_OPENING.sub(opening, text, count=1).strip())  # noqa: S704


def _safe(text: str) -> str:
    # A backslash would be read as a group reference by the substitution.
    return escape(text).replace("\\", r"\\")


def _renamed(name: str, used: set[str]) -> Callable[[re.Match[str]], str]:
    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    return rename
