"""The page of a result that has no page of its own: its figures, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.report import format as fmt
from hwsim.report.content import Cell, Page, Section, Table, table
from hwsim.report.pieces import assumed, closing

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedResult

_HEADER = ("kind", "schema_version", "hwsim_version")
_ROWS, _COLUMNS = 200, 12


def generic_page(saved: SavedResult) -> Page:
    """Return the page of any result: scalars in one table, lists in their own."""
    answer = {k: v for k, v in saved.to_dict().items() if k not in _HEADER}
    scalars = list(_scalars(answer))
    kind = saved.kind.replace("_", " ")
    items: list[Table] = []
    if scalars:
        items.append(table("Figures, in SI units", "Figure|#Value", scalars))
    items += [
        _listed(name, rows)
        for name, rows in _lists(answer)
        if rows and isinstance(rows[0], Mapping)
    ]
    return Page(
        title=kind.capitalize(),
        question=f"What does the saved {kind} hold?",
        answer=f"{fmt.plural(len(scalars), 'figure')} of a {kind} result, below.",
        facts=(),
        sections=(Section("figures", "Figures", (), tuple(items)), *closing(saved)),
        assumed=assumed(saved),
    )


def _scalars(value: Mapping[str, Any], prefix: str = "") -> Iterator[list[Cell]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _scalars(item, f"{name}.")
        elif not isinstance(item, list):
            yield [Cell(name, code=True), Cell(_text(item), number=True)]
        elif item and len(item) <= 4 and not isinstance(item[0], list | Mapping):
            text = ", ".join(map(_text, item))
            yield [Cell(name, code=True), Cell(text, number=True)]


def _lists(
    value: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Sequence[Any]]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _lists(item, f"{name}.")
        elif isinstance(item, list):
            yield name, item


def _listed(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = [k for k, v in rows[0].items() if not isinstance(v, list | Mapping)]
    keys = keys[:_COLUMNS] or list(rows[0])[:1]
    lines = [[Cell(_text(row.get(key))) for key in keys] for row in rows[:_ROWS]]
    more = f", the first {_ROWS} of {len(rows):,}" if len(rows) > _ROWS else ""
    return table(f"{name}{more}", [f" {key}" for key in keys], lines)


def _text(value: Any) -> str:
    if value is None:
        return fmt.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return fmt.count(value)
    return str(value)
