"""``--set`` on the commands that hold predictions against figures of others."""

import json

import hwsim

TABLE = "device,op,dtype,m,n,k,latency_us\n"
HBM = "device.memory.hbm.bandwidth=x0.5"


def table(path, device="h100"):
    sizes = [(m, n) for m in (1, 16, 256, 2048) for n in (512, 1024, 2048, 4096, 8192)]
    lines = []
    for i, (m, n) in enumerate([*sizes, *sizes]):
        time = hwsim.op("matmul", device=device, m=m, n=n, k=4096).time_s
        lines.append(f"{device},gemm,bf16,{m},{n},4096,{time * 1e6 * (1 + i % 3 / 50)}")
    path.write_text(TABLE + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_validate_predicts_with_the_changed_device(hwsim_cli, tmp_path):
    path = table(tmp_path / "gemm.csv")
    usual = json.loads(hwsim_cli("validate", path, "--json").out)
    done = hwsim_cli("validate", path, "--set", HBM, "--json")
    changed = json.loads(done.out)
    assert changed["overrides"] == [HBM]
    assert changed["bias"] > usual["bias"] + 0.2
    shown = hwsim_cli("validate", path, "--set", HBM).out
    assert f"assumed: {HBM}" in shown


def test_validate_says_where_no_row_has_the_figure(hwsim_cli, tmp_path):
    path = table(tmp_path / "gemm.csv")
    done = hwsim_cli("validate", path, "--set", "device.memory.ddr.bandwidth=x2")
    assert done.code == 2
    assert "memory.ddr" in done.err


def test_validate_refuses_it_where_it_would_do_nothing(hwsim_cli):
    done = hwsim_cli("validate", "--published", "x.csv", "--set", HBM)
    assert done.code == 2
    assert "hwsim demo has --set" in done.err


def test_calibrate_fits_the_changed_device(hwsim_cli, tmp_path):
    path, out = table(tmp_path / "gemm.csv"), tmp_path / "calibration.json"
    common = ("calibrate", "h100", "-m", path, "--holdout", "none", "--out", out)
    assert hwsim_cli(*common, "--set", "device.memory.main.bandwidth=x1.2").code == 0
    file = json.loads(out.read_text())
    assert "device.memory" in " ".join(file["notes"])


def test_demo_answers_what_has_the_figure_and_saves_it(hwsim_cli, tmp_path):
    done = hwsim_cli("demo", "--set", HBM, "--out", tmp_path / "demo", "--json")
    found = json.loads(done.out)
    usual = hwsim.compare_published().summary()
    assert 0 < found["rows"] < usual["rows"]
    assert found["overrides"] == [HBM]
    saved = tmp_path / "demo" / "published.json"
    pages = hwsim.write_reports([saved], tmp_path / "pages", formats=["md"])
    text = pages[0].read_text(encoding="utf-8")
    assert text.startswith("# Predictions beside published runs")
    assert "x0.5" in text


def test_figures_of_a_node_keep_its_sources_in_a_cluster(hwsim_cli):
    lines = hwsim_cli("show", "system", "frontier").out.splitlines()
    shown = {words[0]: words for line in lines if (words := line.split())}
    assert "derived" in shown["networks.xgmi.bandwidth"]
    assert "datasheet" in shown["networks.slingshot.bandwidth"]
    changed = hwsim_cli(
        "show", "system", "frontier", "--set", "system.networks.slingshot.bandwidth=x2"
    )
    assert "system.networks.slingshot.bandwidth=x2" in changed.out
