"""Training steps of the NumPy Transformer: forward, backward, AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsim.measure import numpy_ops as ops
from hwsim.measure.live_model import LiveModel, Transformer, rows_of
from hwsim.measure.numpy_ops import Array


class Trainer(Transformer):
    """A Transformer that keeps what its backward pass needs.

    Parameters
    ----------
    model : LiveModel
        Shape.
    batch, tokens : int
        Sequences, and tokens of each.
    """

    def __init__(
        self, model: LiveModel, batch: int, tokens: int, dtype: Any = np.float32
    ) -> None:
        super().__init__(model, batch, tokens, dtype)
        self.targets = self.rng.integers(0, model.vocab, batch * tokens)
        self.grads = {name: np.zeros_like(w) for name, w in self.weights.items()}
        self.moments = {
            name: (np.zeros_like(w), np.zeros_like(w))
            for name, w in self.weights.items()
        }
        self.steps = 0

    def step(self) -> float:
        """Do one optimizer step; return the loss before it."""
        loss = self.gradients()
        self.steps += 1
        for name, weight in self.weights.items():
            self.note_values("adamw", 1, weight.size, 7)
            ops.adamw(weight, self.grads[name], *self.moments[name], self.steps)
        return loss

    def gradients(self) -> float:
        """Fill ``grads`` and return the loss."""
        hidden = self._embed(self.ids, 0)
        for i in range(self.model.layers):
            hidden = self._forward(hidden, i)
        normed = self.norm(hidden, "norm")
        logits = self.linear(normed, self.weights["head"], "logits")
        self.note_values("cross_entropy", *rows_of(logits), 2)
        grad = self.buffer("logits.grad", *logits.shape)
        loss = ops.cross_entropy(logits, self.targets, grad)
        back = self._linear_back(grad, normed, "head", "normed.grad")
        dx = self.buffer("x.grad", *hidden.shape)
        self._norm_back(back, hidden, "norm", dx)
        for i in range(self.model.layers - 1, -1, -1):
            self._backward(dx, i)
        self._embed_back(dx)
        return loss

    def _forward(self, x: Array, i: int) -> Array:
        w, size = self.weights, (self.batch, self.model.heads, self.tokens, self.tokens)
        qkv = self.linear(self.norm(x, f"{i}.norm1"), w[f"{i}.qkv"], f"{i}.qkv")
        q, k, v = self._heads(qkv, self.tokens)
        scores = self.buffer(f"{i}.scores", *size)
        self.product(q, k.swapaxes(-1, -2), scores)
        self.add(scores, self.mask)
        self.note_values("softmax", scores.size // self.tokens, self.tokens, 2)
        ops.softmax(scores, scores)
        mixed = self._mixed(f"{i}.mixed")
        self.product(scores, v, self._by_head(mixed))
        out = self.linear(mixed, w[f"{i}.out"], f"{i}.middle")
        middle = self.add(out, x)
        up = self.linear(self.norm(middle, f"{i}.norm2"), w[f"{i}.up"], f"{i}.up")
        self.note_values("gelu", *rows_of(up), 2)
        wide = ops.gelu(up, self.buffer(f"{i}.gelu", *up.shape))
        down = self.linear(wide, w[f"{i}.down"], f"{i}.last")
        return self.add(down, middle)

    def _mixed(self, name: str) -> Array:
        return self.buffer(name, self.batch * self.tokens, self.model.hidden)

    def _by_head(self, flat: Array) -> Array:
        size = (self.batch, self.tokens, self.model.heads, self.model.head_dim)
        return flat.reshape(size).transpose(0, 2, 1, 3)

    def _backward(self, dx: Array, i: int) -> None:
        """Turn the gradient of a layer's result into that of its input, in place."""
        source = self._input_of(i)
        middle = self._mixed(f"{i}.middle")
        up = self.buffer(f"{i}.up", len(dx), self.model.ffn)
        wide = self.buffer(f"{i}.gelu", *up.shape)
        back = self._linear_back(dx, wide, f"{i}.down", "wide.grad")
        self.note_values("gelu_backward", *rows_of(up), 3)
        du = ops.gelu_backward(back, up, self.buffer("up.grad", *up.shape))
        normed = self._mixed(f"{i}.norm2")
        back = self._linear_back(du, normed, f"{i}.up", "normed.grad")
        own = self._mixed("norm.grad")
        self._norm_back(back, middle, f"{i}.norm2", own)
        self.add(dx, own)
        dqkv = self._attention_back(dx, i)
        normed = self._mixed(f"{i}.norm1")
        back = self._linear_back(dqkv, normed, f"{i}.qkv", "normed.grad")
        self._norm_back(back, source, f"{i}.norm1", own)
        self.add(dx, own)

    def _input_of(self, i: int) -> Array:
        return self._mixed("x" if i == 0 else f"{i - 1}.last")

    def _attention_back(self, dx: Array, i: int) -> Array:
        size = (self.batch, self.model.heads, self.tokens, self.tokens)
        qkv = self.buffer(f"{i}.qkv", len(dx), 3 * self.model.hidden)
        scores = self.buffer(f"{i}.scores", *size)
        q, k, v = self._heads(qkv, self.tokens)
        made = self.buffer("qkv.grad", *qkv.shape)
        dq, dk, dv = self._heads(made, self.tokens)
        mixed = self._mixed(f"{i}.mixed")
        back = self._by_head(self._linear_back(dx, mixed, f"{i}.out", "mixed.grad"))
        other = self.product(
            back, v.swapaxes(-1, -2), self.buffer("weights.grad", *size)
        )
        self.product(scores.swapaxes(-1, -2), back, dv)
        self.note_values("softmax_backward", scores.size // self.tokens, self.tokens, 3)
        ds = ops.softmax_backward(other, scores, self.buffer("scores.grad", *size))
        self.product(ds, k, dq)
        self.product(ds.swapaxes(-1, -2), q, dk)
        return made

    def _linear_back(self, grad: Array, x: Array, weight: str, name: str) -> Array:
        """Fill the weight's gradient; return the input's."""
        self.linear_into(x.T, grad, self.grads[weight])
        return self.linear(grad, self.weights[weight].T, name)

    def _norm_back(self, grad: Array, x: Array, name: str, out: Array) -> None:
        self.note_values("layernorm_backward", *rows_of(x), 3)
        gain = self.weights[f"{name}.gain"]
        pair = ops.layernorm_backward(grad, x, gain, out)
        self.grads[f"{name}.gain"][:], self.grads[f"{name}.shift"][:] = pair

    def _embed_back(self, dx: Array) -> None:
        self.note_values("embedding_backward", *rows_of(dx), 2)
        ops.embedding_backward(dx, self.ids.reshape(-1), self.grads["embed"])
        self.note_values("add", *rows_of(dx), 3)
        whole = dx.reshape(self.batch, self.tokens, -1)
        np.sum(whole, axis=0, out=self.grads["positions"][: self.tokens])
