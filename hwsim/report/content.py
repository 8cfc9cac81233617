"""What a page is made of, before it is HTML: sections, tables, pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hwsim.report.style import ReportFigure, render
from hwsim.report.svg import inline, inline_svg

WIDE, NARROW = 7.6, 3.9  # inch: for a screen or paper, for a phone
_NO_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    number : bool
        Set right, in even digits.
    bar : float or None
        Share of one, drawn as a bar behind the text.
    badge : str
        A word set apart after the text, such as ``assumed``.
    note : str
        Smaller text on a line of its own.
    href : str
        Where a link on the text leads; nothing is fetched from there.
    tone : str
        ``good``, ``bad`` or nothing.
    code : bool
        Set in a fixed width.
    wide : bool
        Text that needs room.
    """

    text: str
    number: bool = False
    bar: float | None = None
    badge: str = ""
    note: str = ""
    href: str = ""
    tone: str = ""
    code: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    text: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row is its heading.

    Attributes
    ----------
    folded : bool
        Shown by its caption until a reader opens it; open on paper.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure in two widths, with its caption, and as a file of its own.

    Attributes
    ----------
    file : bytes
        The wide figure as a whole SVG document, in the colours of paper.
    """

    title: str
    caption: str
    wide: Markup
    narrow: Markup
    name: str = ""
    file: bytes = b""

    @property
    def data_uri(self) -> str:
        """The file as an address that holds its content."""
        code = base64.b64encode(self.file).decode("ascii")
        return f"data:image/svg+xml;base64,{code}"


@dataclass(frozen=True)
class Fact:
    """A headline figure."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order."""

    name: str
    title: str
    text: tuple[str, ...] = ()
    items: tuple[Table | Picture, ...] = ()


@dataclass(frozen=True)
class Page:
    """One page: the question, the answer, and what the answer rests on.

    Attributes
    ----------
    warning, notice : str
        What must not be missed: that it does not fit; anything else.
    assumed : tuple of str
        What-if overrides in force.
    """

    title: str
    question: str
    answer: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    warning: str = ""
    notice: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All figures of the page, in order."""
        return tuple(
            item
            for section in self.sections
            for item in section.items
            if isinstance(item, Picture)
        )


def table(
    caption: str, columns: str | Sequence[str], rows: Sequence[Sequence[Cell | str]]
) -> Table:
    """Return a table.

    Parameters
    ----------
    columns : str or sequence of str
        Headings, in a text separated by ``|``; one that starts with ``#`` is of
        numbers.
    rows : sequence of sequence of Cell or str
        Plain text takes its column's alignment.
    """
    heads = tuple(
        Column(text.strip().removeprefix("#"), text.strip().startswith("#"))
        for text in (columns.split("|") if isinstance(columns, str) else columns)
    )
    return Table(
        caption,
        heads,
        tuple(
            tuple(
                cell if isinstance(cell, Cell) else Cell(cell, number=head.number)
                for cell, head in zip(row, heads, strict=True)
            )
            for row in rows
        ),
    )


def picture(name: str, title: str, draw: Callable[[float], ReportFigure]) -> Picture:
    """Draw a figure for wide and for narrow screens."""
    wide, narrow = draw(WIDE), draw(NARROW)
    file = render(wide, "svg")
    return Picture(
        title,
        wide.caption,
        inline(file, wide.caption, f"{name}-wide", title),
        inline_svg(narrow, f"{name}-narrow", title),
        name,
        file,
    )


def slug(text: str) -> str:
    """Return text as part of an id or a file name.

    Examples
    --------
    >>> slug("H100 <SXM> & co")
    'h100-sxm-co'
    """
    return _NO_WORD.sub("-", text.casefold()).strip("-") or "x"
