"""One level of an interconnect, and how it is cut for a smaller job."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hwsim.errors import InputError
from hwsim.specs.base import BytesPerSecond, Count, Fraction, Name, Seconds, Spec

NetworkKind = Literal["switch", "mesh", "torus", "bus", "fat_tree", "dcn"]

TREES = ("fat_tree", "dcn")  # networks whose up-links may be fewer


class Network(Spec):
    """One level of the interconnect; levels nest, the innermost first.

    Attributes
    ----------
    kind : str
        ``switch`` (any pair at full rate: NVSwitch), ``mesh`` (direct links
        between all pairs of the domain, so one pair sees bandwidth/(size-1)),
        ``torus`` (neighbour links along ``dims``), ``bus`` (shared path
        through a host: PCIe, UPI), ``fat_tree`` (NICs and switches),
        ``dcn`` (data-centre network between slices).
    size : int
        Devices that one domain of this level joins.
    bandwidth : float
        Per device and direction, all its links of this level; where devices
        share NICs (fat_tree, dcn), the share of each with all of them
        sending. [B/s]
    latency : float
        One hop, end to end, software not included. [s]
    dims : tuple of int
        Torus only: devices along each axis; their product is ``size``.
    wraparound : bool
        Torus only: whether the ends of every axis are joined.
    wraparound_axes : tuple of bool
        Torus only: which axes are joined, where not all are; see
        ``axis_wraparound``.
    block : int or None
        Torus only: optical switches join cubes of this edge, so that a slice
        whose every axis is a multiple of it wraps around too.
    in_network_reduction : bool
        Switches add up all-reduce data (NVLS, SHARP).
    nics_per_node : int or None
        fat_tree and dcn: how many NICs one node's devices share.
    rail_optimized : bool
        fat_tree only: the n-th NIC of every node hangs on the n-th leaf.
    oversubscription : float
        fat_tree and dcn: down-links of a domain inside over its up-links to this
        level; 1 is non-blocking.
    peer_to_peer : bool
        bus only: devices reach each other without a bounce through host memory.
    achieved : float or None
        Share of the bandwidth that large collectives were measured to reach on
        this very cluster; None: what the device's generation reaches on networks
        of this kind. [1]
    contention : float or None
        bus only: bandwidth was measured on this very host to fall as (active
        devices / 2) to minus this; None: as the device's generation has it.
    """

    name: Name
    kind: NetworkKind
    size: Count
    bandwidth: BytesPerSecond
    latency: Seconds
    dims: tuple[Count, ...] = ()
    wraparound: bool = True
    wraparound_axes: tuple[bool, ...] = ()
    block: Count | None = None
    in_network_reduction: bool = False
    nics_per_node: Count | None = None
    rail_optimized: bool = False
    oversubscription: Annotated[float, Field(le=1e3)] = 1.0
    peer_to_peer: bool = True
    achieved: Fraction | None = None
    contention: Annotated[float, Field(ge=0.0, le=4.0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.kind == "torus":
            _check_torus(self)
        elif self.dims or self.wraparound_axes or self.block:
            raise ValueError(
                "dims, wraparound_axes and block belong to a torus, "
                f"not to a {self.kind}"
            )
        if self.oversubscription < 1.0:
            raise ValueError(
                f"oversubscription {self.oversubscription} is below 1; "
                "1 is a non-blocking tree"
            )
        if self.oversubscription > 1.0 and self.kind not in TREES:
            raise ValueError(
                f"oversubscription {self.oversubscription} belongs to a "
                f"{' or '.join(TREES)}, not to a {self.kind}; lower its bandwidth"
            )
        return self

    @property
    def axis_wraparound(self) -> tuple[bool, ...]:
        """Whether the ends of each axis of a torus are joined."""
        return self.wraparound_axes or (self.wraparound,) * len(self.dims)


def _check_torus(network: Network) -> None:
    dims, axes = network.dims, network.wraparound_axes
    if math.prod(dims) != network.size or not dims:
        raise ValueError(
            f"dims {list(dims)} multiply to {math.prod(dims)}, "
            f"not to size {network.size}; a torus lists its devices along each axis"
        )
    if axes and (len(axes) != len(dims) or all(axes) != network.wraparound):
        raise ValueError(
            f"wraparound_axes {list(axes)} does not fit dims {list(dims)} and "
            f"wraparound {network.wraparound}; give one value per axis, and "
            "wraparound = true only where all are"
        )


def replace(network: Network, **changes: Any) -> Network:
    """Return a copy with other figures, checked again."""
    return Network(**{**dict(network), **changes})


def shrunk(network: Network, size: int) -> Network:
    """Return the level with fewer devices on each of its domains."""
    if size == network.size:
        return network
    if network.kind == "mesh":  # a pair keeps its links
        scale = (size - 1) / (network.size - 1)
        return replace(network, size=size, bandwidth=network.bandwidth * scale)
    return replace(network, size=size)


def divisors(count: int) -> list[int]:
    """Return the divisors of a count in rising order."""
    small = [d for d in range(1, math.isqrt(count) + 1) if count % d == 0]
    return sorted({*small, *(count // d for d in small)})


def sub_torus(network: Network, count: int, system_id: str) -> Network:
    """Return the box of a torus that is nearest to a cube of so many devices.

    Raises
    ------
    InputError
        If no box of its axes, or its blocks, holds exactly so many.
    """
    shapes = [s for s in _boxes(network, count) if math.prod(s) == count]
    if not shapes:
        below, above = _nearest_boxes(network, count)
        shape = "x".join(map(str, network.dims))
        raise InputError(
            f"{count} devices are no box of the torus {shape} of system "
            f"{system_id}; ask for {below} or {above}"
        )
    dims = min(shapes, key=lambda s: (sum(s), -sum(_wraps(network, s)), s))
    axes = _wraps(network, dims)
    mixed = any(axes) and not all(axes)
    return replace(
        network,
        size=count,
        dims=dims,
        wraparound=all(axes),
        wraparound_axes=axes if mixed else (),
    )


def _nearest_boxes(network: Network, count: int) -> tuple[int, int]:
    def fits(size: int) -> bool:
        return any(math.prod(box) == size for box in _boxes(network, size))

    below = next(c for c in range(count, 0, -1) if fits(c))
    return below, next(c for c in range(count, network.size + 1) if fits(c))


def _boxes(network: Network, count: int) -> list[tuple[int, ...]]:
    """Return the shapes that may hold ``count`` devices of a torus."""
    block, edges = network.block, divisors(count)
    if block is None:
        axes = [[d for d in edges if whole % d == 0] for whole in network.dims]
        return list(itertools.product(*axes))
    longest = max(network.dims)
    edges = [d for d in edges if d <= longest and (block % d == 0 or d % block == 0)]
    return list(itertools.combinations_with_replacement(edges, len(network.dims)))


def _wraps(network: Network, dims: tuple[int, ...]) -> tuple[bool, ...]:
    if network.block is not None:
        joined = network.wraparound and all(d % network.block == 0 for d in dims)
        return (joined,) * len(dims)
    whole = zip(network.axis_wraparound, dims, network.dims, strict=True)
    return tuple(wraps and own == full for wraps, own, full in whole)
