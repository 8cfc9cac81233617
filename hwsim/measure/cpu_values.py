"""Operators over values, in NumPy: what each reads, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hwsim.measure import numpy_ops as ops

Operands = tuple[Any, ...]


def functions_of(n: int) -> dict[str, tuple[int, Callable[..., Any]]]:
    """Return how many tensors each operator reads, and the operator."""
    gain, shift = np.ones(n, np.float32), np.zeros(n, np.float32)
    two = np.float32(2.5)

    def scalar(function: Any) -> tuple[int, Callable[..., Any]]:
        return 1, lambda a, out: function(a, two, out=out)

    def binary(function: Any) -> tuple[int, Callable[..., Any]]:
        return 2, lambda a, b, out: function(a, b, out=out)

    return {
        "add": binary(np.add), "mul": binary(np.multiply), "div": binary(np.divide),
        "pow": binary(np.power), "add_scalar": scalar(np.add),
        "mul_scalar": scalar(np.multiply), "div_scalar": scalar(np.divide),
        "pow_scalar": scalar(np.power),
        "relu": (1, lambda a, out: np.maximum(a, 0, out=out)),
        "tanh": (1, lambda a, out: np.tanh(a, out=out)), "gelu": (1, ops.gelu),
        "silu": (1, ops.silu), "silu_and_mul": (1, ops.silu_and_mul),
        "softmax": (1, ops.softmax),
        "rmsnorm": (1, lambda a, out: ops.rmsnorm(a, gain, out)),
        "layernorm": (1, lambda a, out: ops.layernorm(a, gain, shift, out)),
        "gelu_backward": (2, ops.gelu_backward),
        "softmax_backward": (2, ops.softmax_backward),
        "layernorm_backward":
            (2, lambda g, a, out: ops.layernorm_backward(g, a, gain, out)),
    }  # fmt: skip


Made = tuple[Callable[[], Operands], Callable[..., Any]]


def _rope(random: Any, _rng: Any, m: int, n: int) -> Made:
    width = min(n, 64)
    sine = random("fp32", m, 1, width // 2)

    def make() -> Operands:
        x = random("fp32", m, n // width, width)
        return x, np.empty_like(x)

    return make, lambda x, out: ops.rope(x, sine, sine, out)


def _embedding(random: Any, rng: Any, m: int, n: int) -> Made:
    table = random("fp32", 8192, n)

    def make() -> Operands:
        return rng.integers(0, 8192, m), np.empty((m, n), np.float32)

    return make, lambda ids, out: ops.embedding(table, ids, out)


def _embedding_backward(random: Any, rng: Any, m: int, n: int) -> Made:
    rows = max(4 * m, 256)

    def make() -> Operands:
        grad = random("fp32", m, n)
        return grad, rng.integers(0, rows, m), np.empty((rows, n), np.float32)

    return make, ops.embedding_backward


def _cross_entropy(random: Any, rng: Any, m: int, n: int) -> Made:
    def make() -> Operands:
        x = random("fp32", m, n)
        return x, rng.integers(0, n, m), np.empty_like(x)

    return make, ops.cross_entropy


def _adamw(random: Any, _rng: Any, _m: int, n: int) -> Made:
    # The update leaves the normalised step in the gradient's place. Repeating it
    # keeps that near one, far from denormals, which would be slow.

    def make() -> Operands:
        weight, grad = random("fp32", n), random("fp32", n)
        return weight, grad, np.zeros_like(weight), np.ones_like(weight)

    return make, lambda w, g, a, b: ops.adamw(w, g, a, b, 10)


SPECIAL: dict[str, Callable[..., Made]] = {
    "rope": _rope,
    "embedding": _embedding,
    "embedding_backward": _embedding_backward,
    "cross_entropy": _cross_entropy,
    "adamw": _adamw,
}
