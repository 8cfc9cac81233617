"""Systems of devices that no catalog entry joins: the usual node, assumed."""

from __future__ import annotations

from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.specs.base import Source
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import spec_error
from hwsim.specs.network import Network, replace
from hwsim.specs.system import SystemSpec

NODE, MOST = 8, 16  # devices of a node: usually, and at most
# Of a device: links between chips, PCIe where it has none, and 100 Gbit/s outside.
LINK_LATENCY, BUS_LATENCY, OUTER_LATENCY = 1e-6, 2e-6, 10e-6
PCIE_BANDWIDTH, OUTER_BANDWIDTH = 31.5e9, 12.5e9


def assumed_system(device: DeviceSpec, devices: int) -> SystemSpec:
    """Return nodes of up to eight of a device, joined by what its spec says.

    Devices that fill no whole nodes of eight stand in larger ones, of up to 16.

    Links between chips are a mesh of their bandwidth, else the host link is a shared
    bus; nodes stand on 100 Gbit/s Ethernet, a port a device. Every network is marked
    as assumed.

    Raises
    ------
    InputError
        If they do not fill whole nodes.
    """
    per_node = min(devices, NODE)
    if devices % per_node:
        fitting = (n for n in range(MOST, NODE, -1) if devices % n == 0)
        per_node = next(fitting, 0)
    if not per_node:
        raise InputError(
            f"no usual system of {devices} x {device.id} is known, and they do not "
            f"fill nodes of {NODE} to {MOST}; name one in a system column "
            "(hwsim systems)"
        )
    networks = [_inside(device, per_node)]
    if devices > per_node:
        networks.append(
            Network(
                name="ethernet", kind="fat_tree", size=devices,
                bandwidth=OUTER_BANDWIDTH, latency=OUTER_LATENCY,
                nics_per_node=per_node,
            )
        )  # fmt: skip
    source = Source(
        kind="assumed",
        title=f"the catalog has no system of {device.name}: nodes of {per_node}, "
        "links as the device's spec has them, 100 Gbit/s a device outside",
        date="2026-11-22",
    )
    return SystemSpec(
        id=f"{device.id}-assumed-{devices}", name=f"{devices} x {device.name}, assumed",
        device=device, devices_per_node=per_node, nodes=devices // per_node,
        networks=tuple(networks), sources=(source,),
        notes=("Assumed: no system of this device is in the catalog.",),
    )  # fmt: skip


def joined(system: SystemSpec, nodes: int, outer: Network | None = None) -> SystemSpec:
    """Return a system of more nodes, over Ethernet where nothing joins them yet.

    Parameters
    ----------
    outer : Network or None
        Network that joins them where the system has none; else 100 Gbit/s a node of
        PCIe, or a device of others.

    Raises
    ------
    InputError
        If the outermost network cannot grow.
    """
    if nodes <= system.nodes:
        return system
    last = system.networks[-1] if system.networks else None
    if last is not None and last.kind in {"fat_tree", "dcn"}:
        return system.with_nodes(nodes)
    nodes = -(-nodes // system.nodes) * system.nodes  # whole pods
    whole, per_node = nodes * system.devices_per_node, system.devices_per_node
    ports = 1 if last is not None and last.kind == "bus" else per_node
    if outer is None:
        outer = Network(
            name="ethernet", kind="fat_tree", size=whole,
            bandwidth=OUTER_BANDWIDTH * ports / per_node, latency=OUTER_LATENCY,
            nics_per_node=ports,
        )  # fmt: skip
    elif outer.nics_per_node is not None:
        outer = replace(outer, size=whole, nics_per_node=per_node)
    fields = dict(system) | {
        "id": f"{system.id}-x{nodes}", "nodes": nodes,
        "networks": (*system.networks, replace(outer, size=whole)),
    }  # fmt: skip
    try:
        return SystemSpec(**fields)
    except ValidationError as error:
        raise spec_error(error, f"system {fields['id']}") from None


def _inside(device: DeviceSpec, size: int) -> Network:
    rates = [link.bandwidth for link in device.links.values()]
    if rates:
        return Network(
            name="links", kind="mesh", size=size, bandwidth=max(rates),
            latency=LINK_LATENCY,
        )  # fmt: skip
    host = device.host_link
    return Network(
        name="pcie", kind="bus", size=size,
        bandwidth=host.bandwidth if host else PCIE_BANDWIDTH, latency=BUS_LATENCY,
        peer_to_peer=False,
    )  # fmt: skip


def cuts_out(system: SystemSpec, devices: int) -> bool:
    """Return whether so many devices are a part of the system's networks."""
    try:
        system.subsystem(devices)
    except InputError:
        return False
    return True
