"""Results side by side: one row each, joined on what they were asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwsim.analysis.result import Result
from hwsim.analysis.saved import load_result
from hwsim.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# What identifies a question, beside all of ``config``.
SCENARIO = (
    "kind", "model", "system", "device", "stack", "engine", "graph", "op", "dtype",
    "fidelity",
)  # fmt: skip
_CONFIG = "config."
_ENDS = ("low", "high")


def results_frame(results: Iterable[Result | str | os.PathLike[str]]) -> pd.DataFrame:
    """Return one row per result, with keys in SI units.

    Nested figures stand under dotted names (``breakdown.memory``,
    ``config.batch``), intervals under ``interval_90.<figure>.low`` and
    ``.high``. What identifies the question comes first. Tables inside a result
    (rankings, rows of a validation) are left out; results of different kinds
    leave each other's columns empty.

    Parameters
    ----------
    results : iterable of Result or path
        Computed or loaded ones, or their files.

    Raises
    ------
    InputError
        If something in it is no result.
    """
    import pandas as pd

    rows = []
    for given in results:
        result = load_result(given) if isinstance(given, str | os.PathLike) else given
        if not isinstance(result, Result):
            raise InputError(
                f"results_frame takes results and files, not {type(result).__name__}"
            )
        rows.append(dict(_flat(result.to_dict())))
    frame = pd.DataFrame(rows)
    keys = scenario_keys(frame.columns)
    return frame[[*keys, *(c for c in frame.columns if c not in keys)]]


def scenario_keys(columns: Iterable[str]) -> list[str]:
    """Return those columns of a results frame that say what was asked."""
    every = list(columns)
    named = [key for key in SCENARIO if key in every]
    return named + [c for c in every if c.startswith(_CONFIG)]


def join_results(
    left: Iterable[Result | str | os.PathLike[str]],
    right: Iterable[Result | str | os.PathLike[str]],
    *,
    apart: Sequence[str] = ("system", "device", "fidelity"),
    suffixes: tuple[str, str] = ("_left", "_right"),
) -> pd.DataFrame:
    """Return pairs of results that answer the same question, side by side.

    Parameters
    ----------
    left, right : iterable of Result or path
        For example the same scenarios on two systems.
    apart : sequence of str
        Scenario keys that may differ; all others are joined on.
    suffixes : tuple of str
        Added to the columns of each side that both have.

    Raises
    ------
    InputError
        If the two sides share no scenario key, or a key in ``apart`` is unknown.
    """
    first, second = results_frame(left), results_frame(right)
    shared = [
        key for key in scenario_keys(first.columns) if key in second.columns
    ]  # fmt: skip
    unknown = [key for key in apart if key not in shared and key not in SCENARIO]
    if unknown:
        raise InputError(
            f"apart names {unknown[0]!r}, which is no scenario key of both sides; "
            f"they have {', '.join(shared) or 'none'}"
        )
    on = [key for key in shared if key not in apart]
    if not on:
        raise InputError("the two sides share no scenario key; compare like with like")
    return first.merge(second, on=on, suffixes=suffixes)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _flat(item, f"{name}.")
        elif not isinstance(item, list | tuple):
            yield name, item
        elif name.startswith("interval_90.") and len(item) == 2:
            yield from ((f"{name}.{e}", v) for e, v in zip(_ENDS, item, strict=True))
