"""The device that is timed: synchronisation, events, capture, random operands."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import collections
import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .cases import Skip, Value
from .runner import Outcome, collect

Call = Callable[[int], Any]
MOST_COPIES = 64
MOST_CALLS = 200
SAMPLE = 2e-3  # aimed at: far above the resolution of events. [s]
WARM_UPS = 3
ASSUMED_CACHE = 64 << 20


class BackendError(Exception):
    """There is nothing to measure with; the message says what is missing."""


@dataclass
class Work:
    """An operator ready to run.

    Attributes
    ----------
    call : callable
        Runs it on the i-th copy of its operands.
    copies : int
        How many copies there are.
    past_cache : bool
        Whether all copies together are larger than the last cache.
    """

    call: Call
    copies: int = 1
    past_cache: bool = True
    keep: int = 1
    columns: dict[str, Value] = field(default_factory=dict)


def load_torch() -> Any:
    """Return PyTorch, or raise one clear line."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise BackendError(
            "PyTorch is not installed here; pip install torch, or use a node with it"
        ) from None


class Backend:
    """One CUDA device, or the host's cores with PyTorch (``cpu``).

    Parameters
    ----------
    torch : module
        PyTorch.
    device : str
        ``cuda:0`` or ``cpu``.
    """

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.device = torch, torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.cache_bytes = ASSUMED_CACHE
        if self.cuda:
            if not torch.cuda.is_available():
                raise BackendError(
                    "PyTorch finds no CUDA GPU here; run this on a GPU node"
                )
            torch.cuda.set_device(self.device)
            known = torch.cuda.get_device_properties(self.device)
            self.cache_bytes = getattr(known, "L2_cache_size", 0) or ASSUMED_CACHE
        self._flush: Any = None
        self._generator = torch.Generator(device=self.device).manual_seed(20)

    # Operands ---------------------------------------------------------------

    def tensor(self, *size: int, dtype: str) -> Any:
        """Return random values; normal, or whole numbers for int8."""
        torch = self.torch
        kind = self.dtype(dtype)
        if dtype == "int8":
            return torch.randint(
                -100, 100, size, dtype=kind, device=self.device,
                generator=self._generator,
            )  # fmt: skip
        made = torch.bfloat16 if dtype == "fp8" else kind
        values = torch.empty(size, dtype=made, device=self.device)
        values.normal_(generator=self._generator)
        return values.to(kind)

    def dtype(self, name: str) -> Any:
        """Return PyTorch's name of a dtype."""
        names = {"fp64": "float64", "fp32": "float32", "tf32": "float32",
                 "fp16": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn",
                 "int8": "int8"}  # fmt: skip
        found = getattr(self.torch, names[name], None)
        if found is None:
            raise Skip(f"this PyTorch has no {names[name]}")
        return found

    def copies(self, nbytes: float, operands: str) -> tuple[int, bool]:
        """Return how many copies of operands of a size to rotate, and if they
        overflow the last cache."""  # noqa: D205, D209
        if operands == "hot":
            return 1, True
        wanted = int(2 * self.cache_bytes // max(nbytes, 1)) + 2
        number = min(wanted, MOST_COPIES)
        return number, number * nbytes >= 2 * self.cache_bytes

    # Time -------------------------------------------------------------------

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            self.torch.cuda.synchronize(self.device)

    def flush(self) -> None:
        """Push what the last cache holds out of it."""
        if self._flush is None:
            self._flush = self.torch.zeros(
                3 * self.cache_bytes // 4, dtype=self.torch.float32, device=self.device
            )
        self._flush.add_(1.0)

    def elapsed(self, run: Callable[[], object]) -> float:
        """Return the time of a run between two events on the stream. [s]"""
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        """Return a replay of what a run launches, captured once."""
        torch = self.torch
        if not self.cuda:
            raise Skip("graphs are captured on CUDA only")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        self.sync()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def free(self) -> None:
        """Give memory that the last case used back to the device."""
        if self.cuda:
            self.torch.cuda.empty_cache()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what a case may die of into a verdict."""
        try:
            yield
        except Skip:
            raise
        except Exception as error:  # any kernel may fail in its own way
            text = str(error).strip() or type(error).__name__
            first = f"{type(error).__name__}: {text.splitlines()[0]}"
            if "out of memory" in text.casefold() or isinstance(error, MemoryError):
                first = f"out of memory: {first}"
            elif self.cuda and _sticky(text):
                raise  # the context is lost: a new process has to go on
            raise Skip(first) from None
        finally:
            self.free()


def _sticky(text: str) -> bool:
    """Say whether a CUDA fault makes every later call fail too."""
    marks = ("illegal memory access", "unspecified launch failure",
             "device-side assert", "misaligned address", "uncorrectable",
             "hardware exception")  # fmt: skip
    return any(mark in text.casefold() for mark in marks)


def time_work(backend: Backend, work: Work, *, launch: str, left: float) -> Outcome:
    """Return samples of the time of one call.

    A sample runs the operator on one copy of its operands after another.
    Results are kept alive so that they rotate through memory as operands do.
    Where all copies fit into the last cache it is flushed before each sample,
    and a sample uses no copy twice.
    """
    results: collections.deque[Any] = collections.deque(maxlen=work.keep)
    for i in range(WARM_UPS):
        results.append(work.call(i % work.copies))
    backend.sync()
    single = backend.elapsed(lambda: results.append(work.call(0)))
    most = MOST_CALLS if work.past_cache else work.copies
    inner = max(1, min(most, int(SAMPLE / max(single, 1e-7))))

    def burst() -> None:
        for i in range(inner):
            results.append(work.call(i % work.copies))

    run: Callable[[], object] = burst
    if launch == "graph":
        run = backend.capture(burst)
        run()
    backend.sync()

    def sample() -> float:
        if not work.past_cache:
            backend.flush()
        if launch != "graph":
            # Launches must not hide behind the flush. Those of a graph may: its
            # time is the device's alone.
            backend.sync()
        return backend.elapsed(run) / inner

    samples = collect(sample, left=left)
    return Outcome(samples, {"copies": work.copies, **work.columns})
