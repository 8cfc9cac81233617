"""Collective communication over nested networks: algorithms times protocols."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.collective_paths import Path, paths_of
from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.network import Span, spans
from hwsim.cost.residual import collective_features, corrected
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.parameters.collective import (
    CollectiveName,
    CollectiveParameters,
    Protocol,
)
from hwsim.specs.system import SystemSpec

_OPS: tuple[str, ...] = get_args(CollectiveName)
_MOST_DIRECT = 8  # devices whose serving kernels reduce without the library
_MOST_ON_BUS = 2  # the same on a shared bus


def collective_cost(
    op: str,
    nbytes: ArrayLike,
    group_size: int,
    *,
    system: SystemSpec,
    calibration: Calibration,
    stride: int = 1,
    direct: float = 0.0,
    fanout: int = 0,
    within: bool = False,
) -> Cost:
    """Return the cost of one collective in one group.

    Parameters
    ----------
    op : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``,
        ``broadcast`` or ``send_recv``.
    nbytes : array_like
        Whole buffer: the gathered result of an all-gather, the input of a
        reduce-scatter, one rank's buffer otherwise. [B]
    group_size : int
        Members; a ``send_recv`` has two, ``stride`` apart.
    system : SystemSpec
        Devices and networks.
    calibration : Calibration
        Of the system's device.
    stride : int
        Ranks from one member to the next; the sibling groups in between are
        active at the same time.
    direct : float
        1 for all-reduce kernels of serving frameworks, which read the memory
        of their peers themselves, 2 where they are launched eagerly; buffers
        too large for them go to the library.
    fanout : int
        All-to-all only: see :class:`~hwsim.graph.op.Collective`.
    within : bool
        Other operators make its sums meanwhile.

    Returns
    -------
    Cost
        Device time; zero for a group of one.

    Raises
    ------
    InputError
        If the operation is unknown or the system has too few devices.
    """
    if op not in _OPS:
        raise InputError(f"collective {op!r} is not one of {', '.join(_OPS)}")
    size = np.asarray(nbytes, dtype=np.float64)
    n = 2 if op == "send_recv" and group_size > 1 else int(group_size)
    used = spans(system, n, int(stride))
    zero = np.zeros_like(size)
    memory = system.device.main_memory_name
    if not used:
        return Cost(zero, zero, {memory: zero}, zero, zero)
    parameters = calibration.collective
    paths = paths_of(cast("CollectiveName", op), n, used, fanout)
    pace = system.device.compute.pace(parameters.reference_clock)
    fixed, rate, ramp = _choices(
        cast("CollectiveName", op), n, used, parameters, paths, pace, within
    )
    grown = (size / parameters.ramp_bytes) ** parameters.ramp_exponent
    shape = (-1,) + (1,) * size.ndim
    transfer = rate.reshape(shape) * size + ramp.reshape(shape) * grown
    total = fixed.reshape(shape) + transfer
    best = np.argmin(total, axis=0)[np.newaxis]
    moved = np.take_along_axis(transfer, best, axis=0)[0]
    copied = zero
    if op in {"all_gather", "reduce_scatter", "all_to_all"}:
        copied = 2 * size / n / (system.device.bandwidth * parameters.copy_efficiency)
    overhead = fixed[best[0]]
    if direct and op == "all_reduce" and len(used) == 1:
        overhead, moved = _direct(
            overhead, moved, size, n, used[0], parameters, pace, eager=direct > 1
        )
    cost = Cost(
        time=overhead + moved + copied,
        compute=zero,
        levels={memory: copied},
        interconnect=moved,
        overhead=overhead,
    )
    reduces = op == "all_reduce" and used[0].network.in_network_reduction
    return corrected(
        cost, calibration, "collective",
        lambda: collective_features(
            _OPS.index(op), size, n, len(used), reduces, direct
        ),
    )  # fmt: skip


def _direct(
    overhead: FloatArray,
    moved: FloatArray,
    size: FloatArray,
    n: int,
    span: Span,
    parameters: CollectiveParameters,
    pace: float,
    *,
    eager: bool,
) -> tuple[FloatArray, FloatArray]:
    """Return (fixed time, transfer) where small buffers bypass the library."""
    p = parameters.direct
    if p is None:
        return overhead, moved
    bus = span.network.kind == "bus"
    usual = parameters.efficiency[span.network.kind]
    share = sustained_share(parameters, span, Path((), ()), 0) / usual if bus else 1.0
    rate = span.ring_bandwidth * p.efficiency * share
    hop = span.network.latency
    start = pace * (p.start_time + p.peer_time * (n - 2)) + 2 * hop
    again = pace * p.exchange_time + hop
    once = (n - 1) * size / rate  # reads the buffers of all others
    twice = 2 * (n - 1) / n * size / rate + again  # a share, then shares
    own = np.minimum(once, twice)
    small = (size < p.limit) & (start + own < overhead + moved)
    if bus and n > _MOST_ON_BUS:
        small &= False
    fixed = np.where(small, start, overhead)
    spent = np.where(small, own, moved)
    if eager:
        fixed = np.maximum(fixed + spent, p.host_time) - spent
    return fixed, spent


def direct_reduce_cost(
    nbytes: ArrayLike,
    group_size: int,
    *,
    system: SystemSpec,
    calibration: Calibration,
    stride: int = 1,
) -> Cost:
    """Return the cost of an all-reduce by the kernels of serving engines.

    Every device reads the whole buffer of each peer and adds up, or adds up its
    share and reads the other sums in a second round, whichever is faster. Where
    links do not join all devices at once, where there are more than eight, and
    for buffers for which the library is faster, the library's time holds.

    Parameters
    ----------
    nbytes : array_like
        One rank's buffer. [B]
    group_size, system, calibration, stride
        As for :func:`collective_cost`.

    Returns
    -------
    Cost
        Device time.
    """
    common: dict[str, Any] = {
        "system": system, "calibration": calibration, "stride": stride
    }  # fmt: skip
    library = collective_cost("all_reduce", nbytes, group_size, **common)
    used = spans(system, group_size, stride)
    own_kernels = calibration.collective.direct
    if own_kernels is None or len(used) != 1:
        return library
    if not _all_joined(used[0], group_size):
        return library
    own = collective_cost("all_reduce", nbytes, group_size, direct=1.0, **common)
    small = np.asarray(nbytes, dtype=np.float64) < own_kernels.limit
    faster = small & (own.time < library.time)
    return Cost(
        time=np.where(faster, own.time, library.time),
        compute=own.compute,
        levels=library.levels,
        interconnect=np.where(faster, own.interconnect, library.interconnect),
        overhead=np.where(faster, own.overhead, library.overhead),
    )


def _all_joined(span: Span, group_size: int) -> bool:
    """Whether each device of a group reads each other one over a link of its own."""
    network = span.network
    return group_size <= _MOST_DIRECT and network.kind in {"switch", "mesh"}


def p2p_cost(
    nbytes: ArrayLike, distance: int, *, system: SystemSpec, calibration: Calibration
) -> Cost:
    """Return the cost of a message between ranks ``distance`` apart."""
    return collective_cost(
        "send_recv", nbytes, 2, system=system, calibration=calibration, stride=distance
    )


def _choices(
    op: CollectiveName,
    n: int,
    used: tuple[Span, ...],
    p: CollectiveParameters,
    paths: list[Path],
    pace: float,
    within: bool,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return fixed time, time per byte and ramp of every algorithm x protocol."""
    fixed, rate, ramp = [], [], []
    peers = p.peer_time * (n - 1) if op == "all_to_all" else 0.0
    for path in paths:
        for protocol in p.protocols.values():
            hops = sum(
                count * (span.network.latency + _step(protocol, p, span, path, i, pace))
                for i, (count, span) in enumerate(zip(path.hops, used, strict=True))
            )
            times = [
                load * (1.0 if within else p.slower(op, span.network.kind))
                / (span.ring_bandwidth * sustained_share(p, span, path, i))
                for i, (load, span) in enumerate(zip(path.load, used, strict=True))
            ]  # fmt: skip
            spent = sum(times) if path.phased else max(times)
            fixed.append(pace * (p.start_time[op] + peers) + hops)
            rate.append(spent / protocol.bandwidth_ratio)
            ramp.append(
                max(
                    protocol.ramp_size.get(span.network.kind, 0.0)
                    / (span.bandwidth * sustained_share(p, span, path, i))
                    for i, span in enumerate(used)
                )
            )
    return np.array(fixed), np.array(rate), np.array(ramp)


def _step(
    protocol: Protocol,
    p: CollectiveParameters,
    span: Span,
    path: Path,
    i: int,
    pace: float,
) -> float:
    if path.reducing and path.reducing[i]:
        return float(p.in_network_step_time) * pace
    step = float(protocol.step_time[span.network.kind])
    # Between nodes a thread of the host takes the steps.
    return step if span.network.kind in {"fat_tree", "dcn"} else step * pace


def sustained_share(p: CollectiveParameters, span: Span, path: Path, i: int) -> float:
    """Share of a span's bandwidth that large messages reach."""
    network = span.network
    if path.reducing and path.reducing[i]:
        return p.in_network_efficiency
    share = network.achieved or p.efficiency[network.kind]
    if network.kind == "bus":
        contention = p.bus_contention
        if not network.peer_to_peer:
            share *= p.host_bounce_efficiency
            contention = p.host_bounce_contention
        if network.contention is not None:
            contention = network.contention
        share *= max(span.users / 2, 1.0) ** -contention
    return share


def collective_bound(
    op: str,
    nbytes: ArrayLike,
    group_size: int,
    *,
    system: SystemSpec,
    stride: int = 1,
    fanout: int = 0,
) -> FloatArray:
    """Return the least time on the links at datasheet bandwidth, no latency. [s]

    Parameters are those of :func:`collective_cost`.
    """
    if op not in _OPS:
        raise InputError(f"collective {op!r} is not one of {', '.join(_OPS)}")
    size = np.asarray(nbytes, dtype=np.float64)
    n = 2 if op == "send_recv" and group_size > 1 else int(group_size)
    used = spans(system, n, int(stride))
    if not used:
        return np.zeros_like(size)
    rates = [
        max(load / span.ring_bandwidth for load, span in zip(p.load, used, strict=True))
        for p in paths_of(cast("CollectiveName", op), n, used, fanout)
    ]
    return size * min(rates)
