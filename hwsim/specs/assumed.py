"""Which figures of a spec somebody made up: overrides and hypothetical devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

OVERRIDE = "override "
HYPOTHETICAL = "hypothetical"
MARK = " (assumed)"


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


def labelled(system: Any) -> str:
    """Return a system's device by name, marked where figures were made up."""
    name = str(system.device.name)
    made_up = assumed_changes((system, system.device))
    return name + MARK if made_up else name
