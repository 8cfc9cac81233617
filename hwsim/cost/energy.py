"""Power from what a device spends its time on; energy, carbon and money."""

from __future__ import annotations

from collections.abc import Mapping

from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.economics import PowerShares

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


def mean_power(
    device: DeviceSpec, parts: Mapping[str, float], shares: PowerShares
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
    above = sum(getattr(shares, name) * time for name, time in parts.items()) / total
    return float(floor + (limit - floor) * above)


def carbon_kg(energy: float, grams_per_kwh: float) -> float:
    """Return kilograms of CO2 equivalent for an energy in joules."""
    return energy / JOULES_PER_KWH * grams_per_kwh / 1e3
