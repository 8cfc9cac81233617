"""Runs a search on the workers of a Dask cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hwsim.analysis.plan_train.search import Job, Part, Runner, look_through
from hwsim.errors import HwsimError, InputError

# A job goes to another worker when its worker dies, at most so often.
RETRIES = 5
_ADDRESS = re.compile(r"(?:[a-z]+://)?[^\s/]+:\d{1,5}")
PATIENCE = 15.0  # for the scheduler and a first worker. [s]


def on_cluster(address: str) -> Runner:
    """Return a runner that has jobs of a training plan done by a cluster."""
    mapped = cluster_map(address)

    def run(jobs: Iterable[Job]) -> Iterator[Part]:
        return (part for _, part in mapped(look_through, jobs))

    return run


def cluster_map(address: str) -> Callable[[Any, Iterable[Any]], Iterator[Any]]:
    """Return what has work done on a cluster: pairs of item and answer.

    Pairs come as they are done.

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
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"cluster {address!r} is no address of a scheduler; write it as "
            "tcp://host:8786"
        )

    def mapped(work: Any, items: Iterable[Any]) -> Iterator[Any]:
        client = _client(distributed, address)
        try:
            items_of = {
                client.submit(work, item, pure=False, retries=RETRIES): item
                for item in items
            }
            for future in distributed.as_completed(items_of, loop=client.loop):
                yield items_of[future], _result(distributed, future)
        finally:
            client.close()

    return mapped


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


def _result(distributed: Any, future: Any) -> Any:
    try:
        return future.result()
    except (distributed.KilledWorker, ImportError) as error:
        raise HwsimError(
            f"the cluster could not do its part ({_line(error)}); its workers need "
            "this version of hwsim and enough memory"
        ) from None


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
