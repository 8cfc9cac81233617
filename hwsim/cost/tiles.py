"""The GPU form of a matrix product: thread blocks in waves over the units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.cost.product import Product
from hwsim.cost.terms import sustained_derate
from hwsim.errors import InputError
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
    """

    total: FloatArray
    compute: FloatArray
    operands: FloatArray
    overhead: FloatArray


@dataclass(frozen=True, slots=True)
class _Rates:
    flop_per_s: float  # of one unit
    bytes_per_s: float  # operands into one unit
    widen_per_s: float  # weights dequantised by one unit
    units: float


def tile_time(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> TileTime:
    """Return the time of the best tile and split of every product."""
    params = calibration.matmul
    tiled = params.tiled
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
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.zeros(0)
        return TileTime(nothing, nothing, nothing, nothing)
    return TileTime(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("total", "compute", "operands", "overhead")
        )
    )


def _rates(
    device: DeviceSpec, params: MatmulParameters, tiled: TiledParameters, dtype: str
) -> _Rates:
    units = float(device.compute.units)
    clock = device.compute.clock or device.compute.max_clock
    widen = np.inf
    if params.dequantise_flop > 0:
        widen = device.peak("fp32", "vector") / units / params.dequantise_flop
    return _Rates(
        flop_per_s=device.peak(dtype) * params.efficiency(dtype) / units,
        # Without a clock nothing is known about loads: only arithmetic binds.
        bytes_per_s=tiled.operand_rate * clock if clock else np.inf,
        widen_per_s=widen,
        units=units,
    )


def _best(
    work: Product, derate: FloatArray, tiled: TiledParameters, rates: _Rates
) -> TileTime:
    tiles = np.asarray(tiled.tiles, dtype=np.float64)
    splits = np.asarray(tiled.splits, dtype=np.float64)[:, np.newaxis]
    rows, columns = tiles[:, 0, np.newaxis], tiles[:, 1, np.newaxis]
    depth = tiled.depth / work.wide_bytes
    compute, operands = _step(work, rows, columns, depth, rates)
    step = np.maximum(compute, operands)[:, np.newaxis]
    blocks = np.ceil(work.m / rows) * np.ceil(work.n / columns)
    blocks *= work.batch / rates.units
    waves = blocks[:, np.newaxis] * splits
    waves = _waves(waves, tiled.wave_quantisation)
    steps = np.ceil(work.k / (splits * depth)) * derate
    join = _join(work, splits, tiled, rates)
    total = waves * (steps * step + tiled.fill) + join
    count = len(work.m)
    flat = total.reshape(-1, count)
    choice = np.argmin(flat, axis=0)
    best = flat[choice, np.arange(count)]
    tile, split = np.divmod(choice, len(splits))
    index = np.arange(count)
    looping = waves[tile, split, index] * steps[split, index] * step[tile, 0, index]
    bound = compute[tile, index] >= operands[tile, index]
    return TileTime(
        total=best,
        compute=np.where(bound, looping, 0.0),
        operands=np.where(bound, 0.0, looping),
        overhead=best - looping,
    )


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
        load = np.maximum(load, columns * (depth / rates.widen_per_s) * work.narrow)
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
