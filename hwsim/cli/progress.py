"""A line on stderr that says how far work is, where somebody looks on."""

from __future__ import annotations

import sys
import time

from hwsim.cli.settings import manners

_PATIENCE = 1.0  # seconds before anything is said


class Meter:
    """Progress of work; as a context, it wipes its line at the end.

    Parameters
    ----------
    what : str
        What is counted.
    """

    def __init__(self, what: str) -> None:
        self._what, self._begun = what, time.monotonic()
        self._live, self._told = sys.stderr.isatty() and not manners.quiet, 0.0

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._told:
            sys.stderr.write("\r\x1b[K")

    def show(
        self, done: int, total: int | None = None, what: str | None = None
    ) -> None:
        """Say how far it is, a few times a second."""
        now = time.monotonic()
        if not self._live or now - self._begun < _PATIENCE or now - self._told < 0.2:
            return
        self._told = now
        of = "" if total is None else f" of {total:,}"
        sys.stderr.write(f"\r{done:,}{of} {what or self._what}\x1b[K")
        sys.stderr.flush()
