"""Finds the data that ships with hwsim, and the user's own beside it."""

from __future__ import annotations

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


def search_paths(name: str) -> Iterator[Path]:
    """Yield folders that may hold data of one sort, the user's first.

    The order is ``HWSIM_PATH`` (folders that hold ``devices/`` or
    ``workloads/``), device packs (entry points), then the built-ins.
    """
    for text in os.environ.get(USER_PATH, "").split(os.pathsep):
        if text:
            folder = expanded(text)
            if not any((folder / known).is_dir() for known in _CHECKOUT):
                raise HwsimError(
                    f"{USER_PATH}: {text!r} is not a folder with devices/ or "
                    f"workloads/ in it; name such folders, joined by {os.pathsep!r}"
                )
            yield from _existing(folder / name)
    from hwsim.registry import device_pack_paths

    for folder in device_pack_paths():
        yield from _existing(folder / name)
    yield builtin_path(name)


def _existing(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder


def expanded(text: str) -> Path:
    """Return a path with ``~`` replaced where that is possible."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody: let the caller report it as missing
        return Path(text)
