"""Feed-forward network of routed experts on one rank: two grouped products."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.residual import corrected, moe_features
from hwsim.cost.routing import ExpertLoad, Leftovers, Routing, expert_load
from hwsim.cost.sequence import add, either
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.moe import NARROW, TUNED, WIDE, MoeKernel

_ALIGNED = 16  # values: rows of other lengths are not loaded as vectors


def moe_ffn_cost(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    experts: ArrayLike,
    topk: ArrayLike,
    tp: ArrayLike = 1,
    ep: ArrayLike = 1,
    gated: ArrayLike = True,
    imbalance: ArrayLike = 1.0,
    routing: Routing = "random",
    routing_exponent: float = 0.0,
    leftovers: Leftovers = "largest",
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    weight_bytes: float | None = None,
    resident: ArrayLike = 0.0,
    exchanged: bool = False,
    library: str = "",
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
    gated : array_like of bool
        Three matrices per expert rather than two.
    imbalance, routing, routing_exponent, leftovers
        As for :func:`~hwsim.cost.routing.expert_load`.
    dtype : str
        Of the arithmetic.
    weight_bytes : float, optional
        Bytes of one weight (default: of ``dtype``). [B]
    resident : array_like
        Share of the weights that the shared on-chip cache holds. [1]
    exchanged : bool
        Rows were sent to their experts' ranks before: none of other ranks' pairs
        pass through this one.
    library : str
        Whose kernels run: a name before ``_wide`` or ``_narrow`` in the
        parameters; the device's usual ones otherwise.

    Returns
    -------
    Cost
        Device time; dispatch and combine between ranks not included.
    """
    mm, nn, kk, ee, tk, t, e, three, held = (
        np.asarray(v, dtype=np.float64)
        for v in (m, n, k, experts, topk, tp, ep, gated, resident)
    )
    element = DTYPE_BYTES[dtype]
    stored = element if weight_bytes is None else weight_bytes
    name = calibration.moe.name(stored, library)
    load = expert_load(
        mm, ee, tk, e, routing=routing, exponent=routing_exponent,
        imbalance=imbalance, leftovers=leftovers,
    )  # fmt: skip
    hidden = nn / t
    run = _Run(
        calibration.moe.kernels[name], device, dtype, stored, load,
        by_tokens=mm > ee, aligned=hidden % _ALIGNED == 0, held=held,
        cache=_cache_size(device) * calibration.reach("moe"),
        pace=device.compute.pace(calibration.moe.reference_clock),
    )  # fmt: skip
    shape = _Shape(hidden, (1.0 + three) * hidden, kk, mm * tk, exchanged)
    cost = _layer(run, shape)
    tuned = calibration.moe.has_tuned(name, ee / e, hidden)
    if np.any(tuned):
        kernel = calibration.moe.kernels[f"{TUNED}_{name}"]
        cost = either(tuned, _layer(run._replace(kernel=kernel), shape), cost)
    other = np.where(tuned, 1.0, float(name not in {WIDE, NARROW}))
    return corrected(
        cost, calibration, "moe",
        lambda: moe_features(
            mm, hidden, kk, ee / e, tk, load.total, stored, three, routing_exponent,
            other,
        ),
    )  # fmt: skip


class _Shape(NamedTuple):
    """Widths of one rank's experts, and pairs of all ranks."""

    hidden: FloatArray
    up: FloatArray  # columns of the first product
    depth: FloatArray
    pairs: FloatArray
    exchanged: bool


def _layer(run: _Run, shape: _Shape) -> Cost:
    """Return the cost of both products and of what gathers and sums their rows."""
    hidden, up, depth, pairs, exchanged = shape
    own = run.load.total
    foreign = 0.0 if exchanged else run.kernel.foreign_pair_share
    copied = own + foreign * np.maximum(0.0, pairs - own)
    moved = copied * (up + hidden + 2 * depth) * max(DTYPE_BYTES[run.dtype], 2.0)
    rate = run.device.bandwidth * run.kernel.row_copy_efficiency
    copies = combine(
        levels={run.device.main_memory_name: moved / rate},
        overhead=run.kernel.start_time * run.pace,
    )
    return add(
        _grouped_product(run, up, depth), _grouped_product(run, depth, hidden), copies
    )


class _Run(NamedTuple):
    """What both products of a layer share."""

    kernel: MoeKernel
    device: DeviceSpec
    dtype: str
    weight_bytes: float
    load: ExpertLoad
    by_tokens: Any  # whether there are more tokens than experts
    aligned: Any
    held: FloatArray
    cache: float  # bytes of weights that the shared cache can hold
    pace: float  # of starting and draining kernels, over what they give


def _cache_size(device: DeviceSpec) -> float:
    return 1.0 if device.cache is None else float(device.cache.size)


def _grouped_product(run: _Run, columns: FloatArray, depth: FloatArray) -> Cost:
    """Return the cost of one product over all touched experts."""
    p, device, load = run.kernel, run.device, run.load
    units = device.compute.units
    per_unit = device.peak(run.dtype) / units * p.matrix_efficiency
    touched = load.touched
    one = columns * depth * run.weight_bytes
    element = DTYPE_BYTES[run.dtype]
    across = np.ceil(columns / p.tile_columns)
    shape = (-1,) + (1,) * np.ndim(load.rows)
    heights = np.asarray(p.tile_rows, dtype=np.float64).reshape(shape)
    stacked = np.sum(load.counts * np.ceil(load.rows / heights), axis=-1)
    # Further tiles of one expert find its weights in the cache, if they fit.
    beyond = np.minimum(one / run.cache, 1.0) ** 2
    again = p.reread_share * beyond * np.maximum(stacked - touched, 0.0)
    streamed = one * (touched * (1 - run.held + run.held / p.cache_bandwidth_ratio))
    nbytes = streamed + again * one
    nbytes = nbytes + load.total * (depth * element + columns * max(element, 2.0))
    waves = stacked * across / units
    whole = (1 - p.wave_quantization) * waves + p.wave_quantization * np.ceil(waves)
    flop = whole * 2 * p.tile_columns * (heights + p.half_rate_rows)[..., 0] * depth
    slowed = np.where(run.aligned, 1.0, p.unaligned_efficiency)
    alone = np.clip(p.unit_bandwidth_ratio * touched * across / units, 1e-30, 1.0)
    memory = nbytes / (device.bandwidth * p.memory_efficiency) / (alone * slowed)
    cost = combine(
        compute=flop / per_unit / slowed,
        levels={device.main_memory_name: memory},
        overhead=p.block_time * run.pace * whole,
        exponent=p.overlap,
    )
    if p.tile_choice == "by_tokens":
        last = len(p.tile_rows) - 1
        return _pick(cost, np.where(run.by_tokens, last, 0))
    return _pick(cost, np.argmin(cost.time, axis=0))


def _pick(cost: Cost, tile: ArrayLike) -> Cost:
    """Return one of the tiles along the first axis."""
    chosen = np.broadcast_to(tile, cost.time.shape[1:])[np.newaxis]

    def pick(part: FloatArray) -> FloatArray:
        return np.asarray(np.take_along_axis(part, chosen, axis=0)[0])

    return Cost(
        time=pick(cost.time),
        compute=pick(cost.compute),
        levels={name: pick(part) for name, part in cost.levels.items()},
        interconnect=pick(cost.interconnect),
        overhead=pick(cost.overhead),
    )
