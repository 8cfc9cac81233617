"""Published microbenchmarks that ship with the devices, beside predictions.

Rates that others measured of products, memories, links and collectives. Times
that specs quote themselves (launches, latencies of loads) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.predict import predict_rows
from hwsim.cost.cost import FloatArray
from hwsim.specs.catalogs import load_device
from hwsim.specs.measurement.read import builtin_measurements, read_measurements
from hwsim.specs.measurement.table import FamilyRows

PREFIX = "public-"


@dataclass(frozen=True)
class MicroRows:
    """Rows of one category.

    Attributes
    ----------
    devices : tuple of str
        Ids of their devices.
    error, default_error : ndarray of float64
        (predicted − measured) / measured time, with parameters of generations
        only and with the best there are. [1]
    """

    devices: tuple[str, ...]
    error: FloatArray
    default_error: FloatArray


def microbenchmarks() -> dict[str, MicroRows]:
    """Return the rows of the tables that ship, by category."""
    files = [p for p in builtin_measurements() if p.name.startswith(PREFIX)]
    found: dict[str, MicroRows] = {}
    for rows in read_measurements(files).families.values():
        categories = _categories(rows)
        errors = [
            predict_rows(rows, fidelity=fidelity).time / rows["time"] - 1
            for fidelity in ("structured", None)
        ]
        for name in sorted(set(categories) - {""}):
            here = categories == name
            found[name] = MicroRows(
                tuple(sorted({load_device(str(d)).id for d in rows["device"][here]})),
                errors[0][here], errors[1][here],
            )  # fmt: skip
    return found


def _categories(rows: FamilyRows) -> NDArray[np.object_]:
    names = {"collective": "collectives", "host_link": "host link"}
    found = np.full(len(rows), names.get(rows.family, ""), dtype=object)
    if rows.family == "gemm":
        narrow = rows["dtype"].astype(str) == "fp8"
        found[:] = np.where(narrow, "products, fp8", "products, 16 bit")
    if rows.family == "memory":
        streams = rows["op"] != "load_latency"
        found[streams] = "memory streams"
        found[streams & _in_cache(rows)] = "cache reads"
    return found


def _in_cache(rows: FamilyRows) -> NDArray[np.bool_]:
    sizes = {}
    for name in set(rows["device"]):
        device = load_device(str(name))
        held = device.cache is not None and device.kind == "gpu"
        sizes[name] = float(device.cache.size) if held and device.cache else 0.0
    size = np.array([sizes[name] for name in rows["device"]])
    touched = rows["working_set_bytes"]
    return np.asarray(np.where(np.isnan(touched), np.inf, touched) <= size)
