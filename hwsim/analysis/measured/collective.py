"""Collectives of measurement tables: which system, which group."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.analysis.measured.group import Group
from hwsim.analysis.measured.work import arithmetic
from hwsim.analysis.resolve import changed_system
from hwsim.cost.collective import collective_bound, collective_cost
from hwsim.cost.cost import Cost, combine
from hwsim.errors import InputError
from hwsim.specs.benchmark import DEFAULT, load_benchmark
from hwsim.specs.catalogs import SYSTEMS, load_system, load_system_file
from hwsim.specs.given_names import given_system
from hwsim.specs.measurement.names import COLLECTIVE_NAMES
from hwsim.specs.network import Network, replace, shrunk
from hwsim.specs.system import SystemSpec
from hwsim.specs.usual_system import joined


def collective_rows(group: Group) -> Cost:
    """Return the cost of collectives of one kind and group size."""
    rows = group.rows
    op, world = str(rows["op"][0]), int(rows["world_size"][0])
    system = changed_system(_system(group, world), group.changes)
    if not _switches_add(arithmetic(str(rows["dtype"][0]))):
        system = _without_reduction(system)
    name = COLLECTIVE_NAMES.get(op, op)
    if group.calibration is None:
        bound = collective_bound(name, rows["nbytes"], world, system=system)
        return combine(interconnect=bound)
    return collective_cost(
        name, rows["nbytes"], world, system=system, calibration=group.calibration,
        direct=direct_kernel(str(rows["kernel"][0])),
    )  # fmt: skip


def direct_kernel(name: str) -> float:
    """Return 1 or 2 for a framework's own all-reduce, captured or eager."""
    if "custom" not in name:
        return 0.0
    return 2.0 if "eager" in name else 1.0


def _system(group: Group, world: int) -> SystemSpec:
    """Return the system of the rows: named, or the usual one of the device."""
    rows, device, benchmark = group.rows, group.device.id, group.benchmark
    used = rows["gpus_per_node_used"][0]
    most = rows["gpus_per_node_max"][0]
    name = group.system_name or benchmark.systems.get(device)
    if name is None:
        system = given_system(group.device, max(world, int(np.nan_to_num(most))))
    else:
        system = load_system(name)
    per_node = world if np.isnan(used) else int(used)
    if np.isnan(used):
        per_node = min(world, system.devices_per_node)
    nodes = -(-world // per_node)
    if nodes > system.nodes and not group.system_name:
        clusters = {**load_benchmark(DEFAULT).clusters, **benchmark.clusters}
        if device in clusters:
            system = load_system(clusters[device])
    if not np.isnan(most) and most != system.devices_per_node:
        if group.system_name:
            raise InputError(
                f"gpus_per_node_max is {most:g} but a node of {system.id} has "
                f"{system.devices_per_node}; name the right system in a system column"
            )
        system = _with_nodes_of(system, int(most))
    if nodes > system.nodes:
        system = (
            system.with_nodes(nodes) if group.system_name else joined(system, nodes)
        )
    return _with_devices(system, per_node)


def _with_nodes_of(system: SystemSpec, devices: int) -> SystemSpec:
    """Return a system whose nodes have another number of devices, like it otherwise.

    The catalog's own node of so many devices comes first.
    """
    if any(network.kind == "torus" for network in system.networks):
        raise InputError(
            f"{system.id} is a torus, not nodes of {devices}; name the right system "
            "in a system column"
        )
    for name in sorted(SYSTEMS):
        file = load_system_file(name)
        if file.device == system.device.id and file.devices_per_node == devices:
            node = load_system(name)
            outer = system.networks[-1]
            crossed = system.nodes > 1 and outer.kind in {"fat_tree", "dcn"}
            return joined(node, system.nodes, outer) if crossed else node
    whole, networks = system.devices_per_node, list[Network]()
    for network in system.networks:
        size = network.size
        if size <= whole:
            size = devices if size == whole else min(size, devices)
        elif size % devices:
            size = -(-size // devices) * devices
        networks.append(replace(network, size=size))
    nodes = max(max((n.size for n in networks), default=devices) // devices, 1)
    changes = {"devices_per_node": devices, "nodes": nodes, "networks": tuple(networks)}
    return system.model_copy(update=changes)


def _with_devices(system: SystemSpec, used: int) -> SystemSpec:
    """Return a system of whose nodes only some devices take part.

    Those left share the node's NICs.
    """
    whole = system.devices_per_node
    if used == whole or system.nodes == 1:
        return system
    if used > whole:
        raise InputError(
            f"gpus_per_node_used is {used} but a node of {system.id} has {whole}"
        )
    networks = []
    for network in system.networks:
        if network.size <= whole:
            if used > 1:
                networks.append(shrunk(network, min(network.size, used)))
            continue
        if network.size % whole or network.kind == "torus":
            raise InputError(f"nodes of {system.id} cannot be partly filled")
        changes: dict[str, Any] = {"size": network.size // whole * used}
        if network.nics_per_node is not None:
            changes["bandwidth"] = network.bandwidth * whole / used
        networks.append(replace(network, **changes))
    return system.model_copy(
        update={"devices_per_node": used, "networks": tuple(networks)}
    )


def _switches_add(dtype: str) -> bool:
    """Return whether switches can add up values of a dtype (floats of 16 bit up)."""
    return dtype in {"fp32", "fp16", "bf16", "tf32"}


def _without_reduction(system: SystemSpec) -> SystemSpec:
    networks = tuple(replace(n, in_network_reduction=False) for n in system.networks)
    return system.model_copy(update={"networks": networks})
