"""Defaults from files and the environment, verbosity, units, completion, help."""

import io
import json
import os
import subprocess
import sys

import pytest
import typer

from hwsim.cli.app import app


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in list(os.environ):
        if name.startswith("HWSIM_") and name != "HWSIM_PATH":
            monkeypatch.delenv(name)
    return tmp_path


def batch(hwsim_cli, *words):
    done = hwsim_cli("infer", "gpt2", "--json", *words)
    assert done.code == 0, done.err
    return json.loads(done.out)["config"]["batch"]


def test_the_nearer_source_of_a_default_wins(hwsim_cli, elsewhere, monkeypatch):
    home = elsewhere / "config" / "hwsim"
    home.mkdir(parents=True)
    (home / "config.toml").write_text("[infer]\nsystem = 'a100'\nbatch = 2\n")
    assert batch(hwsim_cli) == 2
    (elsewhere / "hwsim.toml").write_text("[infer]\nbatch = 3\n")
    assert batch(hwsim_cli) == 3
    other = elsewhere / "other.toml"
    other.write_text("[infer]\nbatch = 4\n")
    monkeypatch.setenv("HWSIM_CONFIG", str(other))
    assert batch(hwsim_cli) == 4
    monkeypatch.setenv("HWSIM_INFER_BATCH", "5")
    assert batch(hwsim_cli) == 5
    assert batch(hwsim_cli, "--batch", "6") == 6


def test_options_are_written_as_on_the_command_line(hwsim_cli, elsewhere):
    (elsewhere / "hwsim.toml").write_text(
        "units = 'si'\n[infer]\nsystem = 'h100'\nkv-dtype = 'fp8'\n"
        "set = ['device.memory.hbm.bandwidth=x2']\n[plan.train]\nglobal-batch = 8\n"
    )
    done = hwsim_cli("infer", "llama-3.1-8b", "--json")
    assert json.loads(done.out)["config"]["kv_dtype"] == "fp8"
    shown = hwsim_cli("infer", "llama-3.1-8b")
    assert " ms " not in shown.out
    (elsewhere / "hwsim.toml").write_text("[plan.train]\nglobal_batch = 8\nseq = 1024")
    done = hwsim_cli("plan", "train", "gpt2", "-s", "h100", "--json")
    assert json.loads(done.out)["config"]["global_batch"] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[infer]\nbtach = 3", "infer.btach is no command or option; did you mean"),
        ("[infre]\nbatch = 3", "infre is no command or option"),
        ("[infer", "hwsim.toml"),
        ("infer = 3", "infer is no command or option"),
        ("version = true", "version is no command or option"),
    ],
)
def test_a_bad_file_is_one_line_and_code_2(hwsim_cli, elsewhere, text, said):
    (elsewhere / "hwsim.toml").write_text(text)
    done = hwsim_cli("infer", "gpt2", "-s", "h100")
    assert done.code == 2
    assert said in done.err
    assert "hwsim.toml" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_config_that_is_not_there_is_said(hwsim_cli, monkeypatch):
    monkeypatch.setenv("HWSIM_CONFIG", "/no/such.toml")
    done = hwsim_cli("infer", "gpt2", "-s", "h100")
    assert done.code == 2
    assert "HWSIM_CONFIG names /no/such.toml" in done.err


def test_quiet_leaves_the_answer_alone(hwsim_cli):
    words = ("infer", "gpt2", "-s", "h100", "--set", "device.year=2021")
    loud, quiet = hwsim_cli(*words), hwsim_cli("--quiet", *words)
    assert "for reference" in loud.err
    assert quiet.err == ""
    assert quiet.out == loud.out


def test_verbose_says_what_was_read(hwsim_cli, elsewhere):
    (elsewhere / "hwsim.toml").write_text("verbose = true\n[infer]\nbatch = 2\n")
    done = hwsim_cli("infer", "gpt2", "-s", "h100")
    assert "defaults from files: hwsim.toml" in done.err
    both = hwsim_cli("--quiet", "infer", "gpt2", "-s", "h100")
    assert both.code == 2
    assert "exclude each other" in both.err


def test_plain_units_are_numbers_of_si_units(hwsim_cli):
    words = ("infer", "llama-3.1-8b", "-s", "h100")
    plain = hwsim_cli("--units", "si", *words).out
    assert " ms" not in plain
    assert " GB " not in plain
    assert "e+10 B" in plain
    assert " ms" in hwsim_cli(*words).out


def commands(command, trail=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*trail, name))
    if not hasattr(command, "commands"):
        yield trail, command


@pytest.mark.parametrize(
    ("trail", "command"), list(commands(typer.main.get_command(app)))
)
def test_every_command_has_help_and_an_example(trail, command):
    assert command.help
    assert command.epilog
    assert command.epilog.startswith("Examples:")
    assert f"$ hwsim {' '.join(trail)}" in command.epilog


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("hwsim infer llama-3.1-8", "llama-3.1-8b"), ("hwsim infer gpt2 -s h200", "h200")],
)
def test_the_shell_completes_names(typed, offered):
    done = subprocess.run(
        [sys.executable, "-m", "hwsim"],
        env={**os.environ, "_HWSIM_COMPLETE": "complete_bash", "COMP_WORDS": typed,
             "COMP_CWORD": str(len(typed.split()) - 1)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert offered in done.stdout, done.stderr


def narrow(width, rows, columns=("id", "rate", "why")):
    from rich.console import Console

    from hwsim.cli.output import table

    out = Console(width=width, file=io.StringIO())
    out.print(table(None, columns, rows, right=["rate"]))
    return out.file.getvalue()


def test_a_narrow_terminal_gets_rows_one_below_the_other():
    rows = [["device.memory.hbm.bandwidth", "989.4 TFLOP/s", "it hardly moves"] * 1]
    wide, slim = narrow(90, rows), narrow(44, rows)
    assert wide.splitlines()[0].split() == ["id", "rate", "why"]
    assert "989.4 TFLOP/s" in slim
    lines = [line.rstrip() for line in slim.splitlines()]
    assert lines[0] == " device.memory.hbm.bandwidth"
    assert lines[1].split(maxsplit=1) == ["rate", "989.4 TFLOP/s"]
    assert all(len(line) <= 44 for line in lines)
