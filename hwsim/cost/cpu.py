"""The CPU form of a matrix product: blocked for caches, spread over cores."""

from __future__ import annotations

import numpy as np

from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.product import Product
from hwsim.cost.terms import memory_time, sustained_derate, widen_time
from hwsim.errors import InputError
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec, MemoryLevel
from hwsim.specs.parameters.matmul import BlockedParameters


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
    padded = (
        np.ceil(work.m / blocked.register_rows) * blocked.register_rows
        * np.ceil(work.n / blocked.register_columns) * blocked.register_columns
        * work.k * work.batch * 2.0
    )  # fmt: skip
    peak = device.peak(dtype) * params.efficiency(dtype) * share
    compute = padded / peak * sustained_derate(work, calibration)
    compute = compute + widen_time(work, device, calibration) / share
    levels = _levels(work, device, calibration, blocked, share)
    overhead = params.overhead + blocked.thread_sync * np.where(cores > 1, share, 0.0)
    return combine(
        compute=compute, levels=levels, overhead=overhead, exponent=params.overlap
    )


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
    cache, cache_name = _shared_cache(device)
    main = device.main_memory_name
    if cache is None:
        return {main: memory_time(work.main_bytes, rate, params.memory_ramp)}
    private = sum(
        level.size * device.compute.units
        for level in device.memory.values()
        if level.scope == "unit"
    )
    from_main = _traffic(work, cache.size * blocked.cache_share, work.resident)
    from_cache = _traffic(work, private * blocked.cache_share, np.zeros_like(work.m))
    cache_rate = cache.bandwidth or device.bandwidth * blocked.cache_speedup
    cache_rate = max(cache_rate * params.memory_efficiency, rate)
    return {
        cache_name: from_cache / (cache_rate * share),
        main: memory_time(from_main, rate, params.memory_ramp),
    }


def _shared_cache(device: DeviceSpec) -> tuple[MemoryLevel | None, str]:
    for name, level in device.memory.items():
        if level is device.cache:
            return level, name
    return None, ""


def _traffic(work: Product, capacity: float, resident: FloatArray) -> FloatArray:
    """Return bytes through a level whose blocks fill ``capacity``. [B].

    Square output blocks of side s keep s^2 sums in place while s(a + b) bytes
    stream for every step of k: 2 m n k / s elements, never less than each
    operand once.
    """
    once = work.main_bytes
    del resident
    width = np.maximum((work.a_bytes + work.b_bytes) / 2.0, 1e-9)
    side = np.sqrt(max(capacity, 1.0) / width / 3.0)
    again = work.m * work.n * work.k * work.batch
    again = again * (work.a_bytes + work.b_bytes) / side
    return np.maximum(once, again)
