"""Fused attention: prefill in blocks (FlashAttention class), decode (split-KV)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.residual import attention_features, corrected
from hwsim.cost.sequence import add, interconnect_to_overhead, select
from hwsim.cost.terms import cache_name, cache_rate, combine_stream
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.attention import DecodeParameters, PrefillParameters

# Thread blocks of attention that run side by side: where units are far more,
# as on a wafer, several of them share one block.
_MOST_BLOCKS = 1024


def parallel_units(device: DeviceSpec) -> int:
    """Return how many blocks of attention a device works on at once."""
    if device.kind == "gpu":
        return device.compute.units
    return min(device.compute.units, _MOST_BLOCKS)


def prefill_attention_cost(
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    seq_q: ArrayLike,
    seq_kv: ArrayLike,
    *,
    causal: bool = True,
    window: ArrayLike = 0,
    v_head_dim: ArrayLike | None = None,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    kv_dtype: str | None = None,
    write_kv: bool = True,
    backward: bool = False,
    resident: ArrayLike = 0.0,
) -> Cost:
    """Return the cost of fused attention of many query tokens.

    Parameters
    ----------
    batch, heads, kv_heads, head_dim : array_like
        Sequences, query heads, key-value heads, width of a head.
    seq_q, seq_kv : array_like
        New tokens and all tokens (history included) of each sequence.
    causal : bool
        Each query sees its own and earlier positions only.
    window : array_like
        Sliding window in tokens; 0 is none.
    v_head_dim : array_like, optional
        Width of a value head where it differs from ``head_dim``.
    dtype, kv_dtype : str
        Of the arithmetic and of the cache (default: the same).
    write_kv : bool
        Whether new keys and values are written to a cache.
    backward : bool
        The backward pass instead of the forward pass.
    resident : array_like
        Share of all that is read and written that the device's shared on-chip
        cache already holds. [1]

    Returns
    -------
    Cost
        Device time.
    """
    b, h, g, dk, sq, sk, w = _floats(
        batch, heads, kv_heads, head_dim, seq_q, seq_kv, window
    )
    dv = dk if v_head_dim is None else np.asarray(v_head_dim, dtype=np.float64)
    p = calibration.attention.prefill
    if causal:
        # Without a mask there may be fewer keys: those of another rank, an encoder's.
        sk = np.maximum(sk, sq)
    element, kv_element = DTYPE_BYTES[dtype], DTYPE_BYTES[kv_dtype or dtype]
    work = _PrefillWork(b, h, g, dk, dv, sq, sk, w, causal, kv_element < element)
    seen = np.where(w > 0, np.minimum(sk, w + sq), sk)
    nbytes = b * (dk + dv) * (sq * h * element + seen * g * kv_element)
    passes = 1.0
    if backward:
        # Reads q, k, v, output and its gradient; writes three gradients.
        nbytes, passes = 2.5 * nbytes, p.backward_flop_ratio / p.backward_efficiency
    held = np.asarray(resident, dtype=np.float64)
    busy = passes * _busy(p, work, device, dtype)
    cost = combine_stream(
        compute=np.broadcast_to(busy, np.broadcast_shapes(busy.shape, held.shape)),
        levels=_streamed(nbytes, held, device, calibration),
        overhead=p.start_time,
        exponent=p.memory_overlap,
    )
    if write_kv and not backward:
        written = b * sq * g * (dk + dv) * (element + kv_element)
        tokens = p.token_time * b * sq / parallel_units(device)
        levels = _streamed(written, held, device, calibration)
        write = combine(levels=levels, interconnect=tokens, exponent=2)
        cost = add(cost, interconnect_to_overhead(write))
    cost = corrected(
        cost, calibration, "attention_prefill",
        lambda: attention_features(b, h, g, dk, sq, sk, w, kv_element),
    )  # fmt: skip
    if backward or not np.any(sq == 1):
        return cost
    single = decode_attention_cost(
        b, h, g, dk, sk, window=w, v_head_dim=dv, device=device,
        calibration=calibration, dtype=dtype, kv_dtype=kv_dtype,
    )  # fmt: skip
    return select(np.broadcast_to(sq == 1, cost.time.shape), single, cost)


def decode_attention_cost(
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    seq_kv: ArrayLike,
    *,
    window: ArrayLike = 0,
    v_head_dim: ArrayLike | None = None,
    shared_kv: bool = False,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    kv_dtype: str | None = None,
    resident: ArrayLike = 0.0,
) -> Cost:
    """Return the cost of attention of one query token per sequence.

    Parameters
    ----------
    batch, heads, kv_heads, head_dim : array_like
        Sequences, query heads, key-value heads, width of a head.
    seq_kv : array_like
        Tokens in the cache, the new one included.
    window : array_like
        Sliding window in tokens; 0 is none.
    v_head_dim : array_like, optional
        Width of a value head where it differs from ``head_dim``.
    shared_kv : bool
        Keys and values are the same rows (absorbed latent attention): they
        are read once.
    dtype, kv_dtype : str
        Of the queries and of the cache (default: the same).
    resident : array_like
        Share of the cache's keys and values that the device's shared
        on-chip cache already holds. [1]

    Returns
    -------
    Cost
        Device time.
    """
    b, h, g, dk, sk, w, held = _floats(
        batch, heads, kv_heads, head_dim, seq_kv, window, resident
    )
    dv = dk if v_head_dim is None else np.asarray(v_head_dim, dtype=np.float64)
    p = calibration.attention.decode
    element, kv_element = DTYPE_BYTES[dtype], DTYPE_BYTES[kv_dtype or dtype]
    narrow = kv_element < element
    # Behind a sliding window, such kernels leave each head a unit of its own.
    apart = (w > 0) & (p.regroups_heads and not narrow)
    own = np.where(apart, h, g)
    work = _DecodeWork(b, b * own, h / own, dk, dv, narrow)
    tokens = np.where((w > 0) & (sk > w), np.minimum(sk, w + p.window_padding), sk)
    io = b * h * (dk + dv) * element
    nbytes = b * g * tokens * kv_element * (dk if shared_kv else dk + dv) + io
    splits, active = _splits(p, work, tokens, parallel_units(device))
    rate = device.bandwidth * p.memory_efficiency
    memory = nbytes * (1 - held + held / p.cache_bandwidth_ratio) / rate
    alone = nbytes * (own / g) / (device.bandwidth * p.unit_bandwidth_ratio * active)
    start = p.start_time + p.split_time * np.log2(splits)
    if p.regroups_heads and not work.narrow:
        regrouped = (work.group > 1) & (b > 1) & (g > 1)
        start = start + regrouped * (p.regroup_time + 2 * io / rate)
    waves = work.units / parallel_units(device)
    start = start + p.fill_time * np.sqrt(np.minimum(1.0, waves))
    further = np.maximum(0.0, waves - 1) * (dk / 128) ** p.unit_width_exponent
    cost = combine(
        compute=_decode_matrix(p, work, tokens, device.peak(dtype)) / active,
        levels={device.main_memory_name: np.maximum(memory, alone)},
        interconnect=p.unit_time * further,
        overhead=start + p.sequence_time * b,
        exponent=p.overlap,
    )
    return corrected(
        interconnect_to_overhead(cost), calibration, "attention_decode",
        lambda: attention_features(b, h, g, dk, np.ones(()), sk, w, kv_element),
    )  # fmt: skip


def _streamed(
    nbytes: FloatArray, held: FloatArray, device: DeviceSpec, calibration: Calibration
) -> dict[str, FloatArray]:
    """Return the time of a prefill's traffic by memory level. [s]"""
    rate = device.bandwidth * calibration.attention.prefill.memory_efficiency
    name = cache_name(device)
    if name is None or not np.any(held):
        return {device.main_memory_name: nbytes / rate}
    e = calibration.elementwise
    fast = cache_rate(device, e.cache_efficiency, e.cache_speedup, rate)
    return {
        name: nbytes * held / fast,
        device.main_memory_name: nbytes * (1.0 - held) / rate,
    }


class _DecodeWork(NamedTuple):
    """Work units of a decode step: one per sequence and key-value head."""

    batch: FloatArray
    units: FloatArray
    group: FloatArray
    dk: FloatArray
    dv: FloatArray
    narrow: bool


def _splits(
    p: DecodeParameters, work: _DecodeWork, tokens: FloatArray, units: int
) -> tuple[FloatArray, FloatArray]:
    """Return splits of each work unit and the share of busy execution units."""
    room = np.clip(units / work.units, 1.0, p.max_splits)
    if not (p.splits_ungrouped or work.narrow):
        room = np.where(work.group > 1, room, 1.0)
    splits = np.clip(np.ceil(tokens / p.split_tokens), 1.0, room)
    return splits, np.minimum(1.0, work.units * splits / units)


def _decode_matrix(
    p: DecodeParameters, work: _DecodeWork, tokens: FloatArray, peak: float
) -> FloatArray:
    rows = np.ceil(work.group / p.row_padding) * p.row_padding
    flop = 2.0 * work.units * rows * (work.dk + work.dv) * tokens
    if not work.narrow:
        return np.asarray(flop / (peak * p.matrix_efficiency))
    slowdown = np.maximum(1.0, work.dk / 128)
    return np.asarray(flop * slowdown / (peak * p.narrow_matrix_efficiency))


def _floats(*values: ArrayLike) -> list[FloatArray]:
    return [np.asarray(v, dtype=np.float64) for v in values]


class _PrefillWork(NamedTuple):
    """Shapes of a prefill."""

    batch: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    dk: FloatArray
    dv: FloatArray
    seq_q: FloatArray
    seq_kv: FloatArray
    window: FloatArray
    causal: bool
    narrow: bool


class _Blocks(NamedTuple):
    """Thread blocks: how many, and the key columns they visit."""

    blocks: FloatArray
    mean_columns: FloatArray
    most_columns: FloatArray


def _blocks(p: PrefillParameters, work: _PrefillWork, units: int) -> _Blocks:
    rows, columns, sq, sk = p.tile_rows, p.tile_columns, work.seq_q, work.seq_kv
    group = work.heads / work.kv_heads if p.packs_groups else np.float64(1.0)
    count = work.batch * work.heads / group * np.ceil(sq * group / rows)
    height = rows / group
    last = np.ceil(sk / columns) * columns
    first = last
    if work.causal:
        reach = sk - sq + np.minimum(sq, np.ceil(height))
        first = np.minimum(np.ceil(reach / columns) * columns, last)
    w = work.window
    width = np.where(w > 0, np.ceil((w + height) / columns) * columns, np.inf)
    # Columns grow linearly from the first block to the last, cut by the window.
    share = np.clip((width - first) / np.maximum(last - first, 1e-9), 0.0, 1.0)
    top, start = np.minimum(last, width), np.minimum(first, width)
    mean = share * (start + top) / 2 + (1 - share) * top
    # Idle units take a part of the history of long blocks.
    history = np.clip(top - sq, 0.0, None)
    helpers = np.maximum(1.0, units / count)
    return _Blocks(count, mean, top - history * (1 - 1 / helpers))


def _busy(
    p: PrefillParameters, work: _PrefillWork, device: DeviceSpec, dtype: str
) -> FloatArray:
    """Return the time of all thread blocks on the execution units."""
    units = parallel_units(device)
    launched = _blocks(p, work, units)
    pad = device.compute.systolic.rows if device.compute.systolic else 1
    width = np.ceil(work.dk / pad) * pad + np.ceil(work.dv / pad) * pad
    efficiency: FloatArray | float = p.matrix_efficiency
    if work.narrow:
        slowdown = np.maximum(1.0, work.dk / 128) ** p.narrow_width_exponent
        efficiency = p.narrow_matrix_efficiency / slowdown
    matrix = 2.0 * p.tile_rows * width * units / (device.peak(dtype) * efficiency)
    clock = device.compute.clock
    # Without a clock the exponential rate is unknown and left out.
    rate = p.exponentials_per_clock * clock if clock is not None else np.inf
    column = _norm(p.overlap, matrix, np.asarray(p.tile_rows / rate))
    fixed = p.block_time * (work.dk / 128) ** p.block_width_exponent
    waves = launched.blocks / units
    waves = (1 - p.wave_quantization) * waves + p.wave_quantization * np.ceil(waves)
    every = waves * (launched.mean_columns * column + fixed)
    longest = launched.most_columns * column * p.longest_block_ratio + fixed
    return _norm(p.balance, every, longest)


def _norm(exponent: float, first: FloatArray, second: FloatArray) -> FloatArray:
    """Return (a^p + b^p)^(1/p) without overflow."""
    largest = np.maximum(np.maximum(first, second), 1e-300)
    total = (first / largest) ** exponent + (second / largest) ** exponent
    return np.asarray(largest * total ** (1.0 / exponent))
