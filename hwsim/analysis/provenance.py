"""What an answer was made from: hashes of specs, overrides, assumed figures."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from hwsim.specs.assumed import OVERRIDE
from hwsim.specs.base import Source, Spec, find_source, iter_figures

ASSUMED = "assumed"
_PACKAGES = ("numpy", "simpy", "pydantic")


def digest(spec: Spec) -> str:
    """Return the SHA-256 of a spec's JSON in SI."""
    return hashlib.sha256(spec.model_dump_json().encode("utf-8")).hexdigest()


def environment() -> dict[str, str]:
    """Return the versions that an answer was computed with."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def sources_of(spec: Spec) -> tuple[Source, ...]:
    """Return the sources of a spec, none where it has none."""
    return tuple(getattr(spec, "sources", ()))


def override_texts(specs: Iterable[Spec]) -> tuple[str, ...]:
    """Return the what-if overrides that are in force, as they were written."""
    found = [
        source.title.removeprefix(OVERRIDE)
        for spec in specs
        for source in sources_of(spec)
        if source.kind == ASSUMED and source.title.startswith(OVERRIDE)
    ]
    return tuple(dict.fromkeys(found))


def assumed_figures(specs: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """Return every figure that rests on an assumption, with its source, in SI."""
    return [
        {
            "spec": role, "id": str(getattr(spec, "id", "")), "figure": path,
            "value": value, "unit": dimension.unit if dimension else None,
            "source": source.title, "note": source.note,
            "date": source.date.isoformat(),
        }
        for role, spec in specs.items()
        for path, value, dimension in iter_figures(spec)
        if (source := find_source(sources_of(spec), path)) is not None
        and source.kind == ASSUMED
    ]  # fmt: skip


def hashes(specs: Mapping[str, Spec]) -> dict[str, dict[str, str]]:
    """Return id, name and SHA-256 of each spec, the device's beside its system's."""
    every = dict(specs)
    if "system" in every:
        every["device"] = getattr(every["system"], "device", every["system"])
    return {
        role: {
            "id": str(getattr(spec, "id", "")),
            "name": str(getattr(spec, "name", "")),
            "sha256": digest(spec),
        }
        for role, spec in every.items()
    }
