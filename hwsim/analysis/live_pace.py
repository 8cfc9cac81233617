"""How fast a processor runs now, against the day its table was measured.

Neighbours on the socket, heat and clocks change a processor's pace by tens of
percent from hour to hour. A few operators timed now say by how much; the laws
keep their form and are scaled, one factor for each kind of operator.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwsim.analysis.live_fit import (
    held_rows,
    row_shapes,
    row_threads,
    value_inputs,
)
from hwsim.analysis.live_operators import Floats, HostOperators, ValueLaw, law_name
from hwsim.specs.measurement_table import FamilyRows, MeasurementTable

PRIOR = 4.0  # rows that say "as on the day of the table"
VALUES = "values"


def paced(
    host: HostOperators, now: MeasurementTable, dtype: str = "fp32"
) -> tuple[HostOperators, dict[str, float]]:
    """Return the laws at today's pace, and the factor of each kind of operator.

    Parameters
    ----------
    host : HostOperators
        Laws from the processor's table.
    now : MeasurementTable
        A few operators measured now; any shapes.
    """
    factors: dict[str, float] = {}
    gemm = now.families.get("gemm")
    if gemm is not None:
        host = _paced_products(host, held_rows(gemm, dtype), factors)
    values = now.families.get("elementwise")
    if values is not None:
        host = _paced_values(host, held_rows(values, dtype), factors)
    return host, factors


def factor_of(logs: Floats) -> float:
    """Return the factor that rows ask for: none if there are none."""
    if not len(logs):
        return 1.0
    return float(np.exp(np.median(logs) * len(logs) / (len(logs) + PRIOR)))


def _paced_products(
    host: HostOperators, rows: FamilyRows, factors: dict[str, float]
) -> HostOperators:
    first, shape, threads = host, row_shapes(rows), row_threads(rows)
    for count in sorted({int(t) for t in threads}):  # one thread first
        for vector in (False, True):
            known = vector in host.alone and (
                count == 1 or (count, vector) in host.shared
            )
            index = np.flatnonzero((threads == count) & (shape.vector == vector))
            if not known or not len(index):
                continue
            part = shape.take(index)
            times, _ = host.products(part, count)
            factor = factor_of(np.log(rows["time"][index] / times))
            # Laws of several threads stand on those of one, scaled already.
            already = float(np.median(times / first.products(part, count)[0]))
            factors[law_name(vector, count)] = factor * already
            host = _scaled(host, vector, count, factor)
    return host


def _scaled(
    host: HostOperators, vector: bool, threads: int, factor: float
) -> HostOperators:
    if threads == 1:
        law = host.alone[vector]
        alone = {**host.alone, vector: replace(law, found=law.found * factor)}
        return replace(host, alone=alone)
    key = (threads, vector)
    shared = host.shared[key]
    return replace(
        host,
        shared={**host.shared, key: ValueLaw(shared.found * factor, shared.spread)},
    )


def _paced_values(
    host: HostOperators, rows: FamilyRows, factors: dict[str, float]
) -> HostOperators:
    logs: list[Floats] = []
    for (op,), index in rows.group_indices("op"):
        if op in host.values:
            part = rows.take(index)
            times = host.value_times(str(op), *value_inputs(part))
            logs.append(np.log(part["time"] / times))
    if not logs:
        return host
    factor = factors[VALUES] = factor_of(np.concatenate(logs))
    values = {
        op: ValueLaw(law.found * factor, law.spread) for op, law in host.values.items()
    }
    return replace(host, values=values)
