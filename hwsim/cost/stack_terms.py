"""What a software stack changes in the cost of a kernel."""

from __future__ import annotations

import numpy as np

from hwsim.cost.cost import Cost, FloatArray
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.stack import StackSpec

# Products of more rows are the work of libraries and of int8 kernels.
FEW_ROWS = 32
# Products of these read operands with scales; see ``StackSpec.tensor_scales``.
SCALED = frozenset({"fp8", "fp4"})


def inner_dtype(device: DeviceSpec, dtype: str) -> str:
    """Return the dtype that attention inside a narrower run is computed in.

    Activations of int8 or int4 products are bf16; a device without it keeps them
    in fp16, else in fp32. Runs in bf16 as such are refused there before.
    """
    if dtype != "bf16" or dtype in device.dtypes:
        return dtype
    return "fp16" if "fp16" in device.dtypes else "fp32"


def repeated(cost: Cost, times: FloatArray) -> Cost:
    """Return the cost of doing the same several times."""
    if np.all(times == 1.0):
        return cost
    return Cost(
        time=cost.time * times,
        compute=cost.compute * times,
        levels={name: part * times for name, part in cost.levels.items()},
        interconnect=cost.interconnect * times,
        overhead=cost.overhead * times,
    )


def derated(cost: Cost, derate: float) -> Cost:
    """Slow a stack's kernels down; start-up time is left as it is."""
    if derate == 1.0:
        return cost
    slow = 1.0 / derate
    return Cost(
        time=(cost.time - cost.overhead) * slow + cost.overhead,
        compute=cost.compute * slow,
        levels={name: part * slow for name, part in cost.levels.items()},
        interconnect=cost.interconnect * slow,
        overhead=cost.overhead,
    )


def attention_rate(stack: StackSpec, device: DeviceSpec) -> float:
    """Return the rate of a stack's attention kernels over the best ones there."""
    rates = {r.architecture: r.rate for r in stack.attention_derates}
    return stack.attention_derate * rates.get(device.architecture, 1.0)


def stored_rate(
    stack: StackSpec,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    rows: FloatArray,
    stored: FloatArray,
) -> FloatArray:
    """Return the rate of a stack's 16-bit products over those summed in fp32.

    Parameters
    ----------
    rows : ndarray of float64
        Of each product; few of them stream weights as they are stored.
    stored : ndarray of float64
        Bytes per weight as stored. [B]

    Returns
    -------
    ndarray of float64
        Of products whose weights are narrower, by int8 units; of others, where
        sums of 16 bit are faster. [1]
    """
    one = np.ones_like(rows)
    if device.kind != "gpu" or dtype not in {"fp16", "bf16"}:
        return one
    narrow = stored < DTYPE_BYTES[dtype]
    int8 = device.peak("int8") / device.peak(dtype) if "int8" in device.dtypes else 1.0
    summed = calibration.matmul.half_sums if stack.half_sums else 1.0
    of_narrow = stack.stored_int8 * int8 if stack.stored_int8 and int8 > 1.0 else 1.0
    rate = np.where(narrow, of_narrow, summed if dtype == "fp16" else 1.0)
    return np.where(rows > FEW_ROWS, rate, one)


def alignment_rate(
    device: DeviceSpec, calibration: Calibration, dtype: str, alignment: FloatArray
) -> FloatArray:
    """Return the rate of products on matrix units by where their rows begin.

    Parameters
    ----------
    alignment : ndarray of float64
        Rows of all matrices begin at multiples of so many bytes. [B]

    Returns
    -------
    ndarray of float64
        Over products whose rows begin at multiples of 16 bytes; between two
        entries of the table the one that is less aligned holds. [1]
    """
    rate = np.ones_like(alignment)
    if dtype not in device.compute.matrix:
        return rate
    for least, share in sorted(calibration.matmul.unaligned, reverse=True):
        rate = np.where(alignment <= least, share, rate)
    return rate


def product_by(
    cost: Cost, stack: StackSpec, dtype: str, by_storage: FloatArray | float = 1.0
) -> Cost:
    """Return the cost of a matrix product by the kernels of a stack.

    ``by_storage`` is the rate that :func:`stored_rate` gives.
    """
    rate = by_storage * (stack.tensor_scales if dtype in SCALED else 1.0)
    if np.any(rate != 1.0):
        compute = cost.compute / rate
        cost = Cost(
            time=cost.time - cost.compute + compute,
            compute=compute,
            levels=cost.levels,
            interconnect=cost.interconnect,
            overhead=cost.overhead,
        )
    return derated(cost, stack.matmul_derate)


def collective_by(cost: Cost, stack: StackSpec) -> Cost:
    """Return the cost of a collective by the library of a stack."""
    late = stack.launch.collective
    if not late:
        return cost
    return Cost(
        time=cost.time + late,
        compute=cost.compute,
        levels=cost.levels,
        interconnect=cost.interconnect,
        overhead=cost.overhead + late,
    )
