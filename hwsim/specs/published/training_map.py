"""Which stack, system and settings stand behind a published figure.

One file of ``workloads/mappings`` stands for one source. It says, by rules with
conditions on the row's own words, what the row leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from hwsim.specs.base import Count, Name, Spec
from hwsim.specs.load import Catalog, fold
from hwsim.specs.published import rules as shared
from hwsim.specs.published.rules import (
    CellsSpec,
    SourceMap,
    SourceRule,
    Words,
    WordsCondition,
    contains,
)
from hwsim.specs.published.training import PublishedRun

# How a source counts the FLOP of a step: see docs/background/published-runs.md.
Convention = Literal[
    "model", "model_causal", "hardware_full_recompute", "parameters_6", "parameters_8"
]


class Condition(WordsCondition):
    """When a rule holds: each field that is given must fit.

    Attributes
    ----------
    source, dtype, recompute, notes : tuple of str
        The row's cell contains one of these, case ignored.
    words, not_words : tuple of str
        The row's source or remarks contain one, or none, of these.
    not_model, not_device : tuple of str
        The row's model, or device, contains none of these.
    min_seq, min_devices, max_devices : int or None
        Tokens of a sequence, and size of the run.
    """

    word_fields: ClassVar[tuple[str, ...]] = (
        "source", "model", "device", "dtype", "recompute", "notes",
    )  # fmt: skip

    source: Words = ()
    words: Words = ()
    not_words: Words = ()
    not_model: Words = ()
    not_device: Words = ()
    dtype: Words = ()
    recompute: Words = ()
    notes: Words = ()
    min_seq: Count | None = None
    min_devices: Count | None = None
    max_devices: Count | None = None

    def cell(self, row: PublishedRun, name: str) -> str:  # type: ignore[override]
        """Return a row's cell; a device goes by its catalog name as well."""
        own = str(getattr(row, name))
        return f"{own} {row.device_id}" if name == "device" else own

    def holds(self, run: PublishedRun) -> bool:
        """Whether a row fits."""
        if not self.words_hold(run):
            return False
        if contains(run.model, self.not_model) or contains(
            self.cell(run, "device"), self.not_device
        ):
            return False
        said = f"{run.source} {run.notes}"
        if contains(said, self.not_words):
            return False
        if self.words and not contains(said, self.words):
            return False
        if self.min_seq is not None and (run.seq_len or 0) < self.min_seq:
            return False
        devices = run.num_devices or 1
        return (self.min_devices or 1) <= devices <= (self.max_devices or devices)


class Settings(CellsSpec):
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
    offload_activations: bool | None = None
    recompute: Name | None = None
    flash_attention: Literal["yes", "no"] | None = None
    dtype: Name | None = None
    optimizer: Name | None = None


class Rule(SourceRule):
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
    model, system : str or None
        Catalog names.
    convention : str or None
        How FLOP are counted in the source's TFLOP/s and MFU.
    """

    when: Condition = Condition()
    fill: Settings = Settings()
    change: Settings = Settings()
    choose_vpp: bool | None = None
    one_pass: bool = False
    mean_seq: Count | None = None
    model: Name | None = None
    system: Name | None = None
    convention: Convention | None = None


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


class PublishedMap(SourceMap):
    """How the rows of one source are run.

    Attributes
    ----------
    slices : dict of str to str
        As ``systems``, of runs on several slices: for the network that joins them.
    rules : tuple of Rule
        In order.
    families : tuple of Family
        In order, the first that fits.
    """

    slices: dict[Name, Name] = Field(default_factory=dict)
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
    stated : bool
        Whether the row or a mapping of its own source names the stack; else it
        is taken from words, or generic.
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
    stated: bool = False


MAPPINGS = Catalog("mapping", PublishedMap, "workloads", "mappings/*.toml")


def load_mappings() -> tuple[PublishedMap, ...]:
    """Load all mappings: the general one first, then by id."""
    return shared.load_maps(MAPPINGS, PublishedMap)


def mapped(run: PublishedRun, mappings: tuple[PublishedMap, ...]) -> MappedRun:
    """Return a row with all that the mappings that fit it say."""
    fitting = [m for m in mappings if m.fits(run.source)]
    rules = [r for m in fitting for r in m.rules if r.when.holds(run)]
    filled, assumed = shared.filled(run, rules)
    system = shared.last(rules, "system") or _usual_system(run, fitting)
    return MappedRun(
        run=filled,
        maps=tuple(m.id for m in fitting),
        assumed=assumed,
        notes=shared.notes(rules),
        choose_vpp=bool(shared.last(rules, "choose_vpp")),
        one_pass=any(rule.one_pass for rule in rules),
        mean_seq=shared.last(rules, "mean_seq"),
        family=_family(run, fitting),
        stack=run.stack or shared.last(rules, "stack"),
        system=run.system or system,
        model=shared.last(rules, "model"),
        convention=shared.last(rules, "convention") or "model",
        unanswered=shared.last(rules, "unanswered") or "",
        stated=bool(run.stack) or any(_names_stack(m, run) for m in fitting),
    )


def _names_stack(mapping: PublishedMap, run: PublishedRun) -> bool:
    """Whether a mapping of a source's own names a row's stack."""
    return mapping.id != shared.ANY and any(
        rule.stack and rule.when.holds(run) for rule in mapping.rules
    )


def _usual_system(run: PublishedRun, fitting: list[PublishedMap]) -> str | None:
    device = fold(run.device_id)
    found = [m.slices[device] for m in fitting if device in m.slices]
    if run.slices > 1 and found:
        return found[-1]
    return shared.system_of(fitting, device)


def _family(run: PublishedRun, fitting: list[PublishedMap]) -> Family | None:
    families = [family for m in reversed(fitting) for family in m.families]
    return next(
        (f for f in families if not f.match or contains(run.model, f.match)), None
    )
