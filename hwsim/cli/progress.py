"""Progress on stderr, where somebody looks on and the work takes long."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from hwsim.api.progress import ProgressBar
from hwsim.cli.settings import manners

_PATIENCE = 1.0  # shorter work needs no bar [s]
_PAUSE = 0.2  # between two looks [s]


class Meter:
    """Draws a bar once the work takes long; as a context, wipes it at the end.

    Parameters
    ----------
    what : str
        What is counted.
    """

    def __init__(self, what: str) -> None:
        self._what, self._begun, self._told = what, time.monotonic(), 0.0
        self._live = sys.stderr.isatty() and not manners.quiet
        self._bar = ProgressBar(what, transient=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def show(
        self, done: int, total: int | None = None, what: str | None = None
    ) -> None:
        """Say how far it is, a few times a second."""
        now = time.monotonic()
        if not self._live or now - self._begun < _PATIENCE:
            return
        if now - self._told < _PAUSE and done != total:
            return
        self._told = now
        counts = (done,) if total is None else (done, total)
        self._bar(*counts, what or self._what)
