"""The GPU form of a matrix product: thread blocks in waves over the units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.cost.product import Product
from hwsim.cost.terms import sustained_derate
from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.matmul import MatmulParameters, TiledParameters

_ACCUMULATOR_BYTES = 4.0  # split parts are joined in fp32
_CANDIDATES_AT_ONCE = 150_000  # keeps the temporaries within a core's L2 cache


@dataclass(frozen=True, slots=True)
class TileTime:
    """Time of the thread blocks of each product. [s].

    Attributes
    ----------
    total, compute, operands, overhead : ndarray of float64
        All of it; the parts bound by arithmetic and by operand loads; and
        filling, draining and joining split parts.
    start : float
        Of kernels beside the product's own.
    """

    total: FloatArray
    compute: FloatArray
    operands: FloatArray
    overhead: FloatArray
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class _Rates:
    flop_per_s: float  # of one unit
    bytes_per_s: float  # operands into one unit
    widen_per_s: float  # weights dequantised by one unit
    widen_rows: int | None  # that share them, on the units that multiply
    units: float


def tile_time(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> TileTime:
    """Return the time of the best tile and split of every product."""
    params = calibration.matmul
    tiled = params.tiles(work.wide_bytes, work.block_scales)
    if tiled is None:
        raise InputError(
            f"calibration {calibration.id} has no matmul.tiled table; "
            f"device {device.id} of kind {device.kind} needs one"
        )
    rates = _rates(device, params, tiled, dtype)
    derate = sustained_derate(work, calibration)
    count, candidates = len(work.m), len(tiled.tiles) * len(tiled.splits)
    chunk = max(1, _CANDIDATES_AT_ONCE // candidates)
    parts = [
        _best(work.rows(i, min(i + chunk, count)), derate[i : i + chunk], tiled, rates)
        for i in range(0, count, chunk)
    ]
    if not parts:
        nothing = np.zeros(0)
        return TileTime(nothing, nothing, nothing, nothing)
    total, compute, operands, overhead = (
        np.concatenate([getattr(p, name) for p in parts])
        for name in ("total", "compute", "operands", "overhead")
    )
    return TileTime(total, compute, operands, overhead, start=tiled.start_time)


def _rates(
    device: DeviceSpec, params: MatmulParameters, tiled: TiledParameters, dtype: str
) -> _Rates:
    units = float(device.compute.units)
    supply = tiled.operand_ratio * _reference_peak(device, dtype)
    if device.cache is not None and device.cache.bandwidth is not None:
        supply = max(supply, device.cache.bandwidth * params.memory_efficiency)
    widen = np.inf
    if params.dequantise_flop > 0:
        widen = device.peak("fp32", "vector") / units / params.dequantise_flop
    efficiency = tiled.efficiency or params.efficiency(dtype)
    return _Rates(
        flop_per_s=device.peak(dtype) * efficiency / units,
        bytes_per_s=supply / units,
        widen_per_s=widen,
        widen_rows=params.widen_rows,
        units=units,
    )


def _reference_peak(device: DeviceSpec, dtype: str) -> float:
    """Return the 16-bit matrix peak, by which operand paths are sized [FLOP/s].

    It is that of ``dtype`` itself where that has 16 bits, else that of bf16 or
    fp16. Wider dtypes stand in where there is neither: they move as many bytes
    in as many fewer operations. Narrower ones do not widen the path.
    """
    matrix: dict[str, float] = dict(device.compute.matrix)  # type: ignore[arg-type]
    vector: dict[str, float] = dict(device.compute.vector)  # type: ignore[arg-type]
    for name in (dtype, "bf16", "fp16"):
        if name in matrix and DTYPE_BYTES[name] == 2.0:
            return matrix[name]
    for peaks in (matrix, vector):
        rates = [
            peak * DTYPE_BYTES[name] / 2.0
            for name, peak in peaks.items()
            if DTYPE_BYTES[name] >= 2.0
        ]
        if rates:
            return max(rates)
    return max([*matrix.values(), *vector.values()])


def _best(
    work: Product, derate: FloatArray, tiled: TiledParameters, rates: _Rates
) -> TileTime:
    tiles = np.asarray(tiled.tiles, dtype=np.float64)
    splits = np.asarray(tiled.splits, dtype=np.float64)[:, np.newaxis]
    rows, columns = tiles[:, 0, np.newaxis], tiles[:, 1, np.newaxis]
    depth = tiled.depth / work.wide_bytes
    compute, operands = _step(work, rows, columns, depth, rates)
    busy = _overlapped(compute, operands, tiled.supply_overlap)
    step = np.maximum(busy, tiled.step_latency)[:, np.newaxis]
    blocks = np.ceil(work.m / rows) * np.ceil(work.n / columns)
    blocks *= work.batch / rates.units
    waves = _waves(blocks[:, np.newaxis] * splits, tiled.wave_quantisation)
    steps = np.ceil(work.k / (splits * depth)) * derate
    sums = rows * columns * (_ACCUMULATOR_BYTES * tiled.epilogue / rates.bytes_per_s)
    fill = (tiled.fill + sums)[:, np.newaxis]
    total = waves * (steps * step + fill) + _join(work, splits, tiled, rates)
    count = len(work.m)
    index = np.arange(count)
    flat = total.reshape(-1, count)
    choice = np.argmin(flat, axis=0)
    best = flat[choice, index]
    tile, split = np.divmod(choice, len(splits))
    looping = waves[tile, split, index] * steps[split, index] * busy[tile, index]
    bound = compute[tile, index] >= operands[tile, index]
    return TileTime(
        total=best,
        compute=np.where(bound, looping, 0.0),
        operands=np.where(bound, 0.0, looping),
        overhead=best - looping,
    )


def _overlapped(a: FloatArray, b: FloatArray, exponent: float) -> FloatArray:
    more, less = np.maximum(a, b), np.minimum(a, b)
    if exponent >= 50.0:  # beyond this a tie costs under 1.5 %: a hard maximum
        return more
    summed: FloatArray = more * (1.0 + (less / more) ** exponent) ** (1.0 / exponent)
    return summed


def _step(
    work: Product,
    rows: FloatArray,
    columns: FloatArray,
    depth: float,
    rates: _Rates,
) -> tuple[FloatArray, FloatArray]:
    """Return (arithmetic, operand supply) of one k step of each tile. [s]."""
    compute = rows * columns * (2.0 * depth / rates.flop_per_s)
    load = rows * work.a_bytes + columns * work.b_bytes
    load *= depth / rates.bytes_per_s
    if np.any(work.narrow):
        widen = columns * (depth / rates.widen_per_s) * work.narrow
        if rates.widen_rows is None:
            load = np.maximum(load, widen)
        else:
            compute = compute + widen * np.maximum(rows / rates.widen_rows, 1.0)
    return np.broadcast_to(compute, load.shape), load


def _waves(blocks_per_unit: FloatArray, quantisation: float) -> FloatArray:
    whole = np.ceil(blocks_per_unit)
    mixed = blocks_per_unit + quantisation * (whole - blocks_per_unit)
    # One block runs on one unit however many others idle.
    return np.maximum(mixed, np.minimum(whole, 1.0))


def _join(
    work: Product, splits: FloatArray, tiled: TiledParameters, rates: _Rates
) -> FloatArray:
    """Return the time to add up the parts of a split k loop. [s]."""
    split = splits > 1
    traffic = 2.0 * _ACCUMULATOR_BYTES * work.m * work.n * work.batch
    moved = traffic / (rates.bytes_per_s * rates.units)
    joined: FloatArray = np.where(split, splits * moved + tiled.split_sync, 0.0)
    return joined
