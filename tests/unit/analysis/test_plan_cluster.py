"""Plans over real scheduler and worker processes on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from hwsim.analysis.plan_train import search as plan_search
from hwsim.api.plan import plan_train
from hwsim.errors import InputError

pytest.importorskip("distributed")
ASKED = {
    "devices": 8, "global_batch": 64, "seq": 2048, "simulate": 1,
    "recompute": ("none", "full"),
}  # fmt: skip


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = started("dask_scheduler", *here, "--port", str(port))
    workers = [
        started(
            "dask_worker", address, *here, "--nworkers", "1", "--nthreads", "1",
            "--no-nanny",
        )
        for _ in range(2)
    ]  # fmt: skip
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def same(one, other):
    assert one.layouts == other.layouts
    assert (
        one.tally.to_dict()["excluded_by_limit"]
        == (other.tally.to_dict()["excluded_by_limit"])
    )
    np.testing.assert_array_equal(one.figures["step_s"], other.figures["step_s"])
    np.testing.assert_array_equal(one.order, other.order)
    assert one.best.step_s == other.best.step_s


def test_a_cluster_answers_as_one_process_does_even_when_a_worker_is_killed(
    cluster, monkeypatch
):
    address, workers = cluster
    monkeypatch.setattr(plan_search, "AT_ONCE", 1000)
    alone = plan_train("llama-3.1-8b", "dgx-h100", **ASKED)
    parts = []

    def kill_one(done, whole, best):
        parts.append(done)
        if len(parts) == 2:
            os.kill(workers[0].pid, signal.SIGKILL)

    together = plan_train(
        "llama-3.1-8b", "dgx-h100", cluster=address, progress=kill_one, **ASKED
    )
    assert workers[0].wait(timeout=10) == -signal.SIGKILL
    assert len(parts) > 4
    assert not together.tally.interrupted
    same(together, alone)


def test_an_interrupt_keeps_what_the_workers_have_found(cluster, monkeypatch):
    monkeypatch.setattr(plan_search, "AT_ONCE", 1000)

    def interrupt(done, whole, best):
        raise KeyboardInterrupt

    plan = plan_train(
        "llama-3.1-8b", "dgx-h100", cluster=cluster[0], progress=interrupt, **ASKED
    )
    assert plan.tally.interrupted
    assert plan.layouts == 1000


def test_nobody_at_the_address_is_said_at_once(monkeypatch):
    from hwsim.analysis.plan_train import cluster as plan_cluster

    monkeypatch.setattr(plan_cluster, "PATIENCE", 0.5)
    start = time.monotonic()
    with pytest.raises(InputError, match="no scheduler answers"):
        plan_train(
            "llama-3.1-8b", "dgx-h100", cluster=f"tcp://127.0.0.1:{free_port()}",
            **ASKED,
        )  # fmt: skip
    assert time.monotonic() - start < 20
