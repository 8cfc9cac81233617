"""System specs: which devices stand together and which links join them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from hwsim.specs.base import (
    BytesPerSecond,
    CatalogSpec,
    Count,
    Fraction,
    Identifier,
    Name,
    Seconds,
    Spec,
)
from hwsim.specs.device import DeviceSpec

NetworkKind = Literal["switch", "mesh", "torus", "bus", "fat_tree", "dcn"]


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
        Per device and direction, all its links of this level. [B/s]
    latency : float
        One hop, end to end, software not included. [s]
    dims : tuple of int
        Torus only: devices along each axis; their product is ``size``.
    wraparound : bool
        Torus only: whether the ends of each axis are joined.
    in_network_reduction : bool
        Switches add up all-reduce data (NVLS, SHARP).
    nics_per_node : int or None
        fat_tree and dcn: how many NICs one node's devices share.
    oversubscription : float
        Down-links over up-links of the tree: 1 is non-blocking.
    peer_to_peer : bool
        bus only: devices reach each other without a bounce through host memory.
    """

    name: Name
    kind: NetworkKind
    size: Count
    bandwidth: BytesPerSecond
    latency: Seconds
    dims: tuple[Count, ...] = ()
    wraparound: bool = True
    in_network_reduction: bool = False
    nics_per_node: Count | None = None
    rail_optimized: bool = False
    oversubscription: float = 1.0
    peer_to_peer: bool = True

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.kind == "torus" and math.prod(self.dims) != self.size:
            raise ValueError(
                f"dims {list(self.dims)} multiply to {math.prod(self.dims)}, "
                f"not to size {self.size}; a torus lists its devices along each axis"
            )
        if self.kind != "torus" and self.dims:
            raise ValueError(f"dims belong to a torus, not to a {self.kind}")
        if self.oversubscription < 1.0:
            raise ValueError(
                f"oversubscription {self.oversubscription} is below 1; "
                "1 is a non-blocking tree"
            )
        return self


class Host(Spec):
    """The host of one node."""

    device: Identifier
    sockets: Count = 1


class SystemFile(CatalogSpec):
    """What a system's TOML says; names are resolved by the loader.

    A node names its ``device``; a cluster names its ``node`` and says how
    many ``nodes`` and which outer networks join them.
    """

    device: Identifier | None = None
    node: Identifier | None = None
    devices_per_node: Count | None = None
    nodes: Count = 1
    host: Host | None = None
    networks: tuple[Network, ...] = ()
    power_overhead: Fraction | None = None

    @model_validator(mode="after")
    def _one_base(self) -> SystemFile:
        if (self.device is None) == (self.node is None):
            raise ValueError(
                "give exactly one of device (a node) and node (a cluster of nodes)"
            )
        if self.device is not None and self.devices_per_node is None:
            raise ValueError("devices_per_node is missing; say how many devices")
        return self


class SystemSpec(Spec):
    """A resolved system: device, counts and nested networks.

    Attributes
    ----------
    device : DeviceSpec
        The accelerator (or CPU socket) that runs the work.
    devices_per_node, nodes : int
        Devices in one node; nodes in the system.
    networks : tuple of Network
        Interconnect levels, innermost first.
    """

    id: Identifier
    name: Name
    device: DeviceSpec
    devices_per_node: Count
    nodes: Count
    host: Host | None = None
    networks: tuple[Network, ...] = ()
    power_overhead: Fraction | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _levels_nest(self) -> SystemSpec:
        sizes = [n.size for n in self.networks]
        for inner, outer in zip(sizes, sizes[1:], strict=False):
            if outer < inner or outer % inner:
                raise ValueError(
                    f"networks of sizes {sizes} do not nest; each level joins a "
                    "whole number of the domains inside it, innermost first"
                )
        if self.num_devices > 1 and (not sizes or sizes[-1] < self.num_devices):
            raise ValueError(
                f"{self.num_devices} devices but the outermost network joins "
                f"{sizes[-1] if sizes else 1}; add a network that joins them all"
            )
        return self

    @property
    def num_devices(self) -> int:
        """Devices in the whole system."""
        return self.devices_per_node * self.nodes

    def networks_for(self, group_size: int) -> tuple[Network, ...]:
        """Return the levels that a group of neighbouring devices spans."""
        used: list[Network] = []
        if group_size <= 1:
            return ()
        for network in self.networks:
            used.append(network)
            if network.size >= group_size:
                break
        return tuple(used)


def single_device_system(device: DeviceSpec) -> SystemSpec:
    """Return a device as a system of one."""
    return SystemSpec(
        id=device.id, name=device.name, device=device, devices_per_node=1, nodes=1
    )
