"""Fused attention: prefill in blocks (FlashAttention class), decode (split-KV)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.sequence import add, interconnect_to_overhead
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.attention import DecodeParameters, PrefillParameters


class _Blocks(NamedTuple):
    """Thread blocks of a prefill: how many, and key columns each visits."""

    count: FloatArray
    mean_columns: FloatArray
    most_columns: FloatArray


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
    sk = np.maximum(sk, sq) if causal else sk
    blocks = _blocks(p, b, h / g, g, sq, sk, w, causal)
    element, kv_element = DTYPE_BYTES[dtype], DTYPE_BYTES[kv_dtype or dtype]
    visible = _visible(sq, sk, w)
    nbytes = b * element * sq * h * (dk + dv) + b * kv_element * visible * g * (dk + dv)
    passes = 1.0
    if backward:
        # Reads q, k, v, output and its gradient; writes three gradients.
        nbytes, passes = 2.5 * nbytes, p.backward_flop_ratio / p.backward_efficiency
    busy = passes * _busy(p, blocks, dk, dv, device, dtype)
    attention = combine(
        compute=busy,
        levels={
            device.main_memory_name: nbytes / (device.bandwidth * p.memory_efficiency)
        },
        overhead=p.start_time,
    )
    if backward or not write_kv:
        return attention
    written = b * sq * g * (dk + dv) * (element + kv_element)
    write = combine(
        levels={
            device.main_memory_name: written / (device.bandwidth * p.memory_efficiency)
        },
        overhead=p.write_start_time,
    )
    return add(attention, write)


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
    work = _DecodeWork(b, b * g, h / g, dk, dv, kv_element < element)
    tokens = np.where((w > 0) & (sk > w), np.minimum(sk, w + p.window_padding), sk)
    io = b * h * (dk + dv) * element
    nbytes = work.units * tokens * kv_element * (dk if shared_kv else dk + dv) + io
    splits, active = _splits(p, work, tokens, device.compute.units)
    rate = device.bandwidth * p.memory_efficiency
    memory = nbytes * (1 - held + held / p.cache_bandwidth_ratio) / rate
    alone = nbytes / (device.bandwidth * p.unit_bandwidth_ratio * active)
    start = p.start_time + p.split_time * np.log2(splits)
    if p.regroups_heads and not work.narrow:
        regrouped = (work.group > 1) & (b > 1) & (g > 1)
        start = start + regrouped * (p.regroup_time + 2 * io / rate)
    waves = work.units / device.compute.units
    start = start + p.fill_time * np.sqrt(np.minimum(1.0, waves))
    further = np.maximum(0.0, waves - 1) * (dk / 128) ** p.unit_width_exponent
    cost = combine(
        compute=_decode_matrix(p, work, tokens, device.peak(dtype)) / active,
        levels={device.main_memory_name: np.maximum(memory, alone)},
        interconnect=p.unit_time * further,
        overhead=start + p.sequence_time * b,
        exponent=p.overlap,
    )
    return interconnect_to_overhead(cost)


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
    if work.narrow:
        slowdown = np.maximum(1.0, work.dk / 128)
        return flop * slowdown / (peak * p.narrow_matrix_efficiency)
    return flop / (peak * p.matrix_efficiency)


def _floats(*values: ArrayLike) -> list[FloatArray]:
    return [np.asarray(v, dtype=np.float64) for v in values]


def _visible(sq: FloatArray, sk: FloatArray, w: FloatArray) -> FloatArray:
    """Keys that at least one query of a sequence sees."""
    return np.where(w > 0, np.minimum(sk, w + sq), sk)


def _blocks(
    p: PrefillParameters,
    b: FloatArray,
    group: FloatArray,
    g: FloatArray,
    sq: FloatArray,
    sk: FloatArray,
    w: FloatArray,
    causal: bool,
) -> _Blocks:
    rows, columns = p.tile_rows, p.tile_columns
    # Query heads that share keys are packed into the rows of one block.
    per_head = np.ceil(sq * group / rows)
    count = b * g * per_head
    last = np.ceil(sk / columns) * columns
    first = last
    if causal:
        reach = sk - sq + np.minimum(sq, np.ceil(rows / group))
        first = np.minimum(np.ceil(reach / columns) * columns, last)
    width = np.ceil((w + rows / group) / columns) * columns
    width = np.where(w > 0, width, np.inf)
    # Columns grow linearly from the first block to the last, cut by the window.
    span = np.maximum(last - first, 1e-30)
    share = np.clip((width - first) / span, 0.0, 1.0)
    top = np.minimum(last, width)
    start = np.minimum(first, width)
    mean = share * (start + top) / 2 + (1 - share) * top
    return _Blocks(count, mean, top)


def _busy(
    p: PrefillParameters,
    blocks: _Blocks,
    dk: FloatArray,
    dv: FloatArray,
    device: DeviceSpec,
    dtype: str,
) -> FloatArray:
    units = device.compute.units
    pad = device.compute.systolic.rows if device.compute.systolic else 16
    width = np.ceil(dk / pad) * pad + np.ceil(dv / pad) * pad
    efficiency = np.where(
        dk > p.tile_rows / 2, p.matrix_efficiency, p.matrix_efficiency_narrow
    )
    per_unit = device.peak(dtype) / units
    matrix = 2.0 * p.tile_rows * width / (per_unit * efficiency)
    clock = device.compute.clock
    exponential = (
        p.tile_rows / (p.exponentials_per_clock * clock) if clock is not None else 0.0
    )
    q = p.overlap
    column = (matrix**q + exponential**q) ** (1 / q)
    waves = blocks.count / units
    waves = (1 - p.wave_quantization) * waves + p.wave_quantization * np.ceil(waves)
    balanced = waves * (blocks.mean_columns * column + p.block_time)
    longest = blocks.most_columns * column + p.block_time
    return np.maximum(balanced, longest)

