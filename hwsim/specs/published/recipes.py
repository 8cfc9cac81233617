"""Servers of published disaggregated runs, as their recipes state them.

Tables of such runs often leave out how many servers there were and whether tokens
were drafted; recipes say it, and numbers of clients tell recipes apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from hwsim.specs.base import CatalogSpec, Name, Spec
from hwsim.specs.load import Catalog, load_spec
from hwsim.specs.published.rules import Words, contains
from hwsim.specs.published.serving import ServingRow, Workers

_SHARING = r"(?:tp|tep|dep|dp)[1-9]\d*"
_LINE = re.compile(
    r"(?P<isl>\d+)/(?P<osl>\d+) mtp(?P<drafted>\d+) (?P<clients>\d+(?:,\d+)*) "
    rf"(?P<prompts>\d+)p (?P<answers>\d+)x(?P<sharing>{_SHARING})"
    r"(?: b(?P<batch>[1-9]\d*))?"
)
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Sharing = Annotated[str, StringConstraints(pattern=f"^{_SHARING}$")]


@dataclass(frozen=True)
class Recipe:
    """Servers of one run.

    Attributes
    ----------
    isl, osl : int
        Tokens in and out.
    clients : tuple of int
        Numbers of clients it was run with.
    drafted : int
        Tokens drafted in a round; 0 is no speculation.
    prefill, decode : Workers
        Servers for prompts and for answers; all degrees are given, and the batch of
        the second where the recipe limits it.
    """

    isl: int
    osl: int
    clients: tuple[int, ...]
    drafted: int
    prefill: Workers
    decode: Workers

    def fits(self, row: ServingRow) -> bool:
        """Whether nothing that a row states contradicts it."""
        return (
            (row.isl, row.osl) == (self.isl, self.osl)
            and row.concurrency in self.clients
            and _agrees(row.prefill, self.prefill)
            and _agrees(row.decode, self.decode)
        )

    def __str__(self) -> str:
        drafts = f", {self.drafted} tokens drafted" if self.drafted else ""
        return f"{_words(self.prefill)} for prompts, {_words(self.decode)}{drafts}"


def _agrees(stated: Workers, own: Workers) -> bool:
    return stated.tp in (None, own.tp) and stated.num_workers in (
        None, own.num_workers
    )  # fmt: skip


def _words(servers: Workers) -> str:
    own = (servers.attention_dp or 1) > 1
    experts = "shared out" if (servers.moe_ep or 1) > 1 else "split"
    attention = "own" if own else "split"
    most = f", at most {servers.batch_size} requests" if servers.batch_size else ""
    return (
        f"{servers.num_workers} x {servers.tp} devices (attention {attention}, "
        f"experts {experts}{most})"
    )


class RecipeGroup(Spec):
    """Recipes for one model on one device with one engine.

    Attributes
    ----------
    model, device : str
        Catalog names.
    backend : tuple of str
        A row's backend contains one of these.
    precision : str
        A row's precision contains it.
    prefill : str
        How the devices of a server for prompts share the model.
    per_server : bool
        Some runs count clients of each server for answers.
    measured : tuple of str
        Days of the runs, where others of the same device and engine were run on
        other days. Empty: any day.
    recipes : tuple of str
        Lines ``isl/osl mtpN clients,… Pp DxSHARING``, and at the end `` bN`` where a
        server for answers, or each of its devices with attention of its own, runs
        at most N requests.
    """

    model: Name
    device: Name
    backend: Words
    precision: Name
    prefill: Sharing
    per_server: bool = False
    measured: tuple[Day, ...] = ()
    recipes: Annotated[tuple[str, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _lines(self) -> RecipeGroup:
        for line in self.recipes:
            if _LINE.fullmatch(line) is None:
                raise ValueError(
                    f"{line!r} is no recipe; write for example "
                    "'1024/1024 mtp0 64,128 1p 5xtep8 b32'"
                )
        return self

    def read(self) -> Iterator[Recipe]:
        """Yield the recipes."""
        for line in self.recipes:
            found = _LINE.fullmatch(line)
            assert found is not None
            answers = int(found["answers"])
            clients = [int(c) for c in found["clients"].split(",")]
            if self.per_server:
                clients += [c * answers for c in clients]
            yield Recipe(
                int(found["isl"]), int(found["osl"]), tuple(clients),
                int(found["drafted"]), _servers(int(found["prompts"]), self.prefill),
                _servers(answers, found["sharing"], found["batch"]),
            )  # fmt: skip


def _servers(count: int, sharing: str, batch: str | None = None) -> Workers:
    kind, width = re.fullmatch(r"([a-z]+)(\d+)", sharing).groups()  # type: ignore[union-attr]
    size = int(width)
    shared = size if kind in {"tep", "dep"} else 1
    own = size if kind in {"dep", "dp"} else 1
    return Workers(
        num_workers=count, batch_size=None if batch is None else int(batch), tp=size,
        attention_dp=own, moe_tp=size // shared, moe_ep=shared,
    )  # fmt: skip


class RecipeBook(CatalogSpec):
    """The recipes of one benchmark."""

    groups: tuple[RecipeGroup, ...] = ()


RECIPES = Catalog("recipe book", RecipeBook, "workloads", "recipes/*.toml")


@functools.cache
def _groups() -> tuple[RecipeGroup, ...]:
    books = (load_spec(RECIPES, RecipeBook, name) for name in sorted(RECIPES.paths()))
    return tuple(group for book in books for group in book.groups)


def fitting_recipes(row: ServingRow, model: str, device: str) -> tuple[Recipe, ...]:
    """Return the distinct recipes that a row may be of, those without drafts first.

    Recipes that were run on the row's day go before those of any day, those that
    share experts out among servers for prompts as the row says before others.

    Parameters
    ----------
    model, device : str
        Catalog names of the row's.
    """
    groups = [
        g for g in _groups()
        if (g.model, g.device) == (model, device)
        and contains(row.backend, g.backend)
        and contains(row.precision, (g.precision,))
    ]  # fmt: skip
    same_day = [g for g in groups if row.measured in g.measured]
    any_day = [g for g in groups if not g.measured]
    tries = (_fitting(row, some) for some in (same_day, any_day, groups))
    found = next((recipes for recipes in tries if recipes), [])
    told = [r for r in found if row.prefill.moe_ep == r.prefill.moe_ep]
    alike: dict[tuple[int, Workers, Workers], Recipe] = {}
    for recipe in told or found:
        alike.setdefault((recipe.drafted, recipe.prefill, recipe.decode), recipe)
    return tuple(sorted(alike.values(), key=lambda r: r.drafted))


def _fitting(row: ServingRow, groups: list[RecipeGroup]) -> list[Recipe]:
    return [recipe for g in groups for recipe in g.read() if recipe.fits(row)]
