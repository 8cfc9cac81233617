"""Worker processes, one for each number of threads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

from hwsim.measure.cuda.cases import Case, Skip
from hwsim.measure.cuda.runner import Outcome
from hwsim.measure.worker import case_to_json

# Every BLAS and threading runtime that NumPy and PyTorch are built with.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


class WorkerPool:
    """Keeps one worker per number of threads; restarts those that die.

    Parameters
    ----------
    cache_bytes : float
        Size of the last cache, which cold operands must leave. [B]
    """

    def __init__(self, cache_bytes: float) -> None:
        self.cache_bytes = cache_bytes
        self._workers: dict[int, subprocess.Popen[str]] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def measure(self, case: Case, left: float) -> Outcome:
        """Return a case's samples, taken by the worker with its threads."""
        order = {"case": case_to_json(case), "left": left}
        said = self.ask(max(case.threads, 1), order)
        if "skip" in said:
            raise Skip(str(said["skip"]))
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        columns = {**said["columns"], "load": round(load, 2)}
        return Outcome(said["samples"], columns)

    def ask(self, threads: int, order: dict[str, Any]) -> dict[str, Any]:
        """Send one order to the worker with a number of threads."""
        worker = self._worker(threads)
        if worker.stdin is None or worker.stdout is None:
            raise Skip("the worker has no pipes")
        try:
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._end(threads)
            raise Skip("the worker process died, perhaps for want of memory")
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """End all workers."""
        for threads in list(self._workers):
            self._end(threads)

    def _worker(self, threads: int) -> subprocess.Popen[str]:
        if threads not in self._workers:
            environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
            command = [sys.executable, "-m", "hwsim.measure.worker", str(threads),
                       str(self.cache_bytes)]  # fmt: skip
            self._workers[threads] = subprocess.Popen(  # noqa: S603 -- our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env=environment,
            )  # fmt: skip
        return self._workers[threads]

    def _end(self, threads: int) -> None:
        worker = self._workers.pop(threads)
        with contextlib.suppress(OSError):
            if worker.stdin is not None:
                worker.stdin.close()
        try:
            worker.wait(timeout=2)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()
