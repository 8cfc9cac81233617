"""hwsim serve: JSON keys, tables, files, and bad input in one line."""

import csv
import importlib
import json

import pytest

SMALL = (
    "serve", "gpt-2-124m", "-s", "t4", "--dtype", "fp16", "--requests", "60",
    "--input-len", "uniform:20:200", "--output-len", "uniform:5:50",
    "--max-num-seqs", "16", "--max-num-batched-tokens", "256",
)  # fmt: skip
KEYS = (
    "requests", "ttft_s", "tpot_s", "itl_s", "e2e_s", "tokens_per_s", "goodput_rps",
    "kv_occupancy", "energy_j_per_token", "simulated_requests_per_wall_s",
)  # fmt: skip


def test_json_has_the_promised_keys(hwsim_cli):
    done = hwsim_cli(*SMALL, "--rate", "20", "--json", "--slo", "ttft=500ms,tpot=0.05")
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)
    assert set(KEYS) <= set(answer)
    for key in KEYS[1:5]:
        found = answer[key]
        assert list(found) == ["mean", "p50", "p90", "p99"]
        assert 0 < found["p50"] <= found["p90"] <= found["p99"]
    assert answer["requests"] == 60
    assert answer["goodput_rps"] > 0
    assert answer["config"]["slo"] == {"ttft": 0.5, "tpot": 0.05}


def test_people_get_a_table_and_a_rate_that_is_too_high_is_said(hwsim_cli):
    done = hwsim_cli(*SMALL, "--rate", "1e5", "--slo", "e2e=1s")
    assert done.code == 2  # it cannot be served for long; what was found is kept
    assert "first token" in done.out
    assert "goodput" in done.out
    assert "unstable: 1e+05 requests/s arrive" in done.err


def test_one_row_per_request_is_written(hwsim_cli, tmp_path):
    place = tmp_path / "requests.csv"
    done = hwsim_cli(*SMALL, "--concurrency", "4", "--out", place, "--json")
    assert done.code == 0
    with place.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert float(rows[3]["ttft_s"]) == pytest.approx(
        float(rows[3]["first_token_s"]) - float(rows[3]["arrival_s"])
    )


def test_parquet_is_written_where_it_can_be(hwsim_cli, tmp_path):
    place = tmp_path / "requests.parquet"
    done = hwsim_cli(*SMALL, "--rate", "20", "--out", place, "--json")
    try:
        importlib.import_module("pyarrow")
    except ImportError:
        assert done.code == 2
        assert "pyarrow" in done.err
        assert not place.exists()
    else:
        assert place.read_bytes()[:4] == b"PAR1"


def test_a_trace_is_replayed(hwsim_cli, tmp_path):
    place = tmp_path / "trace.csv"
    place.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    done = hwsim_cli(
        "serve", "gpt-2-124m", "-s", "t4", "--dtype", "fp16", "--trace", place,
        "--json", "--max-num-seqs", "16", "--max-num-batched-tokens", "256",
    )  # fmt: skip
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["requests"] == 2
    assert answer["rate_rps"] == pytest.approx(1 / 4.314579)


BAD = {
    "no arrivals": ((), "rate, concurrency or a trace"),
    "rate below zero": (("--rate", "-1"), "rate is -1"),
    "no replicas": (("--rate", "1", "--replicas", "0"), "replicas is 0"),
    "lengths": (("--rate", "1", "--input-len", "normal:5"), "lognormal"),
    "context": (("--rate", "1", "--input-len", "5000"), "at most 1024"),
    "engine": (("--rate", "1", "--engine", "vlm"), "vllm"),
    "router": (("--rate", "1", "--router", "rr"), "round_robin"),
    "slo": (("--rate", "1", "--slo", "ttft"), "ttft=500ms"),
    "slo of what": (("--rate", "1", "--slo", "speed=1s"), "ttft, tpot, e2e"),
    "trace": (("--trace", "/nowhere.csv"), "cannot be read"),
    "table of what": (("--rate", "1", "--out", "x.xlsx"), ".parquet"),
    "folder": (("--rate", "1", "--out", "/nowhere/x.csv"), "there is no folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(hwsim_cli, case):
    arguments, says = BAD[case]
    done = hwsim_cli(*SMALL, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert says in done.err
    assert done.err.startswith("hwsim: ")
    assert done.err.count("\n") == 1


def test_ctrl_c_prints_what_is_known(hwsim_cli, monkeypatch):
    def stop(self, done, total):
        if done > 20:
            raise KeyboardInterrupt

    monkeypatch.setattr("hwsim.cli.serve_watch.Meter.show", stop)
    done = hwsim_cli(*SMALL, "--rate", "20", "--json")
    answer = json.loads(done.out)
    assert answer["complete"] is False
    assert 20 < answer["requests"] < 60
    assert answer["ttft_s"]["p50"] > 0
    assert "interrupted: the figures are of" in done.err
    assert done.code == 130


def test_a_page_is_written(hwsim_cli, tmp_path):
    place = tmp_path / "page.html"
    done = hwsim_cli(*SMALL, "--rate", "20", "--report", place)
    assert (done.code, done.err) == (0, f"wrote {place}\n")
    text = place.read_text(encoding="utf-8")
    assert "The service over time" in text
    assert "waiting for their first token" in text
    lost = hwsim_cli(*SMALL, "--rate", "20", "--report", tmp_path / "no" / "x.html")
    assert lost.code == 2


def test_nothing_is_drawn_where_nobody_watches(hwsim_cli):
    plain = hwsim_cli(*SMALL, "--rate", "20")
    done = hwsim_cli(*SMALL, "--rate", "20", "--watch")
    assert (done.code, done.err) == (0, "")
    told = [x.out.partition("simulated at")[0].split() for x in (plain, done)]
    assert told[0] == told[1]


def test_a_terminal_shows_how_the_service_stands():
    import io
    import math

    from rich.console import Console

    from hwsim.analysis.serving.watch import Snapshot
    from hwsim.cli.serve_watch import watched

    out = io.StringIO()
    at = Snapshot(12.5, 100, 40, 3, 5, 3.2, 0.25, 0.05, math.nan)
    Console(file=out, width=80).print(watched(at))
    words = " ".join(out.getvalue().split())
    assert "answered 40 of 100 3.2 /s" in words
    assert "KV cache 25%" in words
    assert "first token 50 ms" in words
    assert "nan" not in words
