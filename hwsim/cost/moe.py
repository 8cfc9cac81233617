"""Feed-forward network of routed experts on one rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, combine
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def moe_ffn_cost(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    experts: ArrayLike,
    topk: ArrayLike,
    tp: ArrayLike = 1,
    ep: ArrayLike = 1,
    gated: bool = True,
    imbalance: ArrayLike = 1.0,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    weight_bytes: float | None = None,
) -> Cost:
    """Return the cost of the routed experts' feed-forward network on one rank.

    Parameters
    ----------
    m : array_like
        Tokens before dispatch, of all ranks that share the experts.
    n, k : array_like
        Intermediate width of one expert before tensor parallelism; hidden
        size.
    experts, topk : array_like
        Experts in all; experts per token.
    tp, ep : array_like
        Ranks that split each expert; ranks that share the experts out.
    gated : bool
        Three matrices per expert rather than two.
    imbalance : array_like
        Rows of this rank over the mean of all ranks. [1]
    dtype : str
        Of the arithmetic.
    weight_bytes : float, optional
        Bytes of one weight (default: of ``dtype``). [B]

    Returns
    -------
    Cost
        Device time; dispatch and combine between ranks not included.
    """
    mm, nn, kk, ee, tk, t, e, skew = (
        np.asarray(v, dtype=np.float64)
        for v in (m, n, k, experts, topk, tp, ep, imbalance)
    )
    p = calibration.moe
    element = DTYPE_BYTES[dtype]
    rows = mm * tk / e * skew
    local = ee / e
    touched = local * -np.expm1(np.log1p(-np.minimum(1 / local, 1 - 1e-9)) * rows)
    touched = np.minimum(touched, local)
    per_expert = rows / np.maximum(touched, 1e-30)
    padded = touched * np.ceil(per_expert / p.tile_rows) * p.tile_rows
    matrices = 3.0 if gated else 2.0
    weights = matrices * kk * nn / t
    flop = 2.0 * padded * weights
    compute = flop / (device.peak(dtype) * p.matrix_efficiency)
    stored = element if weight_bytes is None else weight_bytes
    nbytes = touched * weights * stored + rows * (2 * kk + matrices * nn / t) * element
    memory = nbytes / (device.bandwidth * p.memory_efficiency)
    return combine(
        compute=compute,
        levels={device.main_memory_name: memory},
        overhead=p.start_time + p.expert_time * touched / device.compute.units,
        exponent=p.overlap,
    )
