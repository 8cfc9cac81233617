"""Attention of one layer: projections, positions, cache, core, output."""

from __future__ import annotations

from hwsim.graph.core import attention_core
from hwsim.graph.latent import latent_attention
from hwsim.graph.op import Operand, Rotary
from hwsim.graph.writer import MEMORY, Pass, Writer
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind


def attention(w: Writer, x: int, p: Pass, kind: LayerKind) -> int:
    """Append self-attention up to the output projection's partial sums."""
    model, local = w.setting.model, w.setting.shard
    x = w.enter(x, "attention_gather", p.tokens)
    if model.mla is not None:
        return latent_attention(w, x, p, kind)
    queries = local.heads * model.head_dim
    keys = local.kv_heads * model.head_dim
    tokens, hidden, bias = p.tokens, model.hidden, model.qkv_bias
    if w.setting.fusion.qkv:
        width = queries + 2 * keys
        parts = (w.linear("qkv", x, tokens, width, hidden, bias=bias, sliced=True),)
    else:
        parts = (
            w.linear("q", x, tokens, queries, hidden, bias=bias),
            w.linear("k", x, tokens, keys, hidden, bias=bias),
            w.linear("v", x, tokens, keys, hidden, bias=bias),
        )
    if model.qk_norm is not None:
        parts = _qk_norm(w, parts, p)
    if model.position == "rotary":
        parts = _rotary(w, parts, p)
    parts = write_cache(w, parts, p, 2.0 * keys)
    out = attention_core(w, parts, p, window=kind.window or 0)
    return project_out(w, "out", out, p, queries)


def project_out(w: Writer, name: str, x: int, p: Pass, width: int) -> int:
    """Append the output projection of an attention block."""
    model = w.setting.model
    return w.linear(name, x, p.tokens, model.hidden, width, bias=model.out_bias)


def cross_attention(w: Writer, x: int, p: Pass) -> int:
    """Append cross-attention over the encoder's output or its cached keys."""
    model, local = w.setting.model, w.setting.shard
    queries, keys = local.heads * model.head_dim, local.kv_heads * model.head_dim
    x = w.enter(x, "cross_gather", p.tokens)
    q = w.linear("cross_q", x, p.tokens, queries, model.hidden, bias=model.qkv_bias)
    parts: tuple[int, ...] = (q,)
    if not p.cached:
        memory = w.enter(MEMORY, "memory_gather", p.batch * p.memory)
        parts += cross_keys(w, memory, p.batch * p.memory, keys)
    seen = Pass(
        p.batch, p.seq_q, p.memory, mode=p.mode, causal=False, cached=p.cached
    )
    out = attention_core(w, parts, seen, prefix="cross_", cross=True)
    return project_out(w, "cross_out", out, p, queries)


def cross_keys(w: Writer, memory: int, tokens: int, keys: int) -> tuple[int, ...]:
    """Append the projection of the encoder's output to keys and values."""
    model = w.setting.model
    hidden, bias = model.hidden, model.qkv_bias
    if w.setting.fusion.qkv:
        return (
            w.linear(
                "cross_kv", memory, tokens, 2 * keys, hidden, bias=bias, sliced=True
            ),
        )
    return (
        w.linear("cross_k", memory, tokens, keys, hidden, bias=bias),
        w.linear("cross_v", memory, tokens, keys, hidden, bias=bias),
    )


def cache_operand(w: Writer, numel: float) -> Operand:
    """Values of the KV cache."""
    dtype = w.setting.precision.kv
    return Operand("kv_cache", numel * DTYPE_BYTES[dtype], dtype)


def cache_in_core(w: Writer) -> bool:
    """Whether the attention kernel rotates and writes the cache itself."""
    fusion = w.setting.fusion
    return fusion.attention == "fused" and fusion.rotary and not w.setting.training


def write_cache(
    w: Writer, parts: tuple[int, ...], p: Pass, width: float
) -> tuple[int, ...]:
    """Append the copy of new keys and values to the cache, if it is a kernel."""
    if not p.cached or cache_in_core(w):
        return parts
    numel = p.tokens * width
    source = parts[-2:]
    done = w.copy("kv_write", source, w.act(numel), cache_operand(w, numel))
    return (*parts, done)


def rotate(w: Writer, parts: tuple[int, ...], numel: float, tensors: int) -> int:
    """Append the rotary embedding of ``numel`` values in ``tensors`` tensors.

    Written out in a framework's operators it is, for each tensor, negate
    half, concatenate, two products with tables and a sum.
    """
    fusion = w.setting.fusion
    several = not fusion.rotary and (
        w.setting.training or fusion.attention == "unfused"
    )
    op = Rotary(
        name="rotary",
        dtype=w.setting.precision.vector,
        numel=numel,
        reads=(w.act(numel * (5.5 if several else 1.0)),),
        writes=(w.act(numel * (4.5 if several else 1.0)),),
        kernels=5 * tensors if several else 1,
    )
    return w.put(op, parts, "scale", numel=numel, sliced=True)


def _rotary(w: Writer, parts: tuple[int, ...], p: Pass) -> tuple[int, ...]:
    if cache_in_core(w):
        return parts
    model, local = w.setting.model, w.setting.shard
    heads = local.heads + local.kv_heads
    numel = p.tokens * heads * model.head_dim * model.rotary_fraction
    if len(parts) == 1:
        return (rotate(w, parts, numel, 2),)
    return (rotate(w, parts[:-1], numel, 2), parts[-1])


def _qk_norm(w: Writer, parts: tuple[int, ...], p: Pass) -> tuple[int, ...]:
    model, local, out = w.setting.model, w.setting.shard, []
    learned = model.qk_norm != "l2"
    for name, heads, source in (
        ("q_norm", local.heads, parts[0]),
        ("k_norm", local.kv_heads, parts[min(1, len(parts) - 1)]),
    ):
        rows, columns = p.tokens * heads, model.head_dim
        inputs: tuple[int, ...] = (source,)
        if model.qk_norm == "full":
            rows, columns = p.tokens, model.head_dim * heads
            if local.tp > 1:
                # Each device knows only its heads' sum of squares.
                sums = w.collective(
                    f"{name}_sums", "all_reduce", inputs, 4.0 * p.tokens
                )
                inputs = (source, sums)
        out.append(
            w.norm(name, inputs, rows, columns, weights=learned, to_linear=False)
        )
    return (*out, parts[-1])
