"""Measured rows of one device and source, with the conditions of their times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsim.analysis.measured.work import or_default
from hwsim.cost.cost import FloatArray
from hwsim.specs.benchmark import DEFAULT, BenchmarkSpec, load_benchmark
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement.table import FamilyRows
from hwsim.specs.override import Override

# A cache that is nearly full already evicts some of what is used again.
_RAMP = 0.15


def calibration_family(rows: FamilyRows) -> str:
    """Return the family whose calibration and spread rows of one operator use."""
    if rows.family == "attention":
        return "attention_decode" if rows["op"][0] == "decode" else "attention_prefill"
    return "elementwise" if rows.family == "memory" else rows.family


@dataclass(frozen=True)
class Group:
    """Rows that one call costs.

    Attributes
    ----------
    rows : FamilyRows
        Of one family.
    device : DeviceSpec
        Of all of them.
    calibration : Calibration or None
        Parameters; None for the speed of light.
    benchmark : BenchmarkSpec
        How their source measures.
    system_name : str
        The system that the rows name, if any.
    changes : tuple of Override
        What-if changes, which ``device`` has already.
    """

    rows: FamilyRows
    device: DeviceSpec
    calibration: Calibration | None
    benchmark: BenchmarkSpec
    system_name: str = ""
    changes: tuple[Override, ...] = ()

    @property
    def writes_kv(self) -> bool:
        """Whether attention times include writing the cache."""
        given = self.rows["write_kv"][0]
        return self.benchmark.writes_kv if np.isnan(given) else bool(given)

    @property
    def gated(self) -> FloatArray:
        """Whether experts have three matrices: 1 or 0 by row."""
        known = np.ones(len(self.rows))
        for width, hidden in self.benchmark.ungated_experts:
            known[(self.rows["n"] == width) & (self.rows["k"] == hidden)] = 0.0
        return or_default(self.rows["gated"], known)

    def resident(self, nbytes: FloatArray, operator: str = "") -> FloatArray:
        """Return the share of operands that the shared cache holds at the start.

        The row's ``resident`` goes first, then its ``hot`` or ``copies``, then
        what the source is known for.
        """
        rows, cache = self.rows, self.device.cache
        copies = self.benchmark.copies
        usual = copies.get(operator, copies.get(rows.family))
        number = np.full(len(rows), np.inf if usual is None else float(usual))
        number = or_default(rows["copies"], number)
        hot = rows["hot"]
        number = np.where(hot == 1, 1.0, np.where(hot == 0, np.inf, number))
        size = 0.0 if cache is None else cache.size * self.cache_share()
        with np.errstate(invalid="ignore"):
            filled = np.where(nbytes > 0, number * nbytes / max(size, 1e-30), np.inf)
        fits = np.clip((1.0 + _RAMP - filled) / (2.0 * _RAMP), 0.0, 1.0)
        return or_default(rows["resident"], fits)

    def cache_share(self) -> float:
        """Return the share of the shared cache that one working set can fill.

        The speed of light leaves none of it out.
        """
        if self.calibration is None:
            return 1.0
        name = self.device.architecture
        usual = load_benchmark(DEFAULT).cache_share.get(name, 1.0)
        own = self.benchmark.cache_share.get(name, usual)
        return self.calibration.cache_reach.get(self.rows.family, own)

    def eager_time(self) -> FloatArray:
        """Return what host launch adds to each row. [s]"""
        launch = self.rows["launch"]
        eager = (launch == "eager") | (
            (launch == "") & (self.benchmark.launch == "eager")
        )
        time = self.benchmark.eager_time if self.device.kind == "gpu" else None
        if time is None:
            time = self.device.launch.eager if self.device.launch else 0.0
        return np.where(eager, time, 0.0)
