"""Scenario files: one question with everything it takes to ask it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hwsim.errors import InputError
from hwsim.registry import search_paths
from hwsim.specs.base import Count, Name, Seconds, Spec, Text
from hwsim.specs.load import fold, looks_like_path, read_table, validate

Task = Literal["infer", "train", "serve"]
Rate = Annotated[float, Field(gt=0.0, le=1e9)]
Size = Annotated[int, Field(ge=0, le=10**12, strict=True)]


class InferQuestion(Spec):
    """The ``[infer]`` table; keys as the arguments of :func:`hwsim.infer`."""

    batch: Count = 1
    prompt: Size | None = None
    output: Size | None = None
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
    etp: Count | None = None
    dp_shard: Count | None = None
    stage_layers: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = ()
    cp_mode: Name = "ring"
    imbalance: Annotated[float, Field(ge=1.0)] = 1.0
    capacity_factor: Annotated[float, Field(gt=0.0)] | None = None
    lora_rank: Annotated[int, Field(ge=0, strict=True)] = 0
    lora_targets: tuple[Name, ...] = ("qkv", "out")


class ServeQuestion(Spec):
    """The ``[serve]`` table; keys as the arguments of :func:`hwsim.serve`."""

    rate: Rate | None = None
    requests: Count | None = None
    input_len: Name = "lognormal:1000"
    output_len: Name = "lognormal:250"
    arrival: Name = "poisson"
    burstiness: Rate = 1.0
    concurrency: Count | None = None
    trace: Text | None = None
    tp: Count = 1
    replicas: Count = 1
    router: Name = "round_robin"
    engine: Name = "vllm-v1"
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    chunked_prefill: bool | None = None
    dtype: Name | None = None
    weight_dtype: Name | None = None
    kv_dtype: Name | None = None
    slo: dict[Name, Seconds] = {}
    seed: Size = 1


class Scenario(Spec):
    """One question: a model on a system, inferring, training or serving.

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
    serve: ServeQuestion | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Scenario:
        if len(self._asked()) != 1:
            raise ValueError(
                "give exactly one of the tables [infer], [train] and [serve]"
            )
        return self

    def _asked(self) -> dict[Task, Spec]:
        asked: tuple[tuple[Task, Spec | None], ...] = (
            ("infer", self.infer), ("train", self.train), ("serve", self.serve),
        )  # fmt: skip
        return {task: question for task, question in asked if question is not None}

    @property
    def task(self) -> Task:
        """Which question is asked."""
        return next(iter(self._asked()))

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the public function that answers."""
        asked = self._asked()[self.task].model_dump()
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
