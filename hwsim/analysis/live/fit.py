"""Fits the laws of a processor's operators, and tries them on held-out blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwsim.analysis.live.operators import (
    FAR,
    CopyRate,
    Floats,
    HostOperators,
    ProductLaw,
    Products,
    Spread,
    ValueLaw,
    product_terms,
    shared_terms,
    value_terms,
)
from hwsim.errors import InputError
from hwsim.specs.measurement.table import FamilyRows, MeasurementTable

# Rows and columns of the inner kernel of a product: sides are padded to it.
# Which one a BLAS has is chosen on held-out blocks. OpenBLAS: 8 x 4 on AVX2.
TILES = ((1, 1), (8, 4), (4, 12), (4, 4), (16, 4), (8, 8))
LEAST_ROWS = 3  # for a law
_ROUNDS, _SMALL = 10, 0.03


def fit_terms(terms: Floats, times: Floats) -> Floats:
    """Return coefficients >= 0 with the least sum of absolute relative errors."""
    from scipy.optimize import nnls

    weight = np.ones(len(times))
    found = np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        scaled = terms / times[:, None] * weight[:, None]
        size = np.sqrt((scaled**2).sum(axis=0))
        size[size == 0] = 1.0
        found = nnls(scaled / size, weight)[0] / size
        error = np.abs(terms @ found / times - 1.0)
        weight = 1.0 / np.sqrt(np.maximum(error, _SMALL))
    return np.asarray(found)


def held_out(terms: Floats, times: Floats, blocks: Sequence[Any]) -> Floats:
    """Return ln(measured / predicted), each block by a fit that did not see it."""
    _, code = np.unique(np.asarray(blocks, dtype=str), return_inverse=True)
    predicted = np.zeros(len(times))
    for block in range(int(code.max()) + 1):
        inside = code == block
        if inside.all():  # a single block: nothing can be held out
            predicted[:] = terms @ fit_terms(terms, times)
            break
        predicted[inside] = terms[inside] @ fit_terms(terms[~inside], times[~inside])
    return np.log(times / np.maximum(predicted, 1e-12))


def fit_operators(table: MeasurementTable, dtype: str = "fp32") -> HostOperators:
    """Learn the laws of a processor's operators from measured ones.

    Parameters
    ----------
    table : MeasurementTable
        Rows of products, elementwise operators, streams and dispatch of one
        processor, as ``hwsim measure cpu`` writes them.
    dtype : str
        Arithmetic.

    Raises
    ------
    InputError
        If a family is missing.
    """
    for family in ("gemm", "elementwise", "memory"):
        if family not in table.families:
            raise InputError(f"the table has no {family} rows; hwsim measure cpu")
    rate = CopyRate.of(table.families["memory"])
    gemm = held_rows(table.families["gemm"], dtype)
    values = held_rows(table.families["elementwise"], dtype)
    threads = row_threads(gemm)
    alone = _product_laws(gemm.take(threads == 1), rate)
    shared: dict[tuple[int, bool], ValueLaw] = {}
    for count in sorted({int(t) for t in threads} - {1}):
        shared |= _shared_laws(gemm.take(threads == count), rate, alone, count)
    return HostOperators(
        rate, {v: law for v, (law, _) in alone.items()}, shared,
        _value_laws(values, rate), _dispatch(table), len(gemm) + len(values),
    )  # fmt: skip


def held_rows(rows: FamilyRows, dtype: str) -> FamilyRows:
    """Return NumPy's rows, less those of which other processes made the time."""
    own = (rows["dtype"] == dtype) & (rows["kernel"] == "numpy")
    return rows.take(own & rows.undisturbed)


def row_threads(rows: FamilyRows) -> Floats:
    """Return the BLAS threads of each row."""
    given = rows.extra.get("threads", np.full(len(rows), "1", dtype=object))
    return np.array([float(text or 1) for text in given])


def _dispatch(table: MeasurementTable) -> float:
    rows = table.families.get("launch")
    if rows is None:
        return 0.0
    keep = rows["kernel"] == "add_one_value"
    return float(np.median(rows["time"][keep])) if keep.any() else 0.0


def row_shapes(rows: FamilyRows) -> Products:
    """Return the shapes of rows of products, hot or cold."""
    m, n, k = rows["m"], rows["n"], rows["k"]
    batch = np.nan_to_num(rows["batch"], nan=1.0)
    none = np.zeros_like(m)
    found = Products(m, n, k, batch, none, none, none)
    reuse = _own_or_far(rows, found.own)
    return Products(m, n, k, batch, reuse, reuse, reuse)


def _own_or_far(rows: FamilyRows, own: Floats) -> Floats:
    """Return the working set of rows that replay operands, or rotate them."""
    return np.where(np.nan_to_num(rows["hot"], nan=1.0) > 0, own, FAR)


def _blocks(shape: Products) -> list[str]:
    return [f"{n:g} {k:g} {b:g}" for n, k, b in zip(
        shape.n, shape.k, shape.batch, strict=True)]  # fmt: skip


def _product_laws(
    rows: FamilyRows, rate: CopyRate
) -> dict[bool, tuple[ProductLaw, Products]]:
    shape = row_shapes(rows)
    laws: dict[bool, tuple[ProductLaw, Products]] = {}
    for vector in (False, True):
        index = np.flatnonzero(shape.vector == vector)
        if len(index) >= LEAST_ROWS:
            part = shape.take(index)
            laws[vector] = (_product_law(part, rows["time"][index], rate), part)
    return laws


def _product_law(shape: Products, times: Floats, rate: CopyRate) -> ProductLaw:
    tiles = TILES[:1] if shape.vector.all() else TILES
    blocks = _blocks(shape)
    tried = [
        (tile, held_out(product_terms(shape, rate, tile), times, blocks))
        for tile in tiles
    ]
    tile, logs = min(tried, key=lambda pair: float(np.mean(np.abs(pair[1]))))
    found = fit_terms(product_terms(shape, rate, tile), times)
    return ProductLaw(tile, found, Spread(logs))


def _shared_laws(
    rows: FamilyRows,
    rate: CopyRate,
    alone: Mapping[bool, tuple[ProductLaw, Products]],
    threads: int,
) -> dict[tuple[int, bool], ValueLaw]:
    shape = row_shapes(rows)
    laws: dict[tuple[int, bool], ValueLaw] = {}
    for vector, (law, _) in alone.items():
        index = np.flatnonzero(shape.vector == vector)
        if len(index) < LEAST_ROWS:
            continue
        part, times = shape.take(index), rows["time"][index]
        single = product_terms(part, rate, law.tile) @ law.found
        terms = shared_terms(part, single)
        logs = held_out(terms, times, _blocks(part))
        laws[threads, vector] = ValueLaw(fit_terms(terms, times), Spread(logs))
    return laws


def value_inputs(rows: FamilyRows) -> tuple[Floats, Floats, Floats, Floats]:
    """Return rows, columns, traffic and working set of operators on values."""
    nbytes = rows["nbytes"]
    return rows["m"], rows["n"], nbytes, _own_or_far(rows, nbytes)


def _value_laws(rows: FamilyRows, rate: CopyRate) -> dict[str, ValueLaw]:
    laws: dict[str, ValueLaw] = {}
    for (op,), index in rows.group_indices("op"):
        if len(index) < LEAST_ROWS:
            continue
        part = rows.take(index)
        m, n, nbytes, reuse = value_inputs(part)
        terms = value_terms(m, n, nbytes, reuse, rate)
        blocks = [f"{a:g} {b:g}" for a, b in zip(m, n, strict=True)]
        logs = held_out(terms, part["time"], blocks)
        laws[str(op)] = ValueLaw(fit_terms(terms, part["time"]), Spread(logs))
    return laws


def table_offset(host: HostOperators, table: MeasurementTable) -> float:
    """Return how far laws lie from operators measured now.

    Parameters
    ----------
    host : HostOperators
        Laws of an older table.
    table : MeasurementTable
        Products and operators on values, measured now.

    Returns
    -------
    float
        The largest |median of ln(measured / predicted)| of any kind of
        operator with at least three rows; 0 where there is none.
    """
    logs: dict[str, list[float]] = {}
    gemm = held_rows(table.families["gemm"], "fp32")
    for count in sorted({int(t) for t in row_threads(gemm)}):
        part = gemm.take(row_threads(gemm) == count)
        times, names = host.products(row_shapes(part), count)
        for name, measured, expected in zip(names, part["time"], times, strict=True):
            logs.setdefault(name, []).append(float(np.log(measured / expected)))
    values = table.families.get("elementwise", gemm.take(np.zeros(0, dtype=np.int64)))
    for (op,), index in values.group_indices("op"):
        if op not in host.values:
            continue
        part = values.take(index)
        times = host.value_times(str(op), *value_inputs(part))
        logs.setdefault("values", []).extend(np.log(part["time"] / times))
    return max(
        (
            abs(float(np.median(part)))
            for part in logs.values()
            if len(part) >= LEAST_ROWS
        ),
        default=0.0,
    )
