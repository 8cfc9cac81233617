"""One question, resolved: a model on a system, asked so that it can be varied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hwsim.analysis.resolve import ENGINE, TARGETS, changed, changed_system, parsed
from hwsim.errors import InputError, nearest
from hwsim.specs.assumed import labelled
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.model import ModelSpec
from hwsim.specs.override import apply_overrides
from hwsim.specs.scenario import TrainQuestion
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

Task = Literal["infer", "train", "serve"]
TASKS: tuple[Task, ...] = ("infer", "train", "serve")
Ask = Callable[..., Any]

# The figure that a task is compared by, and what it is called.
TIMES: dict[Task, tuple[str, str]] = {
    "infer": ("latency_s", "prompt to last token"),
    "train": ("step_s", "one optimizer step"),
    "serve": ("e2e_s.mean", "mean of a whole answer"),
}


@dataclass(frozen=True)
class Case:
    """One question, with loaded specs.

    Attributes
    ----------
    ask : callable
        Public function that answers: ``ask(model, system, stack=…, **options)``.
    options : dict
        Its other arguments; ``dtype`` and ``fidelity`` among them.
    label : str
        What tables call it.
    """

    task: Task
    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    ask: Ask
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def run(self) -> Any:
        """Return the answer: an Infer-, Train- or ServeResult."""
        return self.ask(self.model, self.system, stack=self.stack, **self.options)

    def changed(self, overrides: Iterable[str]) -> Case:
        """Return the question with figures of its specs replaced."""
        changes = parsed(overrides, self.targets)
        mine = [change for change in changes if change.target == ENGINE]
        options = dict(self.options)
        if mine:
            options[ENGINE] = apply_overrides(self.engine, mine)
        return replace(
            self,
            options=options,
            model=changed(self.model, "model", changes),
            system=changed_system(self.system, changes),
            stack=changed(self.stack, "stack", changes),
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """What overrides may change: a service has an engine too."""
        return (*TARGETS, ENGINE) if self.task == "serve" else TARGETS

    @property
    def engine(self) -> EngineSpec:
        """The serving engine of a service."""
        engine = self.options.get(ENGINE, "vllm-v1")
        return engine if isinstance(engine, EngineSpec) else load_engine(engine)

    def with_options(self, **options: Any) -> Case:
        """Return the question with other arguments."""
        return replace(self, options={**self.options, **options})

    @property
    def name(self) -> str:
        """The label, or the device by name; marked where figures are made up."""
        return self.label or labelled(self.system)

    def to_dict(self) -> dict[str, Any]:
        """Return what is asked, specs by id."""
        return {
            "task": self.task,
            "model": self.model.id,
            "system": self.system.id,
            "device": self.system.device.id,
            "stack": self.stack.id,
            "options": {k: v for k, v in self.options.items() if _plain(v)},
        }


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | dict)


def known_options(task: Task, ask: Ask) -> dict[str, Any]:
    """Return the options of a task and their defaults, None where there is none."""
    kinds = inspect.Parameter
    found = {
        name: None if p.default is kinds.empty else p.default
        for name, p in inspect.signature(ask).parameters.items()
        if p.kind is not kinds.VAR_KEYWORD
        and name not in {"model", "system", "overrides", "progress", "stack"}
    }
    if task == "train":  # what it passes on as it is given
        fields = TrainQuestion.model_fields.items()
        found = {name: f.get_default() for name, f in fields} | found
    return found


def figure_of(result: Any, key: str) -> float:
    """Return one figure of an answer by its key in ``to_dict()``, dots between.

    Raises
    ------
    InputError
        If the answer has no such number.
    """
    table = result.to_dict()
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and "mean" in value:
        value = value["mean"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        known = sorted(numbers(table))
        close = nearest(key, known) or known
        raise InputError(f"{key!r} is no figure of the answer; choose {_few(close)}")
    return float(value)


def _few(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:12])


def numbers(table: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of an answer by dotted key."""
    found: dict[str, float] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = float(value)
    return found
