"""Pictures are loaded when asked for: an answer alone must start fast."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["hwsim.report.format", "hwsim.report.write"])
def test_numbers_and_files_need_no_drawing(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "heavy = {'matplotlib', 'pandas', 'jinja2', 'numpy'} & set(sys.modules); "
        "print(*sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
