from __future__ import annotations

import datetime as dt
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import Markup

from hwsim.analysis.published.runs import PublishedComparison
from hwsim.errors import InputError, OutputError
from hwsim.report.content import Picture
from hwsim.report.page import render_page, write_page
from hwsim.specs.override import apply_overrides, parse_override
from hwsim.specs.system import single_device_system
from hwsim.version import __version__
from tests.unit.report.conftest import (
    PageReader,
    make_comparison,
    make_device,
    make_infer,
    make_model,
    make_result,
    make_system,
    make_train,
)

MAKERS: dict[str, Any] = {
    "infer": make_infer,
    "train": lambda: make_train(engine="closed_form"),
    "graph": lambda: make_result(engine="closed_form"),
    "published": make_comparison,
}


COMMAND = "hwsim x --report y.html"


@pytest.fixture(scope="module")
def html() -> dict[str, str]:
    return {name: render_page(make(), command=COMMAND) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def pages(html: dict[str, str]) -> dict[str, PageReader]:
    return {name: PageReader(text) for name, text in html.items()}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out: this test reads only words."""

    def blank(name: str, title: str, draw: object) -> Picture:
        return Picture(title, "", Markup(), Markup())

    monkeypatch.setattr("hwsim.report.pages.run_sections.picture", blank)
    monkeypatch.setattr("hwsim.report.pages.published.picture", blank)


@pytest.fixture(params=sorted(MAKERS))
def page(request: pytest.FixtureRequest, pages: dict[str, PageReader]) -> PageReader:
    return pages[request.param]


def test_every_element_is_closed_in_order(page: PageReader) -> None:
    assert page.faults == []


def test_nothing_is_fetched(page: PageReader) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {
        tag for tag, _ in page.elements
    }
    for tag, attrs in page.elements:
        assert "src" not in attrs
        for name in ("href", "xlink:href"):
            target = attrs.get(name)
            if target and not target.startswith("#"):
                assert (tag, name) == ("a", "href")
        assert "url(http" not in (attrs.get("style") or "")


def test_ids_are_unique_and_links_inside_lead_somewhere(page: PageReader) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {
        (attrs.get(name) or "")[1:]
        for _, attrs in page.elements
        for name in ("href", "xlink:href")
        if (attrs.get(name) or "").startswith("#")
    }
    assert targets <= set(ids)


def test_figures_have_names_and_tables_captions_and_scopes(page: PageReader) -> None:
    ids = {attrs.get("id") for _, attrs in page.elements}
    pictures = page.find("svg")
    assert pictures
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= ids
    assert len(page.find("caption")) == len(page.find("table")) > 0
    assert all(a.get("scope") in {"row", "col"} for a in page.find("th"))


def test_the_page_can_be_repeated(page: PageReader) -> None:
    words = page.words()
    assert COMMAND in words
    assert __version__ in words
    assert "none: nothing here is random" in words


@pytest.mark.usefixtures("undrawn")
def test_an_inference_page_answers_its_question() -> None:
    result = make_infer()
    page = PageReader(render_page(result)).words().replace("\xa0", " ")
    assert "How long does Tiny 2L take on Fixture 9000 for 2 requests of" in page
    assert "The first token comes after" in page
    assert "It fits: needs" in page
    assert "Simulated timeline: prefill" in page
    assert "whole request" in page
    assert "datasheet [1]" in page
    for spec in (result.model, result.system, result.system.device, result.stack):
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        assert digest in page


@pytest.mark.usefixtures("undrawn")
def test_a_closed_form_page_has_no_timeline() -> None:
    page = PageReader(render_page(make_infer(engine="closed_form"))).words()
    assert "Simulated timeline" not in page
    assert "in closed form" in page


@pytest.mark.usefixtures("undrawn")
def test_a_pass_without_output_reads_as_one() -> None:
    page = PageReader(render_page(make_infer(output=0))).words()
    assert "One pass takes" in page
    assert "output token" not in page


@pytest.mark.usefixtures("undrawn")
def test_what_does_not_fit_is_said_with_a_remedy() -> None:
    result = make_infer(
        system=make_system(memory={"hbm": {"size": 3.6e6, "bandwidth": 4e12}})
    )
    assert not result.fits
    page = PageReader(render_page(result)).words().replace("\xa0", " ")
    assert "Out of memory." in page
    assert "too much" in page
    assert "it does not fit" in page
    for remedy in result.memory.remedies:
        assert remedy in page


@pytest.mark.usefixtures("undrawn")
def test_a_training_page_tells_of_its_microbatches() -> None:
    page = PageReader(render_page(make_train())).words()
    assert "last of 4 microbatches" in page
    assert "optimizer states" in page
    assert "last of" not in PageReader(render_page(make_train(global_batch=1))).words()


@pytest.mark.usefixtures("undrawn")
def test_overrides_are_labelled_assumed() -> None:
    change = parse_override("device.memory.hbm.bandwidth=x2", ["device"])
    device = apply_overrides(make_device(), [change])
    page = PageReader(render_page(make_infer(system=single_device_system(device))))
    assert "device.memory.hbm.bandwidth=x2" in page.words()
    assert "These figures are not the catalog's own" in page.words()
    plain = PageReader(render_page(make_infer())).words()
    assert "These figures are not" not in plain
    badges = [a for a in page.find("span") if a.get("class") == "badge"]
    assert len(badges) >= 3  # above, beside the figure, in the list of sources


def test_names_from_specs_are_escaped() -> None:
    evil = '<script>alert(1)</script>"><img src=x> & $x$'
    result = make_infer(make_model(evil), make_system(evil), engine="closed_form")
    page = PageReader(render_page(result, command=f"hwsim {evil}"))
    assert page.faults == []
    assert not page.find("script")
    assert not page.find("img")
    assert evil in page.words()


@pytest.mark.usefixtures("undrawn")
def test_only_web_addresses_become_links() -> None:
    source = {
        "kind": "datasheet", "title": "sly", "url": "javascript:alert(1)",
        "date": dt.date(2025, 1, 1),
    }  # fmt: skip
    html = render_page(make_infer(system=make_system(sources=[source])))
    assert "sly" in html
    assert "javascript:" not in html


@pytest.mark.usefixtures("undrawn")
def test_a_published_page_shows_every_error(comparison: PublishedComparison) -> None:
    page = PageReader(render_page(comparison)).words().replace("\xa0", " ")
    assert "−10.0 %" in page
    assert "+25.0 %" in page
    assert "17.5 % in the median and 17.5 % in the mean" in page
    assert "the worst, run-rate, is +25.0 % off" in page
    assert "1 row could not be predicted yet" in page
    assert "needs pipeline parallelism" in page
    assert "GPU <inferred>" in page
    assert "medium confidence" in page


@pytest.mark.usefixtures("undrawn")
def test_a_published_page_without_predictions_has_no_picture() -> None:
    full = make_comparison()
    page = PageReader(
        render_page(PublishedComparison(tuple(full.unanswered), "structured"))
    )
    assert page.faults == []
    assert not page.find("svg")
    assert "No published run could be predicted" in page.words()


def test_equal_results_give_equal_pages(html: dict[str, str]) -> None:
    assert render_page(make_comparison(), command=COMMAND) == html["published"]


def test_colours_follow_the_page(html: dict[str, str]) -> None:
    text = html["graph"]
    svg = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert svg
    for picture in svg:
        assert "var(--ink" in picture
        # Every use of the ink's value stands behind its custom property.
        assert picture.count("#1b1f24") == picture.count("var(--ink, #1b1f24)")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert write_page(make_result(), path) == path
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(OutputError, match="does not exist"):
        write_page(make_result(), tmp_path / "no" / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(InputError, match="no report for SimpleNamespace"):
        render_page(SimpleNamespace(kind="op"))
