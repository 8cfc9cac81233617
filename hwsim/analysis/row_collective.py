"""Collectives of measurement tables: which system, which group."""

from __future__ import annotations

import functools

from hwsim.analysis.row_group import Group
from hwsim.analysis.row_work import arithmetic
from hwsim.cost.collective import collective_bound, collective_cost
from hwsim.cost.cost import Cost, combine
from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.catalogs import load_system
from hwsim.specs.measurement_names import COLLECTIVE_NAMES
from hwsim.specs.network import replace
from hwsim.specs.system import SystemSpec


def collective_rows(group: Group) -> Cost:
    """Return the cost of collectives of one kind and group size."""
    rows = group.rows
    op, world = str(rows["op"][0]), int(rows["world_size"][0])
    system = _system(group, world)
    if not _switches_add(arithmetic(str(rows["dtype"][0]))):
        system = _without_reduction(system)
    name = COLLECTIVE_NAMES.get(op, op)
    if group.calibration is None:
        bound = collective_bound(name, rows["nbytes"], world, system=system)
        return combine(interconnect=bound)
    return collective_cost(
        name, rows["nbytes"], world, system=system, calibration=group.calibration
    )


def _system(group: Group, world: int) -> SystemSpec:
    """Return the system of the rows: named, or the usual one of the device."""
    name = group.system_name or group.benchmark_system()
    if not name:
        raise InputError(
            f"no system is known for collectives of {group.device.id}; name one "
            "in a system column"
        )
    system = load_system(name)
    used = group.rows["gpus_per_node_used"][0]
    if not used == used:  # noqa: PLR0124  NaN: as many as a node has
        used = min(world, system.devices_per_node)
    nodes = -(-world // int(used))
    if nodes > system.nodes:
        system = system.with_nodes(nodes)
    return _partly_filled(system, int(used), nodes)


@functools.lru_cache(maxsize=64)
def _without_reduction(system: SystemSpec) -> SystemSpec:
    networks = tuple(replace(n, in_network_reduction=False) for n in system.networks)
    return system.model_copy(update={"networks": networks})
