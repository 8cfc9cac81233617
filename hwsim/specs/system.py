"""System specs: which devices stand together and which links join them."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

from pydantic import model_validator

from hwsim.errors import InputError
from hwsim.specs.base import (
    BytesPerSecond,
    CatalogSpec,
    Count,
    Fraction,
    Identifier,
    Name,
    Source,
    Spec,
    figures_html,
    find_source,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.network import Network, divisors, replace, shrunk, sub_torus

__all__ = ["Host", "Network", "SystemFile", "SystemSpec", "single_device_system"]

# Of a two-socket node, 16 lanes each: an HGX board of eight GPUs hangs on four
# PCIe switches. On a DGX-2 (16 GPUs) each one then gets 3.0 of 12 GB/s, as S.
# Rajbhandari et al., "ZeRO-Infinity", 2021, arXiv:2104.07857, figure 2b, measure.
HOST_PORTS = 4


# Where offloaded states and activations wait.
OffloadTo = Literal["host", "drives"]


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
    devices_per_host_port: Count | None = None
    drives_bandwidth: BytesPerSecond | None = None
    offload_to: OffloadTo = "host"

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
    devices_per_host_port : int or None
        Devices of a node behind one port of its host, whose rate they share;
        None: as many as there are if a host has four ports for them.
    drives_bandwidth : float or None
        What the NVMe drives of a node sustain together, the slower of reading and
        writing; its devices share it. [B/s]
    offload_to : str
        Where what is offloaded waits: in the memory of the ``host``, or on its
        ``drives``, through that memory.
    sources : tuple of Source
        Where the system's own figures come from; the device has its own.
    """

    id: Identifier
    name: Name
    device: DeviceSpec
    devices_per_node: Count
    nodes: Count
    host: Host | None = None
    networks: tuple[Network, ...] = ()
    power_overhead: Fraction | None = None
    devices_per_host_port: Count | None = None
    drives_bandwidth: BytesPerSecond | None = None
    offload_to: OffloadTo = "host"
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _levels_nest(self) -> SystemSpec:
        sizes = [n.size for n in self.networks]
        for inner, outer in itertools.pairwise(sizes):
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

    @model_validator(mode="after")
    def _drives_to_offload_to(self) -> SystemSpec:
        if self.offload_to == "drives" and self.drives_bandwidth is None:
            raise ValueError(
                "offload_to is drives, but the system names none; set "
                "drives_bandwidth too, what a node's drives sustain together"
            )
        return self

    @property
    def num_devices(self) -> int:
        """Devices in the whole system."""
        return self.devices_per_node * self.nodes

    @property
    def host_sharers(self) -> int:
        """Devices that share one port of the host when all of a node copy.

        Links that are no PCIe (NVLink-C2C) are each device's own.
        """
        link = self.device.host_link
        if link is None or "PCIe" not in (link.technology or ""):
            return 1
        return min(self._host_sharing, self.devices_per_node)

    @property
    def _host_sharing(self) -> int:
        usual = math.ceil(self.devices_per_node / HOST_PORTS)
        return self.devices_per_host_port or usual

    @property
    def offload_limit(self) -> float:
        """What a device gets of its node's drives when all copy at once. [B/s]

        Infinite where what is offloaded stays in host memory.
        """
        if self.offload_to == "host" or self.drives_bandwidth is None:
            return math.inf
        return float(self.drives_bandwidth) / self.devices_per_node

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

    def source_of(self, path: str) -> Source | None:
        """Return the source that stands for the figure at a dotted path."""
        if path.startswith("device."):
            return self.device.source_of(path.removeprefix("device."))
        return find_source(self.sources, path)

    def _repr_html_(self) -> str:
        """Return every figure with its SI value, unit and source, for notebooks."""
        return figures_html(self, f"{self.name} ({self.id})", self.source_of)

    def subsystem(self, num_devices: int) -> SystemSpec:
        """Return the part of this system that a job of so many devices gets.

        Nodes are filled one after another, and only the levels that the job
        spans are kept. Where the job does not fill whole domains of a switched
        level, it is spread evenly over fewer devices of each (256 devices on
        racks of 72 take 64 of each). A torus is cut into the box of devices
        nearest to a cube that its axes, or its blocks, allow; ends stay joined
        on full axes, or where every axis is whole blocks.

        Raises
        ------
        InputError
            If the system has not so many devices, or the number leaves a node
            or a slice of a torus partly filled.
        """
        whole = self.num_devices
        _check_count(self, num_devices)
        if num_devices == whole:
            return self
        per_node = min(num_devices, self.devices_per_node)
        _check_multiple(self, num_devices, per_node, "node")
        return self._with(
            devices_per_node=per_node,
            nodes=num_devices // per_node,
            networks=_levels(self, num_devices, per_node),
            devices_per_host_port=self._host_sharing,
            notes=(*self.notes, f"{num_devices} of its {whole} devices"),
        )

    def with_nodes(self, nodes: int) -> SystemSpec:
        """Return this system with another number of nodes.

        Fewer nodes are a ``subsystem``; more need an outermost network that
        can grow (fat_tree, dcn).

        Raises
        ------
        InputError
            If the outermost network cannot grow to so many.
        """
        if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
            raise InputError(f"{nodes!r} nodes; give a whole number of at least 1")
        wanted = nodes * self.devices_per_node
        if nodes <= self.nodes:
            return self.subsystem(wanted)
        outer = self.networks[-1] if self.networks else None
        if outer is None or outer.kind not in {"fat_tree", "dcn"}:
            raise InputError(
                f"system {self.id} cannot grow from {self.nodes} to {nodes} nodes: no "
                "fat_tree or dcn joins its nodes; write a cluster of it (node = "
                f'"{self.id}") with one'
            )
        inner = self.networks[-2].size if len(self.networks) > 1 else 1
        _check_multiple(self, wanted, inner, "domain")
        grown = replace(outer, size=max(outer.size, wanted))
        return self._with(nodes=nodes, networks=(*self.networks[:-1], grown))

    def in_slices(self, slices: int, num_devices: int) -> SystemSpec:
        """Return equal parts of this system, joined by its outermost network alone.

        Parameters
        ----------
        slices : int
            Parts, as slices of TPU pods that are far from each other.
        num_devices : int
            Devices of all parts together.

        Raises
        ------
        InputError
            If nothing joins parts of this system, or there is no such part.
        """
        outer = self.networks[-1] if self.networks else None
        if outer is None or outer.kind != "dcn" or num_devices % slices:
            raise InputError(
                f"system {self.id} has no {slices} equal slices of {num_devices} "
                "devices in all on a data-centre network; name one that has"
            )
        part = self.subsystem(num_devices // slices)
        return part._with(
            id=f"{self.id}-{slices}-slices",
            nodes=part.nodes * slices,
            networks=(*part.networks, replace(outer, size=num_devices)),
        )

    def _with(self, **changes: Any) -> SystemSpec:
        return SystemSpec(**{**dict(self), **changes})


def _check_count(system: SystemSpec, count: object) -> None:
    whole = system.num_devices
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{count!r} devices; give a whole number from 1 to {whole}")
    if count > whole:
        raise InputError(
            f"{count} devices, but system {system.id} has {whole}; "
            f"ask for at most {whole} or name a larger system"
        )


def _check_multiple(system: SystemSpec, count: int, unit: int, what: str) -> None:
    if count % unit:
        below = count - count % unit
        near = " or ".join(str(c) for c in (below, below + unit) if c)
        raise InputError(
            f"{count} devices do not fill whole {what}s of {unit} on system "
            f"{system.id}; ask for {near}"
        )


def _levels(system: SystemSpec, count: int, per_node: int) -> tuple[Network, ...]:
    """Return the networks of a sub-system of so many devices."""
    levels: list[Network] = []
    networks = system.networks_for(count)
    below = 1
    for network in networks[:-1]:
        if network.kind == "torus":
            _check_multiple(system, count, network.size, "slice")
        unit = math.lcm(below, per_node) if network.size >= per_node else below
        size = max(
            (d for d in divisors(count) if d <= network.size and d % unit == 0),
            default=below,
        )
        if size > below:
            levels.append(shrunk(network, size))
            below = size
    if not networks:
        return ()
    outer = networks[-1]
    if outer.kind == "torus" and outer.size != count:
        return (*levels, sub_torus(outer, count, system.id))
    return (*levels, outer if outer.size % below == 0 else shrunk(outer, count))


def single_device_system(device: DeviceSpec) -> SystemSpec:
    """Return a device as a system of one."""
    return SystemSpec(
        id=device.id, name=device.name, device=device, devices_per_node=1, nodes=1
    )
