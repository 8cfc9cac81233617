"""Which stack, engine, system and settings stand behind an inference figure.

The files of ``workloads/mappings/inference`` say, by rules with conditions on a
row's own words, what backends and releases are in hwsim's terms, and what their
sources leave open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hwsim.errors import HwsimError, SpecError
from hwsim.specs.base import CatalogSpec, Count, Name, Spec, Text
from hwsim.specs.catalogs import load_device
from hwsim.specs.load import Catalog, fold, load_spec
from hwsim.specs.published.inference import InferenceRow, version_of
from hwsim.specs.published.training_map import ANY, Words, contains

Tokens = Annotated[float, Field(ge=0.0, le=1e8)]
_CELLS = ("source", "model", "device", "dtype", "backend", "metric", "notes")


class InferenceCondition(Spec):
    """When a rule holds: each field that is given must fit.

    Attributes
    ----------
    source, model, device, dtype, backend, metric, notes : tuple of str
        The row's cell contains one of these, case ignored.
    not_backend : tuple of str
        The row's backend contains none of these.
    blank : tuple of str
        These cells are blank.
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

    source: Words = ()
    model: Words = ()
    device: Words = ()
    dtype: Words = ()
    backend: Words = ()
    metric: Words = ()
    notes: Words = ()
    not_backend: Words = ()
    blank: Words = ()
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
        for name in _CELLS:
            wanted = getattr(self, name)
            if wanted and not contains(getattr(row, name), wanted):
                return False
        if self.not_backend and contains(row.backend, self.not_backend):
            return False
        if any(getattr(row, name) not in (None, "") for name in self.blank):
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


class InferenceCells(Spec):
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

    def given(self) -> dict[str, Any]:
        """Return the cells that are set."""
        return self.model_dump(exclude_none=True)


class InferenceRule(Spec):
    """What holds for the rows that fit a condition; later rules win.

    Attributes
    ----------
    fill, change : InferenceCells
        For blank cells; for cells whatever they hold.
    model, stack, system, engine : str or None
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
    unanswered : str or None
        Why such a row cannot be expressed.
    note : str or None
        What is known or assumed, in words.
    """

    when: InferenceCondition = InferenceCondition()
    fill: InferenceCells = InferenceCells()
    change: InferenceCells = InferenceCells()
    model: Name | None = None
    stack: Name | None = None
    system: Name | None = None
    engine: Name | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    spread: Annotated[float, Field(ge=0.0, le=5.0)] | None = None
    microbatch: Count | None = None
    in_flight: Count | None = None
    filled: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    unanswered: Text | None = None
    note: Text | None = None


class InferenceMap(CatalogSpec):
    """How the rows of some sources or backends are run.

    Attributes
    ----------
    match : tuple of str
        The row's source contains one of these; none means every row.
    systems : dict of str to str
        System by device id.
    rules : tuple of InferenceRule
        In order.
    """

    match: Words = ()
    systems: dict[Name, Name] = Field(default_factory=dict)
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
    unanswered: str


INFERENCE_MAPPINGS = Catalog(
    "inference mapping", InferenceMap, "workloads", "mappings/inference/*.toml"
)


def load_inference_mappings() -> tuple[InferenceMap, ...]:
    """Load all mappings: the general one first, then by id."""
    paths = INFERENCE_MAPPINGS.paths()
    if ANY not in paths:
        raise SpecError(
            "workloads/mappings/inference", f"has no {ANY}.toml", "install it"
        )
    names = sorted(paths, key=lambda name: (name != ANY, name))
    return tuple(load_spec(INFERENCE_MAPPINGS, InferenceMap, name) for name in names)


def mapped_inference(
    row: InferenceRow, mappings: Sequence[InferenceMap]
) -> MappedInference:
    """Return a row with all that the mappings that fit it say."""
    fitting = [m for m in mappings if not m.match or contains(row.source, m.match)]
    rules = [r for m in fitting for r in m.rules if r.when.holds(row)]
    cells: dict[str, Any] = {}
    for rule in rules:
        cells |= {
            name: value
            for name, value in rule.fill.given().items()
            if getattr(row, name) in (None, "")
        }
        cells |= rule.change.given()
    assumed = [f"{n} = {v}" for n, v in cells.items() if getattr(row, n) != v]
    limits = {
        name: value
        for name in ("max_num_seqs", "max_num_batched_tokens")
        if (value := _last(rules, name)) is not None
    }
    assumed += [f"{n} = {v}" for n, v in limits.items()]
    return MappedInference(
        row=dataclasses.replace(row, **cells),
        maps=tuple(m.id for m in fitting),
        assumed=tuple(assumed),
        notes=tuple(r.note for r in rules if r.note),
        model=_last(rules, "model"),
        stack=row.stack or _last(rules, "stack"),
        system=row.system or _last(rules, "system") or _system(row, fitting),
        engine=row.engine or _last(rules, "engine"),
        limits=limits,
        spread=_last(rules, "spread"),
        microbatch=_last(rules, "microbatch"),
        in_flight=_last(rules, "in_flight"),
        filled=_last(rules, "filled") or 1.0,
        unanswered=_last(rules, "unanswered") or "",
    )


def _last(rules: list[InferenceRule], name: str) -> Any:
    found = [getattr(rule, name) for rule in rules if getattr(rule, name) is not None]
    return found[-1] if found else None


def _system(row: InferenceRow, fitting: list[InferenceMap]) -> str | None:
    try:
        device = load_device(row.device).id
    except HwsimError:
        device = fold(row.device)
    found = [m.systems[device] for m in fitting if device in m.systems]
    return found[-1] if found else None
