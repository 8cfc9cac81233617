"""Figures and pages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.analysis.resolve import (
    as_system,
    changed_system,
    parsed,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    pass


def roofline(
    device: str | DeviceSpec | SystemSpec,
    results: Sequence[Any] = (),
    *,
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
) -> Any:
    """Draw a device's ceilings and, given results, their operators.

    Returns
    -------
    matplotlib.figure.Figure
        Saved too, when ``path`` names an svg, png or pdf file.
    """
    from hwsim.report.roofline import roofline_figure

    system = changed_system(as_system(device), parsed(overrides))
    graphs = [g for r in results for g in getattr(r, "graphs", [r])]
    return roofline_figure(graphs, device=system.device, path=path)


def write_report(
    result: Any, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write a result as one self-contained HTML page.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing half-written is left.
    """
    from hwsim.report.page import write_page

    return write_page(result, Path(path), command=command)
