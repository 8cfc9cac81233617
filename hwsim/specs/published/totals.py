"""Whole training runs that were published: device hours, energy, interruptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hwsim.specs.base import CatalogSpec, Count, Name, Spec
from hwsim.specs.load import Catalog, load_spec

TotalMetric = Literal["device_hours", "energy_mwh", "interruptions", "goodput"]
TOTAL_UNITS: dict[str, str] = {
    "device_hours": "device h",
    "energy_mwh": "MWh",
    "interruptions": "",
    "goodput": "1",
}


Positive = Annotated[float, Field(gt=0.0)]


class PublishedFactors(Spec):
    """What a published total is the product of, as far as its source says.

    Attributes
    ----------
    tokens_per_s : float or None
        Rate of one device while steps are computed. [1/s]
    device_hours : float or None
        Of the whole run. [h]
    power_w : float or None
        Mean power of one device and its part of the host. [W]
    pue : float or None
        Facility over computer power; 1 where the source leaves it out.
    """

    tokens_per_s: Positive | None = None
    device_hours: Positive | None = None
    power_w: Positive | None = None
    pue: Annotated[float, Field(ge=1.0, le=3.0)] | None = None


class PublishedTotal(CatalogSpec):
    """One published figure of a whole run, and the run that it belongs to.

    Attributes
    ----------
    metric, value : str, float
        What was published, in the unit of ``TOTAL_UNITS``; ``goodput`` is a
        least value.
    days : float or None
        Length of the period that interruptions and goodput were counted in.
    tokens : float
        Of the whole run.
    devices, tp, pp, dp, ep, micro_batch, global_batch, seq : int
        Layout; batches in sequences.
    pue : float or None
        Where the source states its own.
    factors : PublishedFactors
        What the figure is made of.
    """

    metric: TotalMetric
    value: Annotated[float, Field(gt=0.0)]
    days: Annotated[float, Field(gt=0.0)] | None = None
    model: Name
    system: Name
    stack: Name
    tokens: Annotated[float, Field(gt=0.0)]
    devices: Count
    tp: Count = 1
    pp: Count = 1
    vpp: Count = 1
    dp: Count
    ep: Count = 1
    schedule: Name | None = None
    micro_batch: Count
    global_batch: Count
    seq: Count
    dtype: Name = "bf16"
    recompute: Name = "none"
    zero_stage: Literal[0, 1, 2, 3] = 0
    sequence_parallel: bool = False
    pue: Annotated[float, Field(ge=1.0, le=3.0)] | None = None
    factors: PublishedFactors = PublishedFactors()

    def train_options(self) -> dict[str, Any]:
        """Return the options of one training step."""
        names = (
            "devices", "tp", "pp", "vpp", "dp", "ep", "schedule", "micro_batch",
            "global_batch", "seq", "dtype", "recompute", "zero_stage",
            "sequence_parallel",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


TOTALS = Catalog("whole run", PublishedTotal, "workloads", "totals/*.toml")


def load_totals() -> tuple[PublishedTotal, ...]:
    """Load all published whole runs, by id."""
    return tuple(
        load_spec(TOTALS, PublishedTotal, name) for name in sorted(TOTALS.paths())
    )
