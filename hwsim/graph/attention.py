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
from hwsim.graph.sequences import by_sequence, copies
from hwsim.graph.setting import Pass
from hwsim.graph.shard import local_heads
from hwsim.graph.writer import MEMORY, Writer
from hwsim.specs.model import LayerKind


def attention(w: Writer, x: int, p: Pass, kind: LayerKind) -> int:
    """Append self-attention up to the output projection's partial sums."""
    model, fusion = w.setting.model, w.setting.fusion
    x = w.enter(x, "attention_gather", p.tokens)
    if model.mla is not None:
        return latent_attention(w, x, p, kind.window or 0)
    shape = local_heads(model, w.setting.shard, kind)
    heads = Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim)
    queries, keys = shape.queries, shape.keys
    tokens, hidden, bias = p.tokens, model.hidden, model.qkv_bias
    if fusion.qkv:
        width = shape.projected
        qkv = w.linear("qkv", x, tokens, width, hidden, bias=bias, sliced=True)
        parts = Parts(qkv, qkv, qkv)
    else:
        q = w.linear("q", x, tokens, queries, hidden, bias=bias)
        k = v = w.linear("k", x, tokens, keys, hidden, bias=bias)
        if not shape.shared_kv:
            v = w.linear("v", x, tokens, keys, hidden, bias=bias)
        parts = Parts(q, k, v)
    if model.qk_norm is not None:
        parts = _qk_norm(w, parts, p, heads)
    if model.position == "rotary" and not cache_in_core(w):
        numel = tokens * (queries + keys) * shape.rotary_fraction
        parts = rotate(w, parts, numel)
    if p.cached and not cache_in_core(w):
        parts = write_cache(w, parts, p, 2.0 * keys)
    core = Core(p, heads, kind.window or 0)
    ranks = copies(w, core, kind)
    if ranks > 1:
        out = by_sequence(w, parts, core, ranks)
    else:
        out = attention_core(w, parts, core)
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


def _qk_norm(w: Writer, parts: Parts, p: Pass, shape: Heads) -> Parts:
    model, local, out = w.setting.model, w.setting.shard, []
    learned = model.qk_norm != "l2"
    for name, heads, source in (
        ("q_norm", shape.heads, parts.q),
        ("k_norm", shape.kv_heads, parts.k),
    ):
        rows, columns = p.tokens * heads, shape.qk
        inputs: tuple[int, ...] = (source,)
        if model.qk_norm == "full":
            rows, columns = p.tokens, shape.qk * heads
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
