"""What a terminal shows of a service while it is played."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hwsim.analysis.serving.watch import Snapshot


class Meter:
    """A line on stderr that grows, where somebody looks on."""

    look: Callable[[Snapshot], None] | None = None

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def show(self, done: int, total: int) -> None:
        """Say how far it is."""
        if self._live:
            sys.stderr.write(f"\r{done:,} of {total:,} requests")
            sys.stderr.flush()

    def close(self) -> None:
        """Wipe the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")


class View(Meter):
    """A table on stderr that is drawn again and again, and wiped at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._view: Any = None
        self.look = self._look if self._live else None

    def show(self, done: int, total: int) -> None:
        """Leave the line out: the table says it."""

    def _look(self, at: Snapshot) -> None:
        if self._view is None:
            from rich.live import Live

            self._view = Live(
                console=Console(stderr=True), auto_refresh=False, transient=True
            )
            self._view.start()
        self._view.update(watched(at), refresh=True)

    def close(self) -> None:
        """Wipe the table."""
        if self._view is not None:
            self._view.stop()


def meter(watch: bool) -> Meter:
    """Return what shows how far a service is."""
    return View() if watch else Meter()


def watched(at: Snapshot) -> Table:
    """Return how a service stands as a table."""
    from hwsim.report import format as fmt

    def seconds(value: float) -> str:
        return fmt.seconds(value) if value == value else fmt.NONE

    drawn = Table(box=None, show_header=False)
    for row in (
        ("simulated", seconds(at.time), ""),
        ("answered", f"{at.done:,} of {at.total:,}", f"{at.requests_per_s:.4g} /s"),
        ("waiting", f"{at.waiting:,}", "for their first token"),
        ("running", f"{at.running:,}", ""),
        ("KV cache", f"{at.kv_occupancy:.0%}", ""),
        ("first token", seconds(at.ttft_p50), f"99 % within {seconds(at.ttft_p99)}"),
    ):
        drawn.add_row(*row)
    return drawn
