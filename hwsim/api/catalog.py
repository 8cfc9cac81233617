"""Devices, systems, models, stacks and engines by name."""

from __future__ import annotations

from collections.abc import Iterable

from hwsim.analysis.resolve import (
    changed,
    changed_system,
    parsed,
)
from hwsim.specs import catalogs
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import ENGINES, EngineSpec
from hwsim.specs.engine import load_engine as engine_named
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


def load_device(name: str, *, overrides: Iterable[str] = ()) -> DeviceSpec:
    """Load a device by id, alias or path.

    Parameters
    ----------
    name : str
        For example ``"h100-80gb-sxm"``, ``"H100_SXM"`` or ``"mine.toml"``.
    overrides : iterable of str
        What-if changes: ``"device.memory.hbm.bandwidth=x2"``.

    Raises
    ------
    UnknownNameError
        If no device is called so.
    SpecError
        If the file or an override is wrong.
    """
    return changed(catalogs.load_device(name), "device", parsed(overrides))


def load_model(name: str, *, overrides: Iterable[str] = ()) -> ModelSpec:
    """Load a model by id, alias, path, or a Hugging Face ``config.json``."""
    return changed(catalogs.load_model(name), "model", parsed(overrides))


def load_stack(name: str, *, overrides: Iterable[str] = ()) -> StackSpec:
    """Load a software stack by id, alias or path."""
    return changed(catalogs.load_stack(name), "stack", parsed(overrides))


def load_system(name: str, *, overrides: Iterable[str] = ()) -> SystemSpec:
    """Load a system by id, alias or path; a device id is a system of one.

    ``device.…`` overrides change the system's device.
    """
    return changed_system(catalogs.load_system(name), parsed(overrides))


def load_engine(name: str, *, overrides: Iterable[str] = ()) -> EngineSpec:
    """Load a serving engine by id, alias or path."""
    return changed(engine_named(name), "engine", parsed(overrides))


def device_ids() -> list[str]:
    """Return the ids of all devices."""
    return sorted(catalogs.DEVICES)


def system_ids() -> list[str]:
    """Return the ids of all systems."""
    return sorted(catalogs.SYSTEMS)


def model_ids() -> list[str]:
    """Return the ids of all models."""
    return sorted(catalogs.MODELS)


def stack_ids() -> list[str]:
    """Return the ids of all software stacks."""
    return sorted(catalogs.STACKS)


def engine_ids() -> list[str]:
    """Return the ids of all serving engines."""
    return sorted(ENGINES)
