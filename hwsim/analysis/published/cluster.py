"""The cluster behind a row of published training runs."""

from __future__ import annotations

import re

from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.catalogs import SYSTEMS, load_device, load_system
from hwsim.specs.given_names import given_system
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import MappedRun
from hwsim.specs.system import SystemSpec
from hwsim.specs.usual_system import joined

# Mappings that every row has.
_GENERAL = frozenset({"any", "papers"})
# Ports of a node: "4 x 100 Gb RoCE", "8x200Gbps", "8x 400 Gbit/s".
_PORTS = re.compile(
    r"\b([1-9]\d?)\s*[x×]\s*([1-9]\d{1,3})\s*G(?:b|bit|bps|b/s|bit/s)\b"
)


def run_system(mapped: MappedRun, run: PublishedRun) -> SystemSpec:
    """Return the cluster of a row, grown where the run is larger.

    Of a source that no mapping knows, nodes have the ports that its remarks state.
    """
    system = _usual(mapped, run)
    if run.system or not _GENERAL.issuperset(mapped.maps):
        return system
    return with_ports(system, run.notes)


def with_ports(system: SystemSpec, words: str) -> SystemSpec:
    """Return a system whose nodes are joined by the ports that words state.

    Examples
    --------
    >>> from hwsim.specs.catalogs import load_system
    >>> system = load_system("dgx-a100-80gb-hdr-128")
    >>> with_ports(system, "4 x 100 Gb RoCE").networks[-1].bandwidth
    6250000000.0
    """
    found = _PORTS.search(words)
    outer = system.networks[-1] if system.networks else None
    if found is None or outer is None or outer.kind != "fat_tree":
        return system
    ports, gigabits = int(found[1]), int(found[2])
    bandwidth = ports * gigabits * 1e9 / 8.0 / system.devices_per_node
    stated = outer.model_copy(update={"bandwidth": bandwidth, "nics_per_node": ports})
    name = f"{system.id}-{ports}x{gigabits}g"
    return system.model_copy(
        update={"networks": (*system.networks[:-1], stated), "id": name}
    )


def _usual(mapped: MappedRun, run: PublishedRun) -> SystemSpec:
    devices = run.num_devices or 1
    name = mapped.system
    if name is None:
        try:
            return given_system(load_device(run.device_id), devices)
        except UnknownNameError as error:
            raise InputError(f"not in the catalog: {error}") from None
    system = load_system(name)
    outer = system.networks[-1].kind if system.networks else ""
    if run.slices > 1 and outer == "dcn" and devices % run.slices == 0:
        return system.in_slices(run.slices, devices)
    if devices > system.num_devices:
        system = joined(system, -(-devices // system.devices_per_node))
    return system


def network_notes(system: SystemSpec) -> tuple[str, ...]:
    """Return what is assumed of a system that the catalog has not."""
    outer = system.networks[-1] if system.networks else None
    if outer is None or outer.name != "ethernet" or SYSTEMS.by_id(system.id):
        return ()
    rate = outer.bandwidth * 8e-9
    return (f"network = Ethernet, {rate:.3g} Gbit/s a device",)
