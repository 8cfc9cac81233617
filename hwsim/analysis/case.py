"""One question, resolved: a model on a system, asked so that it can be varied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hwsim.analysis.resolve import changed, changed_system, parsed
from hwsim.errors import InputError, nearest
from hwsim.specs.assumed import labelled
from hwsim.specs.model import ModelSpec
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
        changes = parsed(overrides)
        return replace(
            self,
            model=changed(self.model, "model", changes),
            system=changed_system(self.system, changes),
            stack=changed(self.stack, "stack", changes),
        )

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
