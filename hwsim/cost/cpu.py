"""The CPU form of a matrix product: blocked for caches, spread over cores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.product import Product
from hwsim.cost.terms import (
    cache_name,
    cache_rate,
    memory_time,
    sustained_derate,
    widen_time,
)
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.parameters.matmul import BlockedParameters

_LEAST_BYTES = 1e-3  # per element; keeps free operands from dividing by zero


def blocked_cost(
    work: Product, device: DeviceSpec, calibration: Calibration, dtype: str
) -> Cost:
    """Return the cost of flat products on the cores of a CPU.

    Rows and columns are padded to the register tile. As many cores work as
    the work is worth. Operands that the shared cache cannot hold are read
    again once per block that it can; so is the shared cache's traffic against
    the private caches.
    """
    params = calibration.matmul
    blocked = params.blocked
    if blocked is None:
        raise InputError(
            f"calibration {calibration.id} has no matmul.blocked table; "
            f"device {device.id} needs one"
        )
    cores = _cores(work, device, blocked)
    share = cores / device.compute.units
    peak = device.peak(dtype) * params.efficiency(dtype) * share
    compute = _padded_flop(work, blocked) / peak * sustained_derate(work, calibration)
    compute = compute + widen_time(work, device, calibration) / share
    compute = compute + _copies(work, blocked) / cores
    levels = _levels(work, device, calibration, blocked, share)
    overhead = params.overhead + blocked.thread_sync * np.where(cores > 1, share, 0.0)
    overhead = overhead + blocked.batch_time * (work.batch - 1.0)
    return combine(
        compute=compute, levels=levels, overhead=overhead, exponent=params.overlap
    )


def _is_vector(work: Product) -> NDArray[np.bool_]:
    """Return whether one side is a vector: another routine, without packing."""
    return np.asarray((work.m <= 1) | (work.n <= 1))


def _padded_flop(work: Product, blocked: BlockedParameters) -> FloatArray:
    """Return the work with what partly filled register tiles add to it."""
    padded = (
        np.ceil(work.m / blocked.register_rows) * blocked.register_rows
        * np.ceil(work.n / blocked.register_columns) * blocked.register_columns
    )  # fmt: skip
    edges = np.where(_is_vector(work), 0.0, padded - work.m * work.n)
    full: FloatArray = work.flop + (
        2.0 * edges * work.k * work.batch * blocked.edge_loss
    )
    return full


def _copies(work: Product, blocked: BlockedParameters) -> FloatArray:
    """Return the time one core copies blocks of operands and adds up sums [s].

    Products with a vector read their matrix in place.
    """
    packed = np.where(_is_vector(work), 0.0, work.m * work.k + work.k * work.n)
    times: FloatArray = work.batch * (
        packed * blocked.pack_time + work.m * work.n * blocked.store_time
    )
    return times


def _cores(work: Product, device: DeviceSpec, blocked: BlockedParameters) -> FloatArray:
    wanted = work.flop / max(blocked.work_per_thread, 1.0)
    most = float(device.compute.units)
    cores: FloatArray = np.minimum(np.maximum(np.ceil(wanted), 1.0), most)
    return cores


def _levels(
    work: Product,
    device: DeviceSpec,
    calibration: Calibration,
    blocked: BlockedParameters,
    share: FloatArray,
) -> dict[str, FloatArray]:
    params = calibration.matmul
    rate = device.bandwidth * params.memory_efficiency
    main, cache = device.main_memory_name, cache_name(device)
    private = device.compute.units * sum(
        level.size for level in device.memory.values() if level.scope == "unit"
    )
    shared = 0.0 if device.cache is None else device.cache.size
    room = max(private, shared) * blocked.cache_share
    from_main = _traffic(work, room) - work.nbytes * work.resident
    levels = {main: memory_time(from_main, rate, params.memory_ramp)}
    if cache is None:
        return levels
    fast = cache_rate(device, params.memory_efficiency, params.cache_speedup, rate)
    from_cache = _traffic(work, private * blocked.cache_share)
    return {cache: from_cache / (fast * share), **levels}


def _traffic(work: Product, capacity: float) -> FloatArray:
    """Return bytes through a level whose blocks fill ``capacity`` [B].

    An output block of side s keeps s^2 sums in place while s (a + b) bytes
    stream past for every k: m n k (a + b) / s in all, never less than each
    operand once.
    """
    width = np.maximum((work.a_bytes + work.b_bytes) / 2.0, _LEAST_BYTES)
    side = np.sqrt(max(capacity, 1.0) / width / 3.0)
    again = work.m * work.n * work.k * work.batch
    again = again * (work.a_bytes + work.b_bytes) / side
    traffic: FloatArray = np.maximum(work.nbytes, again)
    return traffic
