"""Scenario files: one question with everything it takes to ask it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hwsim.errors import InputError
from hwsim.registry import search_paths
from hwsim.specs.base import Count, Name, Spec, Text
from hwsim.specs.load import fold, looks_like_path, read_table, validate

Size = Annotated[int, Field(ge=0, le=10**12, strict=True)]


class InferQuestion(Spec):
    """The ``[infer]`` table; keys as the arguments of :func:`hwsim.infer`."""

    batch: Count = 1
    prompt: Size | None = None
    output: Size = 128
    tp: Count = 1
    dtype: Name | None = None
    weight_dtype: Name | None = None
    kv_dtype: Name | None = None


class TrainQuestion(Spec):
    """The ``[train]`` table; keys as the arguments of :func:`hwsim.train`."""

    devices: Count | None = None
    tp: Count = 1
    dp: Count | None = None
    pp: Count = 1
    vpp: Count = 1
    cp: Count = 1
    ep: Count = 1
    schedule: Name | None = None
    micro_batch: Count = 1
    global_batch: Count | None = None
    seq: Count | None = None
    dtype: Name | None = None
    recompute: Name = "none"
    optimizer: Name = "adamw"
    recompute_every: Count = 1
    offload_optimizer: bool = False
    offload_activations: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    sequence_parallel: bool = False


class Scenario(Spec):
    """One question: a model on a system, inferring or training.

    Attributes
    ----------
    name : str
        Shown in results.
    model, system, stack : str
        Names or paths; the stack is optional.
    overrides : tuple of str
        What-if changes, as ``--set`` takes them.
    """

    schema_version: Literal[1] = 1
    name: Name
    description: Text | None = None
    model: Name
    system: Name
    stack: Name | None = None
    fidelity: Literal["auto", "roofline", "structured", "borrowed", "calibrated"] = (
        "auto"
    )
    overrides: tuple[Text, ...] = ()
    infer: InferQuestion | None = None
    train: TrainQuestion | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Scenario:
        if (self.infer is None) == (self.train is None):
            raise ValueError("give exactly one of the tables [infer] and [train]")
        return self

    @property
    def task(self) -> Literal["infer", "train"]:
        """Which question is asked."""
        return "infer" if self.infer is not None else "train"

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the public function that answers."""
        question = self.infer if self.infer is not None else self.train
        asked = {} if question is None else question.model_dump()
        asked["fidelity"] = self.fidelity
        if self.stack is not None:
            asked["stack"] = self.stack
        return asked


def scenario_paths() -> dict[str, Path]:
    """Return the scenarios that ship with hwsim or lie on the search path."""
    found: dict[str, Path] = {}
    for folder in search_paths("workloads"):
        for path in sorted(folder.glob("scenarios/*.toml")):
            found.setdefault(path.stem, path)
    return found


def load_scenario(name: str | Path) -> Scenario:
    """Load a scenario by path, or by the name of one that ships with hwsim."""
    path = Path(name).expanduser()
    if not looks_like_path(str(name)):
        known = {fold(stem): file for stem, file in scenario_paths().items()}
        if fold(str(name)) not in known:
            raise InputError(
                f"scenario {str(name)!r} is neither a .toml file nor one of "
                f"{', '.join(sorted(known)) or 'the shipped ones (there are none)'}"
            )
        path = known[fold(str(name))]
    return validate(Scenario, read_table(path), str(path), units_required=True)
