"""Algorithms of collectives over nested networks: hops, and load per byte."""

from __future__ import annotations

from typing import NamedTuple

from hwsim.cost.network import Span
from hwsim.specs.parameters.collective import CollectiveName


class Path(NamedTuple):
    """One algorithm on one group, per byte of the whole buffer.

    Attributes
    ----------
    hops : tuple of float
        Hops on each span that follow one another.
    load : tuple of float
        Bytes over each span's ``ring_bandwidth``, per byte of the buffer.
    phased : bool
        The spans work one after the other instead of as a pipeline.
    reducing : tuple of bool
        Spans whose switches add up the data.
    """

    hops: tuple[float, ...]
    load: tuple[float, ...]
    phased: bool = False
    reducing: tuple[bool, ...] = ()


def paths_of(
    op: CollectiveName, n: int, used: tuple[Span, ...], fanout: int = 0
) -> list[Path]:
    """Return the algorithms of an operation on one group.

    Parameters
    ----------
    op : str
        As for :func:`~hwsim.cost.collective.collective_cost`.
    n : int
        Members.
    used : tuple of Span
        Network levels of the group, innermost first.
    fanout : int
        All-to-all only: see :class:`~hwsim.graph.op.Collective`.
    """
    if op == "all_reduce":
        return _all_reduce(n, used)
    if op in {"all_gather", "reduce_scatter"}:
        return [_ring(n, used, 1), _phased(n, used, 1)]
    if op == "all_to_all":
        return [_all_to_all(n, used, fanout)]
    if op == "broadcast":  # libraries send along the ring alone
        chain = tuple(float(s.ring_hops) for s in used)
        return [Path(chain, tuple(1.0 for _ in used))]
    return [_send_recv(used)]


def _all_reduce(n: int, used: tuple[Span, ...]) -> list[Path]:
    paths = [_ring(n, used, 2), _phased(n, used, 2)]
    if len(used) > 1:
        inner = used[0]
        hops = (2.0 * inner.ring_hops, *(2.0 * s.tree_hops for s in used[1:]))
        paths.append(Path(hops, (2.0, *(_tree_load(s) for s in used[1:]))))
    reducing = tuple(s.network.in_network_reduction for s in used)
    if any(reducing):
        hops_, loads = [], []
        for span, reduces in zip(used, reducing, strict=True):
            hops_.append(2.0 if reduces else 2.0 * span.tree_hops)
            loads.append(1.0 + 1.0 / span.size if reduces else _tree_load(span))
        paths.append(Path(tuple(hops_), tuple(loads), reducing=reducing))
    return paths


def _tree_load(span: Span) -> float:
    """Bytes that a domain sends in two trees of half the buffer, over the buffer.

    Up once and down to two children; two domains are each other's only child.
    """
    return 2.0 if span.size > 2 else 1.0


def _ring(n: int, used: tuple[Span, ...], rounds: int) -> Path:
    """One ring through all members, crossing the spans as neighbours do."""
    hops = [
        rounds * span.ring_hops * max(1.0, n / (span.inside * span.size))
        for span in used
    ]
    load = rounds * (n - 1) / n
    return Path(tuple(hops), tuple(load for _ in used))


def _phased(n: int, used: tuple[Span, ...], rounds: int) -> Path:
    """A ring in each span in turn, each on the share of the one inside it."""
    del n
    loads = [rounds * (span.size - 1) / span.size for span in used]
    hops = [float(rounds * span.ring_hops) for span in used]
    return Path(tuple(hops), tuple(loads), phased=True)


def _reached(domains: float, draws: int) -> float:
    """Return the share of copies that are left when a domain gets one of each row."""
    return float(domains * (1.0 - (1.0 - 1.0 / domains) ** draws) / draws)


def _all_to_all(n: int, used: tuple[Span, ...], fanout: int = 0) -> Path:
    loads = []
    for span in used:
        share = (span.size - 1) * span.inside / n * span.inside
        if span.axes:
            share = _torus_all_to_all(span)
        if fanout:
            share *= _reached(n / span.inside, fanout)
        loads.append(share)
    hops = [0.0] * len(used)
    hops[-1] = float(max((a.hops for a in used[-1].axes), default=1))
    return Path(tuple(hops), tuple(loads))


def _torus_all_to_all(span: Span) -> float:
    """Bytes over the bisection of the longest axis, as load on the rings."""
    links = sum((2 if a.ring else 1) / a.spacing for a in span.axes)
    per_link = max(a.size * a.spacing * (0.125 if a.ring else 0.25) for a in span.axes)
    return per_link * links


def _send_recv(used: tuple[Span, ...]) -> Path:
    span, inner = used[-1], [0.0] * (len(used) - 1)
    load = 1.0 if span.axes else float(span.inside)
    return Path((*inner, float(max(1, span.ring_hops))), (*inner, load))
