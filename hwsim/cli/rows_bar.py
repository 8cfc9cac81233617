"""A progress bar over rows on stderr; nothing where no one watches."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

PATIENCE = 2.0  # shorter work needs no bar [s]


class RowsBar(AbstractContextManager["RowsBar"]):
    """Shows itself once the work takes long."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, whole: int) -> None:
        """Show how many rows are done."""
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE:
                return
            self._open(whole)
        self._bar.update(self._task, completed=done)

    def _open(self, whole: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar: Any = Progress(
            TextColumn("rows"), BarColumn(), MofNCompleteColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        bar.start()
        self._bar, self._task = bar, bar.add_task("rows", total=whole)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def rows_bar() -> AbstractContextManager[Any]:
    """Return a bar to be told rows done and rows in all; or None to be told."""
    return RowsBar() if sys.stderr.isatty() else nullcontext()
