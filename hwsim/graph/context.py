"""Attention over a sequence that context-parallel ranks share.

Each rank holds ``1 / cp`` of every sequence: an early and a late piece of it
where attention is causal, so that all have equal work.
"""

from __future__ import annotations

from dataclasses import replace

from hwsim.graph.core import Core, Heads, Parts, fused_kernel, local_core
from hwsim.graph.op import Attention
from hwsim.graph.opgraph import Node
from hwsim.graph.setting import Pass
from hwsim.graph.writer import Step, Writer, group_collective


def attention_core(w: Writer, parts: Parts, c: Core) -> int:
    """Append the core of attention, whichever ranks hold the sequence.

    References
    ----------
    .. [1] H. Liu et al., "Ring Attention with Blockwise Transformers", 2023,
       arXiv:2310.01889.
    .. [2] S. Jacobs et al., "DeepSpeed Ulysses", 2023, arXiv:2309.14509.
    .. [3] Llama team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783,
       section 3.3.2 (keys and values gathered).
    """
    layout = w.setting.layout
    if layout.cp == 1 or not w.setting.training:
        return local_core(w, parts, c)
    if layout.cp_mode == "all_to_all":
        return _exchanged(w, parts, c)
    if layout.cp_mode == "all_gather":
        return _gathered(w, parts, c)
    if _window(c, layout.cp):
        return _neighbours(w, parts, c)
    return _ring(w, parts, c)


def _window(c: Core, cp: int) -> int:
    """Return the window that matters: shorter than the sequence, and causal."""
    short = c.window and c.window < c.seen.seq_kv * cp
    return c.window if short and c.seen.causal else 0


def _pairs_seen(c: Core, cp: int) -> float:
    window = _window(c, cp)
    seen = c.seen.seq_kv * cp
    return float(c.seen.seq_q * (min(seen, window) if window else seen))


def _keys(c: Core, tokens: float | None = None) -> float:
    """Return the values of this rank's keys and values (of some tokens)."""
    p = c.seen
    return p.batch * (p.seq_kv if tokens is None else tokens) * c.heads.row


# Keys and values gathered ----------------------------------------------------


def _gathered(w: Writer, parts: Parts, c: Core) -> int:
    """Append the gather of all keys and values, then this rank's queries."""
    p, cp = c.seen, w.setting.layout.cp
    numel = _keys(c) * cp
    sources = tuple(dict.fromkeys((parts.k, parts.v)))
    both = w.among(
        "cp", f"{c.prefix}keys_gather", "all_gather", sources, numel * w.act_bytes,
        "scatter", numel,
    )  # fmt: skip
    seen = p.seq_kv * cp
    fused = w.setting.fusion.attention == "fused"
    window = _window(c, cp)
    if window:
        seen = min(seen, p.seq_q + window - 1)
    elif p.causal and fused:
        # An early and a late piece together see as many pairs as this.
        seen = (seen + p.seq_q) // 2
    whole = replace(
        c, seen=replace(p, seq_kv=seen), full_pairs=_pairs_seen(c, cp), window=window
    )
    return local_core(w, Parts(parts.q, both, both, parts.also), whole)


# Heads exchanged for tokens --------------------------------------------------


def _exchanged(w: Writer, parts: Parts, c: Core) -> int:
    """Append all-to-all, attention of some heads over all tokens, and back."""
    p, h, cp = c.seen, c.heads, w.setting.layout.cp
    # Where there are fewer key heads than ranks, several get the same one.
    copies = max(cp // h.kv_heads, 1) if h.kv_heads < cp else 1
    queries = float(p.tokens * h.heads * h.qk)
    numel = queries + _keys(c) * copies
    out = float(p.tokens * h.heads * h.v)
    x = w.among(
        "cp", f"{c.prefix}heads_scatter", "all_to_all", parts.all,
        numel * w.act_bytes, "exchange", numel,
    )  # fmt: skip
    w.steps[-1].sliced = True
    heads = Heads(h.heads // cp, max(h.kv_heads // cp, 1), h.qk, h.v, h.shared, h.local)
    seen = Pass(
        p.batch, p.seq_q * cp, p.seq_kv * cp, p.mode, causal=p.causal, cached=p.cached
    )
    y = local_core(w, Parts(x, x, x), replace(c, seen=seen, heads=heads))
    return w.among(
        "cp", f"{c.prefix}heads_gather", "all_to_all", (y,), out * w.act_bytes,
        "exchange", out,
    )  # fmt: skip


# Keys and values passed round ------------------------------------------------


def _send(w: Writer, c: Core, numel: float, after: tuple[int, ...]) -> int:
    op = group_collective(
        w.setting, "cp", f"{c.prefix}keys_send", "send_recv", numel * w.act_bytes
    )
    w.nodes.append(Node(op, tuple(sorted(after)), "cp"))
    return len(w.nodes) - 1


def _attend(w: Writer, op: Attention, after: tuple[int, ...]) -> int:
    w.nodes.append(Node(op, tuple(sorted(set(after))), "compute"))
    return len(w.nodes) - 1


def _record(
    w: Writer, parts: Parts, op: Attention, extra: dict[str, float], numel: float
) -> int:
    """Record the last node as the value of the whole core."""
    act = w.setting.precision.act
    w.node_of.append(len(w.nodes) - 1)
    w.dtype_of.append(act)
    step = Step(
        op, parts.all, "ring", numel, core=True, extra=extra, dtype=act, source=act
    )
    w.steps.append(step)
    return len(w.node_of) - 1


def ring_kernels(w: Writer, c: Core) -> tuple[Attention, Attention]:
    """Return the kernels on a rank's own keys and on each other rank's.

    Of another rank's keys a causal mask lets through half of the pairs: all
    queries by half of the keys, or half of the queries by all.
    """
    p, h = c.seen, c.heads
    own = fused_kernel(w, c)
    keys = p.seq_kv // 2 if p.causal else p.seq_kv
    other = replace(
        c, seen=replace(p, seq_kv=keys, causal=False),
        full_pairs=float(p.seq_q * p.seq_kv),
    )  # fmt: skip
    op = fused_kernel(w, other)
    # The result so far is read and written again.
    merged = w.act(p.tokens * h.heads * h.v)
    return own, replace(op, reads=(*op.reads, merged))


def _ring(w: Writer, parts: Parts, c: Core) -> int:
    p, h, cp = c.seen, c.heads, w.setting.layout.cp
    own, other = ring_kernels(w, c)
    ready = tuple({w.node_of[v] for v in parts.all if w.node_of[v] >= 0})
    sent, at, arrivals = ready, ready, []
    for _ in range(cp - 1):
        sent = (_send(w, c, _keys(c), sent),)
        arrivals.append(sent[0])
        op = own if len(arrivals) == 1 else other
        before = arrivals[-2:-1]
        at = (_attend(w, op, (*at, *before)),)
    _attend(w, other, (*at, arrivals[-1]))
    extra = {"kv": _keys(c)}
    numel = float(p.tokens * h.heads * h.v)
    value = _record(w, parts, own, extra, numel)
    w.steps[-1].other = other
    return value


def _neighbours(w: Writer, parts: Parts, c: Core) -> int:
    """Append the receipt of the keys before one's own, then attention.

    The rank modelled has a full window: the first has less to do.
    """
    p, h, cp = c.seen, c.heads, w.setting.layout.cp
    window = _window(c, cp)
    before = min(window - 1, p.seq_kv * (cp - 1))
    seen = replace(p, seq_kv=p.seq_kv + before)
    whole = replace(c, seen=seen, window=window, full_pairs=_pairs_seen(c, cp))
    op = fused_kernel(w, whole)
    after = tuple({w.node_of[v] for v in parts.all if w.node_of[v] >= 0})
    numel = _keys(c, before)
    if numel:
        after = (*after, _send(w, c, numel, after))
    _attend(w, op, after)
    out = float(p.tokens * h.heads * h.v)
    return _record(w, parts, op, {"kv": numel}, out)
