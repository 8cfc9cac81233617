"""The built wheel, installed elsewhere, finds its devices and workloads."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(command, cwd, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with hwsim from a wheel; its dependencies borrowed."""
    place = tmp_path_factory.mktemp("wheel")
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
         "--no-build-isolation", "--wheel-dir", place, ROOT],
        place,
    )  # fmt: skip
    (wheel,) = place.glob("hwsim-*.whl")
    venv.create(place / "env", with_pip=True)
    python = place / "env" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], place)
    # Entries of PYTHONPATH are not searched for .pth files, so the checkout,
    # which is installed in editable mode beside them, stays out of sight.
    return python, place, {"PYTHONPATH": sysconfig.get_path("purelib")}


@pytest.mark.packaging
def test_wheel_lists_its_catalog_from_another_directory(installed):
    python, place, environment = installed
    command = [python.with_name("hwsim")]
    listed = run([*command, "devices", "--json"], place, **environment)
    assert "h100-80gb-sxm" in {d["id"] for d in json.loads(listed)}
    where = run(
        [python, "-c", "import hwsim; print(hwsim.__file__)"], place, **environment
    )
    assert Path(where.strip()).is_relative_to(place)


@pytest.mark.packaging
def test_wheel_answers_a_question_and_writes_a_page(installed):
    python, place, environment = installed
    answer = run(
        [python.with_name("hwsim"), "infer", "gpt-2-124m", "-s", "t4", "--dtype",
         "fp16", "--prompt", "64", "--output", "4", "--json", "--report", "page.html"],
        place, **environment,
    )  # fmt: skip
    assert json.loads(answer)["ttft_s"] > 0
    assert "<svg" in (place / "page.html").read_text(encoding="utf-8")


@pytest.mark.packaging
def test_wheel_is_typed_and_licensed(installed):
    _, place, _ = installed
    (package,) = place.glob("env/lib/python*/site-packages/hwsim")
    assert (package / "py.typed").is_file()
    assert list(package.parent.glob("hwsim-*.dist-info/licenses/LICENSE"))
