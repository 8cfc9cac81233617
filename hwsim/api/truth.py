"""Predictions held against measurements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hwsim.analysis.graph_result import Engine
from hwsim.cost.evaluate import Fidelity

if TYPE_CHECKING:
    from hwsim.analysis.published.runs import PublishedComparison


def compare_published(
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "closed_form",
    overrides: Iterable[str] = (),
) -> PublishedComparison:
    """Predict the published runs that ship with hwsim; errors are not hidden.

    Parameters
    ----------
    overrides : iterable of str
        What-if changes to every run, such as ``"stack.matmul_derate=0.9"``; runs
        that have no such figure stay unanswered.
    """
    from hwsim.analysis.published.runs import compare

    return compare(fidelity=fidelity, engine=engine, overrides=list(overrides))
