"""Sobol indices of a function of factors, by SALib."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwsim.errors import InputError

Index = tuple[float, float]


def sobol_indices(
    bounds: Mapping[str, Sequence[float]],
    evaluate: Callable[[Sequence[float]], float],
    *,
    samples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[Index, Index]]:
    """Return the first and total index of each factor, with half widths of 90 %.

    Parameters
    ----------
    bounds : mapping of str to pair of float
        Least and largest value of each factor; fewer than two have no indices.
    evaluate : callable
        The answer at one value of each factor, in the order of ``bounds``.
    samples : int
        Base sample of Saltelli's scheme, a power of two.
    seed : int
        Of the draw and of the confidence limits.
    progress : callable, optional
        Told how many points of how many are done.

    Raises
    ------
    InputError
        If SALib is not installed or ``samples`` is no power of two.
    """
    sample, analyze = _salib()
    if samples < 2 or samples & (samples - 1):
        raise InputError(f"sobol is {samples}; give a power of two, such as 64")
    if len(bounds) < 2:
        return {}
    names = list(bounds)
    problem = {
        "num_vars": len(names), "names": names, "bounds": list(bounds.values()),
    }  # fmt: skip
    drawn = sample.sample(problem, samples, calc_second_order=False, seed=seed)
    values = np.empty(len(drawn))
    for i, factors in enumerate(drawn):
        if progress is not None:
            progress(i, len(drawn))
        values[i] = evaluate(factors)
    # To SALib a seed of 0 is none.
    s = analyze.analyze(
        problem, values, calc_second_order=False, conf_level=0.9, seed=seed + 1
    )
    return {
        name: (
            (float(s["S1"][i]), float(s["S1_conf"][i])),
            (float(s["ST"][i]), float(s["ST_conf"][i])),
        )
        for i, name in enumerate(names)
    }


def _salib() -> tuple[Any, Any]:
    try:
        analyze = importlib.import_module("SALib.analyze.sobol")
        sample = importlib.import_module("SALib.sample.sobol")
    except ImportError:
        raise InputError(
            "Sobol indices need SALib; pip install 'hwsim[sensitivity]', or leave "
            "them out"
        ) from None
    return sample, analyze
