"""What a notebook shows: results and specs as tables, progress as a bar."""

import io

import pytest

import hwsim
from hwsim.api.progress import ProgressBar

ASKED = ("gpt-2-124m", "l4")
SMALL = {"prompt": 64, "output": 8}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    asked = hwsim.question(*ASKED, **SMALL)
    infer = hwsim.infer(*ASKED, **SMALL)
    train = hwsim.train(*ASKED, seq=64)
    path = tmp_path_factory.mktemp("saved") / "infer.json"
    hwsim.save_result(infer, path)
    return {
        "infer": infer,
        "train": train,
        "run": hwsim.training_run(train, tokens=1e9),
        "op": hwsim.op("matmul", device="l4", m=64, n=64, k=64),
        "graph": hwsim.estimate(*ASKED, batch=1, context=64),
        "serve": hwsim.serve(*ASKED, rate=2.0, requests=10),
        "comparison": hwsim.compare(["l4", "t4"], "gpt-2-124m", **SMALL),
        "whatif": hwsim.whatif(asked, "bandwidth=1x,2x"),
        "sensitivity": hwsim.sensitivity(asked),
        "solved": hwsim.solve_for(asked, "tpot_s<=1s", "bandwidth"),
        "mixed": hwsim.mixed("gpt-2-124m", prefill="l4", decode="l40s", link=10e9,
                             **SMALL),
        "saved": hwsim.load_result(path),
    }  # fmt: skip


def test_every_result_shows_itself(results):
    for name, result in results.items():
        shown = result._repr_html_()
        assert "<table" in shown, name


@pytest.mark.parametrize(
    ("kind", "name"),
    [("device", "l4"), ("model", "gpt-2-124m"), ("stack", "vllm"),
     ("system", "dgx-h100"), ("engine", "vllm-v1")],
)  # fmt: skip
def test_specs_show_figures_with_unit_and_source(kind, name):
    shown = getattr(hwsim, f"load_{kind}")(name)._repr_html_()
    assert shown.startswith("<table")
    assert "<script" not in shown
    assert "Source" in shown


def test_a_spec_escapes_its_name(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('based_on = "l4"\nid = "own"\nname = "<script>alert(1)</script>"\n')
    assert "<script>" not in hwsim.load_device(str(path))._repr_html_()


def test_one_bar_serves_every_function(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    asked = hwsim.question(*ASKED, **SMALL)
    with hwsim.progress_bar("points") as bar:
        hwsim.whatif(asked, "bandwidth=1x,2x,3x", progress=bar)
    assert (bar.done, bar.total) == (2, 3)
    with hwsim.progress_bar() as bar:
        hwsim.solve_for(asked, "tpot_s<=1us", "bandwidth", progress=bar)
    assert bar.done > 1
    with hwsim.progress_bar() as bar:
        hwsim.serve(*ASKED, rate=2.0, requests=10, progress=bar)
    assert bar.total == 10


def test_a_bar_takes_words_and_counts(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    with ProgressBar() as bar:
        bar("layouts", 3, 7)
        bar(4, 9, 0.5)
    assert (bar.done, bar.total) == (4, 9)
    assert "layouts" in out.getvalue()
