"""The catalogs of devices, systems, models and stacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from hwsim.errors import SpecError, UnknownNameError
from hwsim.specs.base import Source, Spec
from hwsim.specs.device import DeviceSpec
from hwsim.specs.huggingface.read import is_huggingface, load_huggingface
from hwsim.specs.load import (
    Catalog,
    fold,
    load_spec,
    looks_like_path,
    read_table,
    spec_error,
)
from hwsim.specs.model import ModelSpec
from hwsim.specs.spellings import device_spellings, model_spellings, named_memory
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemFile, SystemSpec, single_device_system

DEVICES = Catalog("device", DeviceSpec, "devices", "*/*/spec.toml", exclude="systems")
SYSTEMS = Catalog("system", SystemFile, "devices", "systems/*/spec.toml")
MODELS = Catalog("model", ModelSpec, "workloads", "models/*.toml")
STACKS = Catalog("stack", StackSpec, "workloads", "stacks/*.toml")
_GB = (1e9, 2.0**30)  # makers call either a GB
_USABLE = 0.91  # of the memory on the board, what drivers report
# Keys that only files of systems have.
_OF_SYSTEMS = {"device", "node", "devices_per_node", "nodes", "networks", "host"}
# What no organisation's name starts with: such a name means a place on this disk.
_ROOTED = ("/", "./", "../", "~/")
S = TypeVar("S", bound=Spec)


def load_device(name: str) -> DeviceSpec:
    """Load a device by id, alias or path of a ``.toml`` or ``.json`` file.

    A name that is unknown as it stands is read as papers and drivers print it:
    :func:`hwsim.specs.spellings.device_spellings`. A system's name, as of a
    cloud's instance, stands for its device.

    Raises
    ------
    UnknownNameError
        If none of its spellings is in the catalog, or none with the memory it names.
    """
    try:
        return load_spec(DEVICES, DeviceSpec, name)
    except UnknownNameError:
        other = _spelt(DEVICES, device_spellings(name), name)
        if other is not None:
            return _of_memory(load_spec(DEVICES, DeviceSpec, other), name)
        if SYSTEMS.by_id(name) is None and SYSTEMS.by_alias(name) is None:
            raise
        return resolve_system(load_spec(SYSTEMS, SystemFile, name)).device


def _of_memory(device: DeviceSpec, name: str) -> DeviceSpec:
    """Return the device, or the one variant of its chip that has the named memory."""
    said, memory = named_memory(name), device.main_memory
    # Hosts and chips that share their memory have any size of it.
    shared = "DDR" in (memory.technology or "").replace("GDDR", "")
    if said is None or shared or "gh200" in device.id:
        return device
    size, counts = said

    def fits(other: DeviceSpec, short: float) -> bool:
        sizes = (other.main_memory.size / unit * n for unit in _GB for n in counts)
        return any(short * s <= size <= 1.01 * s for s in sizes)

    if fits(device, _USABLE):
        return device
    chip = device.id.split("-")[0] + "-"
    known = [load_spec(DEVICES, DeviceSpec, i) for i in DEVICES if i.startswith(chip)]
    same = [d for d in known if d.compute.units == device.compute.units]
    found = [d for d in same or known if fits(d, 0.99)]
    form = device.id.rsplit("-", 1)[-1]
    usual = [d for d in found if d.id.endswith(f"-{form}")] or found
    if len(usual) == 1:
        return usual[0]
    raise UnknownNameError(
        "device", name, {device.id, *(d.id for d in known)},
        f"None has {size:g} GB; name one, or give a file with based_on.",
    )  # fmt: skip


_SPELT: dict[tuple[str, str], str] = {}


def _spelt(catalog: Catalog, spellings: Iterator[str], name: str) -> str | None:
    """Return the first spelling that a catalog knows; remembered while it does."""
    key = (catalog.what, name)
    known = _SPELT.get(key)
    if known is not None and (catalog.by_id(known) or catalog.by_alias(known)):
        return known
    names = catalog.names()
    for spelling in spellings:
        if fold(spelling) in names:
            _SPELT[key] = spelling
            return spelling
    return None


def load_model(name: str) -> ModelSpec:
    """Load a model by id, alias or path.

    Parameters
    ----------
    name : str
        Id or alias (``organisation/`` before it is ignored), the path of a
        ``.toml`` or ``.json`` spec, or of a Hugging Face ``config.json`` or
        the folder that holds one.

    Raises
    ------
    UnknownNameError
        If it is neither in the catalog nor a file or folder.
    SpecError
        If the file is faulty or of an unknown architecture.
    """
    path = _existing(name)
    if path is not None and looks_like_path(name):
        return _model_file(path)
    if path is None and isinstance(name, str) and name.startswith(_ROOTED):
        raise SpecError(
            name, "does not exist", "name a .toml, a config.json or its folder"
        )
    short = name
    if isinstance(name, str) and not name.endswith((".toml", ".json")):
        short = name.rsplit("/", 1)[-1] or name
    try:
        return load_spec(MODELS, ModelSpec, short)
    except UnknownNameError:
        if path is not None and path.is_dir():
            return _model_file(path)
        other = None
        if not short.endswith((".toml", ".json")):
            other = _spelt(MODELS, model_spellings(short), short)
        if other is None:
            raise
        return load_spec(MODELS, ModelSpec, other)


def _existing(name: object) -> Path | None:
    if not isinstance(name, str) or not name:
        return None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None  # too long, an unknown ~user, a NUL: not a path at all


def _model_file(path: Path) -> ModelSpec:
    file = path / "config.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise SpecError(str(path), "has no config.json", "name a file or such a folder")
    if file.suffix == ".json" and is_huggingface(read_table(file)):
        return load_huggingface(file)
    return load_spec(MODELS, ModelSpec, str(file.absolute()))


def load_stack(name: str) -> StackSpec:
    """Load a software stack by id, alias or path."""
    return load_spec(STACKS, StackSpec, name)


def load_system_file(name: str) -> SystemFile:
    """Load what a system's own file says, names not yet resolved."""
    return load_spec(SYSTEMS, SystemFile, name)


def load_system(name: str) -> SystemSpec:
    """Load a system by id, alias or path; a device id is a system of one.

    Raises
    ------
    UnknownNameError
        If neither a system nor a device is called so.
    """
    if looks_like_path(name):
        table = read_table(SYSTEMS.find(name))
        if _is_device(table):
            return _alone(_Same(load_device(name)))
        return resolve_system(load_spec(SYSTEMS, SystemFile, name))
    if isinstance(name, str) and SYSTEMS.by_id(name) is None and DEVICES.by_id(name):
        return _alone(_Same(load_device(name)))  # before any system's alias
    try:
        file = load_spec(SYSTEMS, SystemFile, name)
    except UnknownNameError as unknown_system:
        return _alone(_Same(_device_or(unknown_system, name)))
    return resolve_system(file)


def _is_device(table: Mapping[str, Any], seen: tuple[Path, ...] = ()) -> bool:
    """Whether a file is of a device, by its keys, else by what it is based on."""
    if "compute" in table or "memory" in table:
        return True
    base = table.get("based_on")
    if not isinstance(base, str) or _OF_SYSTEMS & set(table):
        return False
    if looks_like_path(base):
        path = Path(base)
        if path in seen:
            raise SpecError(str(path), "based_on goes round in a circle")
        return path.is_file() and _is_device(read_table(path), (*seen, path))
    if SYSTEMS.by_id(base) is not None:
        return False
    if DEVICES.by_id(base) is not None:
        return True
    try:
        SYSTEMS.find(base)
    except UnknownNameError:
        return True
    return False


def _device_or(unknown_system: UnknownNameError, name: str) -> DeviceSpec:
    try:
        return load_device(name)
    except UnknownNameError as unknown_device:
        known = {*SYSTEMS, *DEVICES}
        if unknown_system.nearest or unknown_device.nearest:
            known = {*unknown_system.nearest, *unknown_device.nearest}
        raise UnknownNameError(
            "system or device", name, known, "(hwsim systems, hwsim devices)"
        ) from None


def resolve_system(file: SystemFile, outer: tuple[str, ...] = ()) -> SystemSpec:
    """Return a system file with its device and node looked up.

    Raises
    ------
    SpecError
        If a name in it is unknown, node names go round in a circle, or the
        levels do not nest.
    """
    if file.id in outer:
        ring = " -> ".join((*outer, file.id))
        raise SpecError(f"system {file.id}: node", f"goes round in a circle ({ring})")
    if file.device is not None:
        device = _named(file, "device", load_device, file.device)
        return _node(_Same(file), _Same(device))
    inner = _named(file, "node", _load_file, str(file.node))
    return _cluster(_Same(file), _Same(resolve_system(inner, (*outer, file.id))))


class _Same(Generic[S]):
    """A spec that is equal to itself only: resolved anew when it is read anew."""

    __slots__ = ("spec",)

    def __init__(self, spec: S) -> None:
        self.spec = spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.spec is other.spec

    def __hash__(self) -> int:
        return id(self.spec)


@functools.lru_cache(maxsize=256)
def _alone(device: _Same[DeviceSpec]) -> SystemSpec:
    return single_device_system(device.spec)


@functools.lru_cache(maxsize=512)
def _node(file: _Same[SystemFile], device: _Same[DeviceSpec]) -> SystemSpec:
    return _system(file.spec, device=device.spec)


@functools.lru_cache(maxsize=512)
def _cluster(file: _Same[SystemFile], node: _Same[SystemSpec]) -> SystemSpec:
    own, inner = file.spec, node.spec
    power = own.power_overhead
    return _system(
        own,
        device=inner.device,
        devices_per_node=inner.devices_per_node,
        nodes=inner.nodes * own.nodes,
        host=own.host or inner.host,
        networks=(*inner.networks, *own.networks),
        notes=(*own.notes, *inner.notes),
        sources=(*own.sources, *_node_sources(inner)),
        power_overhead=inner.power_overhead if power is None else power,
        devices_per_host_port=own.devices_per_host_port or inner.devices_per_host_port,
        drives_bandwidth=own.drives_bandwidth or inner.drives_bandwidth,
        offload_to=inner.offload_to if own.offload_to == "host" else own.offload_to,
    )


def _system(file: SystemFile, **resolved: Any) -> SystemSpec:
    fields = {
        "id": file.id,
        "name": file.name,
        "notes": file.notes,
        "power_overhead": file.power_overhead,
        "devices_per_host_port": file.devices_per_host_port,
        "drives_bandwidth": file.drives_bandwidth,
        "offload_to": file.offload_to,
        "nodes": file.nodes,
        "host": file.host,
        "networks": file.networks,
        "sources": file.sources,
        "devices_per_node": file.devices_per_node,
    }
    try:
        return SystemSpec(**(fields | resolved))
    except ValidationError as error:
        raise spec_error(error, f"system {file.id}") from None


def _load_file(name: str) -> SystemFile:
    return load_spec(SYSTEMS, SystemFile, name)


def _named(file: SystemFile, key: str, load: Callable[[str], S], name: str) -> S:
    try:
        return load(name)
    except UnknownNameError as unknown:
        raise SpecError(f"system {file.id}: {key}", str(unknown)) from None


def _node_sources(node: SystemSpec) -> list[Source]:
    """Return a node's sources, kept to the figures that a cluster takes over."""
    networks = (f"networks.{network.name}" for network in node.networks)
    own = ("devices_per_node", "host", "drives_bandwidth", *networks)
    sources = []
    for source in node.sources:
        covers = tuple(
            dict.fromkeys(c for p in source.covers for c in (own if p == "*" else (p,)))
        )
        sources.append(source.model_copy(update={"covers": covers}))
    return sources
