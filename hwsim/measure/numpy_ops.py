"""Operators of a Transformer in NumPy, as timed one by one and in a whole model.

Each function is written once and used by both, so that the times of operators
say something about the time of a model. Results go into arrays that the
caller keeps: what the allocator and the kernel's page faults cost would
otherwise depend on what ran before. NumPy runs all but the matrix products on
one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
EPSILON = 1e-5
_GELU = 0.7978845608028654, 0.044715  # sqrt(2 / pi), and the cubic's share
BETA1, BETA2 = 0.9, 0.95


def softmax(x: Array, out: Array) -> Array:
    """Softmax over the last axis; ``out`` may be ``x``."""
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)
    return out


def softmax_backward(grad: Array, y: Array, out: Array) -> Array:
    """Gradient of a softmax with result ``y``."""
    dot = np.einsum("...i,...i->...", grad, y)[..., None]
    np.subtract(grad, dot, out=out)
    return np.multiply(out, y, out=out)


def layernorm(x: Array, gain: Array, shift: Array, out: Array) -> Array:
    """Layer norm of each row."""
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    out *= _inverse_deviation(out)
    out *= gain
    out += shift
    return out


def layernorm_backward(
    grad: Array, x: Array, gain: Array, out: Array
) -> tuple[Array, Array]:
    """Gradient of a layer norm, recomputing the norm.

    ``out`` becomes the gradient with regard to ``x``; those of gain and shift
    are returned. All arrays have two axes.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = _inverse_deviation(centred)
    centred *= scale
    to_gain = np.einsum("ij,ij->j", grad, centred)
    to_shift = grad.sum(axis=0)
    np.multiply(grad, gain, out=out)
    width = x.dtype.type(x.shape[-1])
    share = np.einsum("...i,...i->...", out, centred)[..., None] / width
    out -= out.mean(axis=-1, keepdims=True)
    centred *= share
    out -= centred
    out *= scale
    return to_gain, to_shift


def _inverse_deviation(centred: Array) -> Array:
    width = centred.dtype.type(centred.shape[-1])
    square = np.einsum("...i,...i->...", centred, centred)[..., None]
    inverse: Array = 1.0 / np.sqrt(square / width + centred.dtype.type(EPSILON))
    return inverse


def rmsnorm(x: Array, gain: Array, out: Array) -> Array:
    """Root-mean-square norm of each row."""
    np.multiply(x, _inverse_deviation(x), out=out)
    out *= gain
    return out


def gelu(x: Array, out: Array) -> Array:
    """GELU in its tanh form."""
    _gelu_tanh(x, out)
    out += 1
    out *= x
    out *= x.dtype.type(0.5)
    return out


def _gelu_tanh(x: Array, out: Array) -> Array:
    slope, cubic = _GELU
    np.multiply(x, x, out=out)
    out *= x.dtype.type(cubic * slope)
    out += x.dtype.type(slope)
    out *= x
    return np.tanh(out, out=out)


def gelu_backward(grad: Array, x: Array, out: Array) -> Array:
    """Gradient of GELU, recomputing its tanh."""
    slope, cubic = _GELU
    t = _gelu_tanh(x, np.empty_like(x))
    np.multiply(x, x, out=out)
    out *= x.dtype.type(3.0 * cubic * slope)
    out += x.dtype.type(slope)
    out *= x
    out *= 1 - t * t
    out += t
    out += 1
    out *= x.dtype.type(0.5)
    out *= grad
    return out


def silu(x: Array, out: Array) -> Array:
    """The value times its logistic function."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    return np.divide(x, out, out=out)


def silu_and_mul(x: Array, out: Array) -> Array:
    """SwiGLU's activation: the left half gates the right half."""
    half = x.shape[-1] // 2
    silu(x[..., :half], out)
    out *= x[..., half:]
    return out


def rope(x: Array, cosine: Array, sine: Array, out: Array) -> Array:
    """Rotary embedding: rotate the halves of each head's row."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    np.multiply(a, cosine, out=out[..., :half])
    out[..., :half] -= b * sine
    np.multiply(b, cosine, out=out[..., half:])
    out[..., half:] += a * sine
    return out


def embedding(table: Array, ids: Array, out: Array) -> Array:
    """Rows of a table."""
    return np.take(table, ids, axis=0, out=out, mode="clip")


def embedding_backward(grad: Array, ids: Array, out: Array) -> Array:
    """Sum of the gradients of each row of a table; ``out`` is overwritten."""
    out[...] = 0
    np.add.at(out, ids, grad)
    return out


def cross_entropy(logits: Array, target: Array, out: Array) -> float:
    """Mean loss; ``out`` becomes the gradient with regard to the logits."""
    softmax(logits, out)
    rows = np.arange(len(target))
    picked = out[rows, target]
    loss = float(-np.log(np.maximum(picked, np.finfo(out.dtype).tiny)).mean())
    out[rows, target] -= 1
    out /= out.dtype.type(len(target))
    return loss


def adamw(
    weight: Array, grad: Array, first: Array, second: Array, step: int,
    rate: float = 1e-3, decay: float = 0.1,
) -> None:  # fmt: skip
    """One AdamW update in place; ``grad`` is used up."""
    kind = weight.dtype.type
    first *= kind(BETA1)
    first += kind(1 - BETA1) * grad
    second *= kind(BETA2)
    grad *= grad
    second += kind(1 - BETA2) * grad
    np.sqrt(second, out=grad)
    grad /= kind((1 - BETA2**step) ** 0.5)
    grad += kind(1e-8)
    np.divide(first, grad, out=grad)
    weight *= kind(1 - rate * decay)
    weight -= kind(rate / (1 - BETA1**step)) * grad


def attention(
    q: Array, k: Array, v: Array, scores: Array, out: Array, mask: Array | None
) -> Array:
    """Unfused attention of (batch, heads, tokens, width) arrays.

    ``mask`` is added to the scores; the queries carry the scale.
    """
    np.matmul(q, k.swapaxes(-1, -2), out=scores)
    if mask is not None:
        scores += mask
    softmax(scores, scores)
    return np.matmul(scores, v, out=out)


def causal_mask(tokens: int, dtype: Any) -> Array:
    """Return 0 where a token may look, a large negative number elsewhere."""
    later = np.triu(np.ones((tokens, tokens), dtype=bool), k=1)
    return np.where(later, np.asarray(-1e9, dtype), np.asarray(0.0, dtype))
