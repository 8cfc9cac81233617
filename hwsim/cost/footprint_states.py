"""Bytes per parameter of what training keeps beside activations."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.graph.optimizer import master_bytes
from hwsim.graph.precision import Precision
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.stack import HeldPolicy


@dataclass(frozen=True, slots=True)
class StateWidths:
    """Bytes per parameter of one device's share.

    Attributes
    ----------
    weight : float
        Of every parameter. [B]
    linear : float
        What linear weights take beside; negative where they take less. [B]
    gradient, master : float
        Gradients; fp32 masters that stand apart from the weights. [B]
    """

    weight: float
    linear: float
    gradient: float
    master: float


def state_widths(
    precision: Precision, held: HeldPolicy, *, sharded: bool
) -> StateWidths:
    """Return the bytes per parameter of weights, gradients and masters.

    Parameters
    ----------
    sharded : bool
        Parameters are shared out among data-parallel ranks (ZeRO 3, FSDP).

    References
    ----------
    .. [1] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 3.1.
    .. [2] Y. Zhao et al., "PyTorch FSDP", 2023, arXiv:2304.11277, section 4.4.

    Examples
    --------
    >>> from hwsim.graph.precision import resolve
    >>> state_widths(resolve("bf16"), HeldPolicy(), sharded=False)
    StateWidths(weight=2.0, linear=0.0, gradient=2.0, master=4.0)
    """
    weight, grad = DTYPE_BYTES[precision.parameter], DTYPE_BYTES[precision.grad]
    master = master_bytes(precision)
    if held.masters and sharded and master:
        return StateWidths(master, 0.0, master, 0.0)
    linear = 0.0
    if precision.quantised:
        linear += 2 * DTYPE_BYTES[precision.math]
        if held.narrow and precision.math == "fp8":
            linear -= weight
    if precision.autocast:
        linear += DTYPE_BYTES[precision.act]
    return StateWidths(weight, linear, grad, master)
