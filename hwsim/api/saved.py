"""Results in files: saved, loaded, put side by side."""

from __future__ import annotations

import os
from pathlib import Path

from hwsim.analysis.frames import join_results, results_frame
from hwsim.analysis.result import Result
from hwsim.analysis.saved import SavedResult, load_result

__all__ = [
    "SavedResult",
    "join_results",
    "load_result",
    "results_frame",
    "save_result",
]


def save_result(
    result: Result, path: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Save a result as JSON with all that tables and reports need of it.

    Parameters
    ----------
    result : Result
        What any function of hwsim answered.
    path : str or path-like
        The file; written whole or not at all.
    command : str, optional
        The command line that made it, for readers to repeat.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from hwsim.report.write import write_atomic

    return write_atomic(path, result.saved_text(command))
