"""Scan of a state space: small products and their states, kernel after kernel."""

from __future__ import annotations

from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, combine
from hwsim.cost.roofline import non_negative
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec

# Share of the matrix peak that the products within chunks reach. Derived: with
# states of 64 the scan and FlashAttention-2 take as long at 2,048 tokens on an
# A100 [1]_; at the attention kernel's rate (about 130 TFLOP/s, head width 64,
# causal) and with the scan's traffic taken off, 19 of 312 TFLOP/s.
PRODUCT_EFFICIENCY = 0.06
# The same per clock of each of its 108 units. Tiles this small wait for loads and
# for each other: later GPUs gain by units and clock, not by wider matrix units.
PRODUCT_FLOP_PER_CLOCK = 125.0


def state_scan_cost(
    flop: ArrayLike,
    nbytes: ArrayLike,
    *,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str = "bf16",
) -> Cost:
    """Return the device time of scans in chunks.

    Kernels bound by memory (states, steps) and by small products take turns:
    their times add.

    Parameters
    ----------
    flop : array_like of float64
        Work of the products. [FLOP]
    nbytes : array_like of float64
        Traffic of all kernels. [B]
    dtype : str
        Dtype of the products.

    Raises
    ------
    InputError
        If an amount is negative or not finite, or the device lacks the dtype.

    References
    ----------
    .. [1] T. Dao and A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060,
       figure 10.
    """
    params = calibration.elementwise
    work, amount = non_negative("flop", flop), non_negative("nbytes", nbytes)
    rate = device.bandwidth * params.memory_efficiency
    return combine(
        compute=work / _product_rate(device, dtype),
        levels={device.main_memory_name: amount / rate},
        overhead=params.overhead,
        exponent=1.0,
    )


def _product_rate(device: DeviceSpec, dtype: str) -> float:
    """Return the rate of the small products within chunks. [FLOP/s]"""
    share = device.peak(dtype) * PRODUCT_EFFICIENCY
    clock = device.compute.clock
    if device.kind != "gpu" or clock is None:
        return float(share)
    return float(min(share, PRODUCT_FLOP_PER_CLOCK * device.compute.units * clock))
