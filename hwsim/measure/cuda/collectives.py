"""Collectives among the GPUs of one node, by PyTorch's NCCL backend."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from .backend import Backend, load_torch
from .cases import Case, Skip
from .runner import Outcome

PATIENCE = 120.0  # a case that answers later than this hangs. [s]
WARM_UPS = 5
SAMPLES = 20
BURST = 4e-3  # [s]


class Group:
    """One process for each GPU, started at the first case and kept.

    Parameters
    ----------
    gpus : int
        How many GPUs take part at most.
    """

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self._workers: list[Any] = []
        self._ends: list[Any] = []
        self._store: Any = None
        self._broken = 0

    def measure(self, case: Case) -> Outcome:
        """Return samples of one collective; the slowest rank counts."""
        if self._broken >= 2:
            raise Skip("the group of GPUs failed twice before")
        if not self._workers:
            self._start()
        order = (case.op, case.dtype, float(case["bytes"]), case.number("world_size"))
        try:
            for end in self._ends:
                end.send(order)
            answers = [_answer(end) for end in self._ends]
        except (OSError, EOFError, TimeoutError) as fault:
            self._broken += 1
            self.close()
            raise Skip(
                f"the group of GPUs failed: {fault or 'a process died'}"
            ) from None
        faults = [a for a in answers if isinstance(a, str)]
        if faults:
            self._broken += 1
            self.close()  # ranks may be out of step
            raise Skip(faults[0])
        ranks = [a for a in answers if a]
        return Outcome([max(times) for times in zip(*ranks)])  # noqa: B905

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._store = tempfile.TemporaryDirectory(prefix="collectives-")
        store = Path(self._store.name) / "store"
        for rank in range(self.gpus):
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_worker, args=(rank, self.gpus, str(store), theirs), daemon=True
            )
            worker.start()
            theirs.close()
            self._workers.append(worker)
            self._ends.append(ours)

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.send(None)
        for worker in self._workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
                worker.join(timeout=5)
        self._workers, self._ends = [], []
        if self._store is not None:
            self._store.cleanup()
            self._store = None


def _answer(end: Any) -> Any:
    if not end.poll(PATIENCE):
        raise TimeoutError(f"no answer in {PATIENCE:.0f} s")
    return end.recv()


def _worker(rank: int, gpus: int, store: str, end: Any) -> None:
    """Answer orders until told to stop; runs in a process of its own."""
    torch = load_torch()
    dist = torch.distributed
    backend = Backend(torch, f"cuda:{rank}")
    dist.init_process_group(
        "nccl", init_method=f"file://{store}", rank=rank, world_size=gpus,
        timeout=timedelta(seconds=PATIENCE),
    )  # fmt: skip
    groups: dict[int, Any] = {}
    while (order := end.recv()) is not None:
        op, dtype, nbytes, world = order
        try:
            if world not in groups:  # every rank has to take part in making it
                groups[world] = dist.new_group(list(range(world)))
            times: list[float] = []
            if rank < world:
                call = _collective(
                    backend, op, dtype, nbytes, world, rank, groups[world]
                )
                times = _timed(backend, dist, groups[world], call)
            end.send(times)
        except Exception as fault:  # noqa: BLE001 -- reported to the parent
            end.send(f"{type(fault).__name__}: {fault}")
        backend.free()
    dist.destroy_process_group()


def _timed(
    backend: Backend, dist: Any, group: Any, call: Callable[[], Any]
) -> list[float]:
    """Return samples; every rank makes the same number of calls."""
    for _ in range(WARM_UPS):
        call()
    backend.sync()
    single = backend.torch.tensor([backend.elapsed(call)], device=backend.device)
    dist.all_reduce(single, op=dist.ReduceOp.MAX, group=group)
    inner = max(1, min(100, int(BURST / max(float(single), 1e-6))))

    def burst() -> None:
        for _ in range(inner):
            call()

    samples = []
    for _ in range(SAMPLES):
        dist.barrier(group=group)
        backend.sync()
        samples.append(backend.elapsed(burst) / inner)
    return samples


def _collective(
    backend: Backend, op: str, dtype: str, nbytes: float, world: int, rank: int,
    group: Any,
) -> Callable[[], Any]:  # fmt: skip
    """Return a call; ``nbytes`` is the whole buffer, as nccl-tests counts it."""
    dist = backend.torch.distributed
    width = 2 if dtype == "bf16" else 4
    part = max(int(nbytes) // width // world, 1)
    whole = backend.tensor(part * world, dtype=dtype)
    piece = backend.tensor(part, dtype=dtype)
    other = backend.tensor(part * world, dtype=dtype)
    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, piece, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(piece, whole, group=group),
        "alltoall": lambda: dist.all_to_all_single(other, whole, group=group),
        "broadcast": lambda: dist.broadcast(whole, 0, group=group),
        "send_recv": lambda: (
            dist.send(whole, 1, group=group)
            if rank == 0
            else dist.recv(whole, 0, group=group)
        ),
    }
    return calls[op]
