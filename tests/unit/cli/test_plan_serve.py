"""``hwsim plan serve``."""

import json

ASKED = (
    "plan", "serve", "llama-3.2-3b", "-s", "l40s", "--rate", "5", "--requests", "300",
    "--simulate", "1", "--output-len", "fixed:40", "--input-len", "fixed:200",
)  # fmt: skip


def test_json_has_the_answer_and_the_files_are_written(hwsim_cli, tmp_path):
    csv, out, parquet = (tmp_path / f"a.{kind}" for kind in ("csv", "json", "parquet"))
    done = hwsim_cli(
        *ASKED, "--slo", "ttft.p99=500ms,tpot.p99=40ms", "--json", "--csv", str(csv),
        "--out", str(out), "--parquet", str(parquet),
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["kind"] == "serve_plan"
    assert found["cheapest"]["replicas"] >= 1
    assert found["cheapest"]["service"]["ttft_s"]["p99"] < 0.5
    assert found["slo_s"] == {"ttft.p99": 0.5, "tpot.p99": 0.04}
    assert "usd_per_hour" in csv.read_text().splitlines()[0]
    assert parquet.stat().st_size > 0
    assert json.loads(out.read_text())["kind"] == "serve_plan"


def test_the_terminal_shows_answer_ranking_and_curve(hwsim_cli):
    done = hwsim_cli(*ASKED, "--slo", "tpot.p99=40ms", "--price", "1.5")
    assert done.code == 0, done.err
    for words in ("cheapest", "least energy", "Deployments that meet", "goodput"):
        assert words in done.out


def test_the_impossible_is_one_line_and_code_2(hwsim_cli):
    done = hwsim_cli(*ASKED, "--slo", "tpot.p99=10us")
    assert done.code == 2
    assert done.err.startswith("hwsim: no deployment meets tpot")
    assert len(done.err.splitlines()) == 1


def test_limits_must_be_readable(hwsim_cli):
    done = hwsim_cli(*ASKED, "--slo", "tpot")
    assert done.code == 2
    assert "--slo 'tpot' is not a limit" in done.err
