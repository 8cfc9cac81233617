"""Progress of a simulated run in a file, to go on from when it was cut off."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.errors import InputError, OutputError
from hwsim.sim.failures import FailurePlan, RunState, run_with_failures

_FORMAT = 1
_FAILURES = 200  # simulated between two looks at the clock
_SECONDS = 0.5  # between two writes


def simulated_runs(
    plan: FailurePlan,
    seeds: Sequence[np.random.SeedSequence],
    *,
    seed: int,
    path: str | os.PathLike[str] | None = None,
) -> tuple[RunState, ...]:
    """Simulate a run once for each seed, and keep where it stands in a file.

    Parameters
    ----------
    plan : FailurePlan
        The run.
    seeds : sequence of SeedSequence
        Of the replications.
    seed : int
        Which they come from; the file says so.
    path : path, optional
        Written about twice a second, whole or not at all. If it is there, the
        simulation goes on from it, to the same answer as if never cut off.

    Raises
    ------
    InputError
        If the file is of another run.
    OutputError
        If it cannot be written.
    """
    book = _Book(path, plan, seed, len(seeds)) if path is not None else None
    found = []
    for index, one in enumerate(seeds):
        state = RunState() if book is None else book.states[index]
        rng = np.random.default_rng(one)
        while state.done < plan.work:
            upto = None if book is None else state.failures + _FAILURES
            state = run_with_failures(plan, rng, state=state, until_failures=upto)
            if book is not None:
                book.keep(index, state)
        found.append(state)
    if book is not None:
        book.write()
    return tuple(found)


class _Book:
    """The file: which run it is of, and the state of every replication."""

    def __init__(
        self, path: str | os.PathLike[str], plan: FailurePlan, seed: int, count: int
    ) -> None:
        self._path = Path(path).expanduser()
        self._about = {
            "format": _FORMAT, "plan": asdict(plan), "seed": seed,
            "replications": count,
        }  # fmt: skip
        self.states = [RunState() for _ in range(count)]
        self._written = time.monotonic()
        if self._path.exists():
            self.states = self._read()
        else:
            self.write()

    def _read(self) -> list[RunState]:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            about, states = saved["about"], [RunState(**s) for s in saved["states"]]
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(
                f"{self._path}: no progress of a simulated run; give another file"
            ) from None
        for name, value in self._about.items():
            if about.get(name) != value:
                raise InputError(
                    f"{self._path}: progress of another run ({name} differs); remove "
                    "it or give another file"
                )
        return states

    def keep(self, index: int, state: RunState) -> None:
        """Note where a replication stands; write it if it is time to."""
        self.states[index] = state
        if time.monotonic() - self._written >= _SECONDS:
            self.write()

    def write(self) -> None:
        """Write the file in one step: beside its place, then renamed into it."""
        content = {"about": self._about, "states": [s.to_dict() for s in self.states]}
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with beside.open("w", encoding="utf-8") as file:
                json.dump(content, file, default=_plain)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            why = (error.strerror or type(error).__name__).lower()
            raise OutputError(f"{self._path}: cannot be written: {why}") from None
        self._written = time.monotonic()


def _plain(value: Any) -> Any:
    """Return NumPy numbers as JSON has them."""
    return value.item()
