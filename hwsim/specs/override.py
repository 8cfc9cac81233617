"""What-if overrides: ``device.memory.hbm.bandwidth=4.8TB/s`` or ``=x2``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from hwsim.errors import InputError, SpecError, nearest
from hwsim.specs.base import CatalogSpec, Spec
from hwsim.specs.load import spec_error

S = TypeVar("S", bound=Spec)
_FACTOR = re.compile(r"^x(\d+(?:\.\d*)?(?:e[+-]?\d+)?)$", re.IGNORECASE)
_PERCENT = re.compile(r"^([+-]\d+(?:\.\d*)?)%$")


class Override(NamedTuple):
    """One parsed ``--set``: which spec, which key, which text."""

    target: str
    path: tuple[str, ...]
    text: str

    @property
    def label(self) -> str:
        """The override as it was written."""
        return f"{self.target}.{'.'.join(self.path)}={self.text}"


def parse_override(text: str, targets: Iterable[str]) -> Override:
    """Parse ``target.key.key=value``.

    Raises
    ------
    InputError
        If it has no ``=`` or names no known target.
    """
    key, equals, value = text.partition("=")
    parts = [p.strip() for p in key.strip().split(".")]
    if not equals or not value.strip() or len(parts) < 2 or not all(parts):
        raise InputError(
            f"--set {text!r} is not key=value; "
            "write for example device.memory.hbm.bandwidth=4.8TB/s or =x2"
        )
    known = sorted(targets)
    if parts[0] not in known:
        raise InputError(
            f"--set {text!r}: {parts[0]!r} is not one of {', '.join(known)}"
        )
    return Override(parts[0], tuple(parts[1:]), value.strip())


def apply_overrides(spec: S, overrides: Iterable[Override]) -> S:
    """Return a spec with figures replaced, each labelled as assumed.

    Raises
    ------
    SpecError
        If a key does not exist or the new spec is invalid.
    """
    for override in overrides:
        spec = _apply(spec, override)
    return spec


def _apply(spec: S, override: Override) -> S:
    where = f"--set {override.label}"
    table = spec.model_dump()
    path = _canonical(spec, override.path)
    holder: Any = table
    for depth, key in enumerate(path[:-1]):
        holder = _step(holder, key, where, ".".join(path[: depth + 1]))
    last = path[-1]
    old = _step(holder, last, where, ".".join(path))
    new = _new_value(old, override.text, where)
    if isinstance(holder, list | tuple):
        raise SpecError(where, "sets a whole list entry", "name a key inside it")
    holder[last] = new
    if isinstance(spec, CatalogSpec):
        assumed = {
            "kind": "assumed",
            "title": f"override {override.label}",
            "date": dt.datetime.now(tz=dt.UTC).date(),
            "covers": (".".join(path),),
        }
        table["sources"] = (assumed, *table["sources"])
    try:
        return type(spec).model_validate(table)
    except ValidationError as error:
        raise spec_error(error, where) from None


def _canonical(spec: Spec, path: tuple[str, ...]) -> tuple[str, ...]:
    main = getattr(spec, "main_memory_name", None)
    if main and len(path) >= 2 and path[0] == "memory" and path[1] in {"main", "dram"}:
        return (path[0], main, *path[2:])
    return path


def _step(holder: Any, key: str, where: str, path: str) -> Any:
    if isinstance(holder, list | tuple):
        named = {str(i): item for i, item in enumerate(holder)}
        named |= {i["name"]: i for i in holder if isinstance(i, dict) and "name" in i}
        holder = named
    if isinstance(holder, Mapping) and key in holder:
        return holder[key]
    known = list(holder) if isinstance(holder, Mapping) else []
    close = nearest(key, known) or known[:8]
    hint = f"there is {', '.join(map(str, close))}" if close else "it has no keys"
    raise SpecError(where, f"no key {path!r}", hint)


def _new_value(old: Any, text: str, where: str) -> Any:
    factor = _FACTOR.match(text)
    percent = _PERCENT.match(text)
    if factor or percent:
        if isinstance(old, bool) or not isinstance(old, int | float):
            raise SpecError(where, f"{old!r} is not a number to scale", "give a value")
        scale = float(factor[1]) if factor else 1 + float(percent[1]) / 100  # type: ignore[index]
        scaled = old * scale
        whole = isinstance(old, int) and float(scaled).is_integer()
        return int(scaled) if whole else scaled
    if text in {"true", "false"}:
        return text == "true"
    if isinstance(old, int):
        try:
            return int(text)
        except ValueError:
            return text
    if isinstance(old, float):
        return _number_or_text(text)
    if isinstance(old, dict | list | tuple):
        raise SpecError(where, "is a table, not a figure", "name a key inside it")
    return text


def _number_or_text(text: str) -> float | str:
    # A bare number stays text, so that a dimensional figure asks for its unit.
    return text
