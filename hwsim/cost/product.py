"""The work of matrix products: shapes, FLOP and bytes, checked once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import FloatArray
from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Product:
    """``batch`` independent products out[m, n] = a[m, k] x b[k, n].

    All arrays are flat and of one length; ``shape`` is what the caller's
    arrays broadcast to.

    Attributes
    ----------
    a_bytes, b_bytes, c_bytes : ndarray of float64
        Bytes per element of each operand. [B]
    resident : ndarray of float64
        Share of operand bytes found in the last shared cache. [1]
    wide_bytes : float
        Bytes per element of the dtype that is multiplied. [B]
    block_scales : bool
        Whether operands have a scale per block rather than per row.
    sustained_flop : float or ndarray of float64
        Work as long as that of one product whose clocks these run at, because
        other work goes on around them without a pause. [FLOP]
    """

    m: FloatArray
    n: FloatArray
    k: FloatArray
    batch: FloatArray
    a_bytes: FloatArray
    b_bytes: FloatArray
    c_bytes: FloatArray
    resident: FloatArray
    wide_bytes: float
    shape: tuple[int, ...]
    sustained_flop: float | FloatArray = 0.0
    block_scales: bool = False

    @property
    def flop(self) -> FloatArray:
        """Work; a multiply-add counts as two. [FLOP]."""
        return 2.0 * self.m * self.n * self.k * self.batch

    @property
    def nbytes(self) -> FloatArray:
        """Bytes of the operands, each moved once. [B]."""
        a = self.m * self.k * self.a_bytes
        b = self.k * self.n * self.b_bytes
        c = self.m * self.n * self.c_bytes
        return (a + b + c) * self.batch

    @property
    def narrow(self) -> FloatArray:
        """1 where weights are stored narrower than they are multiplied."""
        return (self.b_bytes < self.wide_bytes).astype(np.float64)

    def rows(self, start: int, stop: int) -> Product:
        """Return some of the products."""
        part = slice(start, stop)
        return Product(
            self.m[part], self.n[part], self.k[part], self.batch[part],
            self.a_bytes[part], self.b_bytes[part], self.c_bytes[part],
            self.resident[part], self.wide_bytes, (stop - start,),
            _part(self.sustained_flop, part), self.block_scales,
        )  # fmt: skip


def product(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    batch: ArrayLike,
    dtype: str,
    a_bytes: ArrayLike | None,
    b_bytes: ArrayLike | None,
    c_bytes: ArrayLike | None,
    resident: ArrayLike,
    sustained_flop: float | FloatArray = 0.0,
    block_scales: bool = False,
) -> Product:
    """Return checked, broadcast, flat arrays of products.

    Raises
    ------
    InputError
        If a size is negative or not finite, or ``resident`` is no share.
    """
    if dtype not in DTYPE_BYTES:
        raise InputError(f"dtype {dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    width = DTYPE_BYTES[dtype]
    stored = [width if b is None else b for b in (a_bytes, b_bytes, c_bytes)]
    given = (m, n, k, batch, *stored, resident)
    if isinstance(sustained_flop, np.ndarray):
        given = (*given, sustained_flop)
    arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in given))
    shape = arrays[0].shape
    stacked = np.stack([v.ravel() for v in arrays])
    if not (np.all(stacked >= 0) and np.all(stacked < np.inf)):
        raise InputError(
            "a matrix product has a negative or non-finite size; "
            "give m, n, k, batch and bytes per element >= 0"
        )
    if np.any(stacked[7] > 1):
        raise InputError("resident is above 1; give the share of bytes in the cache")
    if isinstance(sustained_flop, np.ndarray):
        sustained_flop = stacked[8]
    return _product(stacked, width, shape, sustained_flop, block_scales)


def _part(value: float | FloatArray, part: slice) -> float | FloatArray:
    return value[part] if isinstance(value, np.ndarray) else value


def _product(
    table: FloatArray,
    width: float,
    shape: tuple[int, ...],
    sustained_flop: float | FloatArray,
    block_scales: bool,
) -> Product:
    return Product(
        m=table[0],
        n=table[1],
        k=table[2],
        batch=table[3],
        a_bytes=table[4],
        b_bytes=table[5],
        c_bytes=table[6],
        resident=table[7],
        wide_bytes=width,
        shape=shape,
        sustained_flop=sustained_flop,
        block_scales=block_scales,
    )
