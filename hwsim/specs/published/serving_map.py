"""What servers and clients stand behind a published serving point.

The files of ``workloads/mappings/serving`` say, by rules with conditions on a row's
own cells, which engine and stack a backend is, how it was started and how its
clients asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from hwsim.specs.base import CatalogSpec, Count, Fraction, Name
from hwsim.specs.load import Catalog
from hwsim.specs.published import rules as shared
from hwsim.specs.published.rules import SourceRule, Words, WordsCondition
from hwsim.specs.published.serving import ServingRow

Tokens = tuple[Count, ...]


class ServingCondition(WordsCondition):
    """When a rule holds: each field that is given must fit.

    Attributes
    ----------
    backend, backend_version, precision, mode : tuple of str
        The row's cell contains one of these, case ignored.
    own_attention : bool or None
        Whether attention is each device's own.
    isl, osl : tuple of int
        The row's tokens are one of these.
    tp_from, tp_below, clients_from, clients_below : int or None
        Devices that split a layer, and clients: the first that fits, the first
        that does not.
    """

    word_fields: ClassVar[tuple[str, ...]] = (
        "model", "device", "backend", "backend_version", "precision", "mode",
    )  # fmt: skip

    backend: Words = ()
    backend_version: Words = ()
    precision: Words = ()
    mode: Words = ()
    own_attention: bool | None = None
    isl: Tokens = ()
    osl: Tokens = ()
    tp_from: Count | None = None
    tp_below: Count | None = None
    clients_from: Count | None = None
    clients_below: Count | None = None

    def holds(self, row: ServingRow, tp: int) -> bool:
        """Whether a row fits; ``tp`` is that of its servers."""
        if not self.words_hold(row):
            return False
        own = (row.pool.attention_dp or 1) > 1
        if self.own_attention not in (None, own):
            return False
        for name in ("isl", "osl"):
            wanted = getattr(self, name)
            if wanted and getattr(row, name) not in wanted:
                return False
        return _within(tp, self.tp_from, self.tp_below) and _within(
            row.concurrency or 0, self.clients_from, self.clients_below
        )


def _within(value: int, first: int | None, below: int | None) -> bool:
    return (first is None or value >= first) and (below is None or value < below)


class ServingRule(SourceRule):
    """What holds for the rows that fit a condition; later rules win.

    Attributes
    ----------
    engine : str or None
        Catalog name.
    kv_dtype : str or None
        Of the cache, where the row does not say.
    requests_per_client : float or None
        Requests of a run over its clients.
    shortest : float or None
        Lengths are drawn evenly from this share of ``isl`` and ``osl`` up to
        all of it; 1 is equal lengths.
    limits : dict of str to int
        Fields of the engine that it was started with.
    drafted : int or None
        Tokens drafted in a round by the model's own layers.
    prompt_budget : bool or None
        The tokens of a step are raised to hold a prompt beside all clients.
    """

    when: ServingCondition = ServingCondition()
    engine: Name | None = None
    kv_dtype: Name | None = None
    requests_per_client: Annotated[float, Field(gt=0.0, le=1e4)] | None = None
    shortest: Fraction | None = None
    limits: dict[Name, float] = Field(default_factory=dict)
    drafted: Annotated[int, Field(ge=0, le=16)] | None = None
    prompt_budget: bool | None = None


class ServingMap(CatalogSpec):
    """How the rows of some backends or benchmarks are run.

    Attributes
    ----------
    rules : tuple of ServingRule
        In order.
    """

    rules: tuple[ServingRule, ...] = ()


@dataclass(frozen=True)
class MappedServing:
    """What the mappings say about a row.

    Attributes
    ----------
    maps : tuple of str
        Mappings with a rule that fits.
    limits : dict of str to float
        Fields of the engine.
    """

    maps: tuple[str, ...]
    notes: tuple[str, ...]
    engine: str
    stack: str | None
    kv_dtype: str | None
    requests_per_client: float
    shortest: float
    limits: dict[str, float]
    prompt_budget: bool
    unanswered: str
    drafted: int = 0


SERVING_MAPPINGS = Catalog(
    "serving mapping", ServingMap, "workloads", "mappings/serving/*.toml"
)


def load_serving_mappings() -> tuple[ServingMap, ...]:
    """Load all mappings: the general one first, then by id.

    Raises
    ------
    SpecError
        If there is no general one.
    """
    return shared.load_maps(SERVING_MAPPINGS, ServingMap)


def mapped_serving(
    row: ServingRow, tp: int, mappings: Sequence[ServingMap]
) -> MappedServing:
    """Return what the mappings that fit a row say about some of its servers."""
    fitting = [
        (m.id, rule) for m in mappings for rule in m.rules if rule.when.holds(row, tp)
    ]
    rules = [rule for _, rule in fitting]
    limits: dict[str, float] = {}
    for rule in rules:
        limits |= rule.limits
    return MappedServing(
        maps=tuple(dict.fromkeys(name for name, _ in fitting)),
        notes=shared.notes(rules),
        engine=shared.last(rules, "engine") or "vllm-v1",
        stack=shared.last(rules, "stack"),
        kv_dtype=row.kv_dtype or shared.last(rules, "kv_dtype"),
        requests_per_client=shared.last(rules, "requests_per_client") or 10.0,
        shortest=shared.last(rules, "shortest") or 1.0,
        limits=limits,
        prompt_budget=bool(shared.last(rules, "prompt_budget")),
        unanswered=shared.last(rules, "unanswered") or "",
        drafted=shared.last(rules, "drafted") or 0,
    )
