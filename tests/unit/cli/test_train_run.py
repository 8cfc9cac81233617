"""``hwsim train --tokens``: the whole run on the command line."""

import json

import pytest

WORDS = (
    "train", "gpt2", "-s", "dgx-a100-80gb", "--seq", "1024", "--global-batch", "64",
    "--tokens", "10T", "--node-mtbf", "100h", "--spares", "0",
)  # fmt: skip


def asked(hwsim_cli, *more):
    return json.loads(hwsim_cli(*WORDS, *more, "--json").out)


def test_repairs_hold_up_a_job_without_spares(hwsim_cli):
    short = asked(hwsim_cli, "--repair-time", "1h")
    long = asked(hwsim_cli, "--repair-time", "24h")
    assert long["goodput"] < short["goodput"] < short["expected_goodput"]
    assert long["waiting_s"] == pytest.approx(24 * short["waiting_s"], rel=0.1)


def test_the_time_of_a_write_sets_the_interval(hwsim_cli):
    # Young: the root of twice the write times the mean time between failures.
    found = asked(hwsim_cli, "--write-time", "30s")
    assert found["config"]["write_time"] == 30.0
    young = (2 * 30.0 * found["mtbf_s"]) ** 0.5
    assert found["checkpoint_interval_s"] == pytest.approx(young, rel=0.05)


def test_the_run_says_theory_and_what_draws_power(hwsim_cli):
    shown = hwsim_cli(*WORDS, "--pue", "1.2").out
    assert "with a spare always at hand" in shown
    assert "W of its" in shown
    assert "evidence" in shown


def test_a_negative_repair_is_refused(hwsim_cli):
    bad = hwsim_cli(*WORDS, "--repair-time", "-1h")
    assert bad.code == 2
    assert "--repair-time" in bad.err


def test_pages_say_what_is_known(hwsim_cli, tmp_path):
    page = tmp_path / "run.html"
    assert hwsim_cli(*WORDS, "--report", str(page)).code == 0
    assert "What is known of this run (stack unchecked)" in page.read_text()
