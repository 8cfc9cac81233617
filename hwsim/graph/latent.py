"""Multi-head latent attention: expanded for many tokens, absorbed for decode."""

from __future__ import annotations

from hwsim.graph.op import Attention, Operand
from hwsim.graph.writer import Pass, Writer
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind, MlaSpec


def latent_attention(w: Writer, x: int, p: Pass, kind: LayerKind) -> int:
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
    if p.mode == "decode":
        out = _absorbed(w, q, latent, p, mla, kind.window or 0)
    else:
        out = _expanded(w, q, latent, p, mla, kind.window or 0)
    width = w.setting.shard.heads * mla.v_head_dim
    return w.linear(
        "out", out, p.tokens, model.hidden, width, bias=model.out_bias
    )


def _down(w: Writer, x: int, p: Pass, mla: MlaSpec) -> tuple[int, int]:
    """Append the projections to the latents, their norms and the queries."""
    model, tokens = w.setting.model, p.tokens
    heads, bias = w.setting.shard.heads, model.qkv_bias
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    rank, hidden = mla.q_lora_rank, model.hidden
    queries = heads * model.head_dim
    if rank is None:
        q = w.linear("q", x, tokens, queries, hidden, bias=bias)
        kv = w.linear("kv_a", x, tokens, latent, hidden, bias=bias, sliced=True)
    else:
        if w.setting.fusion.qkv:
            kv = q = w.linear(
                "qkv_a", x, tokens, rank + latent, hidden, bias=bias, sliced=True
            )
        else:
            q = w.linear("q_a", x, tokens, rank, hidden, bias=bias)
            kv = w.linear(
                "kv_a", x, tokens, latent, hidden, bias=bias, sliced=True
            )
        q = w.norm("q_a_norm", (q,), tokens, rank)
        q = w.linear("q_b", q, tokens, queries, rank)
    return q, w.norm("kv_a_norm", (kv,), tokens, mla.kv_lora_rank)


def _positions(w: Writer, q: int, latent: int, p: Pass, mla: MlaSpec) -> int:
    """Append the rotation of the queries' and the shared key's rotary part."""
    from hwsim.graph.attention import rotate

    numel = p.tokens * (w.setting.shard.heads + 1) * mla.qk_rope_head_dim
    return rotate(w, (q, latent), numel, 2)


def _attend(
    w: Writer,
    inputs: tuple[int, ...],
    p: Pass,
    window: int,
    widths: tuple[int, int],
    reads: tuple[Operand, ...],
    writes: tuple[Operand, ...],
) -> int:
    absorbed = p.mode == "decode"
    heads = w.setting.shard.heads
    op = Attention(
        name="attention",
        dtype=w.setting.precision.attention,
        mode=p.mode,
        batch=p.batch,
        heads=heads,
        kv_heads=1 if absorbed else heads,
        head_dim=widths[0],
        v_head_dim=widths[1],
        seq_q=p.seq_q,
        seq_kv=p.seq_kv,
        causal=p.causal,
        window=window,
        shared_kv=absorbed,
        kv_dtype=w.setting.precision.kv,
        reads=reads,
        writes=writes,
        kernels=2 if absorbed else 1,
    )
    numel = p.tokens * heads * widths[1]
    w.core = True
    out = w.put(op, inputs, "attention", numel=numel)
    w.core = False
    return out
