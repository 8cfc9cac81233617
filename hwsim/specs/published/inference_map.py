"""Which stack, engine, system and settings stand behind an inference figure.

The files of ``workloads/mappings/inference`` say, by rules with conditions on a
row's own words, what backends and releases are in hwsim's terms, and what their
sources leave open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from hwsim.errors import HwsimError
from hwsim.specs.base import Count, Name
from hwsim.specs.catalogs import load_device
from hwsim.specs.load import Catalog, fold
from hwsim.specs.published import rules as shared
from hwsim.specs.published.inference import InferenceRow, version_of
from hwsim.specs.published.rules import (
    CellsSpec,
    SourceMap,
    SourceRule,
    Words,
    WordsCondition,
    contains,
)

Tokens = Annotated[float, Field(ge=0.0, le=1e8)]


class InferenceCondition(WordsCondition):
    """When a rule holds: each field that is given must fit.

    Attributes
    ----------
    source, dtype, backend, metric, notes : tuple of str
        The row's cell contains one of these, case ignored.
    not_backend : tuple of str
        The row's backend contains none of these.
    from_version, below_version : str or None
        Releases of the backend: the first that fits, the first that does not.
        A row that names no release fits neither.
    device_kind : tuple of str
        Kinds of devices: cpu, gpu, …
    generation : tuple of str
        Generations of devices.
    min_devices : int or None
        Size of the run.
    """

    word_fields: ClassVar[tuple[str, ...]] = (
        "source", "model", "device", "dtype", "backend", "metric", "notes",
    )  # fmt: skip

    source: Words = ()
    dtype: Words = ()
    backend: Words = ()
    metric: Words = ()
    notes: Words = ()
    not_backend: Words = ()
    from_version: Name | None = None
    below_version: Name | None = None
    device_kind: Words = ()
    generation: Words = ()
    min_devices: Count | None = None

    @field_validator("from_version", "below_version")
    @classmethod
    def _release(cls, text: str | None) -> str | None:
        if text is not None and not text.replace(".", "").isdigit():
            raise ValueError(f"{text!r} is no release; write it as '0.17'")
        return text

    def holds(self, row: InferenceRow) -> bool:
        """Whether a row fits."""
        if not self.words_hold(row):
            return False
        if self.not_backend and contains(row.backend, self.not_backend):
            return False
        if (row.num_devices or 1) < (self.min_devices or 1):
            return False
        return self._released(row) and self._on(row)

    def _released(self, row: InferenceRow) -> bool:
        if self.from_version is None and self.below_version is None:
            return True
        version = row.version
        if version is None:
            return False
        first = version_of(self.from_version or "0")
        return first <= version and (
            self.below_version is None or version < version_of(self.below_version)
        )

    def _on(self, row: InferenceRow) -> bool:
        if not self.device_kind and not self.generation:
            return True
        try:
            device = load_device(row.device)
        except HwsimError:
            return False
        if self.device_kind and device.kind not in self.device_kind:
            return False
        return not self.generation or device.architecture in self.generation


class InferenceCells(CellsSpec):
    """Cells of a row."""

    isl: Tokens | None = None
    osl: Tokens | None = None
    size: Annotated[float, Field(gt=0.0, le=1e9)] | None = None
    requests: Count | None = None
    load: Literal["fixed", "closed", "open", "max"] | None = None
    phase: Literal["", "prefill", "decode"] | None = None
    counts: Literal["output", "input", "total", "requests"] | None = None
    tp: Count | None = None
    dtype: Name | None = None
    kv_dtype: Name | None = None
    weight_dtype: Name | None = None


class InferenceRule(SourceRule):
    """What holds for the rows that fit a condition; later rules win.

    Attributes
    ----------
    fill, change : InferenceCells
        For blank cells; for cells whatever they hold.
    model, system, engine : str or None
        Catalog names.
    max_num_seqs, max_num_batched_tokens : int or None
        Of the engine, where it was not run with its own values.
    spread : float or None
        Sigma of the logarithm of answers; 0: all are as long as the mean.
    microbatch : int or None
        Most tokens of a pass over prompts: stages of a pipeline then work side
        by side; without it they work one after another.
    in_flight : int or None
        Most passes that are under way in a pipeline at a time.
    filled : float or None
        Share of a prompt that is no padding, where padding is not computed.
    attention_dp : bool or None
        The devices of a mixture each attend to requests of their own and share
        its experts out; else they split both.
    at_once : bool or None
        The engine was started with room for all requests of the run.
    """

    when: InferenceCondition = InferenceCondition()
    fill: InferenceCells = InferenceCells()
    change: InferenceCells = InferenceCells()
    model: Name | None = None
    system: Name | None = None
    engine: Name | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    spread: Annotated[float, Field(ge=0.0, le=5.0)] | None = None
    microbatch: Count | None = None
    in_flight: Count | None = None
    filled: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    attention_dp: bool | None = None
    at_once: bool | None = None


class InferenceMap(SourceMap):
    """How the rows of some sources or backends are run.

    Attributes
    ----------
    rules : tuple of InferenceRule
        In order.
    """

    rules: tuple[InferenceRule, ...] = ()


@dataclass(frozen=True)
class MappedInference:
    """A row with what the mappings say about it.

    Attributes
    ----------
    row : InferenceRow
        Blank cells filled.
    maps : tuple of str
        Mappings that apply.
    assumed : tuple of str
        Cells that were filled or changed, as ``name = value``.
    """

    row: InferenceRow
    maps: tuple[str, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    model: str | None
    stack: str | None
    system: str | None
    engine: str | None
    limits: dict[str, int]
    spread: float | None
    microbatch: int | None
    in_flight: int | None
    filled: float
    attention_dp: bool
    unanswered: str


INFERENCE_MAPPINGS = Catalog(
    "inference mapping", InferenceMap, "workloads", "mappings/inference/*.toml"
)


def load_inference_mappings() -> tuple[InferenceMap, ...]:
    """Load all mappings: the general one first, then by id."""
    return shared.load_maps(INFERENCE_MAPPINGS, InferenceMap)


def mapped_inference(
    row: InferenceRow, mappings: Sequence[InferenceMap]
) -> MappedInference:
    """Return a row with all that the mappings that fit it say."""
    fitting = [m for m in mappings if m.fits(row.source)]
    rules = [r for m in fitting for r in m.rules if r.when.holds(row)]
    filled, assumed = shared.filled(row, rules)
    limits = {
        name: value
        for name in ("max_num_seqs", "max_num_batched_tokens")
        if (value := shared.last(rules, name)) is not None
    }
    if shared.last(rules, "at_once") and filled.requests:
        limits["max_num_seqs"] = filled.requests
    limits |= {"max_num_seqs": row.most_at_once} if row.most_at_once else {}
    system = shared.last(rules, "system")
    return MappedInference(
        row=filled,
        maps=tuple(m.id for m in fitting),
        assumed=(*assumed, *(f"{n} = {v}" for n, v in limits.items())),
        notes=shared.notes(rules),
        model=shared.last(rules, "model"),
        stack=row.stack or shared.last(rules, "stack"),
        system=row.system or system or shared.system_of(fitting, _device(row)),
        engine=row.engine or shared.last(rules, "engine"),
        limits=limits,
        spread=shared.last(rules, "spread"),
        microbatch=row.ubatch or shared.last(rules, "microbatch"),
        in_flight=shared.last(rules, "in_flight"),
        filled=shared.last(rules, "filled") or 1.0,
        attention_dp=bool(shared.last(rules, "attention_dp")),
        unanswered=shared.last(rules, "unanswered") or "",
    )


def _device(row: InferenceRow) -> str:
    try:
        return load_device(row.device).id
    except HwsimError:
        return fold(row.device)
