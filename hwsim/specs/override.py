"""What-if overrides: ``device.memory.hbm.bandwidth=4.8TB/s``, ``=x2``, ``=0.5x``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from hwsim.errors import InputError, SpecError, nearest
from hwsim.specs.assumed import OVERRIDE, marked
from hwsim.specs.base import Spec, dimension_of
from hwsim.specs.load import spec_error
from hwsim.units import Dimension, parse_quantity

S = TypeVar("S", bound=Spec)
Path = tuple[str, ...]
_TIMES = r"(\d*\.?\d+(?:e[+-]?\d+)?|\d+\.)"
_FACTOR = re.compile(rf"^(?:x{_TIMES}|{_TIMES}x)$", re.IGNORECASE)
_PERCENT = re.compile(r"^([+-]\d+(?:\.\d*)?)%$")
_IDENTITY = {"schema_version", "id", "name", "aliases", "notes", "sources"}


class Override(NamedTuple):
    """One parsed ``--set``: which spec, which key, which text."""

    target: str
    path: Path
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

    They are applied in order and checked together, so that figures which must
    agree (a torus and its size, a CPU's clock and its peak) can change at once.

    Raises
    ------
    SpecError
        If a key does not exist or the new spec is invalid.
    """
    overrides = tuple(overrides)
    if not overrides:
        return spec
    table = _mutable(spec.model_dump())
    changed = {_apply(spec, table, override): override for override in overrides}
    if isinstance(table.get("name"), str):
        table["name"] = marked(table["name"])
    try:
        return type(spec).model_validate(table)
    except ValidationError as error:
        raise spec_error(error, f"--set {_blamed(error, spec, changed)}") from None


def _blamed(
    error: ValidationError, spec: Spec, changed: Mapping[Path, Override]
) -> str:
    loc = error.errors(include_url=False)[0]["loc"]
    at = canonical_path(spec, tuple(str(part) for part in loc))
    guilty = [o for path, o in changed.items() if at[: len(path)] == path]
    return ", ".join(o.label for o in guilty or changed.values())


def _apply(spec: Spec, table: dict[str, Any], override: Override) -> Path:
    """Change one figure of a dumped spec; return its canonical path."""
    where = f"--set {override.label}"
    path = canonical_path(spec, override.path)
    if path[0] in _IDENTITY:
        raise SpecError(where, f"{path[0]!r} is not a figure", "override figures only")
    holder: Any = table
    for depth, key in enumerate(path[:-1]):
        holder = _step(holder, key, where, ".".join(path[: depth + 1]))
    last = path[-1]
    old = _step(holder, last, where, ".".join(path))
    new = _new_value(old, override.text, dimension_of(spec, path), where)
    holder[int(last) if isinstance(holder, list) else last] = new
    _label(spec, table, path, override.label)
    return path


def _mutable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _mutable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mutable(item) for item in value]
    return value


def _label(spec: Any, table: dict[str, Any], path: Path, label: str) -> None:
    """Add the source of an overridden figure where the figure's own stands."""
    inner = getattr(spec, path[0], None)
    if len(path) > 1 and hasattr(inner, "sources"):
        _label(inner, table[path[0]], path[1:], label)
    elif hasattr(spec, "sources"):
        assumed = {
            "kind": "assumed",
            "title": f"{OVERRIDE}{label}",
            "date": dt.datetime.now(tz=dt.UTC).date(),
            "covers": (".".join(path),),
        }
        table["sources"] = [assumed, *table["sources"]]


def canonical_path(spec: Any, path: Path) -> Path:
    """Return a path with list items by name and ``memory.main`` spelt out."""
    if not path or spec is None:
        return path
    first, rest = path[0], path[1:]
    if isinstance(spec, Spec):
        main = getattr(spec, "main_memory_name", None)
        if main and first == "memory" and rest and rest[0] in {"main", "dram"}:
            rest = (main, *rest[1:])
        return (first, *canonical_path(getattr(spec, first, None), rest))
    if isinstance(spec, tuple):
        for index, item in enumerate(spec):
            name = getattr(item, "name", str(index))
            if first in {str(index), name}:
                return (name, *canonical_path(item, rest))
    if isinstance(spec, Mapping):
        return (first, *canonical_path(spec.get(first), rest))
    return path


def _step(holder: Any, key: str, where: str, path: str) -> Any:
    if isinstance(holder, list):
        named = {str(i): item for i, item in enumerate(holder)}
        named |= {i["name"]: i for i in holder if isinstance(i, dict) and "name" in i}
        holder = named
    if isinstance(holder, Mapping) and key in holder:
        return holder[key]
    known = list(holder) if isinstance(holder, Mapping) else []
    close = nearest(key, known) or known[:8]
    hint = f"there is {', '.join(map(str, close))}" if close else "it has no keys"
    raise SpecError(where, f"no key {path!r}", hint)


def _new_value(old: Any, text: str, dimension: Dimension | None, where: str) -> Any:
    if isinstance(old, Mapping | list):
        raise SpecError(where, "is a table, not a figure", "name a key inside it")
    factor, percent = _FACTOR.match(text), _PERCENT.match(text)
    if factor is not None:
        return _scaled(old, float(factor[1] or factor[2]), where)
    if percent is not None:
        return _scaled(old, 1 + float(percent[1]) / 100, where)
    if dimension is not None:
        try:
            return parse_quantity(text, dimension)
        except ValueError as error:
            raise SpecError(where, str(error)) from None
    if isinstance(old, bool):
        return {"true": True, "false": False}.get(text.casefold(), text)
    if isinstance(old, int) or old is None:
        try:
            return int(text)
        except ValueError:
            return text
    return text


def _scaled(old: Any, scale: float, where: str) -> int | float:
    if isinstance(old, bool) or not isinstance(old, int | float):
        raise SpecError(where, f"{old!r} is not a number to scale", "give a value")
    scaled = old * scale
    whole = isinstance(old, int) and float(scaled).is_integer()
    return int(scaled) if whole else scaled
