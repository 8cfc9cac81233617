"""``hwsim train --jitter``."""

import json


def test_the_command_prints_percentiles(hwsim_cli):
    words = ["train", "gpt2", "-s", "selene", "--devices", "8", "--jitter", "0.05"]
    shown = hwsim_cli(*words, "--replications", "50")
    assert "disturbed steps" in shown.out
    assert "50 steps played" in shown.out
    saved = json.loads(hwsim_cli(*words, "--json").out)["spread"]
    assert saved["p50_s"] < saved["p90_s"] < saved["p99_s"]
    assert saved["replications"] == 100
    bad = hwsim_cli("train", "gpt2", "-s", "selene", "--slowdown", "1,x")
    assert bad.code == 2
    assert "--slowdown '1,x'" in bad.err
