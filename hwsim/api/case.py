"""Questions that can be varied: from a scenario, or from names and options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hwsim.analysis.case import TASKS, Case, Task, known_options
from hwsim.analysis.resolve import default_dtype, resolve
from hwsim.api.ask import infer, train
from hwsim.api.serving import serve
from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.model import ModelSpec
from hwsim.specs.scenario import Scenario, load_scenario
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

ASKS: dict[Task, Callable[..., Any]] = {
    "infer": infer, "train": train, "serve": serve,
}  # fmt: skip
System = str | SystemSpec | DeviceSpec


def case_of(
    task: str,
    model: str | ModelSpec,
    system: System,
    *,
    stack: str | StackSpec | None = None,
    overrides: Iterable[str] = (),
    label: str = "",
    **options: Any,
) -> Case:
    """Return a question with its specs loaded, its arguments checked by name."""
    asked, overrides = checked_task(task), _texts(overrides)
    ask = ASKS[asked]
    check_options(asked, options)
    loaded, resolved, software = resolve(
        model, system, stack or _stack(asked, options), ()
    )
    given = {k: v for k, v in options.items() if v is not None}
    given.setdefault("dtype", default_dtype(resolved.device))
    if asked != "serve":
        given.setdefault("engine", "closed_form")
    case = Case(asked, loaded, resolved, software, ask, given, label)
    return case.changed(overrides) if overrides else case


def _texts(overrides: Iterable[str]) -> list[str]:
    return [overrides] if isinstance(overrides, str) else list(overrides)


def checked_task(task: str) -> Task:
    """Return a task by name."""
    if task not in TASKS:
        raise UnknownNameError("task", str(task), TASKS)
    return task


def check_options(task: Task, options: Mapping[str, Any]) -> None:
    """Refuse arguments that the function which answers does not take."""
    known = known_options(task, ASKS[task])
    wrong = [name for name in options if name not in known]
    if wrong:
        raise UnknownNameError(f"option of {task}", wrong[0], known)


def _stack(task: Task, options: Mapping[str, Any]) -> str:
    if task != "serve":
        return "default-training" if task == "train" else "default-inference"
    engine = options.get("engine") or "vllm-v1"
    loaded = engine if isinstance(engine, EngineSpec) else load_engine(engine)
    return loaded.stack


def scenario_case(
    scenario: str | os.PathLike[str] | Scenario | Case,
    *,
    overrides: Iterable[str] = (),
    system: System | None = None,
    model: str | ModelSpec | None = None,
    stack: str | StackSpec | None = None,
    label: str = "",
    **options: Any,
) -> Case:
    """Return a scenario's question, parts of it replaced."""
    if isinstance(scenario, Case):
        if options or system or model or stack:
            raise InputError("a loaded question has its own system, model and stack")
        return scenario.changed(overrides)
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(Path(scenario))
    asked = scenario.arguments()
    own = asked.pop("stack", None)
    asked |= {k: v for k, v in options.items() if v is not None}
    return case_of(
        scenario.task, model or scenario.model, system or scenario.system,
        stack=stack or own, overrides=[*scenario.overrides, *overrides], label=label,
        **asked,
    )  # fmt: skip
