"""Every command explains itself."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from hwsim.cli.app import app, run_code


def commands() -> list[tuple[str, ...]]:
    def walk(command: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        if not inner:
            return [path]
        return [p for n, c in inner.items() for p in walk(c, (*path, n))]

    return walk(typer.main.get_command(app), ())


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_can_be_drawn(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run_code([*path, "--help"])
    except SystemExit as ended:  # a program of its own, that parses by itself
        code = ended.code  # type: ignore[assignment]
    assert code == 0
    assert "usage:" in capsys.readouterr().out.casefold()
