"""A small GPT in NumPy: prompt, decode steps over a cache, training steps.

It computes what such a model computes (the tests hold its gradients against
finite differences); weights are random. Attention's scale lies in the query
weights. Every operator is also written down, so that a step can be predicted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from hwsim.measure import numpy_ops as ops
from hwsim.measure.numpy_ops import Array


def rows_of(x: Array) -> tuple[int, int]:
    """Return (rows, columns) of an array whose last axis is the columns."""
    return x.size // x.shape[-1], x.shape[-1]


@dataclass(frozen=True)
class LiveModel:
    """Shape of the Transformer: pre-norm GPT with GELU, no biases.

    Embedding and output matrix are separate; positions are learned.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    positions: int = 1024

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    def to_dict(self) -> dict[str, Any]:
        """Return the shape as plain values."""
        return asdict(self)


class _Names(NamedTuple):
    """Names of one layer's weights and buffers."""

    norm1: str
    norm2: str
    qkv: str
    out: str
    up: str
    down: str
    keys: str
    values: str


class Transformer:
    """Weights, buffers and steps of one model on one batch.

    Parameters
    ----------
    model : LiveModel
        Shape.
    batch, tokens : int
        Sequences, and tokens of each: of the prompt or the training sequence.
    dtype : numpy dtype
        Of weights and arithmetic.
    """

    def __init__(
        self, model: LiveModel, batch: int, tokens: int, dtype: Any = np.float32
    ) -> None:
        self.model, self.batch, self.tokens = model, batch, tokens
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(11)
        self.weights = self._initial_weights()
        self.trace: list[dict[str, Any]] | None = None
        self.ids = self.rng.integers(0, model.vocab, (batch, tokens))
        self.mask = ops.causal_mask(tokens, self.dtype)
        # Names are put together once: a step would spend a tenth of its time on them.
        self._names = [
            _Names(*(f"{i}.{part}" for part in _Names._fields))
            for i in range(model.layers)
        ]
        w = self.weights
        self._gains = {
            name[:-5]: (w[name], w[name[:-5] + ".shift"])
            for name in w
            if name.endswith(".gain")
        }
        self._buffers: dict[tuple[Any, ...], Array] = {}

    def _initial_weights(self) -> dict[str, Array]:
        model, h = self.model, self.model.hidden

        def matrix(rows: int, columns: int) -> Array:
            made: Array = self.rng.standard_normal((rows, columns)) * rows**-0.5
            return made.astype(self.dtype)

        made: dict[str, Array] = {"embed": matrix(model.vocab, h),
                                  "positions": matrix(model.positions, h)}  # fmt: skip
        for i in range(model.layers):
            made[f"{i}.qkv"] = matrix(h, 3 * h)
            made[f"{i}.qkv"][:, :h] *= self.dtype.type(model.head_dim**-0.5)
            made[f"{i}.out"], made[f"{i}.up"] = matrix(h, h), matrix(h, model.ffn)
            made[f"{i}.down"] = matrix(model.ffn, h)
        made["head"] = matrix(h, model.vocab)
        for name in [f"{i}.norm{j}" for i in range(model.layers) for j in (1, 2)] + [
            "norm"
        ]:
            made[f"{name}.gain"] = np.ones(h, self.dtype)
            made[f"{name}.shift"] = np.zeros(h, self.dtype)
        return made

    # Operators: each is traced as the measurement tables name it ------------

    def buffer(self, name: str, *size: int) -> Array:
        """Return an array that is kept from step to step."""
        key = (name, *size)
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = np.zeros(size, self.dtype)
        return found

    def note(self, op: str, **shape: int | float) -> None:
        """Write an operator down, if anybody asked."""
        if self.trace is not None:
            self.trace.append({"op": op, **shape})

    def note_values(self, op: str, m: int, n: int, moved: int) -> None:
        """Write down an operator of m x n values, ``moved`` times through memory."""
        if self.trace is not None:
            nbytes = float(moved * m * n * self.dtype.itemsize)
            self.trace.append({"op": op, "m": m, "n": n, "bytes": nbytes})

    def linear(self, a: Array, b: Array, name: str) -> Array:
        """Product of two matrices into a buffer."""
        return self.linear_into(a, b, self.buffer(name, a.shape[0], b.shape[1]))

    def linear_into(self, a: Array, b: Array, out: Array) -> Array:
        """Product of two matrices into an array."""
        self.note("linear", m=a.shape[0], n=b.shape[1], k=a.shape[1], batch=1)
        np.matmul(a, b, out=out)
        return out

    def product(self, a: Array, b: Array, out: Array) -> Array:
        """Products of stacks of matrices."""
        self.note("bmm", m=a.shape[-2], n=b.shape[-1], k=a.shape[-1],
                  batch=a.shape[0] * a.shape[1])  # fmt: skip
        np.matmul(a, b, out=out)
        return out

    def add(self, out: Array, other: Array) -> Array:
        """Sum in place."""
        if self.trace is not None:
            self.note_values("add", *rows_of(out), 3)
        out += other
        return out

    def norm(self, x: Array, name: str) -> Array:
        """Layer norm into a buffer of its own."""
        if self.trace is not None:
            self.note_values("layernorm", *rows_of(x), 2)
        gain, shift = self._gains[name]
        return ops.layernorm(x, gain, shift, self.buffer(name, *x.shape))

    # Inference --------------------------------------------------------------

    def prefill(self) -> Array:
        """Return the logits of the last token of each prompt.

        Keys and values of every layer stay where its product put them.
        """
        x = self._embed(self.ids, 0)
        for i in range(self.model.layers):
            x = self._layer(x, i, self.tokens, 0)
        last = x.reshape(self.batch, self.tokens, -1)[:, -1]
        return self._logits(last)

    def decode(self, context: int) -> Array:
        """Return the logits of one more token, the ``context``-th of its sequence."""
        x = self._embed(self.ids[:, :1], context - 1)
        for i in range(self.model.layers):
            x = self._layer(x, i, 1, context - 1)
        return self._logits(x)

    def _embed(self, ids: Array, at: int) -> Array:
        flat, count = ids.reshape(-1), ids.shape[1]
        x = self.buffer("x", len(flat), self.model.hidden)
        self.note_values("embedding", *rows_of(x), 2)
        ops.embedding(self.weights["embed"], flat, x)
        self.add(
            x.reshape(len(ids), count, -1), self.weights["positions"][at : at + count]
        )
        return x

    def _logits(self, x: Array) -> Array:
        return self.linear(self.norm(x, "norm"), self.weights["head"], "logits")

    def _heads(self, qkv: Array, count: int) -> tuple[Array, Array, Array]:
        size = (self.batch, count, 3, self.model.heads, self.model.head_dim)
        q, k, v = qkv.reshape(size).transpose(2, 0, 3, 1, 4)
        return q, k, v

    def cache(self, i: int, room: int) -> tuple[Array, Array]:
        """Return the keys and values kept for a layer."""
        size = (self.batch, self.model.heads, room, self.model.head_dim)
        named = self._names[i]
        return self.buffer(named.keys, *size), self.buffer(named.values, *size)

    def _layer(self, x: Array, i: int, count: int, at: int) -> Array:
        w, heads, named = self.weights, self.model.heads, self._names[i]
        qkv = self.linear(self.norm(x, named.norm1), w[named.qkv], named.qkv)
        q, k, v = self._heads(qkv, count)
        if at:  # a step over the cache; a prompt attends to itself
            keys, values = self.cache(i, at + count)
            keys[:, :, at:], values[:, :, at:] = k, v
            k, v = keys, values
        kv = at + count
        scores = self.buffer("scores", self.batch, heads, count, kv)
        self.product(q, k.swapaxes(-1, -2), scores)
        if count > 1:
            self.add(scores, self.mask)
        if self.trace is not None:
            self.note_values("softmax", self.batch * heads * count, kv, 2)
        ops.softmax(scores, scores)
        mixed = self.buffer("mixed", self.batch, count, heads, self.model.head_dim)
        self.product(scores, v, mixed.transpose(0, 2, 1, 3))
        flat = mixed.reshape(len(x), -1)
        self.add(x, self.linear(flat, w[named.out], "out"))
        up = self.linear(self.norm(x, named.norm2), w[named.up], "up")
        if self.trace is not None:
            self.note_values("gelu", *rows_of(up), 2)
        wide = ops.gelu(up, self.buffer("gelu", *up.shape))
        return self.add(x, self.linear(wide, w[named.down], "down"))
