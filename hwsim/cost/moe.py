"""Feed-forward network of routed experts on one rank: two grouped products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.residual import corrected, moe_features
from hwsim.cost.sequence import add
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.moe import MoeParameters

# Experts of uneven popularity are dealt with in this many groups.
_GROUPS = 16


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
    routing_exponent: float = 0.0,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    weight_bytes: float | None = None,
    resident: ArrayLike = 0.0,
    exchanged: bool = False,
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
    routing_exponent : float
        0: every token picks experts at random. Otherwise tokens per expert
        follow a power law with this exponent.
    dtype : str
        Of the arithmetic.
    weight_bytes : float, optional
        Bytes of one weight (default: of ``dtype``). [B]
    resident : array_like
        Share of the weights that the shared on-chip cache holds. [1]
    exchanged : bool
        Rows were sent to their experts' ranks before: none of other ranks' pairs
        pass through this one.

    Returns
    -------
    Cost
        Device time; dispatch and combine between ranks not included.
    """
    mm, nn, kk, ee, tk, t, e, skew, held = (
        np.asarray(v, dtype=np.float64)
        for v in (m, n, k, experts, topk, tp, ep, imbalance, resident)
    )
    p = calibration.moe
    element = DTYPE_BYTES[dtype]
    stored = element if weight_bytes is None else weight_bytes
    own = np.minimum(mm * tk / e * skew, mm * np.minimum(tk, ee / e))
    rows, counts = _expert_rows(mm, own, ee / e, routing_exponent)
    load = _Load(rows, counts, np.sum(rows * counts, axis=-1), stored)
    hidden = nn / t
    up = (2.0 if gated else 1.0) * hidden
    up_cost = _grouped_product(load, up, kk, held, p, device, dtype)
    down_cost = _grouped_product(load, kk, hidden, held, p, device, dtype)
    narrow = stored < 2
    foreign = p.narrow_foreign_pair_share if narrow else p.foreign_pair_share
    foreign = 0.0 if exchanged else foreign
    pairs = load.rows_total + foreign * np.maximum(0.0, mm * tk - load.rows_total)
    moved = pairs * (up + hidden + 2 * kk) * max(element, 2.0)
    copying = p.narrow_row_copy_efficiency if narrow else p.row_copy_efficiency
    rate = device.bandwidth * copying
    start = p.start_time + (p.narrow_start_time if narrow else 0.0)
    copies = combine(levels={device.main_memory_name: moved / rate}, overhead=start)
    return corrected(
        add(up_cost, down_cost, copies), calibration, "moe",
        lambda: moe_features(
            mm, hidden, kk, ee / e, tk, own, stored, gated, routing_exponent
        ),
    )  # fmt: skip


class _Load(NamedTuple):
    """Rows of the touched experts: ``counts`` experts of ``rows`` each."""

    rows: FloatArray
    counts: FloatArray
    rows_total: FloatArray
    weight_bytes: float


def _expert_rows(
    tokens: FloatArray, own: FloatArray, local: FloatArray, exponent: float
) -> tuple[FloatArray, FloatArray]:
    """Return rows per touched expert and how many experts have as many.

    The last axis runs over groups of equally popular experts.
    """
    tokens, own, local = (
        a[..., np.newaxis] for a in np.broadcast_arrays(tokens, own, local)
    )
    if exponent == 0.0:
        shares = np.minimum(1.0 / local, 1 - 1e-12)
        touched = local * -np.expm1(np.log1p(-shares) * own)
        touched = np.minimum(touched, np.minimum(local, own))
        return own / np.maximum(touched, 1e-30), touched
    quantile = (np.arange(_GROUPS) + 0.5) / _GROUPS
    top = np.maximum(2.0, 0.8 * tokens)
    if abs(exponent - 1.0) < 1e-6:
        popularity = top**quantile
    else:
        inverse = 1.0 - exponent
        popularity = (1 + quantile * (top**inverse - 1)) ** (1 / inverse)
    mean = own / local
    rows = popularity / popularity.mean(axis=-1, keepdims=True) * mean
    for _ in range(3):  # no expert sees a token twice
        rows = np.minimum(rows, tokens)
        rows = rows * mean / rows.mean(axis=-1, keepdims=True)
    rows = np.minimum(rows, tokens)
    touched = np.minimum(1.0, rows)
    return np.maximum(rows, 1.0), touched * local / _GROUPS


def _grouped_product(
    load: _Load,
    columns: FloatArray,
    depth: FloatArray,
    held: FloatArray,
    p: MoeParameters,
    device: DeviceSpec,
    dtype: str,
) -> Cost:
    """Return the cost of one product over all touched experts, best tile."""
    units, narrow = device.compute.units, load.weight_bytes < 2
    efficiency = p.narrow_matrix_efficiency if narrow else p.matrix_efficiency
    per_unit = device.peak(dtype) / units * efficiency
    touched = load.counts.sum(axis=-1)
    streamed = touched * columns * depth * load.weight_bytes
    element = DTYPE_BYTES[dtype]
    nbytes = streamed * (1 - held + held / p.cache_bandwidth_ratio)
    nbytes = nbytes + load.rows_total * (depth * element + columns * max(element, 2.0))
    memory = nbytes / (device.bandwidth * p.memory_efficiency)
    across = np.ceil(columns / p.tile_columns)
    shape = (-1,) + (1,) * np.ndim(load.rows)
    heights = np.asarray(p.tile_rows, dtype=np.float64).reshape(shape)
    stacked = np.sum(load.counts * np.ceil(load.rows / heights), axis=-1)
    waves = stacked * across / units
    run = (1 - p.wave_quantization) * waves + p.wave_quantization * np.ceil(waves)
    flop = run * 2 * p.tile_columns * (heights + p.half_rate_rows)[..., 0] * depth
    # Further rows of one expert find its weights in the cache: they stream none.
    streams = touched * across / units
    alone = np.clip(p.unit_bandwidth_ratio * streams, 1e-30, 1.0)
    cost = combine(
        compute=flop / per_unit,
        levels={device.main_memory_name: memory / alone},
        overhead=p.block_time * run,
        exponent=p.overlap,
    )
    return _fastest_tile(cost)


def _fastest_tile(cost: Cost) -> Cost:
    """Return the best of the tiles along the first axis."""
    best = np.argmin(cost.time, axis=0)[np.newaxis]

    def pick(part: FloatArray) -> FloatArray:
        return np.asarray(np.take_along_axis(part, best, axis=0)[0])

    return Cost(
        time=pick(cost.time),
        compute=pick(cost.compute),
        levels={name: pick(part) for name, part in cost.levels.items()},
        interconnect=pick(cost.interconnect),
        overhead=pick(cost.overhead),
    )
