"""Rows of published tables predicted one after the other, or by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hwsim.analysis.published.kinds import Record, TablePredictor
from hwsim.errors import InputError

Row = tuple[TablePredictor, Any]
Told = Callable[[int, int], None]
_SHARE = 8  # rows that a worker takes at a time
_FEW = 64  # rows for which starting workers takes longer than it saves


def predict_rows(
    rows: Sequence[Row], jobs: int, progress: Told | None
) -> tuple[list[Record], bool]:
    """Return the records of all rows, in order, and whether all were done.

    An interrupt ends the work; what is known by then is returned.

    Parameters
    ----------
    jobs : int
        Processes; few rows are done in this one.
    progress : callable or None
        Told how many rows are done, and of how many.

    Raises
    ------
    InputError
        If a process dies.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; give a number of processes from 1")
    every = len(rows)
    done: dict[int, list[Record]] = {}
    parts = _alone(rows) if min(jobs, every // _FEW) < 1 or jobs == 1 else None
    complete = True
    try:
        for part in parts or _by_workers(rows, jobs):
            done.update(part)
            if progress is not None:
                progress(len(done), every)
    except KeyboardInterrupt:
        complete = False
    records = [record for row in sorted(done) for record in done[row]]
    return records, complete


def _alone(rows: Sequence[Row]) -> Iterator[dict[int, list[Record]]]:
    for index, (predictor, row) in enumerate(rows):
        yield {index: predictor.predict(row)}


def _by_workers(rows: Sequence[Row], jobs: int) -> Iterator[dict[int, list[Record]]]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    shares = _shares(rows)
    with ProcessPoolExecutor(
        min(jobs, len(shares)),
        mp_context=context,
        initializer=_begin,
        initargs=(list(rows), stop),
    ) as pool:
        futures = [pool.submit(_predict, share) for share in shares]
        try:
            yield from (_result(future) for future in as_completed(futures))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _result(future: Future[dict[int, list[Record]]]) -> dict[int, list[Record]]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(f"a process died ({error}); use --jobs 1") from error


def _shares(rows: Sequence[Row]) -> list[list[int]]:
    """Return rows by index: twins together, and beside those that share some work."""
    alike: dict[Any, dict[Any, list[int]]] = {}
    for index, (predictor, row) in enumerate(rows):
        some, nearly_all = predictor.sharing(row)
        twins = alike.setdefault((id(predictor), some), {})
        twins.setdefault(nearly_all, []).append(index)
    shares: list[list[int]] = []
    for group in alike.values():
        share: list[int] = []
        for twin in group.values():
            share += twin
            if len(share) >= _SHARE:
                shares.append(share)
                share = []
        shares += [share] if share else []
    return shares


_rows: list[Row] = []
_stop: list[Any] = []


def _begin(rows: list[Row], stop: Any) -> None:
    """Prepare a worker: an interrupt is for the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _rows[:], _stop[:] = rows, [stop]


def _end_with_parent() -> None:
    """End this worker when the process that it works for is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _predict(share: list[int]) -> dict[int, list[Record]]:
    """Predict some rows in a worker, until told to stop."""
    found = {}
    for index in share:
        if _stop[0].is_set():
            break
        predictor, row = _rows[index]
        found[index] = predictor.predict(row)
    return found
