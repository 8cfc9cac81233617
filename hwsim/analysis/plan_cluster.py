"""Runs a search on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hwsim.analysis.plan_search import Job, Part, Runner, look_through
from hwsim.errors import HwsimError, InputError

# A job goes to another worker when its worker dies, at most so often.
RETRIES = 5
PATIENCE = 15.0  # for the scheduler and a first worker. [s]


def on_cluster(address: str) -> Runner:
    """Return a runner that has jobs looked through by a cluster.

    Parameters
    ----------
    address : str
        Of the scheduler: ``tcp://host:8786``.

    Raises
    ------
    InputError
        If Dask is not installed, or no scheduler or worker answers there.
    """
    try:
        import distributed as installed
    except ImportError:
        raise InputError(
            "--cluster needs Dask; pip install 'hwsim[dask]', or leave it out"
        ) from None

    distributed: Any = installed  # its functions have no types

    def run(jobs: Iterable[Job]) -> Iterator[Part]:
        client = _client(distributed, address)
        try:
            futures = [
                client.submit(look_through, job, pure=False, retries=RETRIES)
                for job in jobs
            ]
            for future in distributed.as_completed(futures, loop=client.loop):
                yield _result(distributed, future)
        finally:
            client.close()

    return run


def _client(distributed: Any, address: str) -> Any:
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"cluster {address!r}: no scheduler answers ({_line(error)}); start one "
            "with: dask scheduler"
        ) from None
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        client.close()
        raise InputError(
            f"cluster {address!r} has no workers; start some with: "
            f"dask worker {address}"
        ) from None
    return client


def _result(distributed: Any, future: Any) -> Part:
    try:
        part: Part = future.result()
    except (distributed.KilledWorker, ImportError) as error:
        raise HwsimError(
            f"the cluster could not do its part ({_line(error)}); its workers need "
            "this version of hwsim and enough memory"
        ) from None
    return part


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
