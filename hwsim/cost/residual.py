"""Applies what a device's measurements say beyond a physical cost form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.specs.calibration import Calibration


def corrected(
    cost: Cost,
    calibration: Calibration,
    family: str,
    features: Callable[[], Mapping[str, Any]],
) -> Cost:
    """Return a cost times the learned factor of its family, if there is one.

    Parameters
    ----------
    cost : Cost
        From a physical form.
    calibration : Calibration
        May hold a residual of the family.
    family : str
        Operator family, as calibration files name it.
    features : callable
        Gives the features by name; asked only where there is a residual.
    """
    residual = calibration.residuals.get(family)
    if residual is None:
        return cost
    shape = np.shape(cost.time)
    columns = {
        name: np.broadcast_to(values, shape).ravel()
        for name, values in features().items()
    }
    factor = np.exp(residual.log_factor(columns, cost.time.size, cost.time))
    factor = factor.reshape(shape)
    return Cost(
        time=cost.time * factor,
        compute=cost.compute * factor,
        levels={name: part * factor for name, part in cost.levels.items()},
        interconnect=cost.interconnect * factor,
        overhead=cost.overhead * factor,
    )


def log2(values: ArrayLike) -> FloatArray:
    """Return binary logarithms; what is nothing counts as one."""
    array = np.asarray(values, dtype=np.float64)
    found: FloatArray = np.log2(np.maximum(array, 1.0))
    return found


def gemm_features(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    batch: ArrayLike,
    width: float,
    block_scales: bool,
) -> dict[str, Any]:
    """Return the features of products; ``width`` is of the dtype multiplied [B]."""
    m, n, k, batch = (np.asarray(v, dtype=np.float64) for v in (m, n, k, batch))
    return {
        "m": log2(m), "n": log2(n), "k": log2(k), "batch": log2(batch),
        "mn": log2(m * n * batch), "mk": log2(m * k), "nk": log2(n * k),
        "work": log2(m * n * k * batch), "aspect": log2(n) - log2(k),
        "rows_used": m / (128.0 * np.ceil(m / 128.0)),
        "columns_used": n / (256.0 * np.ceil(n / 256.0)),
        "blocks": log2(np.ceil(m / 128.0) * np.ceil(n / 128.0) * batch),
        "width": width, "block_scales": float(block_scales),
    }  # fmt: skip


def attention_features(
    batch: FloatArray,
    heads: FloatArray,
    kv_heads: FloatArray,
    head_dim: FloatArray,
    seq_q: FloatArray,
    seq_kv: FloatArray,
    window: FloatArray,
    kv_width: float,
) -> dict[str, Any]:
    """Return the features of fused attention; ``kv_width`` is of the cache [B]."""
    seen = np.where(window > 0, np.minimum(seq_kv, window), seq_kv)
    return {
        "batch": log2(batch), "heads": log2(heads), "kv_heads": log2(kv_heads),
        "group": log2(heads / kv_heads), "head_dim": log2(head_dim),
        "seq_q": log2(seq_q), "seen": log2(seen), "window": log2(window),
        "over_window": (window > 0) * log2(seq_kv / np.maximum(window, 1.0)),
        "tokens": log2(batch * seq_q), "units": log2(batch * kv_heads),
        "rows": log2(batch * heads * seq_q),
        "cache": log2(batch * kv_heads * seen * head_dim * kv_width),
        "work": log2(batch * heads * seq_q * seen * head_dim), "kv_width": kv_width,
    }  # fmt: skip


def moe_features(
    tokens: FloatArray,
    ffn: FloatArray,
    hidden: FloatArray,
    local: FloatArray,
    topk: FloatArray,
    pairs: FloatArray,
    width: float,
    gated: FloatArray,
    routing: float,
    other_library: FloatArray | float,
) -> dict[str, Any]:
    """Return the features of routed experts on one rank.

    ``ffn`` is the width after tensor parallelism, ``local`` the rank's
    experts, ``pairs`` its (token, expert) pairs; ``other_library`` is 1 where
    kernels are not the device's usual ones.
    """
    return {
        "tokens": log2(tokens), "ffn": log2(ffn), "hidden": log2(hidden),
        "local": log2(local), "topk": topk, "pairs": log2(pairs),
        "rows": log2(16.0 * pairs / local), "all_pairs": log2(tokens * topk),
        "weights": log2(ffn * hidden), "held": log2(ffn * hidden * local),
        "work": log2(pairs * ffn * hidden), "width": width, "gated": gated,
        "routing": routing, "other_library": other_library,
    }  # fmt: skip


def collective_features(
    op: int,
    nbytes: FloatArray,
    size: int,
    levels: int,
    reduces: bool,
    direct: float,
) -> dict[str, Any]:
    """Return the features of a collective of ``size`` devices over ``levels``."""
    return {
        "op": float(op), "bytes": log2(nbytes), "size": log2(float(size)),
        "share": log2(nbytes / size), "levels": float(levels),
        "reduces": float(reduces), "direct": direct,
    }  # fmt: skip


def elementwise_features(
    nbytes: ArrayLike, flop: ArrayLike, rows: ArrayLike
) -> dict[str, Any]:
    """Return the features of memory-bound kernels."""
    number = np.asarray(rows, dtype=np.float64)
    row = np.where(number > 0, np.asarray(nbytes) / np.maximum(number, 1.0), 0.0)
    return {
        "bytes": log2(nbytes), "intensity": np.asarray(flop) / np.maximum(nbytes, 1.0),
        "rows": log2(number), "row": log2(row),
    }  # fmt: skip
