"""What is fitted for each operator family, and within which physical bounds.

Every parameter is positive and fitted on a logarithmic scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.fitting.rows import FitRows
from hwsim.analysis.measured.collective import _system as system_of
from hwsim.analysis.measured.collective import direct_kernel
from hwsim.analysis.measured.costs import library_of
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.measurement.names import COLLECTIVE_NAMES, SCALED_DTYPES
from hwsim.specs.parameters.moe import TUNED

US = 1e-6


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter by dotted path, and the values it may take, in SI."""

    path: str
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Parameters fitted together to some of a family's rows."""

    bounds: tuple[Bound, ...]
    rows: Any  # mask


def _b(prefix: str, **limits: tuple[float, float]) -> tuple[Bound, ...]:
    return tuple(Bound(f"{prefix}.{name}", *ends) for name, ends in limits.items())


_ELEMENTWISE = (
    *_b(
        "elementwise",
        memory_efficiency=(0.2, 1.0), cache_efficiency=(0.02, 1.0),
        memory_ramp=(0.01 * US, 30 * US), overhead=(0.1 * US, 50 * US),
        overlap=(1.0, 20.0), row_time=(0.001 * US, 2 * US),
        row_rate=(2.0, 400.0),
    ),
    Bound("cache_reach.elementwise", 0.05, 1.5),
)  # fmt: skip
_MATMUL = (
    *_b(
        "matmul",
        sustained_derate=(1e-4, 0.3), sustained_work=(1e9, 1e13),
        memory_efficiency=(0.3, 1.0), memory_mixing=(1e-4, 0.6),
        memory_ramp=(0.01 * US, 20 * US), overlap=(1.0, 20.0),
        overhead=(0.2 * US, 30 * US),
    ),
    Bound("cache_reach.gemm", 0.05, 1.5),
)  # fmt: skip
_TILED: dict[str, tuple[float, float]] = {
    "operand_ratio": (0.003, 0.2), "wave_quantisation": (0.005, 1.0),
    "fill": (0.01 * US, 8 * US), "epilogue": (0.02, 12.0),
    "step_latency": (0.001 * US, 2 * US), "supply_overlap": (1.0, 60.0),
    "split_sync": (0.05 * US, 30 * US),
}  # fmt: skip
_BLOCK_SCALED: dict[str, tuple[float, float]] = {
    "efficiency": (0.1, 1.0), "start_time": (0.01 * US, 30 * US),
}  # fmt: skip
_BLOCKED: dict[str, tuple[float, float]] = {
    "edge_loss": (1e-3, 1.0), "cache_share": (0.02, 1.0), "work_per_thread": (1e3, 1e9),
    "thread_sync": (0.05 * US, 500 * US), "pack_time": (1e-7 * US, 0.02 * US),
    "store_time": (1e-7 * US, 0.02 * US), "batch_time": (1e-3 * US, 50 * US),
}  # fmt: skip
_PREFILL = _b(
    "attention.prefill",
    start_time=(0.5 * US, 60 * US), token_time=(1e-5 * US, 3 * US),
    block_time=(0.01 * US, 30 * US), block_width_exponent=(0.01, 2.0),
    matrix_efficiency=(0.1, 1.0), exponentials_per_clock=(1.0, 128.0),
    overlap=(1.0, 12.0), wave_quantization=(0.005, 1.0),
    longest_block_ratio=(0.05, 3.0), balance=(1.0, 12.0),
    memory_efficiency=(0.1, 1.0), memory_overlap=(1.0, 12.0),
)  # fmt: skip
_PREFILL_NARROW = _b(
    "attention.prefill",
    narrow_matrix_efficiency=(0.05, 1.0), narrow_width_exponent=(0.001, 3.0),
)  # fmt: skip
_DECODE = (
    *_b(
        "attention.decode",
        start_time=(0.5 * US, 60 * US), fill_time=(0.01 * US, 20 * US),
        sequence_time=(1e-5 * US, 0.1 * US), unit_time=(0.01 * US, 20 * US),
        unit_width_exponent=(0.01, 3.0), split_time=(0.01 * US, 10 * US),
        max_splits=(1.0, 256.0), overlap=(1.0, 12.0), memory_efficiency=(0.3, 1.0),
        unit_bandwidth_ratio=(1.0, 20.0), cache_bandwidth_ratio=(1.0, 20.0),
        matrix_efficiency=(0.01, 1.0),
    ),
    Bound("cache_reach.attention", 0.05, 1.5),
)  # fmt: skip
_DECODE_NARROW = _b("attention.decode", narrow_matrix_efficiency=(0.01, 1.0))
_REGROUP = _b("attention.decode", regroup_time=(0.05 * US, 30 * US))
_DIRECT = _b(
    "collective.direct",
    start_time=(1 * US, 60 * US), peer_time=(0.001 * US, 5 * US),
    exchange_time=(0.01 * US, 30 * US), efficiency=(0.02, 1.0),
    host_time=(1 * US, 200 * US),
)  # fmt: skip
_EXPERTS: dict[str, tuple[float, float]] = {
    "start_time": (1 * US, 300 * US), "block_time": (0.005 * US, 20 * US),
    "half_rate_rows": (0.5, 400.0), "matrix_efficiency": (0.05, 1.0),
    "unaligned_efficiency": (0.05, 1.0), "wave_quantization": (0.005, 1.0),
    "memory_efficiency": (0.3, 1.0), "unit_bandwidth_ratio": (0.2, 20.0),
    "cache_bandwidth_ratio": (1.0, 8.0), "reread_share": (0.001, 1.0),
    "overlap": (1.0, 12.0), "row_copy_efficiency": (0.02, 1.0),
    "foreign_pair_share": (0.005, 1.0),
}  # fmt: skip
_EXPERT_CACHE = (Bound("cache_reach.moe", 0.05, 1.5),)


def stages(rows: FitRows, calibration: Calibration) -> list[Stage]:
    """Return what is fitted to rows, stage after stage."""
    every = np.ones(len(rows), dtype=bool)
    if rows.family == "gemm":
        return _gemm(rows, calibration)
    if rows.family == "elementwise":
        return [Stage(_ELEMENTWISE, every)]
    if rows.family == "collective":
        # The library's kernels, then frameworks' own.
        own = np.array([direct_kernel(str(k)) > 0 for k in rows.rows["kernel"]])
        plan = [Stage(_collective(rows, calibration), ~own if np.any(~own) else every)]
        if np.any(own) and calibration.collective.direct is not None:
            plan.append(Stage(_DIRECT, own))
        return plan
    if rows.family == "moe":
        return _moe(rows, calibration)
    narrow = np.any(np.isin(rows.rows["kv_dtype"].astype(str), ("fp8", "int8")))
    if rows.family == "attention_prefill":
        bounds = (*_PREFILL, *(_PREFILL_NARROW if narrow else ()))
    else:
        regroup = _REGROUP if calibration.attention.decode.regroups_heads else ()
        bounds = (*_DECODE, *(_DECODE_NARROW if narrow else ()), *regroup)
    if len(set(rows.rows["head_dim"])) == 1:  # says nothing about other widths
        bounds = tuple(b for b in bounds if "width_exponent" not in b.path)
    return [Stage(bounds, every)]


def _moe(rows: FitRows, calibration: Calibration) -> list[Stage]:
    """Fit each kernel to its own rows, the first with the reach of the cache."""
    width = np.where(rows.narrow, 1.0, 2.0)
    names = np.array([
        calibration.moe.name(size, library_of(str(kernel)))
        for size, kernel in zip(width, rows.rows["kernel"], strict=True)
    ])  # fmt: skip
    column = rows.rows
    experts, hidden = column["experts"] / column["ep"], column["n"] / column["tp"]
    tuned = np.zeros(len(rows), dtype=bool)
    for name in set(names):
        tuned |= (names == name) & calibration.moe.has_tuned(name, experts, hidden)
    names = np.where(tuned, np.char.add(f"{TUNED}_", names), names)
    plan: list[Stage] = []
    for name in sorted(set(names), key=lambda n: -np.count_nonzero(names == n)):
        bounds = _b(f"moe.kernels.{name}", **_EXPERTS)
        if not np.any(_unaligned(rows)[names == name]):
            bounds = tuple(b for b in bounds if "unaligned" not in b.path)
        plan.append(Stage(bounds + (() if plan else _EXPERT_CACHE), names == name))
    return plan


def _unaligned(rows: FitRows) -> NDArray[np.bool_]:
    return np.asarray(rows.rows["n"] / rows.rows["tp"] % 16 != 0)


def _gemm(rows: FitRows, calibration: Calibration) -> list[Stage]:
    narrow, params = rows.narrow, calibration.matmul
    block = np.isin(rows.rows["dtype"].astype(str), list(SCALED_DTYPES)) & narrow
    if params.tiled_block is None and np.any(narrow & ~block):
        block &= False  # learned factors alone tell them apart
    plan: list[Stage] = []
    for mask, table in (
        (~narrow, "tiled"), (narrow & ~block, "tiled_narrow"), (block, "tiled_block"),
    ):  # fmt: skip
        if np.count_nonzero(mask) < 20:
            continue
        own = getattr(params, table) is not None
        first = not plan
        bounds: tuple[Bound, ...] = ()
        if table != "tiled_block" or not own:
            bounds = tuple(
                Bound(f"matmul.compute_efficiency.{name}", 0.1, 1.0)
                for name in _dtypes(rows.rows["dtype"][mask])
            )
        if first:
            bounds += _MATMUL
        if params.blocked is not None and first:
            bounds += _b("matmul.blocked", **_BLOCKED)
        elif own:
            bounds += _b(f"matmul.{table}", **_TILED)
        if own and table == "tiled_block":
            bounds += _b("matmul.tiled_block", **_BLOCK_SCALED)
        plan.append(Stage(bounds, mask))
    return plan


def _dtypes(column: Any) -> list[str]:
    names = {SCALED_DTYPES.get(str(name), str(name)) for name in set(column)}
    return sorted(name for name in names if name in DTYPE_BYTES)


def _collective(rows: FitRows, calibration: Calibration) -> tuple[Bound, ...]:
    ops = {COLLECTIVE_NAMES.get(str(o), str(o)) for o in set(rows.rows["op"])}
    kinds = _kinds(rows)
    params = calibration.collective
    bounds = [Bound(f"collective.start_time.{op}", US, 60 * US) for op in sorted(ops)]
    if "all_to_all" in ops:
        bounds.append(Bound("collective.peer_time", 1e-4 * US, 10 * US))
    last = list(params.protocols)[-1]
    for name in params.protocols:
        prefix = f"collective.protocols.{name}"
        bounds += [
            Bound(f"{prefix}.step_time.{kind}", 0.001 * US, 40 * US) for kind in kinds
        ]
        if name == last:  # its share is the network's efficiency
            bounds += [Bound(f"{prefix}.ramp_size.{k}", 1e2, 3e7) for k in kinds]
        else:
            bounds.append(Bound(f"{prefix}.bandwidth_ratio", 0.005, 1.0))
    bounds += [Bound(f"collective.efficiency.{k}", 0.1, 1.0) for k in kinds]
    bounds += _b("collective", copy_efficiency=(0.05, 1.0), ramp_exponent=(0.4, 0.9))
    if "all_reduce" in ops and "switch" in kinds:
        bounds += _b(
            "collective", in_network_efficiency=(0.3, 1.0),
            in_network_step_time=(0.01 * US, 60 * US),
        )  # fmt: skip
    if "bus" in kinds:
        bounds += _b("collective", host_bounce_efficiency=(0.02, 1.0))
    return tuple(bounds)


def _kinds(rows: FitRows) -> list[str]:
    kinds = set()
    for group, _ in rows.groups:
        system = system_of(group, int(group.rows["world_size"].max()))
        kinds |= {network.kind for network in system.networks}
    return sorted(kinds)
