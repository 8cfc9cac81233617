"""Prices, grid intensities and power shares: dated, sourced, overridable."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.base import CatalogSpec, Fraction, Identifier, Name, Seconds, Spec
from hwsim.specs.load import Catalog, fold, load_spec

UsdPerHour = Annotated[float, Field(ge=0.0, le=1e5)]
GramsPerKwh = Annotated[float, Field(ge=0.0, le=2e3)]


class PowerShares(Spec):
    """Board power above idle in each state, as a share of (TDP - idle).

    ``waiting`` is for another rank of a pipeline, in a kernel that polls;
    ``idle`` is for the host, with nothing launched.
    ``idle_of_tdp`` stands in for the idle power of devices that quote none.
    """

    compute: Fraction
    memory: Fraction
    interconnect: Fraction
    overhead: Fraction
    waiting: Fraction
    idle: Fraction
    idle_of_tdp: Fraction


class Reliability(Spec):
    """How often parts fail and how long a job takes to be back. [s]"""

    device_mtbf: Seconds
    node_mtbf: Seconds
    restart_time: Seconds
    repair_time: Seconds


class Economics(CatalogSpec):
    """Reference figures for energy, carbon, money and failures.

    Attributes
    ----------
    pue : float
        Facility power over computer power.
    host_share : float
        Power of hosts, network and fans, while a job runs, over the limit (TDP)
        of the devices, where a system's spec does not say.
    prices : dict of str to float
        On-demand price of one device. [USD/h]
    grids : dict of str to float
        Mean carbon intensity of a grid. [g/kWh, CO2 equivalent]
    checkpoint_bytes_per_parameter : float
        Weights and optimizer states written by a checkpoint. [B]
    checkpoint_bandwidth_per_node : float
        Rate at which one node writes it. [B/s]
    """

    pue: Annotated[float, Field(ge=1.0, le=3.0)]
    host_share: Fraction
    power: PowerShares
    reliability: Reliability
    prices: dict[Identifier, UsdPerHour]
    grids: dict[Name, GramsPerKwh]
    checkpoint_bytes_per_parameter: Annotated[float, Field(gt=0.0, le=64.0)]
    checkpoint_bandwidth_per_node: Annotated[float, Field(gt=0.0, le=1e13)]

    def grid(self, name: str) -> float:
        """Return a grid's carbon intensity. [g/kWh]"""
        for known, value in self.grids.items():
            if fold(known) == fold(name):
                return value
        raise UnknownNameError("grid", name, self.grids)

    def price(self, device: str) -> float:
        """Return a device's hourly price. [USD/h]"""
        if device not in self.prices:
            raise InputError(
                f"no price is known for {device}; give --price in USD per device hour"
            )
        return self.prices[device]


ECONOMICS = Catalog("economics", Economics, "workloads", "economics/*.toml")


def load_economics(name: str = "reference") -> Economics:
    """Load reference figures by name or path."""
    return load_spec(ECONOMICS, Economics, name)
