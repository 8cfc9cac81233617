"""What the mappings of published tables share: conditions, rules and their order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import Field

from hwsim.errors import SpecError
from hwsim.specs.base import CatalogSpec, Name, Spec, Text
from hwsim.specs.load import Catalog, load_spec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Words = tuple[Name, ...]
# The mapping of every row; all others come after it.
ANY = "any"


def contains(cell: str, words: Words) -> bool:
    """Whether a cell contains one of some words, case ignored."""
    text = cell.casefold()
    return any(word.casefold() in text for word in words)


def is_open(cell: object) -> bool:
    """Whether a row leaves a cell to its mapping."""
    return cell in (None, "", ())


class WordsCondition(Spec):
    """When a rule holds, by the words of a row; each field given must fit.

    Attributes
    ----------
    model, device : tuple of str
        The row's cell contains one of these, case ignored; so do all fields that
        ``word_fields`` names.
    blank : tuple of str
        These cells are blank.
    """

    word_fields: ClassVar[tuple[str, ...]] = ("model", "device")

    model: Words = ()
    device: Words = ()
    blank: Words = ()

    def words_hold(self, row: object) -> bool:
        """Whether a row's words fit."""
        return all(
            contains(self.cell(row, name), wanted)
            for name in self.word_fields
            if (wanted := getattr(self, name))
        ) and all(is_open(getattr(row, name)) for name in self.blank)

    def cell(self, row: object, name: str) -> str:
        """Return a row's cell as words are looked for in it."""
        return str(getattr(row, name))


class CellsSpec(Spec):
    """Cells of a row that a rule sets."""

    def given(self) -> dict[str, Any]:
        """Return the cells that are set."""
        return self.model_dump(exclude_none=True)


class SourceRule(Spec):
    """What every rule may say of the rows that it holds for.

    Attributes
    ----------
    stack : str or None
        Catalog name.
    unanswered : str or None
        Why such a row cannot be expressed.
    note : str or None
        What is known or assumed, in words.
    """

    stack: Name | None = None
    unanswered: Text | None = None
    note: Text | None = None


class SourceMap(CatalogSpec):
    """How the rows of some sources are run.

    Attributes
    ----------
    match : tuple of str
        The row's source contains one of these; none means every row.
    systems : dict of str to str
        System by device id: the smallest part of it that the run needs.
    """

    match: Words = ()
    systems: dict[Name, Name] = Field(default_factory=dict)

    def fits(self, source: str) -> bool:
        """Whether it speaks of a row's source."""
        return not self.match or contains(source, self.match)


class _Filling(Protocol):
    """A rule that sets cells."""

    @property
    def fill(self) -> CellsSpec: ...

    @property
    def change(self) -> CellsSpec: ...


M = TypeVar("M", bound=CatalogSpec)
R = TypeVar("R", bound="DataclassInstance")


def load_maps(catalog: Catalog, cls: type[M]) -> tuple[M, ...]:
    """Load all mappings of a kind: the general one first, then by id.

    Raises
    ------
    SpecError
        If there is no general one.
    """
    paths = catalog.paths()
    if ANY not in paths:
        folder = f"{catalog.root}/{catalog.pattern}".rsplit("/", 1)[0]
        raise SpecError(folder, f"has no {ANY}.toml", "install it")
    names = sorted(paths, key=lambda name: (name != ANY, name))
    return tuple(load_spec(catalog, cls, name) for name in names)


def filled(row: R, rules: Sequence[_Filling]) -> tuple[R, tuple[str, ...]]:
    """Return a row with what rules fill and change, and those cells in words."""
    cells: dict[str, Any] = {}
    for rule in rules:
        cells |= {
            name: value
            for name, value in rule.fill.given().items()
            if is_open(getattr(row, name))
        }
        cells |= rule.change.given()
    assumed = (f"{n} = {v}" for n, v in cells.items() if getattr(row, n) != v)
    return dataclasses.replace(row, **cells), tuple(assumed)


def last(rules: Sequence[object], name: str) -> Any:
    """Return what the last rule that speaks of a field says; else None."""
    found = [value for rule in rules if (value := getattr(rule, name)) is not None]
    return found[-1] if found else None


def notes(rules: Sequence[SourceRule]) -> tuple[str, ...]:
    """Return the remarks of rules."""
    return tuple(rule.note for rule in rules if rule.note)


def system_of(maps: Sequence[SourceMap], device: str) -> str | None:
    """Return the system that the last mapping names for a device's id, if any."""
    found = [m.systems[device] for m in maps if device in m.systems]
    return found[-1] if found else None
