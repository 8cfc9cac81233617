"""What a roofline draws, in numbers: ceilings of a device, operators as points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hwsim.analysis.graph_result import GraphResult
    from hwsim.analysis.saved import SavedGraph
    from hwsim.specs.device import DeviceSpec


class Ceiling(NamedTuple):
    """A compute peak with all that share it. [FLOP/s]"""

    peak: float
    dtypes: tuple[str, ...]
    unit: str


class OpPoint(NamedTuple):
    """One distinct operator in the picture."""

    arithmetic_intensity: float
    flop_per_s: float
    share: float
    name: str
    kind: str
    series: int


def compute_ceilings(device: DeviceSpec) -> list[Ceiling]:
    """Return the compute peaks, highest first; equal ones are one ceiling."""
    found: dict[tuple[float, str], list[str]] = {}
    tables = (("matrix", device.compute.matrix), ("vector", device.compute.vector))
    for unit, table in tables:
        for dtype, peak in table.items():
            found.setdefault((float(peak), unit), []).append(dtype)
    return [
        Ceiling(peak, tuple(dtypes), unit)
        for (peak, unit), dtypes in sorted(found.items(), key=lambda i: -i[0][0])
    ]


def memory_ceilings(device: DeviceSpec) -> dict[str, float]:
    """Return the memory levels that have a bandwidth, fastest first. [B/s]"""
    levels = {n: m.bandwidth for n, m in device.memory.items() if m.bandwidth}
    return dict(sorted(levels.items(), key=lambda item: -item[1]))


def op_points(
    results: Sequence[GraphResult | SavedGraph],
) -> tuple[list[OpPoint], list[float]]:
    """Return operators as points, and the share of time of those without one.

    Shares are of the time of each result. Operators that compute nothing or
    move nothing (copies, lookups, collectives) have no place on a log-log
    roofline.
    """
    points, left = [], []
    for series, result in enumerate(results):
        rows = result.op_rows()
        total = sum(float(row["total_s"]) for row in rows) or 1.0
        phases = Counter(n for n, _ in {(r["name"], r["phase"]) for r in rows})
        drawn = [r for r in rows if min(r["flop"], r["nbytes"], r["time_s"]) > 0]
        for row in drawn:
            # A phase is told only where a name stands in several.
            phase = f" ({row['phase']})" if phases[row["name"]] > 1 else ""
            points.append(
                OpPoint(
                    arithmetic_intensity=row["flop"] / row["nbytes"],
                    flop_per_s=row["flop"] / row["time_s"],
                    share=row["total_s"] / total,
                    name=f"{row['name']}{phase}",
                    kind=row["kind"],
                    series=series,
                )
            )
        left.append(1.0 - sum(row["total_s"] for row in drawn) / total)
    return points, left
