"""Copies between devices and the memory of their host."""

from __future__ import annotations

from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import Link
from hwsim.specs.system import SystemSpec


def host_link(system: SystemSpec, calibration: Calibration) -> tuple[Link, float]:
    """Return the host link and what each device gets of it. [B/s]

    All devices of a node copy at the same time, as they do in training; those
    behind one port of the host share it, and all share the drives where these
    take what is offloaded.

    Raises
    ------
    InputError
        If the device's spec has no host link.
    """
    link = system.device.host_link
    if link is None:
        raise InputError(
            f"device {system.device.id} has no host_link; "
            "offloading needs one in its spec"
        )
    sustained = link.bandwidth * calibration.elementwise.host_copy_efficiency
    return link, min(sustained / system.host_sharers, system.offload_limit)
