"""What a collective takes of each network level while it runs alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import cast

import numpy as np

from hwsim.cost.collective import sustained_share
from hwsim.cost.collective_paths import Path, paths_of
from hwsim.cost.cost import FloatArray
from hwsim.cost.network import Span, spans
from hwsim.graph.op import Collective, Copy, Op
from hwsim.specs.calibration import Calibration
from hwsim.specs.parameters.collective import CollectiveName, CollectiveParameters
from hwsim.specs.system import SystemSpec

# The link to the host, beside the levels of the network: each way by itself.
HOST, HOST_OUT = -1, -2


def level_use(
    op: str,
    group_size: int,
    *,
    system: SystemSpec,
    calibration: Calibration,
    stride: int = 1,
    fanout: int = 0,
) -> dict[Hashable, float]:
    """Return the share of each level that a collective takes while alone.

    The level that bounds a large buffer is full, 1; one that it crosses with
    less traffic or more bandwidth has room for others. Where levels work one
    after the other, each is taken for its part of the time.

    Parameters
    ----------
    op, group_size, system, calibration, stride, fanout
        As for :func:`~hwsim.cost.collective.collective_cost`.

    Returns
    -------
    dict of level to float
        By place in ``system.networks``; empty for a group of one.
    """
    n = 2 if op == "send_recv" and group_size > 1 else int(group_size)
    used = spans(system, n, stride)
    if not used:
        return {}
    times, phased = _fastest(
        paths_of(cast("CollectiveName", op), n, used, fanout), used,
        calibration.collective,
    )  # fmt: skip
    whole = times.sum() if phased else times.max()
    places = [
        next(i for i, level in enumerate(system.networks) if level is span.network)
        for span in used
    ]
    shares = times / whole if whole > 0 else np.ones(len(times))
    return {p: float(s) for p, s in zip(places, shares, strict=True) if s > 0}


def _fastest(
    paths: Sequence[Path], used: Sequence[Span], p: CollectiveParameters
) -> tuple[FloatArray, bool]:
    """Return time per byte on each span of what moves large buffers fastest."""
    found = []
    for path in paths:
        times = np.array([
            load / (span.ring_bandwidth * sustained_share(p, span, path, i))
            for i, (load, span) in enumerate(zip(path.load, used, strict=True))
        ])  # fmt: skip
        whole = times.sum() if path.phased else times.max()
        found.append((float(whole), times, path.phased))
    _, times, phased = min(found, key=lambda one: one[0])
    return times, phased


def op_use(
    op: Op, system: SystemSpec, calibration: Calibration
) -> Mapping[Hashable, float]:
    """Return what an operator of a graph takes of each level, or of the host's."""
    if not isinstance(op, Collective):
        return host_use(op)
    if op.direct:
        return {0: 1.0}
    return level_use(
        op.collective, op.group_size, system=system, calibration=calibration,
        stride=op.stride, fanout=op.fanout,
    )  # fmt: skip


def host_use(op: Op) -> Mapping[Hashable, float]:
    """Return the way of the host's link that a copy takes."""
    out = isinstance(op, Copy) and op.path == "device_to_host"
    return {HOST_OUT if out else HOST: 1.0}


def mean_use(
    parts: Sequence[tuple[Mapping[Hashable, float], float]], whole: float
) -> dict[Hashable, float]:
    """Return what several transfers one after the other take, on average.

    Parameters
    ----------
    parts : sequence of (use, float)
        What each takes, and for how long. [s]
    whole : float
        From the start of the first to the end of the last. [s]
    """
    found: dict[Hashable, float] = {}
    for use, time in parts:
        for level, share in use.items():
            found[level] = found.get(level, 0.0) + share * time / whole
    return {level: min(share, 1.0) for level, share in found.items()}
