"""Routed experts as training frameworks run them: grouped library products."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.sequence import add, repeated
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration
from hwsim.specs.device import DeviceSpec


def expert_products_cost(
    tokens: ArrayLike,
    ffn: ArrayLike,
    hidden: ArrayLike,
    *,
    experts: int,
    topk: int,
    tp: int = 1,
    ep: int = 1,
    gated: bool = True,
    backward: bool = False,
    each: bool = False,
    device: DeviceSpec,
    calibration: Calibration,
    dtype: str,
    sustained_flop: float | FloatArray = 0.0,
) -> Cost:
    """Return the cost of one rank's experts, each a product of the device's library.

    Rows have been sorted and exchanged before: every expert has its own rows in
    one piece, and as many as the mean.

    Parameters
    ----------
    tokens : array_like
        Tokens before dispatch, of all ranks that share the experts.
    ffn, hidden : array_like
        Width of one expert before tensor parallelism; columns.
    experts, topk, tp, ep : int
        Experts in all, per token; ranks that split each expert, that share them
        out.
    backward : bool
        Gradients of inputs and of weights: two products where forward has one.
    each : bool
        Every expert is a product of its own, and where the arithmetic is narrower
        than 16 bits, kernels of their own cast what the products read: both a copy
        for products along rows and one for those along columns are written.
    sustained_flop : float or ndarray
        As for :func:`~hwsim.cost.matmul.matmul_cost`. [FLOP]
    """
    rows = np.asarray(tokens, dtype=np.float64) * topk / experts
    inner = np.asarray(ffn, dtype=np.float64) / tp
    outer = np.asarray(hidden, dtype=np.float64)
    entering = inner * (2.0 if gated else 1.0)
    local = experts / ep
    element, wide = DTYPE_BYTES[dtype], max(DTYPE_BYTES[dtype], 2.0)

    def grouped(m: ArrayLike, n: ArrayLike, k: ArrayLike) -> Cost:
        found = matmul_cost(
            m, n, k, batch=1 if each else local, device=device,
            calibration=calibration, dtype=dtype, a_bytes=element, b_bytes=element,
            c_bytes=wide, sustained_flop=sustained_flop,
        )  # fmt: skip
        return repeated(found, local) if each else found

    products: tuple[Cost, ...]
    if backward:
        products = (
            grouped(rows, inner, outer), grouped(inner, outer, rows),
            grouped(rows, outer, entering), grouped(outer, entering, rows),
        )  # fmt: skip
    else:
        products = grouped(rows, entering, outer), grouped(rows, outer, inner)
    # Gate times up, and what its gradient reads beside them.
    widths = (2.0 * entering + inner) if backward else entering + inner
    passes = [widths * wide]
    if each and element < wide:
        read = outer + (entering if backward else inner)
        passes.append(read * (wide + 2.0 * element))
    vectors = [
        elementwise_cost(local * rows * p, device=device, calibration=calibration)
        for p in passes
    ]
    return add(*products, *vectors)
