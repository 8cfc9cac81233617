import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hwsim.measure.cuda as package
from hwsim.cli.app import run_code
from hwsim.measure.cuda import app

FOLDER = Path(package.__file__).parent
# What PyTorch alone brings no promise of.
FOREIGN = ["hwsim", "pydantic", "numpy", "pandas", "rich", "typer", "scipy"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(FOLDER, folder / "cuda", ignore=ignore)
    return folder


def python(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-S", "-E", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("start", [("-m", "cuda"), ("cuda/__main__.py",)])
def test_a_bare_copy_runs_without_any_package(bare, start):
    done = python(*start, "--list", "--only", "launch", cwd=bare)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("launch|launch_graph")
    done = python(*start, "--out", "never", cwd=bare)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PyTorch is not installed here" in done.stderr
    assert not (bare / "never").exists()


def test_no_module_of_the_folder_imports_anything_foreign(bare):
    code = (
        "import importlib, pkgutil, sys, cuda\n"
        "for m in pkgutil.iter_modules(cuda.__path__):\n"
        "    if m.name != '__main__': importlib.import_module('cuda.' + m.name)\n"
        f"print([n for n in {FOREIGN!r} if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=bare, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_as_a_module_of_hwsim(bare):
    done = subprocess.run(
        [sys.executable, "-m", "hwsim.measure.cuda", "--list", "--only", "launch"],
        cwd=FOLDER.parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4


def test_through_the_command_line(capsys, tmp_path):
    assert run_code(["measure", "cuda", "--out", str(tmp_path / "x")]) == 2
    assert "PyTorch is not installed here" in capsys.readouterr().err
    assert run_code(["measure", "cuda", "--list", "--only", "launch"]) == 0
    assert "launch_eager" in capsys.readouterr().out


class NoGpu:
    """PyTorch on a machine without a GPU."""

    class cuda:  # noqa: N801
        @staticmethod
        def is_available():
            return False

    @staticmethod
    def device(name):
        return type("Device", (), {"type": name.split(":")[0]})()


def test_no_gpu_is_one_clear_line(monkeypatch, capsys):
    monkeypatch.setattr(app, "load_torch", lambda: NoGpu)
    assert app.main(["--budget", "5"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "hwsim measure cuda: PyTorch finds no CUDA GPU here; run this on a GPU node\n"
    )


@pytest.mark.parametrize(
    ("text", "value"), [("900", 900.0), ("15m", 900.0), ("1.5h", 5400.0), ("30s", 30.0)]
)
def test_budget_is_read_with_units(text, value):
    assert app.parser().parse_args(["--budget", text]).budget == value


@pytest.mark.parametrize("text", ["0", "-3", "soon", "5 d"])
def test_budget_that_is_no_time_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        app.main([f"--budget={text}"])
    assert "is no time; write 900, 15m or 1h" in capsys.readouterr().err


def test_a_lost_device_is_one_line_and_says_how_to_go_on(monkeypatch, capsys):
    def fail(asked, arguments):
        raise RuntimeError("CUDA error: an illegal memory access\nlong text")

    monkeypatch.setattr(app, "_measure", fail)
    assert app.main([]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "goes on after this case" in err


def test_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def stop(asked, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_measure", stop)
    assert app.main([]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_cpu_command_measures_and_reports(capsys, tmp_path):
    arguments = ["measure", "cpu", "--budget", "30", "--only", "launch", "--threads",
                 "1", "--out", str(tmp_path)]  # fmt: skip
    assert run_code(arguments) == 0
    assert "2 cases of" in capsys.readouterr().out
    assert run_code([*arguments, "--json"]) == 0
    assert '"already": 2' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--budget", "soon"], "'soon' is no time; write 90, 5m or 1h"),
        (["--threads", "many"], "'many' are no numbers"),
        (["--only", "gem"], "unknown table 'gem'"),
    ],
)
def test_cpu_command_refuses_in_one_line(capsys, tmp_path, arguments, text):
    out = str(tmp_path / "out")
    assert run_code(["measure", "cpu", "--out", out, *arguments]) == 2
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err
