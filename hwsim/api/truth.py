"""Predictions held against measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwsim.analysis.graph_result import Engine
from hwsim.cost.evaluate import Fidelity

if TYPE_CHECKING:
    from hwsim.analysis.published.runs import PublishedComparison


def compare_published(
    *, fidelity: Fidelity = "auto", engine: Engine = "closed_form"
) -> PublishedComparison:
    """Predict the published runs that ship with hwsim; errors are not hidden."""
    from hwsim.analysis.published.runs import compare

    return compare(fidelity=fidelity, engine=engine)
