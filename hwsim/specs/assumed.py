"""Which figures of a spec somebody made up: overrides and hypothetical devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

OVERRIDE = "override "
HYPOTHETICAL = "hypothetical"
MARK = " (assumed)"
_LONGEST = 120  # of a name


def assumed_changes(specs: Iterable[Any]) -> tuple[str, ...]:
    """Return what was changed in specs by overrides or hypothetical files.

    Overrides are as they were written; a hypothetical file gives the key of each
    figure that it changes and the file's name.
    """
    found: list[str] = []
    for spec in specs:
        for source in spec.sources:
            if source.kind != "assumed":
                continue
            if source.title.startswith(OVERRIDE):
                found.append(source.title.removeprefix(OVERRIDE))
            elif source.title.startswith(HYPOTHETICAL):
                where = source.title.rpartition(" ")[2]
                found += [f"{key} ({where})" for key in source.covers]
    return tuple(dict.fromkeys(found))


def marked(name: str) -> str:
    """Return a name that says that figures behind it were made up."""
    fits = len(name) + len(MARK) <= _LONGEST
    return name + MARK if fits and not name.endswith(MARK) else name


def labelled(system: Any) -> str:
    """Return a system's device by name, marked where figures were made up."""
    name = str(system.device.name)
    return marked(name) if assumed_changes((system, system.device)) else name
