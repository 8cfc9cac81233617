"""Reads specs: by name from the catalogs, by path, with overrides."""

from __future__ import annotations

import datetime as dt
import functools
import glob
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hwsim.errors import InputError, SpecError, UnknownNameError, nearest
from hwsim.registry import search_paths
from hwsim.resources import expanded
from hwsim.specs.assumed import HYPOTHETICAL, marked
from hwsim.specs.base import UNITS_REQUIRED, CatalogSpec, Spec

S = TypeVar("S", bound=CatalogSpec)
A = TypeVar("A", bound=Spec)
MAX_SPEC_BYTES = 4 * 2**20


def fold(name: str) -> str:
    """Return a name as lookups compare it: case, ``-``, ``_``, space ignored.

    Examples
    --------
    >>> fold("A100_80GB SXM")
    'a100-80gb-sxm'
    """
    return "-".join(name.casefold().replace("_", " ").replace("-", " ").split())


def looks_like_path(name: object) -> bool:
    """Return whether a name means a file rather than a catalog entry."""
    text = name if isinstance(name, str) else ""
    return text.endswith((".toml", ".json")) or "/" in text or "\\" in text


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file into a dict, with one-line errors."""
    try:
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            if path.exists() and not path.is_dir():
                problem = "is not a plain file"
            raise SpecError(str(path), problem, "name a .toml or .json file")
        size = path.stat().st_size
        if size > MAX_SPEC_BYTES:
            raise SpecError(
                str(path),
                f"is {size / 2**20:.0f} MiB",
                f"a spec is at most {MAX_SPEC_BYTES // 2**20} MiB of text",
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(str(path), "is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise SpecError(str(path), f"cannot be read ({error.strerror})") from None
    return _parse(path, text)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:  # also an integer of thousands of digits
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise SpecError(str(path), f"is not valid {kind}: {error}") from None
    except RecursionError:
        raise SpecError(str(path), "is nested too deeply") from None
    if not isinstance(table, dict):
        raise SpecError(str(path), "is not a table of keys", "write key = value")
    return table


def validate(
    cls: type[A], table: Mapping[str, Any], where: str, *, units_required: bool
) -> A:
    """Build a spec from a table; the first fault becomes one clear line."""
    try:
        return cls.model_validate(table, context={UNITS_REQUIRED: units_required})
    except ValidationError as error:
        raise spec_error(error, where) from None


def spec_error(error: ValidationError, where: str) -> SpecError:
    """Turn pydantic's report into one line: file, key, value, remedy."""
    faults = error.errors(include_url=False)
    # An unknown key goes first: misspelt, it makes another one missing.
    fault = min(faults, key=lambda f: f["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in fault["loc"])
    (what, remedy), told = _describe(fault), 1
    near = [f["loc"] for f in faults if f["type"] == "missing"]
    missing = [str(loc[-1]) for loc in near if loc[:-1] == fault["loc"][:-1]]
    if fault["type"] == "missing" and len(missing) > 1:
        key = ".".join(str(part) for part in fault["loc"][:-1])
        listed = f"{', '.join(missing[:-1])} and {missing[-1]}"
        what, remedy, told = f"{listed} are missing", "add them", len(missing)
    elif fault["type"] == "extra_forbidden":
        meant = nearest(str(fault["loc"][-1]), missing)
        remedy = f"did you mean {meant[0]}?" if meant else remedy
    others = len(faults) - told
    more = f" (+{others} more faults)" if others else ""
    return SpecError(f"{where}: {key}" if key else where, what + more, remedy)


def _describe(fault: Mapping[str, Any]) -> tuple[str, str]:
    kind, value = fault["type"], fault.get("input")
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind == "missing":
        return "is missing", "add it"
    if kind == "extra_forbidden":
        return f"unknown key (value {shown})", "remove it or mend its spelling"
    if kind == "value_error":
        return str(fault["ctx"]["error"]), ""
    message = str(fault["msg"])
    return f"{shown}: {message[0].lower()}{message[1:]}", ""


def _tree_stamp(folder: str) -> tuple[int, ...]:
    """Return when a data folder and the folders in it last gained or lost a file."""
    with os.scandir(folder) as entries:
        inner = sorted((e.name, e.stat().st_mtime_ns) for e in entries if e.is_dir())
    return (Path(folder).stat().st_mtime_ns, *(stamp for _, stamp in inner))


@functools.lru_cache(maxsize=256)
def _listing(
    folder: str, pattern: str, exclude: str, stamp: tuple[int, ...]
) -> dict[str, str]:
    """Return folded id to file of one data folder."""
    del stamp  # part of the cache key: a changed folder is listed again
    found: dict[str, str] = {}
    for path in sorted(glob.glob(pattern, root_dir=folder)):  # noqa: PTH207  as text
        parts = path.split(os.sep)  # noqa: PTH206
        if exclude not in parts:
            stem = parts[-2] if parts[-1] == "spec.toml" else parts[-1]
            name = fold(stem.removesuffix(".toml").removesuffix(".json"))
            found.setdefault(name, folder + os.sep + path)
    return found


class Catalog:
    """Specs of one kind: built-ins, packs and the user's own, by name.

    Parameters
    ----------
    what : str
        Word for one entry, used in errors.
    cls : type
        Spec class.
    root, pattern : str
        Data folder and the glob under it that finds the files.
    exclude : str
        Path part that marks another catalog's files.
    """

    def __init__(
        self,
        what: str,
        cls: type[CatalogSpec],
        root: str,
        pattern: str,
        exclude: str = "\0",
    ) -> None:
        self.what, self.cls = what, cls
        self.root, self.pattern, self.exclude = root, pattern, exclude
        self._hints: dict[str, str] = {}

    def paths(self) -> dict[str, Path]:
        """Return folded id to file, the user's files hiding built-ins."""
        return {name: Path(path) for name, path in self._files().items()}

    def _files(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for listed in self._listings():
            found = listed | found
        return found

    def _listings(self) -> Iterator[dict[str, str]]:
        for folder in map(str, search_paths(self.root)):
            stamp = _tree_stamp(folder)
            yield _listing(folder, self.pattern, self.exclude, stamp)

    def find(self, name: str) -> Path:
        """Return the file behind a name, an alias or a path.

        Raises
        ------
        UnknownNameError
            If nothing is called so; the message names the nearest.
        """
        if looks_like_path(name):
            return expanded(name)
        found = self.by_id(name) or self.by_alias(name)
        if found is None:
            _listing.cache_clear()  # a file may be younger than its folder
            found = self.by_id(name) or self.by_alias(name)
        if found is None:
            remedy = f"(hwsim {self.what}s lists them)"
            raise UnknownNameError(self.what, name, self.names(), remedy)
        return found

    def by_id(self, name: str) -> Path | None:
        """Return the file whose id is so, if any."""
        wanted = fold(name)
        for listed in self._listings():
            if wanted in listed:
                return Path(listed[wanted])
        return None

    def by_alias(self, name: str) -> Path | None:
        """Return the first file that goes by an alias, if any."""
        files, wanted = self._files(), fold(name)
        hint = self._hints.get(wanted, "")  # where the alias was last
        if hint in files and wanted in _names(Path(files[hint])):
            return Path(files[hint])
        for key, path in files.items():
            if wanted in _names(Path(path)):
                self._hints[wanted] = key
                return Path(path)
        return None

    def names(self) -> set[str]:
        """Return every id and alias, folded."""
        files = self._files()
        return {*files} | {alias for p in files.values() for alias in _names(Path(p))}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files())

    def root_of(self, name: str) -> str:
        """Return the name that an entry's line of ``based_on`` begins with."""
        seen: list[str] = []
        while name not in seen:
            seen.append(name)
            name = fold(_header(self.find(name))["based_on"] or name)
        return name

    def table(self, name: str) -> tuple[dict[str, Any], Path]:
        """Return the raw table behind a name, ``based_on`` resolved."""
        path = self.find(name)
        return self._resolved(path, seen=()), path

    def _resolved(self, path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
        if path in seen:
            raise SpecError(str(path), "based_on goes round in a circle")
        table = read_table(path)
        base = table.pop("based_on", None)
        if base is None:
            return table
        if not isinstance(base, str):
            raise SpecError(f"{path}: based_on", f"{base!r} is not a name")
        parent = self._resolved(self.find(base), (*seen, path))
        given = table.pop("sources", None)
        own = given or [_assumed(path, _changed(table))]
        if not isinstance(own, list):
            raise SpecError(
                f"{path}: sources", "is not a list of tables", "[[sources]]"
            )
        stem = _stem(path)
        if "architecture" in parent and "compute" in parent:
            # A changed device keeps what was fitted to the one that it is based on.
            parent.setdefault("calibrated_as", parent.get("id"))
        parent["name"] = f"{parent.get('name', base)}, changed in {stem}"
        parent["id"] = fold(stem)
        parent.pop("aliases", None)
        merged = _merge(parent, table)
        merged["sources"] = [*own, *parent.get("sources", ())]
        if not given and isinstance(merged["name"], str):
            merged["name"] = marked(merged["name"])
        return merged


def _stem(path: Path) -> str:
    return path.parent.name if path.name == "spec.toml" else path.stem


def _changed(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of the leaves that a table sets."""
    keys: list[str] = []
    for key, value in table.items():
        if not prefix and key in {"id", "name", "aliases", "notes", "schema_version"}:
            continue
        nested = isinstance(value, Mapping) and value
        keys += _changed(value, f"{prefix}{key}.") if nested else [prefix + key]
    return sorted(keys)


def _assumed(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    stamp = dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC).date()
    return {
        "kind": "assumed",
        "title": f"{HYPOTHETICAL}, written in {path.name}",
        "date": stamp,
        "covers": list(keys),
    }


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _names(path: Path) -> tuple[str, ...]:
    header = _header(path)
    return tuple(fold(name) for name in (header["id"], *header["aliases"]))


def _header(path: Path) -> dict[str, Any]:
    return _header_at(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2048)
def _header_at(path: Path, mtime: int) -> dict[str, Any]:
    del mtime  # part of the cache key: an edited file is read again
    table = read_table(path)
    aliases = table.get("aliases")
    names = (
        [a for a in aliases if isinstance(a, str)] if isinstance(aliases, list) else []
    )
    base = table.get("based_on")
    return {
        "id": str(table.get("id", "")),
        "aliases": names,
        "based_on": base if isinstance(base, str) else "",
    }


def load_spec(catalog: Catalog, cls: type[S], name: str) -> S:
    """Load one spec by name, alias or path."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{catalog.what} name is empty; give an id or a path")
    path = catalog.find(name)
    spec: S = _load_at(catalog, cls, path, _stamps(catalog, path, ()))
    return spec


def _stamps(catalog: Catalog, path: Path, seen: tuple[Path, ...]) -> tuple[int, ...]:
    """Return when a file and those it is based on were written."""
    try:
        own = path.stat().st_mtime_ns
    except (OSError, ValueError):
        return ()  # reading it says what is wrong
    base = _header(path)["based_on"]
    if not base or path in seen:
        return (own,)
    return (own, *_stamps(catalog, catalog.find(base), (*seen, path)))


@functools.lru_cache(maxsize=1024)
def _load_at(catalog: Catalog, cls: type[S], path: Path, stamps: tuple[int, ...]) -> S:
    del stamps  # part of the cache key: an edited file is read again
    table = catalog._resolved(path, ())
    return validate(cls, table, str(path), units_required=path.suffix == ".toml")


def dump_json(spec: Spec) -> str:
    """Return a spec as JSON in SI; ``validate`` of it gives the spec back."""
    return spec.model_dump_json(indent=2)
