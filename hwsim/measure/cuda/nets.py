"""Transformers as plain functions of a list of weights, to be timed whole."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .backend import Backend
from .kernels import EPSILON, rmsnorm, rotate, sdpa

CAPACITY = 1.25  # rows an expert takes over its even share; the rest is dropped


@dataclass(frozen=True)
class Net:
    """A model's shape.

    Attributes
    ----------
    vocab : int
        0: layers alone, from hidden states to hidden states.
    gated, rms, rotary : bool
        Llama's choices; else GPT-2's GELU, layer norm and learned positions.
    experts, topk : int
        Experts of the feed-forward block; 0 is a dense one.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    rms: bool = True
    rotary: bool = True
    causal: bool = True
    experts: int = 0
    topk: int = 0

    @property
    def weights(self) -> float:
        """Number of weights."""
        attend = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        feed = self.hidden * self.ffn * (3 if self.gated else 2)
        total = self.layers * (attend + feed * max(self.experts, 1))
        return float(total + self.vocab * self.hidden)


def _gpt2(name: str, layers: int, hidden: int, heads: int) -> Net:
    return Net(name, layers, hidden, heads, heads, 64, 4 * hidden, 50257,
               gated=False, rms=False, rotary=False)  # fmt: skip


NETS = {
    net.name: net
    for net in (
        _gpt2("gpt2", 12, 768, 12),
        _gpt2("gpt2-medium", 24, 1024, 16),
        _gpt2("gpt2-large", 36, 1280, 20),
        _gpt2("gpt2-xl", 48, 1600, 25),
        Net("llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256),
        Net("llama-3.1-8b-layer", 1, 4096, 32, 8, 128, 14336, 0),
        Net("llama-3.2-1b-layer", 1, 2048, 32, 8, 64, 8192, 0),
        Net("bert-large", 24, 1024, 16, 16, 64, 4096, 30522, gated=False, rms=False,
            rotary=False, causal=False),
        Net("mixtral-8x7b-layer", 1, 4096, 32, 8, 128, 14336, 0, experts=8, topk=2),
    )
}  # fmt: skip
Weights = dict[str, Any]


def weights(backend: Backend, net: Net, dtype: str) -> Weights:
    """Return random weights, scaled as trained ones are."""

    def matrix(*size: int) -> Any:
        return backend.tensor(*size, dtype=dtype) * size[-1] ** -0.5

    def ones() -> Any:
        kind = backend.dtype(dtype)
        return backend.torch.ones(net.hidden, dtype=kind, device=backend.device)

    h, d = net.hidden, net.head_dim
    up = net.ffn * (2 if net.gated else 1)
    made: Weights = {}
    for i in range(net.layers):
        made[f"{i}.norm1"], made[f"{i}.norm2"] = ones(), ones()
        made[f"{i}.qkv"] = matrix((net.heads + 2 * net.kv_heads) * d, h)
        made[f"{i}.out"] = matrix(h, net.heads * d)
        if net.experts:
            made[f"{i}.router"] = matrix(net.experts, h)
            made[f"{i}.up"] = matrix(net.experts, up, h)
            made[f"{i}.down"] = matrix(net.experts, h, net.ffn)
        else:
            made[f"{i}.up"], made[f"{i}.down"] = matrix(up, h), matrix(h, net.ffn)
    if net.vocab:
        made["norm"], made["embed"] = ones(), matrix(net.vocab, h)
        if not net.rotary:
            made["positions"] = matrix(4096, h)
    return made


def cache(backend: Backend, net: Net, batch: int, tokens: int, dtype: str) -> list[Any]:
    """Return keys and values of every layer, as if the tokens had been seen."""
    size = (batch, net.kv_heads, tokens, net.head_dim)
    return [backend.tensor(*size, dtype=dtype) for _ in range(2 * net.layers)]


class Runner:
    """Runs a net forward on fixed weights.

    Parameters
    ----------
    tokens : int
        Longest sequence: rotations are prepared for it.
    """

    def __init__(self, backend: Backend, net: Net, w: Weights, tokens: int) -> None:
        self.torch, self.net, self.w = backend.torch, net, w
        torch, half = self.torch, net.head_dim // 2
        place = torch.arange(tokens, device=backend.device, dtype=torch.float32)
        rate = 10000.0 ** (
            -torch.arange(half, device=backend.device, dtype=torch.float32) / half
        )
        angle = torch.outer(place, rate).repeat(1, 2)
        self.angles = (torch.cos(angle), torch.sin(angle))
        grouped = net.heads != net.kv_heads
        self.attend = sdpa(backend, causal=net.causal, grouped=grouped)
        self.attend_all = sdpa(backend, causal=False, grouped=grouped)

    def forward(
        self, x: Any, kept: list[Any] | None = None, at: int = 0, last: bool = False
    ) -> Any:
        """Return logits of all tokens (hidden states for bare layers).

        Parameters
        ----------
        x : tensor
            Token ids, or hidden states where the net has no vocabulary.
        kept : list of tensor, optional
            The cache: the new token's keys and values are written at ``at``
            and all tokens up to it are attended to.
        last : bool
            Logits of each sequence's last token only, as inference needs them.
        """
        net, w = self.net, self.w
        f = self.torch.nn.functional
        if net.vocab:
            x = f.embedding(x, w["embed"])
            if not net.rotary:
                x = x + w["positions"][at : at + x.shape[1]]
        for i in range(net.layers):
            pair = None if kept is None else (kept[2 * i], kept[2 * i + 1])
            x = x + self._attention(self._norm(x, w[f"{i}.norm1"]), i, pair, at)
            x = x + self._feed(self._norm(x, w[f"{i}.norm2"]), i)
        if net.vocab:
            x = x[:, -1:] if last else x
            x = f.linear(self._norm(x, w["norm"]), w["embed"])
        return x

    def _norm(self, x: Any, gain: Any) -> Any:
        gain = gain.to(x.dtype)
        if self.net.rms:
            return rmsnorm(self.torch, x, gain)
        norm = self.torch.nn.functional.layer_norm
        return norm(x, (x.shape[-1],), gain, None, EPSILON)

    def _attention(self, x: Any, i: int, pair: Any, at: int) -> Any:
        net, f = self.net, self.torch.nn.functional
        batch, tokens = x.shape[:2]
        made = f.linear(x, self.w[f"{i}.qkv"])
        made = made.view(batch, tokens, -1, net.head_dim).transpose(1, 2)
        q, k, v = made.split([net.heads, net.kv_heads, net.kv_heads], dim=1)
        if net.rotary:
            cosine, sine = (a[at : at + tokens].to(x.dtype) for a in self.angles)
            q, k = (
                rotate(self.torch, q, cosine, sine),
                rotate(self.torch, k, cosine, sine),
            )
        if pair is None:
            mixed = self.attend(q, k, v)
        else:
            pair[0][:, :, at : at + tokens] = k
            pair[1][:, :, at : at + tokens] = v
            mixed = self.attend_all(q, pair[0], pair[1])
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, -1)
        return f.linear(mixed, self.w[f"{i}.out"])

    def _feed(self, x: Any, i: int) -> Any:
        up, down = self.w[f"{i}.up"], self.w[f"{i}.down"]
        if self.net.experts:
            return self._experts(x, self.w[f"{i}.router"], up, down)
        f = self.torch.nn.functional
        return f.linear(self._activate(f.linear(x, up)), down)

    def _activate(self, x: Any) -> Any:
        f = self.torch.nn.functional
        if not self.net.gated:
            return f.gelu(x, approximate="tanh")
        gate, value = x.chunk(2, dim=-1)
        return f.silu(gate) * value

    def _experts(self, x: Any, router: Any, up: Any, down: Any) -> Any:
        """Experts of fixed capacity: shapes do not depend on the routing, so
        that it can be captured."""  # noqa: D205, D209
        torch, net = self.torch, self.net
        flat = x.reshape(-1, net.hidden)
        pairs = flat.shape[0] * net.topk
        room = max(int(pairs / net.experts * CAPACITY), min(pairs, 4))
        score, expert = torch.nn.functional.linear(flat, router).topk(net.topk, dim=-1)
        score, expert = torch.softmax(score, -1).reshape(-1, 1), expert.reshape(-1)
        one = torch.nn.functional.one_hot(expert, net.experts)
        place = (one.cumsum(0) * one).sum(-1) - 1
        fits = place < room
        slot = torch.where(fits, expert * room + place, net.experts * room)
        rows = flat.repeat_interleave(net.topk, dim=0)
        box = flat.new_zeros(net.experts * room + 1, net.hidden)
        box = box.index_copy(0, slot, rows)[:-1].view(net.experts, room, -1)
        made = self._activate(torch.bmm(box, up.transpose(1, 2)))
        made = torch.bmm(made, down.transpose(1, 2)).reshape(-1, net.hidden)
        taken = made[slot.clamp(max=net.experts * room - 1)]
        taken = taken * (score * fits[:, None]).to(taken.dtype)
        return taken.view(-1, net.topk, net.hidden).sum(1).view_as(x)
