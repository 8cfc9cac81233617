"""Names, paths and what-if changes to loaded specs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from hwsim.errors import InputError
from hwsim.specs import catalogs
from hwsim.specs.base import Spec
from hwsim.specs.device import DeviceSpec
from hwsim.specs.given_names import given_system
from hwsim.specs.model import ModelSpec
from hwsim.specs.network import TREES
from hwsim.specs.override import Override, apply_overrides, parse_override
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec, single_device_system

S = TypeVar("S", bound=Spec)
TARGETS = ("device", "system", "model", "stack")
ENGINE = "engine"  # of services alone


# Figures that stand in specs for reference: no cost model reads them.
UNREAD = (
    "device.launch.graph", "device.launch.latency", "device.compute.max_clock",
    "device.links", "device.power", "device.year", "system.power_overhead",
)  # fmt: skip


def unread(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that no time or memory figure depends on."""
    found = []
    for change in parsed(overrides, (*TARGETS, ENGINE)):
        key = ".".join((change.target, *change.path))
        latency = key.startswith("device.memory.") and key.endswith(".latency")
        if latency or any(key == u or key.startswith(f"{u}.") for u in UNREAD):
            found.append(key)
    return found


def default_dtype(device: DeviceSpec) -> str:
    """Return the widest of the usual dtypes that a device multiplies fast."""
    for dtype in ("bf16", "fp16", "fp32"):
        if dtype in device.compute.matrix:
            return dtype
    for dtype in ("bf16", "fp32", "fp16"):
        if dtype in device.dtypes:
            return dtype
    return device.dtypes[0]


def parsed(
    overrides: Iterable[str], targets: Iterable[str] = TARGETS
) -> list[Override]:
    """Parse ``--set`` texts."""
    if isinstance(overrides, str):
        overrides = [overrides]
    overrides = list(overrides)
    for text in overrides:
        if not isinstance(text, str):
            raise InputError(
                f"override {text!r} is not text; write for example "
                '"device.memory.hbm.bandwidth=x2"'
            )
    return [parse_override(text, targets) for text in overrides]


def changed(spec: S, target: str, changes: Sequence[Override]) -> S:
    """Return a spec with the changes meant for it."""
    mine = [change for change in changes if change.target == target]
    return apply_overrides(spec, mine) if mine else spec


def changed_system(system: SystemSpec, changes: Sequence[Override]) -> SystemSpec:
    """Return a system with changes to it and to its device."""
    device = changed(system.device, "device", changes)
    if device is not system.device:
        system = system.model_copy(update={"device": device})
    return changed(system, "system", [*changes, *_joined(system, changes)])


def _joined(system: SystemSpec, changes: Sequence[Override]) -> list[Override]:
    """Return what joins more nodes by the network that joins them now."""
    mine = [change.path for change in changes if change.target == "system"]
    outer = system.networks[-1] if system.networks else None
    if outer is None or outer.kind not in TREES or mine.count(("nodes",)) != 1:
        return []
    if any(path[0] in {"networks", "devices_per_node"} for path in mine):
        return []
    text = next(c.text for c in changes if c.path == ("nodes",))
    times = text.removeprefix("x")
    if not times.isascii() or not times.isdecimal():
        return []
    nodes = int(times) * (system.nodes if text.startswith("x") else 1)
    if nodes * system.devices_per_node <= outer.size:
        return []
    path = ("networks", outer.name, "size")
    return [Override("system", path, str(nodes * system.devices_per_node))]


def as_system(system: str | SystemSpec | DeviceSpec) -> SystemSpec:
    """Return a system from a name, a path or a loaded spec."""
    if isinstance(system, SystemSpec):
        return system
    if isinstance(system, DeviceSpec):
        return single_device_system(system)
    return catalogs.load_system(named("system", system))


def part_of(system: SystemSpec, devices: int) -> SystemSpec:
    """Return the part of a system that a job gets; a larger one is named if need be.

    Raises
    ------
    InputError
        If the system has not so many devices, or does not part so.
    """
    if devices <= system.num_devices:
        return system.subsystem(devices)
    try:
        usual = given_system(system.device, devices)
    except InputError:
        usual = system
    raise InputError(
        f"{devices} devices, but system {system.id} has {system.num_devices}; ask for "
        f"at most {system.num_devices} or name a larger system "
        f"({_larger(system, usual, devices)})"
    )


def _larger(system: SystemSpec, usual: SystemSpec, devices: int) -> str:
    """Return how to ask for more devices than a system has."""
    if catalogs.SYSTEMS.by_id(usual.id):
        found = catalogs.load_system(usual.id)
        if found.num_devices >= devices:
            return f"{found.id} has {found.num_devices}"
        system = found
    outer = system.networks[-1] if system.networks else None
    if outer is None or outer.kind not in TREES:
        return "hwsim systems"
    nodes = -(-devices // system.devices_per_node)
    return f"{system.id} with --set system.nodes={nodes}"


def named(what: str, value: object) -> str:
    """Return a name or a path as text; anything else is refused."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise InputError(
        f"{what} is {type(value).__name__}; give a name, a path or a loaded spec"
    )


def resolve(
    model: str | ModelSpec,
    system: str | SystemSpec | DeviceSpec,
    stack: str | StackSpec,
    overrides: Iterable[str],
) -> tuple[ModelSpec, SystemSpec, StackSpec]:
    """Load model, system and stack, and apply the changes."""
    changes = parsed(overrides)
    loaded = model if isinstance(model, ModelSpec) else None
    software = stack if isinstance(stack, StackSpec) else None
    loaded = loaded or catalogs.load_model(named("model", model))
    software = software or catalogs.load_stack(named("stack", stack))
    return (
        changed(loaded, "model", changes),
        changed_system(as_system(system), changes),
        changed(software, "stack", changes),
    )
