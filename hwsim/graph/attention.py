"""Attention of one layer: projections, positions, cache, core, output."""

from __future__ import annotations

from hwsim.graph.context import attention_core
from hwsim.graph.core import (
    Core,
    Heads,
    Parts,
    cache_in_core,
    rotate,
    write_cache,
)
from hwsim.graph.latent import latent_attention
from hwsim.graph.setting import Pass
from hwsim.graph.writer import MEMORY, Writer
from hwsim.specs.model import LayerKind


def attention(w: Writer, x: int, p: Pass, kind: LayerKind) -> int:
    """Append self-attention up to the output projection's partial sums."""
    model, fusion = w.setting.model, w.setting.fusion
    x = w.enter(x, "attention_gather", p.tokens)
    if model.mla is not None:
        return latent_attention(w, x, p, kind.window or 0)
    heads = standard_heads(w)
    queries, keys = heads.heads * heads.qk, heads.kv_heads * heads.qk
    tokens, hidden, bias = p.tokens, model.hidden, model.qkv_bias
    if fusion.qkv:
        width = queries + 2 * keys
        qkv = w.linear("qkv", x, tokens, width, hidden, bias=bias, sliced=True)
        parts = Parts(qkv, qkv, qkv)
    else:
        parts = Parts(
            w.linear("q", x, tokens, queries, hidden, bias=bias),
            w.linear("k", x, tokens, keys, hidden, bias=bias),
            w.linear("v", x, tokens, keys, hidden, bias=bias),
        )
    if model.qk_norm is not None:
        parts = _qk_norm(w, parts, p)
    if model.position == "rotary" and not cache_in_core(w):
        numel = tokens * (queries + keys) * model.rotary_fraction
        parts = rotate(w, parts, numel)
    if p.cached and not cache_in_core(w):
        parts = write_cache(w, parts, p, 2.0 * keys)
    out = attention_core(w, parts, Core(p, heads, kind.window or 0))
    return _project(w, "out", out, p, queries)


def standard_heads(w: Writer) -> Heads:
    """Return the geometry of ordinary attention on one device."""
    model, local = w.setting.model, w.setting.shard
    return Heads(local.heads, local.kv_heads, model.head_dim, model.head_dim)


def _project(w: Writer, name: str, x: int, p: Pass, width: int) -> int:
    model = w.setting.model
    return w.linear(name, x, p.tokens, model.hidden, width, bias=model.out_bias)


def cross_attention(w: Writer, x: int, p: Pass) -> int:
    """Append cross-attention over the encoder's output or its cached keys."""
    model = w.setting.model
    heads = standard_heads(w)
    queries = heads.heads * heads.qk
    x = w.enter(x, "cross_gather", p.tokens)
    q = w.linear("cross_q", x, p.tokens, queries, model.hidden, bias=model.qkv_bias)
    parts = Parts(q, q, q)
    if not p.cached:
        tokens = p.batch * p.memory
        k, v = cross_keys(w, w.enter(MEMORY, "memory_gather", tokens), tokens)
        parts = Parts(q, k, v)
    seen = Pass(p.batch, p.seq_q, p.memory, p.mode, causal=False, cached=p.cached)
    out = attention_core(w, parts, Core(seen, heads, prefix="cross_", cross=True))
    return _project(w, "cross_out", out, p, queries)


def cross_keys(w: Writer, memory: int, tokens: int) -> tuple[int, int]:
    """Append the projection of the encoder's output to keys and values."""
    model, heads = w.setting.model, standard_heads(w)
    keys, hidden, bias = heads.kv_heads * heads.qk, model.hidden, model.qkv_bias
    if w.setting.fusion.qkv:
        width = 2 * keys
        both = w.linear(
            "cross_kv", memory, tokens, width, hidden, bias=bias, sliced=True
        )
        return both, both
    return (
        w.linear("cross_k", memory, tokens, keys, hidden, bias=bias),
        w.linear("cross_v", memory, tokens, keys, hidden, bias=bias),
    )


def _qk_norm(w: Writer, parts: Parts, p: Pass) -> Parts:
    model, local, out = w.setting.model, w.setting.shard, []
    learned = model.qk_norm != "l2"
    for name, heads, source in (
        ("q_norm", local.heads, parts.q),
        ("k_norm", local.kv_heads, parts.k),
    ):
        rows, columns = p.tokens * heads, model.head_dim
        inputs: tuple[int, ...] = (source,)
        if model.qk_norm == "full":
            rows, columns = p.tokens, model.head_dim * heads
            if local.tp > 1:
                # Each device knows only its own heads' sum of squares.
                sums = w.collective(
                    f"{name}_sums", "all_reduce", inputs, 4.0 * p.tokens
                )
                inputs = (source, sums)
        out.append(
            w.norm(name, inputs, rows, columns, weights=learned, to_linear=False)
        )
    return Parts(out[0], out[1], parts.v)
