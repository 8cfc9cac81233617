"""Comparisons: systems, devices, precisions, stacks, models side by side."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hwsim.analysis.case import Case
from hwsim.analysis.comparing.cell import Money
from hwsim.analysis.comparing.compare import Comparison, compared
from hwsim.analysis.economy import economy_of
from hwsim.api.case import System, case_of, scenario_case
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.economics import load_economics
from hwsim.specs.model import ModelSpec
from hwsim.specs.scenario import Scenario
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

Some = str | Sequence[str] | None
Entry = System | Mapping[str, Any] | Case


def compare(
    systems: Entry | Sequence[Entry],
    model: str | ModelSpec | Sequence[str | ModelSpec] | None = None,
    *,
    task: str = "infer",
    scenario: str | os.PathLike[str] | Scenario | None = None,
    stack: str | StackSpec | Sequence[str | StackSpec] | None = None,
    dtype: Some = None,
    overrides: Iterable[str] = (),
    price: float | None = None,
    pue: float | None = None,
    grid: str | float = "world",
    explain: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Put systems, precisions, stacks or models side by side on the same work.

    Parameters
    ----------
    systems : str, spec, mapping, or sequence of them
        What is compared. A mapping has ``system`` and whatever is its own:
        ``label``, ``model``, ``stack``, ``price``, ``overrides`` and options of
        the task, for example ``{"system": "dgx-h100", "tp": 8}``.
    model : str, ModelSpec or sequence of them
        Models; each stands beside the others.
    task : str
        ``infer``, ``train`` or ``serve``.
    scenario : str, path or Scenario
        Gives task, model, stack and options instead.
    stack, dtype : str or sequence
        Software stacks and precisions; each stands beside the others.
    overrides : iterable of str
        What-if changes to every cell.
    price, pue : float or None
        Of one device [USD/h]; facility over computer power. The reference's
        by default.
    grid : str or float
        Grid whose carbon counts, or its intensity. [g/kWh]
    explain : bool
        Whether to break differences down by mechanism.
    **options
        Arguments of :func:`hwsim.infer`, :func:`hwsim.train` or
        :func:`hwsim.serve`.

    Returns
    -------
    Comparison
        ``cells``, ``pairs``, ``waterfalls``, ``table``; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something is unknown or wrong; a system that cannot run the work is
        a cell with its reason.
    """
    entries = [_entry(e) for e in _several(systems)]
    if not entries:
        raise InputError("no system is given; name at least one")
    if (
        model is None
        and scenario is None
        and not all(e.get("model") or "case" in e for e in entries)
    ):
        raise InputError("no model is given; name one, or a scenario")
    cases, money = [], []
    for entry in entries:
        own = entry.pop("price", None)
        for case in _cases(
            entry, model, task, scenario, stack, dtype, overrides, options
        ):
            cases.append(case)
            money.append(money_of(price if own is None else own, pue, grid))
    return compared(_title(cases), cases, money, explain=explain, progress=progress)


def _several(value: Any) -> list[Any]:
    if value is None:
        return [None]
    if isinstance(value, list | tuple):
        return list(value)
    return [value]


def _entry(value: Entry) -> dict[str, Any]:
    if isinstance(value, Case):
        return {"case": value}
    if isinstance(value, Mapping):
        if "system" not in value:
            raise InputError("an entry of compare needs system, its name or path")
        return dict(value)
    if isinstance(value, str | SystemSpec | DeviceSpec):
        return {"system": value}
    raise InputError(
        f"system is {type(value).__name__}; give a name, a path or a loaded spec"
    )


def _cases(
    entry: Mapping[str, Any],
    model: Any,
    task: str,
    scenario: Any,
    stack: Any,
    dtype: Any,
    overrides: Iterable[str],
    options: Mapping[str, Any],
) -> list[Case]:
    """Return the cells of one system: one for each model, stack and precision."""
    if "case" in entry:
        return [entry["case"]]
    own = {**options, **entry}
    system, label = own.pop("system"), own.pop("label", "")
    models = _several(own.pop("model", model))
    stacks, dtypes = (
        _several(own.pop("stack", stack)),
        _several(own.pop("dtype", dtype)),
    )
    changes = [*overrides, *own.pop("overrides", ())]
    found = []
    for m, s, d in itertools.product(models, stacks, dtypes):
        if scenario is None:
            case = case_of(task, m, system, stack=s, overrides=changes, dtype=d, **own)
        else:
            case = scenario_case(
                scenario, system=system, model=m, stack=s, overrides=changes, dtype=d,
                **own,
            )  # fmt: skip
        found.append(replace(case, label=label))
    return found


def money_of(price: float | None, pue: float | None, grid: str | float) -> Money:
    """Return what devices, energy and carbon cost; the reference by default."""
    return Money(economy_of(price, pue), _grams(grid))


def _grams(grid: str | float) -> float:
    if isinstance(grid, str):
        return load_economics().grid(grid)
    if not 0.0 <= grid <= 2e3:
        raise InputError(f"grid is {grid}; give a name or g/kWh from 0 to 2000")
    return float(grid)


_WORDS = {"infer": "answering", "train": "training", "serve": "serving"}


def _title(cases: Sequence[Case]) -> str:
    models = dict.fromkeys(case.model.name for case in cases)
    case = cases[0]
    shown = [
        f"{key} {value}" for key, value in case.options.items()
        if key in _SHOWN and all(c.options.get(key) == value for c in cases)
    ]  # fmt: skip
    what = f"{_WORDS[case.task].capitalize()} {' and '.join(models)}"
    return what + (f": {', '.join(shown)}" if shown else "")


_SHOWN = (
    "batch", "prompt", "output", "tp", "dtype", "global_batch", "seq", "devices",
    "rate", "requests", "input_len", "output_len", "concurrency",
)  # fmt: skip
