"""A progress bar over rows on stderr; nothing where no one watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from hwsim.cli.settings import manners

PATIENCE = 2.0  # shorter work needs no bar [s]


class Bar(AbstractContextManager["Bar"]):
    """Shows itself once the work takes long.

    Parameters
    ----------
    what : str
        What is counted.
    beside : callable, optional
        Makes text of what is told besides counts, to stand after them.
    """

    def __init__(self, what: str, beside: Callable[..., str] | None = None) -> None:
        self._started = time.monotonic()
        self._what, self._beside = what, beside
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, whole: int, *told: Any) -> None:
        """Show how much is done."""
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE:
                return
            self._open(whole)
        text = self._beside(*told) if self._beside else ""
        self._bar.update(self._task, completed=done, beside=text)

    def _open(self, whole: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar: Any = Progress(
            TextColumn(self._what), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[beside]}"), console=Console(stderr=True),
            transient=True,
        )  # fmt: skip
        bar.start()
        self._bar, self._task = bar, bar.add_task(self._what, total=whole, beside="")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def bar(
    what: str = "rows", beside: Callable[..., str] | None = None
) -> AbstractContextManager[Any]:
    """Return a bar to be told what is done and how much there is; or None."""
    shown = sys.stderr.isatty() and not manners.quiet
    return Bar(what, beside) if shown else nullcontext()
