"""Several results at once: a page each in every format, and an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.analysis.result import Result
from hwsim.analysis.saved import load_result
from hwsim.errors import InputError
from hwsim.report.content import Page, slug
from hwsim.report.page import FORMATS, page_of, write_markdown
from hwsim.report.templates import NO_PDF, Templates, has_pdf
from hwsim.report.write import make_folder, write_atomic


@dataclass(frozen=True)
class Entry:
    """A line of the index: a page and the file that it leads to."""

    page: Page
    file: str


def checked_formats(formats: Sequence[str] | None) -> tuple[str, ...]:
    """Return the formats to write; all that can be, where none is asked for.

    Raises
    ------
    InputError
        If one is unknown, or PDF is asked for by name and cannot be made.
    """
    if formats is None:
        return FORMATS if has_pdf() else tuple(f for f in FORMATS if f != "pdf")
    asked = tuple(dict.fromkeys(f.strip().casefold() for f in formats))
    unknown = [f for f in asked if f not in FORMATS]
    if unknown or not asked:
        raise InputError(
            f"format {''.join(unknown[:1])!r} is unknown; choose {', '.join(FORMATS)}"
        )
    if "pdf" in asked and not has_pdf():
        raise InputError(f"{NO_PDF}; or choose html and md")
    return asked


def write_all(
    results: Iterable[Any],
    folder: Path,
    formats: Sequence[str] | None = None,
    templates: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one page per result in each format; see :func:`hwsim.write_reports`."""
    asked, made = checked_formats(formats), Templates(templates)
    loaded = [
        (_stem(r), r if isinstance(r, Result) else load_result(r)) for r in results
    ]
    if not loaded:
        raise InputError("no result to report on; name at least one file")
    place = make_folder(folder)
    pages = list(zip(_unique([s for s, _ in loaded]), [page_of(r) for _, r in loaded],
                     strict=True))  # fmt: skip
    written: list[Path] = []
    for stem, page in pages:
        for suffix in asked:
            if progress is not None:
                progress(len(written), len(pages) * len(asked))
            written.append(_write(page, place / f"{stem}.{suffix}", made))
    if len(pages) > 1 and "html" in asked:
        entries = [Entry(page, f"{stem}.html") for stem, page in pages]
        written.append(write_atomic(place / "index.html", made.index(entries)))
    return written


def _write(page: Page, path: Path, templates: Templates) -> Path:
    if path.suffix == ".md":
        return write_markdown(page, path, templates)
    if path.suffix == ".pdf":
        return write_atomic(path, templates.pdf(page))
    return write_atomic(path, templates.html(page))


def _stem(result: Any) -> str:
    return slug(result.kind if isinstance(result, Result) else Path(result).stem)


def _unique(stems: Sequence[str]) -> list[str]:
    """Return names that no two share, nor the index."""
    taken, found = {"index"}, []
    for stem in stems:
        name, count = stem, 2
        while name in taken:
            name, count = f"{stem}-{count}", count + 1
        taken.add(name)
        found.append(name)
    return found
