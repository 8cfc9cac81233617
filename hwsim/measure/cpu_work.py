"""Turns a CPU case into a call to time, and times it; runs in a worker."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.measure import numpy_ops as ops
from hwsim.measure.cpu_values import SPECIAL, Operands, functions_of
from hwsim.measure.cuda.cases import Case, Skip
from hwsim.measure.cuda.runner import LEAST_SAMPLES, Outcome, collect

LEAST_CLEAN = 3
FINE = 1e-6  # resolution of a clock that can time a step. [s]
SAMPLE = 1.5e-3  # aimed at, for the noise of clock and scheduler. [s]
TARGET = 0.12  # spent on one case's samples. [s]
MOST_COPIES = 64
MOST_BYTES = 4e9
DEFAULT_CACHE = 32 << 20
_KINDS = {"fp32": np.float32, "fp64": np.float64}


@dataclass
class Call:
    """A function of the number of the operand set, and how many sets there are.

    ``flush`` marks sets that all fit into the last cache together although
    they are to be cold.
    """

    run: Callable[[int], Any]
    copies: int = 1
    flush: bool = False
    per_call: float = 1.0


def undisturbed(
    sample: Callable[[], float], left: float, target: float = TARGET
) -> tuple[list[float], float]:
    """Return samples during which no other process took a core, if there are any.

    The second value is the share of samples that were disturbed. Where fewer
    than five are clean, sampling goes on for twice as long; where still fewer
    than three are, all count.
    """
    clean: list[float] = []

    def watched() -> float:
        before = _preemptions()
        seconds = sample()
        if _preemptions() == before:
            clean.append(seconds)
        return seconds

    start = time.perf_counter()
    samples = collect(watched, left=left, target=target)
    if len(clean) < LEAST_SAMPLES:
        left -= time.perf_counter() - start
        if left > max(samples):
            samples += collect(watched, left=left, target=2 * target)
    share = round(1 - len(clean) / len(samples), 3)
    return (clean if len(clean) >= LEAST_CLEAN else samples), share


def step_clock(threads: int) -> Callable[[], float]:
    """Return the clock for work: processor time where one thread does it all.

    It is wall time on a quiet host and leaves out, on a busy one, when another
    process had the core. Several threads wait for each other: only wall time
    says how long they take.
    """
    fine = time.get_clock_info("process_time").resolution <= FINE
    return time.process_time if threads == 1 and fine else time.perf_counter


def _preemptions() -> int:
    """Return how often another process took a core from this one; 0 off Unix."""
    try:
        import resource
    except ImportError:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


class Timer:
    """Times cases in this process, on as many threads as it was started with.

    Parameters
    ----------
    threads : int
        BLAS threads of the process, and threads that stream.
    cache_bytes : float
        Size of the last cache, which cold operands must leave.
    """

    def __init__(self, threads: int, cache_bytes: float = DEFAULT_CACHE) -> None:
        self.threads, self.cache_bytes = threads, cache_bytes
        self._rng = np.random.default_rng(7)
        self._flush = np.ones(0, dtype=np.float32)

    def measure(self, case: Case, left: float) -> Outcome:
        """Return samples of one case."""
        if case.kernel in ("torch", "sdpa"):
            return self._torch(case, left)
        call = self._build(case)
        for i in range(2):
            call.run(i % call.copies)
        start = time.perf_counter()
        call.run(0)
        single = time.perf_counter() - start
        most = call.copies if call.flush else 100_000
        inner = max(1, min(most, int(SAMPLE / max(single, 1e-8))))
        clock = step_clock(self.threads)

        def sample() -> float:
            if call.flush:
                self._empty_cache()
            begin = clock()
            for i in range(inner):
                call.run(i % call.copies)
            return (clock() - begin) / inner / call.per_call

        samples, disturbed = undisturbed(sample, left)
        if clock is time.process_time:  # what others do does not enter it
            disturbed = 0.0
        return Outcome(samples, {"copies": call.copies, "disturbed": disturbed})

    def _empty_cache(self) -> None:
        if not self._flush.size:
            self._flush = np.ones(int(self.cache_bytes) // 2, dtype=np.float32)
        self._flush += 1.0

    def _build(self, case: Case) -> Call:
        makers = {
            "gemm": self._gemm,
            "attention": self._attention,
            "elementwise": self._elementwise,
            "memory": self._memory,
            "launch": self._launch,
        }
        return makers[case.table](case)

    def _random(self, dtype: str, *size: int) -> Any:
        kind = _KINDS.get(dtype)
        if kind is None:
            raise Skip(f"NumPy has no {dtype} arithmetic; PyTorch may")
        return self._rng.standard_normal(size, dtype=np.float32).astype(
            kind, copy=False
        )

    def _rotating(
        self, case: Case, make: Callable[[], Operands], function: Callable[..., Any]
    ) -> Call:
        first = make()
        nbytes = sum(a.nbytes for a in first if isinstance(a, np.ndarray))
        if nbytes > MOST_BYTES:
            raise Skip(f"operands of {nbytes / 1e9:.1f} GB are more than is allowed")
        copies = 1
        if case.operands == "cold":
            wanted = int(2 * self.cache_bytes // max(nbytes, 1)) + 2
            copies = min(wanted, MOST_COPIES)
        sets = [first] + [make() for _ in range(copies - 1)]
        flush = case.operands == "cold" and copies * nbytes < 2 * self.cache_bytes
        return Call(lambda i: function(*sets[i]), copies, flush)

    def _gemm(self, case: Case) -> Call:
        m, n, k, batch = (case.number(name) for name in ("m", "n", "k", "batch"))
        lead = (batch,) if case.op == "bmm" else ()

        def operands() -> Operands:
            a = self._random(case.dtype, *lead, m, k)
            b = self._random(case.dtype, *lead, k, n)
            return a, b, np.empty((*lead, m, n), dtype=a.dtype)

        return self._rotating(case, operands, lambda a, b, c: np.matmul(a, b, out=c))

    def _attention(self, case: Case) -> Call:
        batch, heads, width, q, kv = (
            case.number(name)
            for name in ("batch", "heads", "head_dim", "seq_q", "seq_kv")
        )
        mask = ops.causal_mask(q, np.float32) if case.op == "prefill" else None

        def operands() -> Operands:
            made = [
                self._random(case.dtype, batch, heads, rows, width)
                for rows in (q, kv, kv)
            ]
            scores = np.empty((batch, heads, q, kv), dtype=np.float32)
            return (*made, scores, np.empty_like(made[0]))

        return self._rotating(
            case, operands, lambda q, k, v, s, o: ops.attention(q, k, v, s, o, mask)
        )

    def _elementwise(self, case: Case) -> Call:
        m, n = case.number("m"), case.number("n")
        make: Callable[[], Operands]
        if case.op in SPECIAL:
            make, function = SPECIAL[case.op](self._random, self._rng, m, n)
            return self._rotating(case, make, function)
        arity, plain = functions_of(n)[case.op]
        columns = 2 * n if case.op == "silu_and_mul" else n

        def operands() -> Operands:
            made = [self._random(case.dtype, m, columns) for _ in range(arity)]
            if case.op in ("pow", "pow_scalar"):
                made = [np.abs(a) for a in made]  # roots of negatives are no numbers
            return (*made, np.empty((m, n), dtype=np.float32))

        return self._rotating(case, operands, plain)

    def _launch(self, case: Case) -> Call:
        side = 8 if case.kernel == "matmul_8x8" else 1
        a = self._random(case.dtype, side, side)
        out = np.empty_like(a)
        function: Any = np.matmul if side > 1 else np.add
        return Call(lambda _: function(a, a, out=out))

    def _memory(self, case: Case) -> Call:
        nbytes = int(float(case["bytes"]))
        if case.op == "load_latency":
            return _object_chain(nbytes)
        parts = {"copy": 2, "read": 1, "write": 1, "scale": 2, "triad": 3}[case.op]
        count = max(nbytes // 4 // parts // self.threads, 1)
        lanes = [
            [self._random(case.dtype, count) for _ in range(parts)]
            for _ in range(self.threads)
        ]
        function = _STREAMS[case.op]
        if self.threads == 1:
            return Call(lambda _: function(*lanes[0]))
        return _together(function, lanes, nbytes)

    def _torch(self, case: Case, left: float) -> Outcome:
        from hwsim.measure.cuda.backend import (
            Backend,
            BackendError,
            load_torch,
            time_work,
        )
        from hwsim.measure.cuda.kernels import build

        try:
            torch = load_torch()
        except BackendError as error:
            raise Skip(str(error)) from None
        torch.set_num_threads(self.threads)
        backend = Backend(torch, "cpu")
        backend.cache_bytes = int(self.cache_bytes)
        outcomes = []
        with backend.guarded():
            work = build(backend, case)
            outcomes.append(time_work(backend, work, launch="eager", left=left))
        return outcomes[0]


_STREAMS: dict[str, Callable[..., Any]] = {
    "copy": lambda a, b: np.copyto(b, a),
    "read": lambda a: a.max(),
    "write": lambda a: a.fill(1.0),
    "scale": lambda a, b: np.multiply(a, np.float32(1.5), out=b),
    "triad": lambda a, b, c: np.add(a, b, out=c),
}


def _together(
    function: Callable[..., Any], lanes: list[list[Any]], nbytes: int
) -> Call:
    """Stream on several threads at once; each repeats until starting costs little."""
    repeats = max(1, int(20e6 / max(nbytes, 1)))
    barrier = threading.Barrier(len(lanes))
    pool = ThreadPoolExecutor(len(lanes))

    def lane(arrays: list[Any]) -> None:
        barrier.wait()
        for _ in range(repeats):
            function(*arrays)

    return Call(lambda _: list(pool.map(lane, lanes)), per_call=float(repeats))


class _Link:
    """One object of a chain; 48 bytes with CPython's header."""

    __slots__ = ("n",)
    n: _Link


LINK_BYTES = 48
CHAIN_STEPS = 20_000


def _object_chain(nbytes: int) -> Call:
    """Walk a random cycle of objects inside the interpreter's C code.

    Each step loads the address of the next one, so misses cannot overlap.
    What the interpreter itself takes is the time of the smallest working set.
    """
    count = max(nbytes // LINK_BYTES, 16)
    links = [_Link() for _ in range(count)]
    order = np.random.default_rng(5).permutation(count).tolist()
    for here, there in itertools.pairwise([*order, order[0]]):
        links[here].n = links[there]
    at = links[order[0]]
    state = [at]

    def walk(_: int) -> None:
        names = itertools.repeat("n", CHAIN_STEPS)
        state[0] = functools.reduce(getattr, names, state[0])

    walk.links = links  # type: ignore[attr-defined]  # keeps the cycle alive
    return Call(walk, per_call=float(CHAIN_STEPS))
