"""Run the command line in this process, as a user would see it."""

from typing import NamedTuple

import pytest

from hwsim.cli.app import run_code


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def hwsim_cli(capsys):
    def call(*arguments):
        code = run_code([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call
