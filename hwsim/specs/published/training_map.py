"""Which stack, system and settings stand behind a published figure.

One file of ``workloads/mappings`` stands for one source. It says, by rules with
conditions on the row's own words, what the row leaves open.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from hwsim.errors import SpecError
from hwsim.specs.base import CatalogSpec, Count, Name, Spec, Text
from hwsim.specs.load import Catalog, fold, load_spec
from hwsim.specs.published.training import PublishedRun

Words = tuple[Name, ...]
# How a source counts the FLOP of a step: see docs/background/published-runs.md.
Convention = Literal[
    "model", "model_causal", "hardware_full_recompute", "parameters_6", "parameters_8"
]
ANY = "any"


class Condition(Spec):
    """When a rule holds: each field that is given must fit.

    Attributes
    ----------
    source, model, device, dtype, recompute, notes : tuple of str
        The row's cell contains one of these, case ignored.
    not_model : tuple of str
        The row's model contains none of these.
    blank : tuple of str
        These columns are blank.
    min_seq, min_devices, max_devices : int or None
        Tokens of a sequence, and size of the run.
    """

    source: Words = ()
    model: Words = ()
    not_model: Words = ()
    device: Words = ()
    dtype: Words = ()
    recompute: Words = ()
    notes: Words = ()
    blank: Words = ()
    min_seq: Count | None = None
    min_devices: Count | None = None
    max_devices: Count | None = None

    def holds(self, run: PublishedRun) -> bool:
        """Whether a row fits."""
        for name in ("source", "model", "device", "dtype", "recompute", "notes"):
            wanted, cell = getattr(self, name), getattr(run, name)
            if wanted and name == "device":
                cell = f"{cell} {run.device_id}"
            if wanted and not contains(cell, wanted):
                return False
        if self.not_model and contains(run.model, self.not_model):
            return False
        if any(getattr(run, name) not in (None, "") for name in self.blank):
            return False
        if self.min_seq is not None and (run.seq_len or 0) < self.min_seq:
            return False
        devices = run.num_devices or 1
        return (self.min_devices or 1) <= devices <= (self.max_devices or devices)


class Settings(Spec):
    """Cells of a row."""

    seq_len: Count | None = None
    global_batch: Count | None = None
    micro_batch: Count | None = None
    vocab: Count | None = None
    tp: Count | None = None
    pp: Count | None = None
    vpp: Count | None = None
    dp: Count | None = None
    cp: Count | None = None
    ep: Count | None = None
    etp: Count | None = None
    dp_shard: Count | None = None
    recompute_every: Count | None = None
    lora_rank: Count | None = None
    lora_targets: Words | None = None
    cp_mode: Literal["ring", "all_gather", "all_to_all"] | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    sequence_parallel: bool | None = None
    offload_optimizer: bool | None = None
    recompute: Name | None = None
    dtype: Name | None = None
    optimizer: Name | None = None

    def given(self) -> dict[str, Any]:
        """Return the cells that are set."""
        return self.model_dump(exclude_none=True)


class Rule(Spec):
    """What holds for the rows that fit a condition; later rules win.

    Attributes
    ----------
    fill, change : Settings
        For blank cells; for cells whatever they hold.
    choose_vpp : bool or None
        Interleaving and the sharing out of states are not stated: the fastest that
        fits. Where it is false, a blank ``vpp`` is no interleaving.
    one_pass : bool
        Gradients are not accumulated: the micro-batch is the whole share of a
        data-parallel rank, whatever is said of each device.
    mean_seq : int or None
        Tokens that a sequence is computed at, where batches are cut to their
        longest one; the figure still counts ``seq_len``.
    model, stack, system : str or None
        Catalog names.
    convention : str or None
        How FLOP are counted in the source's TFLOP/s and MFU.
    unanswered : str or None
        Why such a row cannot be expressed.
    note : str or None
        What is known or assumed, in words.
    """

    when: Condition = Condition()
    fill: Settings = Settings()
    change: Settings = Settings()
    choose_vpp: bool | None = None
    one_pass: bool = False
    mean_seq: Count | None = None
    model: Name | None = None
    stack: Name | None = None
    system: Name | None = None
    convention: Convention | None = None
    unanswered: Text | None = None
    note: Text | None = None


class Family(Spec):
    """Architecture of models that are built from a row's shape columns.

    Attributes
    ----------
    match : tuple of str
        The row's model contains one of these; none means any model.
    vocab : int
        Where the row gives none.
    fields : dict
        Other fields of :class:`~hwsim.specs.model.ModelSpec`.
    """

    match: Words = ()
    vocab: Count
    fields: dict[Name, Any] = Field(default_factory=dict)


class PublishedMap(CatalogSpec):
    """How the rows of one source are run.

    Attributes
    ----------
    match : tuple of str
        The row's source contains one of these; none means every row.
    systems : dict of str to str
        System by device id: the smallest part of it that the run needs.
    rules : tuple of Rule
        In order.
    families : tuple of Family
        In order, the first that fits.
    """

    match: Words = ()
    systems: dict[Name, Name] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    families: tuple[Family, ...] = ()


@dataclass(frozen=True)
class MappedRun:
    """A row with what its source's mapping says about it.

    Attributes
    ----------
    run : PublishedRun
        Blank cells filled.
    maps : tuple of str
        Mappings that apply.
    assumed : tuple of str
        Cells that were filled or changed, as ``name = value``.
    """

    run: PublishedRun
    maps: tuple[str, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    choose_vpp: bool
    one_pass: bool
    mean_seq: int | None
    family: Family | None
    stack: str | None
    system: str | None
    model: str | None
    convention: Convention
    unanswered: str


MAPPINGS = Catalog("mapping", PublishedMap, "workloads", "mappings/*.toml")


def load_mappings() -> tuple[PublishedMap, ...]:
    """Load all mappings: the general one first, then by id."""
    paths = MAPPINGS.paths()
    if ANY not in paths:
        raise SpecError("workloads/mappings", f"has no {ANY}.toml", "install it")
    names = sorted(paths, key=lambda name: (name != ANY, name))
    return tuple(load_spec(MAPPINGS, PublishedMap, name) for name in names)


def contains(cell: str, words: Words) -> bool:
    """Whether a cell contains one of some words, case ignored."""
    text = cell.casefold()
    return any(word.casefold() in text for word in words)


def mapped(run: PublishedRun, mappings: tuple[PublishedMap, ...]) -> MappedRun:
    """Return a row with all that the mappings that fit it say."""
    fitting = [m for m in mappings if not m.match or contains(run.source, m.match)]
    rules = [r for m in fitting for r in m.rules if r.when.holds(run)]
    cells: dict[str, Any] = {}
    for rule in rules:
        cells |= {
            name: value
            for name, value in rule.fill.given().items()
            if getattr(run, name) in (None, "", ())
        }
        cells |= rule.change.given()
    assumed = tuple(
        f"{name} = {value}"
        for name, value in cells.items()
        if getattr(run, name) != value
    )
    filled = dataclasses.replace(run, **cells)
    return MappedRun(
        run=filled,
        maps=tuple(m.id for m in fitting),
        assumed=assumed,
        notes=tuple(r.note for r in rules if r.note),
        choose_vpp=_last_flag(rules, "choose_vpp"),
        one_pass=any(rule.one_pass for rule in rules),
        mean_seq=_last(rules, "mean_seq"),
        family=_family(run, fitting),
        stack=run.stack or _last(rules, "stack"),
        system=run.system or _last(rules, "system") or _system(run, fitting),
        model=_last(rules, "model"),
        convention=_last(rules, "convention") or "model",
        unanswered=_last(rules, "unanswered") or "",
    )


def _last_flag(rules: list[Rule], name: str) -> bool:
    """Return the last rule's word on a flag, which may take back an earlier one."""
    found = [value for r in rules if (value := getattr(r, name)) is not None]
    return bool(found and found[-1])


def _last(rules: list[Rule], name: str) -> Any:
    found = [getattr(rule, name) for rule in rules if getattr(rule, name)]
    return found[-1] if found else None


def _family(run: PublishedRun, fitting: list[PublishedMap]) -> Family | None:
    families = [family for m in reversed(fitting) for family in m.families]
    return next(
        (f for f in families if not f.match or contains(run.model, f.match)), None
    )


def _system(run: PublishedRun, fitting: list[PublishedMap]) -> str | None:
    device = fold(run.device_id)
    found = [m.systems[device] for m in fitting if device in m.systems]
    return found[-1] if found else None
