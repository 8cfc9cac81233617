"""Measured rows of one device and one operator family, ready for fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.costs import COSTS, cost_rows
from hwsim.analysis.measured.group import Group
from hwsim.cost.cost import FloatArray
from hwsim.errors import HwsimError, InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.benchmark import benchmark_of
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement.names import SCALED_DTYPES
from hwsim.specs.measurement.table import FamilyRows, MeasurementTable

# By family of calibration files: family of tables, operators, what a block is.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "elementwise": ("elementwise", (), ("m", "n")),
    "gemm": ("gemm", (), ("n", "k")),
    "attention_prefill": (
        "attention", ("prefill",), ("heads", "kv_heads", "head_dim", "window"),
    ),
    "attention_decode": (
        "attention", ("decode",), ("heads", "kv_heads", "head_dim", "window"),
    ),
    "moe": ("moe", (), ("n", "k", "experts")),
    "collective": ("collective", (), ("decade",)),
}  # fmt: skip
SPLITS = {
    "elementwise": "whole (m, n) shapes",
    "gemm": "whole (n, k) families",
    "attention_prefill": "whole head configurations (heads, kv_heads, width, window)",
    "attention_decode": "whole head configurations (heads, kv_heads, width, window)",
    "moe": "whole (n, k, experts) models",
    "collective": "whole decades of message size",
}

LARGE = 1024  # sides of weights from which products are those of models' layers


@dataclass(frozen=True)
class FitRows:
    """Rows of one family, grouped as the cost functions take them.

    Attributes
    ----------
    family : str
        As calibration files name it.
    rows : FamilyRows
        What was measured, in one order.
    groups : tuple of (Group, indices)
        Parts that one call costs.
    time : ndarray of float64
        Measured. [s]
    block : ndarray of int
        Number of the block that each row belongs to; fits are judged on
        whole blocks that they did not see.
    """

    family: str
    rows: FamilyRows
    groups: tuple[tuple[Group, NDArray[np.int64]], ...]
    time: FloatArray
    block: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: NDArray[np.int64]) -> FitRows:
        """Return some of the rows, in the order of ``index``."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[index] = np.arange(len(index))
        groups = []
        for group, where in self.groups:
            kept = place[where] >= 0
            if np.any(kept):
                part = replace(group, rows=group.rows.take(np.flatnonzero(kept)))
                groups.append((part, place[where][kept]))
        return FitRows(
            self.family, self.rows.take(index), tuple(groups), self.time[index],
            self.block[index],
        )  # fmt: skip

    def predict(self, calibration: Calibration) -> FloatArray:
        """Return the predicted time of every row. [s]"""
        out = np.empty(len(self))
        for group, where in self.groups:
            out[where] = cost_rows(replace(group, calibration=calibration)).time
        return out

    def features(
        self, calibration: Calibration
    ) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
        """Return feature names, features by row, and the time they stand for.

        That time is of the operator alone, without kernels that a table
        counts in. [s]
        """
        names: tuple[str, ...] = ()
        table, own = None, np.empty(len(self))
        for group, where in self.groups:
            probe = _Probe()
            watched = calibration.model_copy(update={"residuals": {self.family: probe}})
            cost_rows(replace(group, calibration=watched))
            columns, own[where] = probe.seen[0]
            names = tuple(columns)
            if table is None:
                table = np.empty((len(names), len(self)))
            for i, name in enumerate(names):
                table[i, where] = columns[name]
        return names, np.empty((0, 0)) if table is None else table, own

    @property
    def narrow(self) -> NDArray[np.bool_]:
        """Whether a row's operands take a byte or less."""
        known = {
            name: DTYPE_BYTES.get(SCALED_DTYPES.get(name, name), 2.0) <= 1
            for name in set(self.rows["dtype"])
        }
        return np.array([known[name] for name in self.rows["dtype"]], dtype=bool)

    def labels(self) -> NDArray[np.object_]:
        """Return the group that errors are reported by: operator or dtype."""
        if self.family == "collective":
            return self.rows["op"]
        if self.family.startswith("attention"):
            own, kv = self.rows["dtype"], self.rows["kv_dtype"]
            return np.where(kv == "", own, kv)
        return self.rows["dtype"]

    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """Return which rows errors are reported of beside those of all."""
        labels = self.labels()
        found = {str(name): labels == name for name in sorted(set(labels))}
        if self.family == "gemm" and np.any(labels == "bf16"):
            large = (self.rows["n"] >= LARGE) & (self.rows["k"] >= LARGE)
            found[f"bf16, n and k from {LARGE:,}"] = (labels == "bf16") & large
        return {name: mask for name, mask in found.items() if np.any(mask)}


class _Probe:
    """Stands in for a residual and keeps what it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, FloatArray], FloatArray]] = []

    def log_factor(
        self, columns: Mapping[str, Any], count: int, time: FloatArray
    ) -> FloatArray:
        """Keep features and times; change nothing."""
        kept = {name: np.array(values) for name, values in columns.items()}
        self.seen.append((kept, np.array(time).ravel()))
        return np.zeros(count)


def fit_rows(
    table: MeasurementTable, device: DeviceSpec, names: Sequence[str], family: str
) -> FitRows | None:
    """Return the rows of a family that were measured on a device, if any.

    Rows of which other processes made the time are left out.

    Parameters
    ----------
    names : sequence of str
        What tables call the device: id and aliases, as written there.
    family : str
        As calibration files name it.
    """
    source, ops, _ = TABLES[family]
    rows = table.families.get(source)
    if rows is None:
        return None
    keep = np.isin(rows["device"].astype(str), list(names))
    if ops:
        keep &= np.isin(rows["op"].astype(str), ops)
    keep &= rows.undisturbed
    rows = rows.take(np.flatnonzero(keep & _all_units(rows, device)))
    found = _grouped(rows, device) if len(rows) else []
    if not found:
        return None
    index = np.sort(np.concatenate([where for _, where in found]))
    place = np.full(len(rows), -1, dtype=np.int64)
    place[index] = np.arange(len(index))
    groups = tuple((group, place[where]) for group, where in found)
    kept = rows.take(index)
    return FitRows(family, kept, groups, kept["time"], _blocks(kept, family))


def _all_units(rows: FamilyRows, device: DeviceSpec) -> NDArray[np.bool_]:
    """Mark rows measured with all cores of a CPU, as the cost forms mean them."""
    threads = rows.extra.get("threads", rows.columns.get("threads"))
    if threads is None or device.kind != "cpu":
        return np.ones(len(rows), dtype=bool)
    known = {"", "nan", str(device.compute.units), f"{device.compute.units}.0"}
    return np.array([str(number) in known for number in threads], dtype=bool)


def _grouped(
    rows: FamilyRows, device: DeviceSpec
) -> list[tuple[Group, NDArray[np.int64]]]:
    """Return the parts that can be costed; others are left out."""
    found = []
    for (source, system), index in rows.group_indices("source", "system"):
        some = rows.take(index)
        for _, part in some.group_indices(*COSTS[rows.family][0]):
            group = Group(
                rows=some.take(part), device=device, calibration=None,
                benchmark=benchmark_of(str(source)), system_name=str(system),
            )  # fmt: skip
            try:
                cost_rows(group)
            except HwsimError:
                continue
            found.append((group, index[part]))
    return found


def _blocks(rows: FamilyRows, family: str) -> NDArray[np.int64]:
    keys = []
    for name in TABLES[family][2]:
        if name == "decade":
            column = np.floor(np.log10(rows["nbytes"]))
        else:
            column = np.nan_to_num(rows[name], nan=-1.0)
        keys.append(column)
    _, block = np.unique(np.stack(keys), axis=1, return_inverse=True)
    return np.asarray(block, dtype=np.int64).ravel()


def folds(block: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row: blocks dealt out at random, evenly by rows."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(block)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, fold = np.zeros(number), np.empty(len(sizes), dtype=np.int64)
    for which in order:
        fold[which] = np.argmin(load)
        load[fold[which]] += sizes[which]
    return fold[block]


def check_some(rows: FitRows | None, family: str, device: DeviceSpec) -> FitRows:
    """Return rows, refusing none."""
    if rows is None:
        raise InputError(f"no {family} rows of {device.id} in the measurements")
    return rows
