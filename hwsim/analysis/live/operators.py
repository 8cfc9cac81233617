"""Times of a processor's NumPy operators, learned from a table of measured ones.

Each law is a sum of physical terms with coefficients that are not negative:
dispatch, work, rows, and traffic at the rate at which a copy of the same
working set runs. A value that something else has pushed out of the caches in
the meantime is charged at the rate of the working set that did so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import InputError
from hwsim.specs.measurement.table import FamilyRows

Floats = NDArray[np.float64]
PRODUCTS = ("linear", "bmm")
# Below so many multiplications OpenBLAS stays on one thread.
ONE_THREAD = 2.0**18
FAR = 1e13  # working set of operands that are cold: larger than any cache. [B]
_TAILS = (0.05, 0.95)


@dataclass(frozen=True)
class Spread:
    """How far held-out measured times lie from predicted ones.

    Attributes
    ----------
    logs : ndarray
        ln(measured / predicted) of rows whose block the fit had not seen.
    """

    logs: Floats

    @property
    def median_ape(self) -> float:
        """Median of the absolute relative error."""
        return float(np.median(np.abs(np.expm1(-self.logs))))

    @property
    def mape(self) -> float:
        """Mean of the absolute relative error."""
        return float(np.mean(np.abs(np.expm1(-self.logs))))

    def factors(self) -> tuple[float, float]:
        """Return the factors on a prediction that 90 % of rows lie between."""
        low, high = np.exp(np.quantile(self.logs, _TAILS))
        return min(float(low), 1.0), max(float(high), 1.0)


@dataclass(frozen=True)
class Products:
    """Shapes of matrix products, and what each operand's values wait behind.

    Attributes
    ----------
    m, n, k, batch : ndarray
        Shape.
    reuse_a, reuse_b, reuse_c : ndarray
        Bytes touched since an operand was: its working set. [B]
    itemsize : int
        Bytes of a value.
    """

    m: Floats
    n: Floats
    k: Floats
    batch: Floats
    reuse_a: Floats
    reuse_b: Floats
    reuse_c: Floats
    itemsize: int = 4

    def take(self, index: NDArray[Any]) -> Products:
        """Return some of them."""
        names = ("m", "n", "k", "batch", "reuse_a", "reuse_b", "reuse_c")
        picked = {name: getattr(self, name)[index] for name in names}
        return Products(**picked, itemsize=self.itemsize)

    @property
    def own(self) -> Floats:
        """Bytes of all operands."""
        sides = self.m * self.k + self.k * self.n + self.m * self.n
        return np.asarray(self.itemsize * self.batch * sides)

    @property
    def vector(self) -> NDArray[np.bool_]:
        """Whether one side is a vector: another routine, bound by memory."""
        return np.asarray((self.m == 1) | (self.n == 1))


@dataclass(frozen=True)
class CopyRate:
    """Time of a byte copied, by working set: caches, then memory.

    Attributes
    ----------
    log_sizes, log_times : ndarray
        ln of bytes and of seconds per byte, both ascending.
    """

    log_sizes: Floats
    log_times: Floats

    @classmethod
    def of(cls, rows: FamilyRows) -> CopyRate:
        """Read it off streams of one thread."""
        keep = (rows["op"] == "copy") & (np.nan_to_num(rows["threads"], nan=1) == 1)
        if not keep.any():
            raise InputError("the table has no copies: hwsim measure cpu --only memory")
        sizes = rows["working_set_bytes"][keep]
        times = (rows["time"] / rows["nbytes"])[keep]
        order = np.argsort(sizes, kind="stable")
        sizes, times = sizes[order], times[order]
        first = int(np.argmin(times))  # smaller ones are all dispatch
        times = np.maximum.accumulate(times[first:])
        return cls(np.log(sizes[first:]), np.log(times))

    def per_byte(self, working_set: Floats) -> Floats:
        """Return the time of a byte. [s/B]"""
        sizes = np.log(np.maximum(working_set, 1.0))
        return np.exp(np.interp(sizes, self.log_sizes, self.log_times))


def product_terms(shape: Products, rate: CopyRate, tile: tuple[int, int]) -> Floats:
    """Return the terms of matrix products on one thread."""
    m, n, k, batch = shape.m, shape.n, shape.k, shape.batch
    padded = np.ceil(m / tile[0]) * tile[0] * np.ceil(n / tile[1]) * tile[1]
    traffic = (
        m * k * rate.per_byte(shape.reuse_a)
        + k * n * rate.per_byte(shape.reuse_b)
        + m * n * rate.per_byte(shape.reuse_c)
    )
    return np.stack(
        [np.ones_like(m), batch, batch * padded * k, batch * m * k, batch * k * n,
         batch * m * n, shape.itemsize * batch * traffic],
        axis=1,
    )  # fmt: skip


def shared_terms(shape: Products, alone: Floats) -> Floats:
    """Return the terms of products on several threads, given their time on one.

    Large ones share the arithmetic, less so what is copied around it.
    """
    m, n, k, batch = shape.m, shape.n, shape.k, shape.batch
    large = (m * n * k > ONE_THREAD).astype(np.float64)
    shared = [alone, batch, batch * m * n, batch * k * n, batch * m * k]
    return np.stack([alone * (1.0 - large), *(part * large for part in shared)], axis=1)


def value_terms(
    m: Floats, n: Floats, nbytes: Floats, reuse: Floats, rate: CopyRate
) -> Floats:
    """Return the terms of an operator on m x n values."""
    traffic = nbytes * rate.per_byte(reuse)
    return np.stack([np.ones_like(m), m, m * n, traffic], axis=1)


@dataclass(frozen=True)
class ProductLaw:
    """Products on one thread, of matrices or of vectors."""

    tile: tuple[int, int]
    found: Floats
    spread: Spread


@dataclass(frozen=True)
class ValueLaw:
    """One operator on values."""

    found: Floats
    spread: Spread


@dataclass(frozen=True)
class HostOperators:
    """Laws of one processor's operators.

    Attributes
    ----------
    rate : CopyRate
        Of one thread.
    alone : mapping of bool to ProductLaw
        Products on one thread; True for vectors.
    shared : mapping of (threads, vector) to ValueLaw
        Products on several threads.
    values : mapping of str to ValueLaw
        Everything else; NumPy runs it on one thread.
    dispatch : float
        Of one NumPy call. [s]
    rows : int
        Rows behind it.
    """

    rate: CopyRate
    alone: Mapping[bool, ProductLaw]
    shared: Mapping[tuple[int, bool], ValueLaw]
    values: Mapping[str, ValueLaw]
    dispatch: float
    rows: int

    def products(self, shape: Products, threads: int) -> tuple[Floats, list[str]]:
        """Return the times of products, and the name of the law behind each."""
        times, names = np.zeros(len(shape.m)), [""] * len(shape.m)
        for vector in (False, True):
            index = np.flatnonzero(shape.vector == vector)
            if not len(index):
                continue
            part = shape.take(index)
            times[index] = self._alone(part, vector)
            if threads > 1:
                if (threads, vector) not in self.shared:
                    raise InputError(
                        f"the table has no products on {threads} threads; measure "
                        f"some: hwsim measure cpu --only gemm --threads 1,{threads}"
                    )
                law = self.shared[threads, vector]
                times[index] = shared_terms(part, times[index]) @ law.found
            for i in index:
                names[i] = law_name(vector, threads)
        return times, names

    def _alone(self, shape: Products, vector: bool) -> Floats:
        if vector not in self.alone:
            raise InputError(
                f"the table has too few {law_name(vector, 1)}; "
                "hwsim measure cpu --only gemm"
            )
        law = self.alone[vector]
        return np.asarray(product_terms(shape, self.rate, law.tile) @ law.found)

    def value_times(
        self, op: str, m: Floats, n: Floats, nbytes: Floats, reuse: Floats
    ) -> Floats:
        """Return the times of an operator on values."""
        if op not in self.values:
            raise InputError(
                f"the table has too few rows of {op}; hwsim measure cpu --only "
                "elementwise"
            )
        terms = value_terms(m, n, nbytes, reuse, self.rate)
        return np.asarray(terms @ self.values[op].found)

    def spreads(self) -> dict[str, Spread]:
        """Return the held-out spread of each law, by its name."""
        named = {law_name(v, 1): law.spread for v, law in self.alone.items()}
        named |= {law_name(v, t): law.spread for (t, v), law in self.shared.items()}
        return named | {op: law.spread for op, law in self.values.items()}


def law_name(vector: bool, threads: int) -> str:
    """Return the name of a law of products."""
    kind = "vector products" if vector else "matrix products"
    return f"{kind}, {threads} thread{'' if threads == 1 else 's'}"
