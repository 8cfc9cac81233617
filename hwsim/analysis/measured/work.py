"""Work and least traffic of measured rows: what a roofline sees of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.measurement.names import SCALED_DTYPES
from hwsim.specs.measurement.table import Column, FamilyRows


class Work(NamedTuple):
    """Arithmetic and least traffic of rows. [FLOP], [B]."""

    flop: FloatArray
    nbytes: FloatArray


class _Stream(NamedTuple):
    """One value of a memory-bound kernel: operands read, written, work."""

    reads: float
    writes: float
    flop: float
    weights: float = 0.0  # vectors of one row's length, read once


# Exponentials, roots and divisions count as the handful of instructions that
# they take on vector units.
STREAMS: dict[str, _Stream] = {
    "add": _Stream(2, 1, 1), "add_scalar": _Stream(1, 1, 1),
    "mul": _Stream(2, 1, 1), "mul_scalar": _Stream(1, 1, 1),
    "div": _Stream(2, 1, 4), "div_scalar": _Stream(1, 1, 4),
    "pow": _Stream(2, 1, 16), "pow_scalar": _Stream(1, 1, 16),
    "relu": _Stream(1, 1, 1), "tanh": _Stream(1, 1, 8), "gelu": _Stream(1, 1, 12),
    "silu": _Stream(1, 1, 8), "silu_and_mul": _Stream(2, 1, 9),
    "softmax": _Stream(1, 1, 8), "layernorm": _Stream(1, 1, 8, weights=2),
    "rmsnorm": _Stream(1, 1, 5, weights=1),
    "rmsnorm_head": _Stream(1, 1, 5, weights=1),
    "add_layernorm": _Stream(2, 2, 9, weights=2),
    "add_rmsnorm": _Stream(2, 2, 6, weights=1),
    "sub": _Stream(2, 1, 1), "sub_scalar": _Stream(1, 1, 1),
    "neg": _Stream(1, 1, 1), "exp": _Stream(1, 1, 6), "log": _Stream(1, 1, 6),
    "sqrt": _Stream(1, 1, 4), "rsqrt": _Stream(1, 1, 4),
    "sigmoid": _Stream(1, 1, 8), "dropout": _Stream(1, 1.5, 10),
    "cast": _Stream(1, 1, 0), "transpose": _Stream(1, 1, 0),
    "gelu_and_mul": _Stream(2, 1, 13),
    "rope": _Stream(1, 1, 4), "embedding": _Stream(1, 1, 0),
    "cross_entropy": _Stream(1, 0, 8), "adamw": _Stream(4, 3, 14),
    "quantize_fp8": _Stream(1, 1, 2), "quantize_int8": _Stream(1, 1, 2),
    "gelu_backward": _Stream(2, 1, 20), "softmax_backward": _Stream(2, 1, 4),
    "layernorm_backward": _Stream(2, 1, 14, weights=1),
    "embedding_backward": _Stream(1, 1, 1),
}  # fmt: skip
_NARROWING = {"quantize_fp8": "fp8", "quantize_int8": "int8"}


def arithmetic(dtype: str) -> str:
    """Return the dtype that is multiplied where a table names a scaled format."""
    return SCALED_DTYPES.get(dtype, dtype)


def width(dtype: str) -> float:
    """Return bytes per value of a table's dtype. [B]"""
    return DTYPE_BYTES[arithmetic(dtype)]


def widths(dtypes: Column) -> FloatArray:
    """Return bytes per value of a column of dtypes. [B]"""
    known = {name: width(name) for name in set(dtypes)}
    return np.array([known[name] for name in dtypes], dtype=np.float64)


def or_default(values: Column, default: FloatArray | float) -> FloatArray:
    """Return a column with a default where nothing was given."""
    return np.where(np.isnan(values), default, values)


def text_or(values: Column, default: Column) -> Column:
    """Return a text column with another one where nothing was given."""
    return np.where(values == "", default, values)


def out_widths(rows: FamilyRows) -> FloatArray:
    """Return bytes per value of products' results. [B]"""
    element = widths(rows["dtype"])
    given = rows["out_dtype"]
    own = widths(text_or(given, rows["dtype"]))
    return np.where(given == "", np.maximum(element, 2.0), own)


def gemm_work(rows: FamilyRows) -> Work:
    """Return the work of products, activation quantisation left out."""
    m, n, k, batch = (rows[name] for name in ("m", "n", "k", "batch"))
    element = widths(rows["dtype"])
    nbytes = batch * ((m * k + k * n) * element + m * n * out_widths(rows))
    return Work(2.0 * batch * m * n * k, nbytes)


def quantised_bytes(rows: FamilyRows) -> FloatArray:
    """Return traffic of the separate kernel that quantises activations. [B]"""
    values = rows["m"] * rows["k"] * rows["batch"]
    per_value = 2.0 + widths(rows["dtype"])
    return np.where(rows["includes_act_quant"] > 0, values * per_value, 0.0)


class Shapes(NamedTuple):
    """Columns of attention rows with their defaults filled in."""

    batch: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray
    v_head_dim: FloatArray
    seq_q: FloatArray
    seq_kv: FloatArray
    window: FloatArray


def attention_shapes(rows: FamilyRows) -> Shapes:
    """Return the shapes of attention rows."""
    return Shapes(
        rows["batch"],
        rows["heads"],
        or_default(rows["kv_heads"], rows["heads"]),
        rows["head_dim"],
        or_default(rows["v_head_dim"], rows["head_dim"]),
        or_default(rows["seq_q"], 1.0),
        rows["seq_kv"],
        rows["window"],
    )


def cache_bytes(rows: FamilyRows, s: Shapes) -> FloatArray:
    """Return bytes of keys and values that attention reads. [B]"""
    element = widths(text_or(rows["kv_dtype"], rows["dtype"]))
    seen = np.where(s.window > 0, np.minimum(s.seq_kv, s.window + s.seq_q), s.seq_kv)
    return s.batch * s.kv_heads * seen * (s.head_dim + s.v_head_dim) * element


def attention_work(rows: FamilyRows) -> Work:
    """Return the work of attention: pairs of positions that are seen."""
    s = attention_shapes(rows)
    element = widths(rows["dtype"])
    pairs = seen_pairs(s, causal=rows["causal"] > 0)
    both = s.head_dim + s.v_head_dim
    flop = 2.0 * s.batch * s.heads * both * pairs
    nbytes = s.batch * s.heads * s.seq_q * both * element + cache_bytes(rows, s)
    more = rows["n_decode"]
    if np.any(more > 0):
        decode = s._replace(
            batch=more, seq_q=np.ones_like(more), seq_kv=rows["seq_kv_decode"]
        )
        flop = flop + 2.0 * more * s.heads * both * _within(decode)
        nbytes = nbytes + more * s.heads * both * element + cache_bytes(rows, decode)
    return Work(flop, nbytes)


def seen_pairs(s: Shapes, causal: Column) -> FloatArray:
    """Return pairs of a query and a key that it sees, per head."""
    history = s.seq_kv - s.seq_q
    full = s.seq_q * s.seq_kv
    triangle = s.seq_q * history + s.seq_q * (s.seq_q + 1) / 2
    # The first queries see less than a window, the rest just the window.
    w = np.where(s.window > 0, s.window, np.inf)
    short = np.clip(w - history, 0.0, s.seq_q)
    limited = short * history + short * (short + 1) / 2
    with np.errstate(invalid="ignore"):
        rest = np.where(short < s.seq_q, (s.seq_q - short) * w, 0.0)
    return np.where(causal, np.minimum(triangle, limited + rest), full)


def _within(s: Shapes) -> FloatArray:
    return np.where(s.window > 0, np.minimum(s.seq_kv, s.window), s.seq_kv)


def _dtype_widths(dtype: str, op: str) -> tuple[float, float]:
    first, _, second = dtype.partition("->")
    return width(first), width(second or _NARROWING.get(op, first))


def elementwise_work(rows: FamilyRows) -> Work:
    """Return the work of memory-bound kernels; given bytes go first."""
    values = rows["m"] * rows["n"]
    flop, nbytes = np.zeros(len(rows)), np.zeros(len(rows))
    for (op, dtype), index in rows.group_indices("op", "dtype"):
        stream = STREAMS[op]
        into, out = _dtype_widths(dtype, op)
        flop[index] = stream.flop * values[index]
        moved = values[index] * (stream.reads * into + stream.writes * out)
        nbytes[index] = moved + stream.weights * rows["n"][index] * into
    return Work(flop, or_default(rows["nbytes"], nbytes))


def moe_work(rows: FamilyRows, gated: FloatArray | None = None) -> Work:
    """Return the work of routed experts, rows spread evenly over ranks.

    ``gated`` says which have three matrices; by default, rows themselves do.
    """
    three = or_default(rows["gated"], 1.0) if gated is None else gated
    matrices = np.where(three > 0, 3.0, 2.0)
    pairs = rows["m"] * rows["topk"] / rows["ep"]
    weights = matrices * rows["n"] / rows["tp"] * rows["k"]
    element = widths(rows["dtype"])
    local = rows["experts"] / rows["ep"]
    touched = np.minimum(local, np.maximum(1.0, np.minimum(pairs, rows["topk"])))
    nbytes = touched * weights * element + 2.0 * pairs * rows["k"] * 2.0
    return Work(2.0 * pairs * weights, nbytes)


def _message(rows: FamilyRows) -> Work:
    return Work(np.zeros(len(rows)), rows["nbytes"])


def _unknown(rows: FamilyRows) -> Work:
    return Work(np.full(len(rows), np.nan), np.full(len(rows), np.nan))


_WORK: dict[str, Callable[[FamilyRows], Work]] = {
    "gemm": gemm_work,
    "attention": attention_work,
    "elementwise": elementwise_work,
    "moe": moe_work,
    "collective": _message,
    "memory": _message,
    "host_link": _message,
}


def row_work(rows: FamilyRows) -> Work:
    """Return work and least traffic of the rows of one family."""
    return _WORK.get(rows.family, _unknown)(rows)
