"""Whole files or none: a page or figure never lies half-written."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from hwsim.errors import OutputError


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file in one step: beside its place first, then renamed into it.

    Devices and pipes (``/dev/stdout``) are written to directly.

    Raises
    ------
    OutputError
        If it cannot be written; what stood there before is left as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # Resolved, so that a link keeps pointing at the file that is replaced.
    place = Path(os.path.realpath(Path(path).expanduser()))
    try:
        if _is_special(place):
            place.write_bytes(data)
        else:
            _replace(place, data)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {_reason(place, error)}"
        ) from None
    return Path(path)


def _is_special(place: Path) -> bool:
    try:
        mode = place.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _replace(place: Path, data: bytes) -> None:
    if place.is_dir():
        raise IsADirectoryError
    temporary = place.with_name(f".{place.name[:100]}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        if place.exists():
            temporary.chmod(stat.S_IMODE(place.stat().st_mode))
        temporary.replace(place)
    except BaseException:  # Ctrl-C too must leave nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _reason(place: Path, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "it is a folder; name a file inside it"
    if isinstance(error, FileNotFoundError):
        return f"folder {place.parent} does not exist; create it first"
    if isinstance(error, NotADirectoryError):
        return f"{place.parent} is not a folder; choose another path"
    why = (error.strerror or type(error).__name__).lower()
    return f"{why}; choose another path"


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place that a file cannot be written to, before any work is done.

    Raises
    ------
    OutputError
        If it is a folder, or its folder is missing or closed to us.
    """
    place = Path(os.path.realpath(Path(path).expanduser()))
    if _is_special(place):
        return
    parent = place.parent
    if place.is_dir():
        problem = "it is a folder"
    elif not parent.is_dir():
        problem = f"there is no folder {parent}"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"folder {parent} is closed to writing"
    else:
        return
    raise OutputError(f"{path}: cannot be written: {problem}")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it, unless it is there.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    place = Path(path).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {_reason(place, error)}") from None
    return place
