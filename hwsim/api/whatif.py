"""What if, what matters, and what would have to be true."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hwsim.analysis.case import Case
from hwsim.analysis.varying.sensitivity import SWING, SensitivityResult, sensitivities
from hwsim.analysis.varying.solve import Solved, parse_target, solve
from hwsim.analysis.varying.sweep import WhatIf, sweep
from hwsim.api.case import System, case_of, scenario_case
from hwsim.api.compare import money_of
from hwsim.specs.model import ModelSpec
from hwsim.specs.scenario import Scenario

Asked = str | os.PathLike[str] | Scenario | Case
Progress = Callable[[int, int], None] | None


def question(
    model: str | ModelSpec,
    system: System,
    *,
    task: str = "infer",
    overrides: Iterable[str] = (),
    **options: Any,
) -> Case:
    """Return a question that can be compared, varied and solved.

    Parameters
    ----------
    model, system : str or spec
        Names, paths or loaded specs.
    task : str
        ``infer``, ``train`` or ``serve``.
    overrides : iterable of str
        What-if changes, as on the command line.
    **options
        Arguments of the function that answers, ``stack`` among them.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If a name or an option is unknown.
    """
    return case_of(task, model, system, overrides=overrides, **options)


def whatif(
    scenario: Asked,
    vary: str | Sequence[str],
    *,
    metric: str | None = None,
    overrides: Iterable[str] = (),
    price: float | None = None,
    pue: float | None = None,
    grid: str | float = "world",
    progress: Progress = None,
    **changes: Any,
) -> WhatIf:
    """Answer a question for all values of one or two parameters.

    Parameters
    ----------
    scenario : str, path, Scenario or Case
        Name or file of a scenario, or what :func:`hwsim.question` returns.
    vary : str or sequence of str
        ``"device.memory.hbm.bandwidth=0.5x..4x"``, ``"batch=1,8,64"``, …:
        figures of device, system, stack and model, or options of the
        question; ``bandwidth``, ``capacity``, ``peak`` and ``link`` for short.
    metric : str
        Figure that is told: a key of the answer; the task's time by default.
    overrides : iterable of str
        What-if changes to every point.
    **changes
        ``system``, ``model``, ``stack`` or options that replace the scenario's.

    Returns
    -------
    WhatIf
        ``points``, ``knees`` (where the bound changes), ``table``, ``plot()``.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If a parameter or a value is wrong, or no value can run.
    """
    case = scenario_case(scenario, overrides=overrides, **changes)
    texts = [vary] if isinstance(vary, str) else list(vary)
    money = money_of(price, pue, grid)
    return sweep(case, texts, money, metric=metric, progress=progress)


def sensitivity(
    scenario: Asked,
    *,
    metric: str | None = None,
    swing: float = SWING,
    sobol: int = 0,
    most: int = 8,
    seed: int = 0,
    overrides: Iterable[str] = (),
    progress: Progress = None,
    **changes: Any,
) -> SensitivityResult:
    """Return what every hardware, software and workload parameter does.

    Parameters
    ----------
    scenario : str, path, Scenario or Case
        As for :func:`hwsim.whatif`.
    metric : str
        Figure that is told; the task's time by default.
    swing : float
        Share by which the tornado, and Sobol, move each parameter either way.
    sobol : int
        Base samples for Sobol indices, a power of two; 0 leaves them out.
        Needs the extra ``sensitivity`` (SALib).
    most : int
        How many parameters get Sobol indices, strongest first.
    seed : int
        Of the samples.

    Returns
    -------
    SensitivityResult
        ``rows`` with elasticities, strongest first; ``table``, ``plot()``.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If the question cannot be answered as it stands.
    """
    case = scenario_case(scenario, overrides=overrides, **changes)
    return sensitivities(
        case, money_of(None, None, "world"), metric=metric, swing=swing, sobol=sobol,
        most=most, seed=seed, progress=progress,
    )  # fmt: skip


def solve_for(
    scenario: Asked,
    target: str,
    by: str | Sequence[str] = (),
    *,
    overrides: Iterable[str] = (),
    price: float | None = None,
    pue: float | None = None,
    grid: str | float = "world",
    progress: Callable[[int], None] | None = None,
    **changes: Any,
) -> Solved:
    """Find what would have to be true for a target to be met.

    Parameters
    ----------
    scenario : str, path, Scenario or Case
        As for :func:`hwsim.whatif`.
    target : str
        ``"tpot_s<=5ms"``, ``"tokens_per_s>=2000"``, ``"usd_per_mtok<=1"``.
    by : str or sequence of str
        Parameters, each tried alone; memory bandwidth, peak, link and batch by
        default.
    progress : callable, optional
        Told how many answers were worked out.

    Returns
    -------
    Solved
        One solution for each parameter, or the reason why there is none; with
        what it would have to be at either end of the answer's 90 % interval.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If target or parameter is wrong.
    """
    case = scenario_case(scenario, overrides=overrides, **changes)
    names = [by] if isinstance(by, str) else list(by)
    money = money_of(price, pue, grid)
    return solve(case, parse_target(target), names, money, progress)
