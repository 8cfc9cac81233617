"""Defaults and manners of the command line: config files, verbosity.

Defaults come from, the first that has one: the command line, the environment
(``HWSIM_INFER_SYSTEM``), the file that ``HWSIM_CONFIG`` names, ``hwsim.toml`` in
the working folder, ``hwsim/config.toml`` in the user's configuration folder.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.errors import InputError, nearest

PREFIX = "HWSIM"
HERE = Path("hwsim.toml")
ROOT_KEYS = ("quiet", "verbose", "units")


@dataclass
class Manners:
    """How much is said beside the answer.

    Attributes
    ----------
    quiet : bool
        Neither notes nor progress.
    verbose : bool
        Also what was read and how long it took.
    """

    quiet: bool = False
    verbose: bool = False


manners = Manners()


def config_files() -> list[Path]:
    """Return the files that defaults are read from, the weakest first.

    Raises
    ------
    InputError
        If ``HWSIM_CONFIG`` names a file that is not there.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = [Path(home).expanduser() / "hwsim" / "config.toml", HERE]
    found = [place for place in places if place.is_file()]
    named = os.environ.get("HWSIM_CONFIG")
    if named:
        if not Path(named).is_file():
            raise InputError(
                f"HWSIM_CONFIG names {named}, which is no file; unset it or mend it"
            )
        found.append(Path(named))
    return found


def defaults(command: Any) -> dict[str, Any]:
    """Return the defaults of all commands, from the files that there are.

    Parameters
    ----------
    command : click.Group
        The application, whose options the keys must be.

    Raises
    ------
    InputError
        If a file cannot be read, or has a key that is no option.
    """
    merged: dict[str, Any] = {}
    for path in config_files():
        _merge(merged, _checked(path, _read(path), command, ()))
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from None


def _checked(
    path: Path, table: Mapping[str, Any], command: Any, trail: tuple[str, ...]
) -> dict[str, Any]:
    """Return a table with the names that parameters have."""
    commands = getattr(command, "commands", {})
    options = dict(_options(command))
    found: dict[str, Any] = {}
    for key, value in table.items():
        where = ".".join((*trail, key))
        if isinstance(value, Mapping) and key in commands:
            found[key] = _checked(path, value, commands[key], (*trail, key))
        elif key.replace("_", "-") in options and not isinstance(value, Mapping):
            found[options[key.replace("_", "-")]] = value
        else:
            known = [*commands, *options]
            close = nearest(key, known) or sorted(known)
            raise InputError(
                f"{path}: {where} is no command or option; did you mean "
                f"{', '.join(close[:5])}?"
            )
    return found


def _options(command: Any) -> Iterator[tuple[str, str]]:
    """Yield the options of a command, by their long names without dashes."""
    for parameter in command.params:
        for name in parameter.opts:
            if name.startswith("--") and parameter.name not in {"help", "version"}:
                yield name[2:], parameter.name


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
