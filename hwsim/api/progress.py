"""A progress bar for scripts and notebooks."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class ProgressBar:
    """A bar that functions with ``progress`` can be given, as a context.

    In a terminal it is drawn on stderr; in a notebook where the code stands (with
    ipywidgets installed).

    Parameters
    ----------
    what : str
        What is counted, until a function says it.
    transient : bool
        Whether it is wiped at the end.
    """

    def __init__(self, what: str = "working", *, transient: bool = False) -> None:
        self._what, self._transient = what, transient
        self._bar: Any = None
        self._task: Any = None
        self.done, self.total = 0, 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if kind is None and self.total:
                self._bar.update(self._task, completed=self.total)
            self._bar.stop()
            self._bar = None

    def __call__(self, *told: int | float | str) -> None:
        """Draw how far it is.

        Parameters
        ----------
        *told : int, float or str
            What hwsim's functions tell: how much is done, and of how much, or in
            words what is being done.
        """
        counts = [t for t in told if isinstance(t, int)]
        words = [t for t in told if isinstance(t, str)]
        self.done = counts[0] if counts else self.done + 1
        self.total = counts[1] if len(counts) > 1 else self.total
        self._what = words[0] if words else self._what
        if self._bar is None:
            self._open()
        self._bar.update(
            self._task, completed=self.done, total=self.total or None,
            description=self._what,
        )  # fmt: skip

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}", markup=False), BarColumn(),
            MofNCompleteColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        console = Console()
        if not console.is_jupyter:
            console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=self._transient)
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=None)


def progress_bar(what: str = "working") -> ProgressBar:
    """Return a bar to give to ``progress`` of any function that takes one.

    Parameters
    ----------
    what : str
        What is counted.

    Examples
    --------
    >>> import hwsim
    >>> with hwsim.progress_bar("points") as bar:  # doctest: +SKIP
    ...     found = hwsim.whatif(asked, "bandwidth=0.5x..4x:33", progress=bar)
    """
    return ProgressBar(what)
