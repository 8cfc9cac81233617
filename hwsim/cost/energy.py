"""Power from what a device spends its time on; energy, carbon and money."""

from __future__ import annotations

from collections.abc import Mapping

from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.economics import PowerShares

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


def mean_power(
    device: DeviceSpec,
    parts: Mapping[str, float],
    shares: PowerShares,
    *,
    pipeline: bool = False,
) -> float:
    """Return the mean board power over a breakdown of time. [W]

    Parameters
    ----------
    device : DeviceSpec
        Gives idle and limit (TDP).
    parts : mapping of str to float
        Seconds of compute, memory, interconnect, overhead and idle.
    shares : PowerShares
        How far above idle each state is, as a share of limit minus idle.
    pipeline : bool
        Whether idle time is waiting for other ranks of a pipeline.

    Raises
    ------
    InputError
        If the device has no power figures.
    """
    limit, idle = device.power.tdp, device.power.idle
    if limit is None:
        raise InputError(
            f"device {device.id} has no power.tdp; override it to get energy: "
            "--set device.power.tdp=700W"
        )
    floor = limit * shares.idle_of_tdp if idle is None else idle
    total = sum(parts.values())
    if total <= 0.0:
        return float(floor)
    if pipeline:
        parts = polling(parts)
    above = sum(getattr(shares, name) * time for name, time in parts.items()) / total
    return float(floor + (limit - floor) * above)


def polling(parts: Mapping[str, float]) -> dict[str, float]:
    """Return a breakdown whose idle time is spent in kernels that poll."""
    return {"waiting" if name == "idle" else name: t for name, t in parts.items()}


def host_power(device: DeviceSpec, share: float) -> float:
    """Return a device's part of the power of hosts, network and fans. [W]

    It does not fall while devices wait: processors, memory, network ports and
    fans run on.

    Parameters
    ----------
    share : float
        Of the device's limit. [1]
    """
    return share * (device.power.tdp or 0.0)


def carbon_kg(energy: float, grams_per_kwh: float) -> float:
    """Return kilograms of CO2 equivalent for an energy in joules."""
    return energy / JOULES_PER_KWH * grams_per_kwh / 1e3
