"""Multi-head latent attention: expanded for many tokens, absorbed for decode."""

from __future__ import annotations

from hwsim.graph.context import attention_core
from hwsim.graph.core import (
    Core,
    Heads,
    Parts,
    cache_in_core,
    cache_operand,
    rotate,
    write_cache,
)
from hwsim.graph.setting import Pass
from hwsim.graph.writer import Writer
from hwsim.specs.model import MlaSpec


def latent_attention(w: Writer, x: int, p: Pass, window: int) -> int:
    """Append latent attention up to the output projection's partial sums.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434, section 2.1.
    """
    model = w.setting.model
    mla = model.mla
    if mla is None:
        raise TypeError(f"model {model.id} has no latent attention")
    q, latent = _down(w, x, p, mla)
    parts = Parts(q, latent, latent)
    row = mla.kv_lora_rank + mla.qk_rope_head_dim
    absorbed = p.mode == "decode"
    if absorbed:
        parts = parts._replace(q=_absorb(w, "absorb_key", q, p, mla, into=True))
    if not (cache_in_core(w) and absorbed):
        numel = p.tokens * (w.setting.shard.heads + 1) * mla.qk_rope_head_dim
        parts = rotate(w, parts, numel)
        if p.cached:
            parts = write_cache(w, parts, p, row, kernels=1)
    if not absorbed:
        out = _expanded(w, parts, p, mla, window)
    else:
        heads = Heads(w.setting.shard.heads, 1, row, mla.kv_lora_rank, shared=True)
        out = attention_core(w, parts, Core(p, heads, window))
        out = _absorb(w, "absorb_value", out, p, mla, into=False)
    width = w.setting.shard.heads * mla.v_head_dim
    return w.linear("out", out, p.tokens, model.hidden, width, bias=model.out_bias)


def _down(w: Writer, x: int, p: Pass, mla: MlaSpec) -> tuple[int, int]:
    """Append the projections to the latents, their norms and the queries."""
    model, tokens, rank = w.setting.model, p.tokens, mla.q_lora_rank
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    queries, hidden = w.setting.shard.heads * model.head_dim, model.hidden
    bias = model.qkv_bias
    if rank is None:
        q = w.linear("q", x, tokens, queries, hidden)
        kv = w.linear("kv_a", x, tokens, latent, hidden, bias=bias)
    else:
        if w.setting.fusion.qkv:
            width = rank + latent
            kv = q = w.linear("qkv_a", x, tokens, width, hidden, bias=bias, sliced=True)
        else:
            q = w.linear("q_a", x, tokens, rank, hidden, bias=bias)
            kv = w.linear("kv_a", x, tokens, latent, hidden, bias=bias)
        q = w.norm("q_a_norm", (q,), tokens, rank)
        q = w.linear("q_b", q, tokens, queries, rank)
    with w.beside():
        return q, w.norm("kv_a_norm", (kv,), tokens, mla.kv_lora_rank)


def _absorb(w: Writer, name: str, x: int, p: Pass, mla: MlaSpec, *, into: bool) -> int:
    """Append one product per head with half of the latent's up-projection."""
    rank = mla.kv_lora_rank
    n, k = (rank, mla.qk_nope_head_dim) if into else (mla.v_head_dim, rank)
    return w.linear(
        name, x, p.tokens, n, k, batch=w.setting.shard.heads, quantise=False
    )


def _expanded(w: Writer, parts: Parts, p: Pass, mla: MlaSpec, window: int) -> int:
    """Append the up-projection of all keys and values, then attention.

    Tokens of earlier passes are expanded again from the cached latents.
    """
    heads, seen = w.setting.shard.heads, p.batch * p.seq_kv
    history = p.batch * (p.seq_kv - p.seq_q)
    row = mla.kv_lora_rank + mla.qk_rope_head_dim
    latent = parts.v
    if p.earlier:
        read = cache_operand(w, history * row)
        inputs = (latent, *parts.also)
        latent = w.copy("kv_read", inputs, read, w.act(history * row))
    width = mla.qk_nope_head_dim + mla.v_head_dim
    kv = w.linear("kv_b", latent, seen, heads * width, mla.kv_lora_rank)
    keys = seen * heads * w.setting.model.head_dim
    # The rotary key is shared by the heads: it is copied beside each one's own.
    inputs = tuple(dict.fromkeys((kv, parts.k)))
    kv = w.copy("join_keys", inputs, w.act(keys), w.act(keys), sliced=True)
    geometry = Heads(heads, heads, w.setting.model.head_dim, mla.v_head_dim, local=True)
    return attention_core(w, Parts(parts.q, kv, kv), Core(p, geometry, window))
