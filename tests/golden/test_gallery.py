"""Published reports: their figures are today's, their pages those of the templates."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markupsafe import Markup

import hwsim
from hwsim.report.content import Picture, slug
from hwsim.report.page import page_of, render_page

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports" / "published"
NAMES = (
    "serving-llama-70b", "gpt3-then-and-now", "ten-billion-on-a100", "cpu-or-gpu-8b",
    "bert-six-generations",
)  # fmt: skip


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "gallery_make", ROOT / "docs" / "gallery" / "make.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Words(HTMLParser):
    """The words of a page, those inside pictures left out."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self._inside = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._inside += tag in {"svg", "style", "figcaption"}

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in {"svg", "style", "figcaption"}

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words += data.split()


def test_the_studies_are_those_published(gallery: ModuleType) -> None:
    assert tuple(gallery.STUDIES) == NAMES
    assert {p.stem for p in PUBLISHED.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_fresh(name: str, gallery: ModuleType) -> None:
    found = gallery.stale(name)
    assert not found, f"run make gallery: {'; '.join(found[:3])}"


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_those_of_the_templates(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blank(name: str, title: str, draw: object) -> Picture:
        return Picture(title, "", Markup(), Markup(), name)

    monkeypatch.setattr("hwsim.report.pages.study.picture", blank)
    saved = hwsim.load_result(PUBLISHED / f"{name}.json")
    html = (PUBLISHED / f"{name}.html").read_text(encoding="utf-8")
    assert Words(html).words == Words(render_page(saved)).words, "run make gallery"
    assert len(html) < 1_000_000
    for picture in page_of(saved).pictures:
        assert (PUBLISHED / f"{name}-{picture.name}.svg").is_file()
    assert (PUBLISHED / f"{name}.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("name", NAMES)
def test_every_study_answers_with_an_interval_and_evidence(name: str) -> None:
    saved = json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))
    assert "90 % interval" in saved["answer"]
    assert all(told["families"] for told in saved["evidence"].values())
    assert re.match(r"python docs/gallery/make\.py ", saved["command"])
    assert slug(name) == name


def test_what_moved_is_found(gallery: ModuleType) -> None:
    old = {"a": [1.0, 2.0], "b": {"c": 3}, "d": "text"}
    assert gallery.moved(old, old) == []
    assert gallery.moved(old, {**old, "b": {"c": 3.03}}) == []
    assert gallery.moved(old, {**old, "b": {"c": 3.3}}) == [".b.c: 3 there, 3.3 now"]
    assert gallery.moved(old, {"a": [1.0], "b": {"c": 3}}) == [".a.1 is gone"]
    assert gallery.moved(old, {**old, "e": 1.0}) == []
