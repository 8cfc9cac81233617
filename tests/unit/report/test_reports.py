"""Saved results of every kind become pages in three formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import hwsim
from hwsim.analysis.result import Result
from hwsim.analysis.saved import SavedResult, as_saved
from hwsim.report import templates as templates_module
from hwsim.report.page import PAGES, page_of, render_page
from hwsim.report.templates import Templates, has_pdf, markdown_code, markdown_text
from tests.unit.report.conftest import (
    PageReader,
    make_infer,
    make_model,
    make_result,
    make_system,
)

OLD = Path(__file__).parents[1] / "analysis" / "results_v1"
MODEL, SYSTEM = "gpt2", "h100-80gb-sxm"
KINDS = ("infer", "training_run", "op", "ops", "graph", "serve", "train_plan")
needs_pdf = pytest.mark.skipif(not has_pdf(), reason="WeasyPrint is an extra")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    step = hwsim.train(MODEL, "dgx-a100-80gb", devices=4, pp=2, micro_batch=2, seq=512)
    return {
        "infer": make_infer(),
        "training_run": hwsim.training_run(
            step, tokens=1e10, device_mtbf=3.6e6, node_mtbf=3.6e6
        ),
        "op": hwsim.op("matmul", device=SYSTEM, m=512, n=512, k=512),
        "ops": hwsim.op("matmul", device=SYSTEM, m=512, n=512, k=[512, 1024]),
        "graph": make_result(),
        "serve": hwsim.serve(
            MODEL, SYSTEM, rate=2.0, requests=50, input_len="fixed:64",
            output_len="fixed:8", slo={"ttft": 0.5},
        ),
        "train_plan": hwsim.plan_train(
            MODEL, SYSTEM, devices=1, global_batch=4, seq=512, simulate=2
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(results: dict[str, Result]) -> dict[str, str]:
    return {name: render_page(result) for name, result in results.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_result_gives_the_page_of_the_live_one(
    kind: str, results: dict[str, Result], pages: dict[str, str], tmp_path: Path
) -> None:
    path = hwsim.save_result(results[kind], tmp_path / "x.json")
    assert render_page(hwsim.load_result(path)) == pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_is_sound(kind: str, pages: dict[str, str]) -> None:
    page = PageReader(pages[kind])
    assert page.faults == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    words = page.words()
    assert "What this rests on" in words
    assert "Reproducibility" in words
    assert "nan" not in words.replace("finance", "").casefold().split()


@pytest.mark.parametrize("kind", ["infer", "training_run", "op", "train_plan"])
def test_the_answer_comes_with_its_interval(
    kind: str, results: dict[str, Result]
) -> None:
    assert "90 % interval" in page_of(results[kind]).answer


def test_a_service_says_how_far_its_figures_may_be_off(
    results: dict[str, Result],
) -> None:
    page = page_of(results["serve"])
    assert "in the median (90 % interval" in page.answer
    assert "of the throughput" in page.answer
    assert "meet the SLO" in page.answer


def test_a_service_is_drawn_over_time(results: dict[str, Result]) -> None:
    drawn = {p.name: p for p in page_of(results["serve"]).pictures}
    assert set(drawn) == {"latencies", "over-time"}
    assert "The replica is busy" in drawn["over-time"].caption
    assert "of the KV cache in the mean" in drawn["over-time"].caption


def test_a_service_saved_without_its_course_has_a_page(
    results: dict[str, Result],
) -> None:
    data = json.loads(results["serve"].saved_text())
    del data["detail"]["series"]
    names = [p.name for p in page_of(SavedResult(data, "x.json")).pictures]
    assert names == ["latencies"]


@pytest.mark.parametrize("kind", ["op", "training_run", "serve", "train_plan"])
def test_evidence_is_of_the_families_in_the_answer(
    kind: str, results: dict[str, Result]
) -> None:
    page = page_of(results[kind])
    section = next(s for s in page.sections if s.name == "evidence")
    used = results[kind].fidelity_by_family  # type: ignore[attr-defined]
    assert len(section.items[0].rows) == len(used)  # type: ignore[union-attr]


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda p: p.stem)
def test_files_of_schema_1_have_pages(path: Path) -> None:
    page = PageReader(render_page(hwsim.load_result(path)))
    assert page.faults == []
    assert "written by hwsim 0.1.0 without the specs" in page.words()


def test_a_kind_without_a_page_of_its_own_is_shown_as_it_is() -> None:
    data = {
        "kind": "strange", "schema_version": 2, "hwsim_version": "9", "value_s": 1.5,
        "rows": [{"a|b": "<x>", "n": 1}, {"a|b": None, "n": 2}],
    }  # fmt: skip
    assert "strange" not in PAGES
    page = PageReader(render_page(SavedResult(data, "x.json")))
    assert page.faults == []
    assert "value_s" in page.words()
    assert "<x>" in page.words()


@pytest.mark.parametrize("key", ["config", "memory_bytes", "breakdown", "ttft_s"])
def test_a_damaged_file_is_one_line(key: str) -> None:
    data = json.loads(make_infer().saved_text())
    for harm in (lambda: data.pop(key), lambda: data.update({key: "rubbish"})):
        harm()
        with pytest.raises(hwsim.InputError, match=r"here\.json: ") as caught:
            render_page(SavedResult(data, "here.json"))
        assert "\n" not in str(caught.value)


def test_all_formats_and_an_index_are_written(
    results: dict[str, Result], tmp_path: Path
) -> None:
    written = hwsim.write_reports(
        [results["op"], results["op"]], tmp_path / "out", formats=["html", "md"]
    )
    assert [p.name for p in written] == [
        "op.html", "op.md", "op-2.html", "op-2.md", "index.html",
    ]  # fmt: skip
    index = PageReader((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert index.faults == []
    assert {a["href"] for a in index.find("a")} == {"op.html", "op-2.html"}


@needs_pdf
def test_a_pdf_is_one(results: dict[str, Result], tmp_path: Path) -> None:
    (path,) = hwsim.write_reports([results["op"]], tmp_path, formats=["pdf"])
    assert path.read_bytes().startswith(b"%PDF-")


def test_without_weasyprint_the_others_are_written(
    results: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsim.report.reports.has_pdf", lambda: False)
    written = hwsim.write_reports([results["op"]], tmp_path)
    assert [p.suffix for p in written] == [".html", ".md"]
    with pytest.raises(hwsim.InputError, match=r"pip install 'hwsim\[pdf\]'"):
        hwsim.write_reports([results["op"]], tmp_path, formats=["pdf"])
    with pytest.raises(hwsim.InputError, match="format 'docx' is unknown"):
        hwsim.write_reports([results["op"]], tmp_path, formats=["docx"])


def test_markdown_has_its_pictures_beside_it(
    results: dict[str, Result], tmp_path: Path
) -> None:
    hwsim.write_report(results["infer"], tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    for picture in page_of(results["infer"]).pictures:
        place = tmp_path / f"a-{picture.name}.svg"
        assert f"]({place.name})" in text
        assert place.read_bytes().startswith(b"<?xml")
    widths = {len(line.split("|")) for line in _first_table(text)}
    assert len(widths) == 1


def _first_table(text: str) -> list[str]:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return lines[start:end]


def test_markdown_shows_names_as_they_are(tmp_path: Path) -> None:
    evil = "<b>*x*</b> | [a](javascript:1) `c` $y$ & _z_"
    result = make_infer(make_model(evil), make_system(evil), engine="closed_form")
    path = hwsim.write_report(result, tmp_path / "a.md", command=f"hwsim {evil}")
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert str(markdown_text("1. a")) == "1\\. a"
    assert str(markdown_text("- a | b")) == "\\- a \\| b"
    assert str(markdown_code("a`|<")) == "<code>a\\`\\|\\<</code>"


def test_users_replace_templates_by_name(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "page.html.j2").write_text("<h1>{{ page.title }}</h1>", encoding="utf-8")
    result = make_infer(make_model("A <i>"), engine="closed_form")
    path = hwsim.write_report(result, tmp_path / "x.html", templates=own)
    assert path.read_text(encoding="utf-8") == "<h1>A &lt;i&gt; on Fixture 9000</h1>"
    # What is not replaced stays hwsim's.
    assert "## Memory" in hwsim.write_report(
        result, tmp_path / "x.md", templates=own
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% if %}", "line 1"),
        ("{{ page.nothing }}", "has no attribute 'nothing'"),
        ("{% include 'none.j2' %}", "none.j2"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_faulty_template_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "page.html.j2").write_text(text, encoding="utf-8")
    page = page_of(hwsim.op("matmul", device=SYSTEM, m=64, n=64, k=64))
    with pytest.raises(hwsim.InputError, match=said):
        Templates(tmp_path).html(page)
    with pytest.raises(hwsim.InputError, match="no such folder of templates"):
        Templates(tmp_path / "none")


def test_paper_has_alt_texts_and_nothing_to_fetch(results: dict[str, Result]) -> None:
    page = PageReader(Templates().html(page_of(results["infer"]), paper=True))
    assert page.faults == []
    pictures = page.find("img")
    assert pictures
    for picture in pictures:
        assert (picture["src"] or "").startswith("data:image/svg+xml;base64,")
        assert len(picture["alt"] or "") > 40


@needs_pdf
def test_a_pdf_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something was opened")

    monkeypatch.setattr("socket.create_connection", refuse)
    made = templates_module.to_pdf(
        "<p>a</p><img src='http://127.0.0.1:9/x.png'><img src='file:///etc/hostname'>"
    )
    assert made.startswith(b"%PDF-")


def test_saved_again_keeps_its_command(tmp_path: Path) -> None:
    first = hwsim.save_result(make_infer(), tmp_path / "a.json", command="hwsim a")
    loaded = hwsim.load_result(first)
    again = hwsim.save_result(loaded, tmp_path / "b.json")
    assert again.read_text() == first.read_text()
    assert as_saved(loaded).command == "hwsim a"


@pytest.fixture(scope="module")
def comparison() -> Result:
    return hwsim.compare(
        ["h100", "a100-80gb-sxm", {"system": "t4", "dtype": "bf16"}], MODEL,
        prompt=64, output=4,
    )  # fmt: skip


def test_a_comparison_has_a_page(comparison: Result, tmp_path: Path) -> None:
    path = hwsim.save_result(comparison, tmp_path / "c.json")
    html = render_page(hwsim.load_result(path))
    assert html == render_page(comparison)
    page = PageReader(html)
    assert page.faults == []
    words = page.words().replace("\xa0", " ")
    saved = as_saved(comparison)
    assert saved.answer in words
    for cell in saved.cells:
        assert cell["label"] in words
        if cell["status"] != "ok":
            assert " ".join(cell["reason"].split()) in words
    for pair in saved.pairs:
        assert pair["sentence"] in words
    section = next(s for s in page_of(comparison).sections if s.name == "evidence")
    assert "h100-80gb-sxm and a100-80gb-sxm" in section.items[0].caption  # type: ignore[union-attr]


def test_a_comparison_of_services_gives_intervals() -> None:
    result = hwsim.compare(
        ["h100", "a100-80gb-sxm"], MODEL, task="serve", rate=2.0, requests=30,
        input_len="fixed:64", output_len="fixed:8", explain=False,
    )  # fmt: skip
    assert "90 % intervals" in page_of(result).answer
    words = PageReader(render_page(result)).words()
    assert "The service of each" in words
    assert "Seed 1" in words


@pytest.fixture(scope="module")
def sweeps() -> dict[str, Result]:
    asked = hwsim.question(MODEL, SYSTEM, prompt=64, output=4)
    return {
        "whatif": hwsim.whatif(asked, "bandwidth=0.5x..64x:5"),
        "heat map": hwsim.whatif(
            asked, ["bandwidth=0.5x..2x:3", "batch=1,4"], metric="tpot_s"
        ),
        "sensitivity": hwsim.sensitivity(asked),
        "solve": hwsim.solve_for(asked, "tpot_s<=0.5ms"),
        "study": hwsim.Study(
            "A <study>", "Which?", "This one (90 % interval 1 to 2).",
            {"one": make_infer()},
            (
                hwsim.StudySection(
                    "Figures", ("Some words.",),
                    bars=(hwsim.StudyBars("Bars", "time", "s", {"a": 1.0}),),
                    lines=(
                        hwsim.StudyLines(
                            "Lines", ("batch", ""), ("time", "s"),
                            {"a": ((1.0, 2.0), (2.0, 3.0))},
                        ),
                    ),
                    tables=(
                        hwsim.StudyTable(
                            "Table", (("Name", None), ("Time", "s"), ("Rent", "USD")),
                            (("<b>", (1.0, 0.5, 2.0), 1234567.0), ("c", None, 2.0)),
                        ),
                    ),
                ),
            ),
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["whatif", "heat map", "sensitivity", "solve", "study"]
)
def test_sweeps_and_studies_have_pages(
    kind: str, sweeps: dict[str, Result], tmp_path: Path
) -> None:
    result = sweeps[kind]
    assert result.kind in PAGES
    html = render_page(
        hwsim.load_result(hwsim.save_result(result, tmp_path / "x.json"))
    )
    assert html == render_page(result)
    page = PageReader(html)
    assert page.faults == []
    words = page.words().replace("\xa0", " ")
    assert "How accurate such predictions are" in words
    assert "What this rests on" in words
    if kind == "study":
        assert "<b>" in words
        assert "USD 1,230,000" in words
        assert "500 ms to 2 s" in words


def test_a_study_table_must_be_a_table() -> None:
    with pytest.raises(hwsim.InputError, match="a row of 1 cells for 2 columns"):
        hwsim.StudyTable("T", (("A", None), ("B", "s")), (("a",),))


def test_figures_that_a_newer_hwsim_added_are_not_shown() -> None:
    data = json.loads(make_infer().saved_text())
    before = PageReader(render_page(SavedResult(data, "x.json"))).words()
    assert "memory_reserve" in before
    del data["specs"]["stack"]["memory_reserve"]
    after = PageReader(render_page(SavedResult(data, "x.json"))).words()
    assert "memory_reserve" not in after


def test_a_plan_of_a_service_has_a_page(tmp_path: Path) -> None:
    plan = hwsim.plan_serve(
        MODEL, [SYSTEM, "l4"], rate=20.0, slo={"ttft.p99": 0.5, "tpot.p99": 0.05},
        input_len="fixed:64", output_len="fixed:8",
    )  # fmt: skip
    path = hwsim.save_result(plan, tmp_path / "p.json")
    html = render_page(hwsim.load_result(path))
    assert html == render_page(plan)
    page = PageReader(html)
    assert page.faults == []
    words = page.words().replace("\xa0", " ")
    assert "at the upper end of the 90 % interval" in words
    assert "Deployments that meet the limits" in words
    assert {"goodput", "front", "over-time"} <= {p.name for p in page_of(plan).pictures}
    assert "How accurate such predictions are" in words
    assert "Seed 1" in words


def test_a_calibration_has_a_page() -> None:
    errors = {"rows": 40, "median_ape": 0.02, "mape": 0.03, "p90_ape": 0.1, "bias": 0.0}
    fit = {
        "parameters": {"matmul.overhead": 1e-6}, "residual": True, "seed": 3,
        "in_sample": errors, "held_out": {**errors, "median_ape": 0.04},
        "coverage_90": 0.9, "interval_width": 0.3,
    }  # fmt: skip
    data = {
        "kind": "calibration", "schema_version": 2, "hwsim_version": "0", "device": "x",
        "interrupted": False, "skipped": {"moe": "too few rows"},
        "families": {"gemm": fit},
    }  # fmt: skip
    page = PageReader(render_page(SavedResult(data, "c.json")))
    assert page.faults == []
    words = page.words().replace("\xa0", " ")
    assert "shapes that the fit never saw: matrix products 4.0 %" in words
    assert "too few rows" in words
    assert "Seed 3" in words


def test_a_model_on_devices_of_two_kinds_has_a_page(tmp_path: Path) -> None:
    result = hwsim.mixed(MODEL, prefill=[SYSTEM], decode=["l4"], prompt=64, output=8)
    path = hwsim.save_result(result, tmp_path / "m.json")
    html = render_page(hwsim.load_result(path))
    assert html == render_page(result)
    page = PageReader(html)
    assert page.faults == []
    words = page.words().replace("\xa0", " ")
    assert "90 % interval" in words
    assert "1 to 12" in words
    assert "on h100-80gb-sxm and l4" in words
