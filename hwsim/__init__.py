"""hwsim: how long, how much memory, and what limits a Transformer on hardware.

Users import from here only. Names are loaded when first used, so that
``import hwsim`` and ``hwsim --version`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hwsim.version import __version__

if TYPE_CHECKING:
    from hwsim.analysis.graph_result import GraphResult
    from hwsim.analysis.inference import InferResult
    from hwsim.analysis.operator import OpResult
    from hwsim.analysis.training import TrainResult
    from hwsim.api import (
        compare_published,
        device_ids,
        estimate,
        infer,
        load_device,
        load_model,
        load_stack,
        load_system,
        model_ids,
        op,
        roofline,
        run_scenario,
        simulate,
        stack_ids,
        system_ids,
        train,
        write_report,
    )
    from hwsim.errors import (
        GraphError,
        HwsimError,
        InputError,
        OutputError,
        SpecError,
        UnknownNameError,
    )
    from hwsim.specs.device import DeviceSpec
    from hwsim.specs.model import ModelSpec
    from hwsim.specs.stack import StackSpec
    from hwsim.specs.system import SystemSpec

_HOMES = {
    "hwsim.api": (
        "compare_published", "device_ids", "estimate", "infer", "load_device",
        "load_model", "load_stack", "load_system", "model_ids", "op", "roofline",
        "run_scenario", "simulate", "stack_ids", "system_ids", "train",
        "write_report",
    ),
    "hwsim.errors": (
        "GraphError", "HwsimError", "InputError", "OutputError", "SpecError",
        "UnknownNameError",
    ),
    "hwsim.analysis.graph_result": ("GraphResult",),
    "hwsim.analysis.inference": ("InferResult",),
    "hwsim.analysis.operator": ("OpResult",),
    "hwsim.analysis.training": ("TrainResult",),
    "hwsim.specs.device": ("DeviceSpec",),
    "hwsim.specs.model": ("ModelSpec",),
    "hwsim.specs.stack": ("StackSpec",),
    "hwsim.specs.system": ("SystemSpec",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DeviceSpec",
    "GraphError",
    "GraphResult",
    "HwsimError",
    "InferResult",
    "InputError",
    "ModelSpec",
    "OpResult",
    "OutputError",
    "SpecError",
    "StackSpec",
    "SystemSpec",
    "TrainResult",
    "UnknownNameError",
    "__version__",
    "compare_published",
    "device_ids",
    "estimate",
    "infer",
    "load_device",
    "load_model",
    "load_stack",
    "load_system",
    "model_ids",
    "op",
    "roofline",
    "run_scenario",
    "simulate",
    "stack_ids",
    "system_ids",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'hwsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
