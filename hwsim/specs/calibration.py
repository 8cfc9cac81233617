"""Calibrations: named physical parameters of the cost models of one device.

Numbers stand in data, never here: ``devices/generations/<name>.toml`` holds
the defaults of an architecture or, failing that, of a device kind.
"""

from __future__ import annotations

import functools
import os

from hwsim.errors import UnknownNameError
from hwsim.resources import USER_PATH
from hwsim.specs.base import CatalogSpec
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import Catalog, load_spec
from hwsim.specs.parameters.attention import AttentionParameters
from hwsim.specs.parameters.collective import CollectiveParameters
from hwsim.specs.parameters.elementwise import ElementwiseParameters
from hwsim.specs.parameters.matmul import MatmulParameters
from hwsim.specs.parameters.moe import MoeParameters


class Calibration(CatalogSpec):
    """Parameters of every cost model, for one device or generation."""

    matmul: MatmulParameters
    elementwise: ElementwiseParameters
    attention: AttentionParameters
    moe: MoeParameters
    collective: CollectiveParameters


GENERATIONS = Catalog("generation", Calibration, "devices", "generations/*.toml")


def calibration_for(device: DeviceSpec) -> Calibration:
    """Return the calibration of a device's architecture, else of its kind.

    Raises
    ------
    UnknownNameError
        If there are defaults for neither.
    """
    return _generation(device.architecture, device.kind, os.environ.get(USER_PATH))


@functools.lru_cache(maxsize=64)
def _generation(architecture: str, kind: str, user_path: str | None) -> Calibration:
    del user_path  # part of the cache key: it decides which files are found
    for name in (architecture, kind):
        try:
            return load_spec(GENERATIONS, Calibration, name)
        except UnknownNameError:
            continue
    raise UnknownNameError("generation", architecture, GENERATIONS)
