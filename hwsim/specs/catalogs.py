"""The catalogs of devices, systems, models and stacks."""

from __future__ import annotations

from typing import Any

from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import Catalog, load_spec, looks_like_path, read_table
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemFile, SystemSpec, single_device_system

DEVICES = Catalog("device", DeviceSpec, "devices", "*/*/spec.toml", exclude="systems")
SYSTEMS = Catalog("system", SystemFile, "devices", "systems/*/spec.toml")
STACKS = Catalog("stack", StackSpec, "workloads", "stacks/*.toml")


def load_device(name: str) -> DeviceSpec:
    """Load a device by id, alias or path of a ``.toml`` or ``.json`` file."""
    return load_spec(DEVICES, DeviceSpec, name)


def load_stack(name: str) -> StackSpec:
    """Load a software stack by id, alias or path."""
    return load_spec(STACKS, StackSpec, name)


def load_system(name: str) -> SystemSpec:
    """Load a system by id, alias or path; a device id is a system of one.

    Raises
    ------
    UnknownNameError
        If neither a system nor a device is called so.
    """
    if looks_like_path(name):
        table = read_table(SYSTEMS.find(name))
        if "compute" in table or "memory" in table:
            return single_device_system(load_device(name))
        return resolve_system(load_spec(SYSTEMS, SystemFile, name))
    try:
        return resolve_system(load_spec(SYSTEMS, SystemFile, name))
    except UnknownNameError as unknown_system:
        try:
            return single_device_system(load_device(name))
        except UnknownNameError as unknown_device:
            known = {*SYSTEMS, *DEVICES}
            if unknown_system.nearest or unknown_device.nearest:
                known = {*unknown_system.nearest, *unknown_device.nearest}
            raise UnknownNameError(
                "system or device", name, known, "(hwsim systems, hwsim devices)"
            ) from None


def resolve_system(file: SystemFile, depth: int = 0) -> SystemSpec:
    """Return a system file with its device and node looked up."""
    if depth > 4:
        raise InputError(f"system {file.id}: node names go round in a circle")
    fields: dict[str, Any] = {
        "id": file.id,
        "name": file.name,
        "notes": file.notes,
        "power_overhead": file.power_overhead,
    }
    if file.device is not None:
        return SystemSpec(
            device=load_device(file.device),
            devices_per_node=file.devices_per_node or 1,
            nodes=file.nodes,
            host=file.host,
            networks=file.networks,
            **fields,
        )
    node = resolve_system(load_spec(SYSTEMS, SystemFile, str(file.node)), depth + 1)
    return SystemSpec(
        device=node.device,
        devices_per_node=node.devices_per_node,
        nodes=node.nodes * file.nodes,
        host=file.host or node.host,
        networks=(*node.networks, *file.networks),
        **fields,
    )
