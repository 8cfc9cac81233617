"""Finds the data that ships with hwsim, and the user's own beside it."""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Iterator
from pathlib import Path

from hwsim.errors import HwsimError

_CHECKOUT = {
    "devices": "devices",
    "workloads": "workloads",
    "reports": "reports/templates",
}
USER_PATH = "HWSIM_PATH"


@functools.cache
def builtin_path(name: str) -> Path:
    """Return the folder of built-in data: ``devices``, ``workloads``, ``reports``.

    Raises
    ------
    HwsimError
        If neither the installed package nor the checkout has it.
    """
    installed = Path(str(importlib.resources.files("hwsim"))) / "_data" / name
    if installed.is_dir():
        return installed
    checkout = Path(__file__).resolve().parent.parent / _CHECKOUT[name]
    if checkout.is_dir():
        return checkout
    raise HwsimError(
        f"built-in {name} are missing: neither {installed} nor {checkout} is a "
        "folder; reinstall hwsim"
    )


def user_paths() -> Iterator[Path]:
    """Yield the folders that ``HWSIM_PATH`` names.

    Raises
    ------
    HwsimError
        If one holds neither ``devices/`` nor ``workloads/``.
    """
    for text in os.environ.get(USER_PATH, "").split(os.pathsep):
        if not text:
            continue
        folder = expanded(text)
        if not any((folder / known).is_dir() for known in _CHECKOUT):
            raise HwsimError(
                f"{USER_PATH}: {text!r} is not a folder with devices/ or "
                f"workloads/ in it; name such folders, joined by {os.pathsep!r}"
            )
        yield folder


def expanded(text: str) -> Path:
    """Return a path with ``~`` replaced where that is possible."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: let the caller report it as missing
        return Path(text)
