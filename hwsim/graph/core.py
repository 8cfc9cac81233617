"""The core of attention: one fused kernel, or products around a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hwsim.graph.op import Attention, Elementwise, Matmul, Operand, Rotary, Softmax
from hwsim.graph.setting import Pass, least
from hwsim.graph.writer import Writer
from hwsim.specs.base import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Heads:
    """Geometry of the heads on one device.

    Attributes
    ----------
    qk, v : int
        Width of a query or key, of a value.
    shared : bool
        Values are the keys' rows.
    local : bool
        Keys and values of all tokens come from operators before, none from
        the cache.
    """

    heads: int
    kv_heads: int
    qk: int
    v: int
    shared: bool = False
    local: bool = False

    @property
    def row(self) -> int:
        """Values of one token's keys and values."""
        return self.kv_heads * (self.qk if self.shared else self.qk + self.v)


class Parts(NamedTuple):
    """Values that hold queries, keys and values; they may be one buffer.

    ``also`` is waited for besides (the write to the cache).
    """

    q: int
    k: int
    v: int
    also: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """All distinct values."""
        return tuple(dict.fromkeys((self.q, self.k, self.v, *self.also)))


@dataclass(frozen=True, slots=True)
class Core:
    """One use of attention: what it sees, its geometry, where it stands.

    ``full_pairs`` are as :class:`~hwsim.graph.op.Attention` has them.
    """

    seen: Pass
    heads: Heads
    window: int = 0
    prefix: str = ""
    cross: bool = False
    full_pairs: float = 0.0


def cache_in_core(w: Writer) -> bool:
    """Whether the attention kernel rotates and writes the cache itself."""
    fusion = w.setting.fusion
    return fusion.attention == "fused" and fusion.rotary and not w.setting.training


def cache_operand(w: Writer, numel: float) -> Operand:
    """Values of the KV cache."""
    dtype = w.setting.precision.kv
    return Operand("kv_cache", numel * DTYPE_BYTES[dtype], dtype)


def write_cache(
    w: Writer, parts: Parts, p: Pass, width: float, kernels: int = 2
) -> Parts:
    """Append the copy of new keys and values to the cache."""
    numel = p.tokens * width
    sources = tuple(dict.fromkeys((parts.k, parts.v)))
    cache = cache_operand(w, numel)
    done = w.copy("kv_write", sources, w.act(numel), cache, kernels=kernels)
    return parts._replace(also=(done,))


def rotate(w: Writer, parts: Parts, numel: float) -> Parts:
    """Append the rotary embedding of ``numel`` query and key values.

    Written out in a framework's operators it is, for each of the two tensors,
    negate half, concatenate, two products with tables and a sum; all but the sum
    have strided or broadcast operands.
    """
    fusion, scaled = w.setting.fusion, w.setting.model.rotary_scale != 1.0
    several = not fusion.rotary or (scaled and not fusion.rotary_scaled)
    op = Rotary(
        name="rotary",
        dtype=w.setting.precision.vector,
        numel=numel,
        reads=(w.act(numel * (5.5 if several else 1.0)),),
        writes=(w.act(numel * (4.5 if several else 1.0)),),
        kernels=10 if several else 1,
        singly=3.5 * numel if several else 0.0,
    )
    inputs = tuple(dict.fromkeys((parts.q, parts.k)))
    turned = w.put(op, inputs, "scale", numel=numel, sliced=True)
    together = parts.q == parts.k == parts.v
    return Parts(turned, turned, turned if together else parts.v)


def local_core(w: Writer, parts: Parts, c: Core) -> int:
    """Append scores, softmax and weighted sum of what is on this device."""
    w.core = True
    fused = w.setting.fusion.attention == "fused"
    out = _fused(w, parts, c) if fused else _unfused(w, parts, c)
    w.core = False
    return out


def _cached_tokens(c: Core, *, in_core: bool) -> float:
    """Tokens of each sequence whose keys the kernel reads from the cache.

    Windowed layers keep the last ``window`` tokens; in prefill, and where the
    kernel itself writes the cache, new tokens come from the projection.
    """
    p = c.seen
    if not p.cached or c.heads.local:
        return 0.0
    if c.cross:
        return p.seq_kv
    history = p.seq_kv - p.seq_q
    if c.window:
        history = least(history, c.window - 1)
    return history + p.seq_q if p.mode == "decode" and not in_core else history


def kv_operands(w: Writer, c: Core) -> tuple[list[Operand], list[Operand]]:
    """Return what the core reads and writes of keys and values."""
    p, row = c.seen, c.heads.row
    in_core = cache_in_core(w)
    cached = _cached_tokens(c, in_core=in_core)
    reads, writes = [], []
    if not p.cached or c.heads.local:
        reads.append(w.act(p.batch * p.seq_kv * row))
    elif not c.cross:
        if in_core or p.mode == "prefill":
            reads.append(w.act(p.tokens * row))
        if in_core:
            writes.append(cache_operand(w, p.tokens * row))
    if np.any(cached):
        reads.append(cache_operand(w, p.batch * cached * row))
    return reads, writes


def _position_reads(w: Writer, c: Core) -> list[Operand]:
    """Return the learned biases and sinks that scores are summed with."""
    model, p = w.setting.model, c.seen
    reads = []
    if model.position == "relative" and not c.cross:
        reads.append(w.act(c.heads.heads * p.seq_q * p.seq_kv))
    if model.attention_sinks:
        reads.append(w.parameters(c.heads.heads))
    return reads


def _fused(w: Writer, parts: Parts, c: Core) -> int:
    op = fused_kernel(w, c)
    p, h = c.seen, c.heads
    numel = p.tokens * h.heads * h.v
    return w.put(op, parts.all, "attention", numel=numel)


def fused_kernel(w: Writer, c: Core) -> Attention:
    """Return the kernel that computes a core without storing scores."""
    p, h = c.seen, c.heads
    kv_reads, writes = kv_operands(w, c)
    reads = [w.act(p.tokens * h.heads * h.qk), *kv_reads, *_position_reads(w, c)]
    numel = p.tokens * h.heads * h.v
    writes.insert(0, w.act(numel))
    if w.setting.training:
        writes.append(Operand("activation", 4.0 * p.tokens * h.heads, "fp32"))
    return Attention(
        name=f"{c.prefix}attention",
        dtype=w.setting.precision.attention,
        mode=p.mode,
        batch=p.batch,
        heads=h.heads,
        kv_heads=h.kv_heads,
        head_dim=h.qk,
        v_head_dim=h.v,
        seq_q=p.seq_q,
        seq_kv=p.seq_kv,
        causal=p.causal,
        window=c.window,
        shared_kv=h.shared,
        kv_dtype=w.setting.precision.kv,
        full_pairs=c.full_pairs,
        reads=tuple(reads),
        writes=tuple(writes),
        # Decode splits the keys among thread blocks and then combines them.
        kernels=2 if p.mode == "decode" else 1,
    )


def _unfused(w: Writer, parts: Parts, c: Core) -> int:
    p, h = c.seen, c.heads
    scores = 1.0 * p.batch * h.heads * p.seq_q * p.seq_kv
    rows = 1.0 * p.batch * p.seq_kv
    sources, _ = kv_operands(w, c)
    source = Operand(
        sources[-1].role, sum(o.nbytes for o in sources), sources[-1].dtype
    )
    grouped = h.shared or w.setting.fusion.grouped
    if h.heads > h.kv_heads and not grouped:
        # Frameworks without a grouped product repeat keys and values in memory.
        repeated = w.act(rows * h.heads * (h.qk + h.v))
        inputs = tuple(dict.fromkeys((parts.k, parts.v, *parts.also)))
        both = w.copy(f"{c.prefix}repeat_kv", inputs, source, repeated, sliced=True)
        parts, source = Parts(parts.q, both, both), repeated
    share = 1.0 if h.shared else h.qk / (h.qk + h.v)
    keys = Operand(source.role, source.nbytes * share, source.dtype)
    share = h.v / h.qk if h.shared else 1.0 - share
    vals = Operand(source.role, source.nbytes * share, source.dtype)
    q, out = w.act(p.tokens * h.heads * h.qk), w.act(p.tokens * h.heads * h.v)
    wide = "fp32" if _wide_scores(w) else ""
    x = _product(
        w, f"{c.prefix}scores", (parts.q, parts.k, *parts.also), c, (p.seq_kv, h.qk),
        (q, keys), w.held(scores, wide) if wide else w.act(scores), wide,
    )  # fmt: skip
    x = _softmax(w, x, c, scores)
    if wide or w.setting.precision.widened or _falls_back(w, c):
        x = w.cast(f"{c.prefix}scores_cast", x, scores, w.setting.precision.attention)
    if w.setting.dropout and not _compiled_softmax(w):
        x = w.elementwise(
            f"{c.prefix}attention_dropout", "dropout", (x,), numel=scores,
            reads=scores, rule="drop", mask=scores,
        )  # fmt: skip
    x = w.narrowed(x, scores)
    x = _product(
        w, f"{c.prefix}values", (x, parts.v, *parts.also), c, (h.v, p.seq_kv),
        (w.act(scores), vals), out,
    )  # fmt: skip
    return w.copy(f"{c.prefix}merge_heads", (x,), out, out)


def _product(
    w: Writer,
    name: str,
    inputs: tuple[int, ...],
    c: Core,
    shape: tuple[int, int],
    reads: tuple[Operand, Operand],
    writes: Operand,
    dtype: str = "",
) -> int:
    """Append one product per head; heads that share their keys stand as rows."""
    p, h = c.seen, c.heads
    n, k = shape
    batch, m = p.batch * h.heads, p.seq_q
    if h.shared or w.setting.fusion.grouped:
        batch, m = p.batch * h.kv_heads, p.seq_q * (h.heads // h.kv_heads)
    op = Matmul(
        name=name,
        dtype=w.setting.precision.attention,
        m=m,
        n=n,
        k=k,
        batch=batch,
        a_bytes=w.act_bytes,
        b_bytes=DTYPE_BYTES[reads[1].dtype],
        c_bytes=DTYPE_BYTES[writes.dtype],
        reads=reads,
        writes=(writes,),
    )
    return w.put(op, inputs, "product", numel=1.0 * batch * m * n, dtype=dtype)


def _wide_scores(w: Writer) -> bool:
    """Whether scores are kept in fp32 though products are narrower."""
    wide = w.setting.fusion.wide_scores and w.setting.precision.act != "fp32"
    return wide and not w.autocast


def _softmax(w: Writer, x: int, c: Core, scores: float) -> int:
    """Append scaling, mask or bias, and softmax: three kernels or one."""
    model, p = w.setting.model, c.seen
    added = 0.0
    if model.position in {"relative", "alibi"} and not c.cross:
        added = 1.0 * c.heads.heads * p.seq_q * p.seq_kv
    elif p.causal and p.several:
        added = 1.0 * p.seq_q * p.seq_kv
    sinks = (w.parameters(c.heads.heads),) if model.attention_sinks else ()
    alone = _falls_back(w, c)
    fused = w.setting.fusion.softmax and not alone
    if alone:
        x = w.cast(f"{c.prefix}scores_widened", x, scores, "fp32")
    kept = "fp32" if alone or _wide_scores(w) else w.setting.precision.act
    if not fused:
        x = _mask(w, x, c, scores, added)
    compiled, wide = _compiled_softmax(w), w.setting.precision.stream
    if w.autocast and not fused and w.setting.precision.act != "fp16":
        # Only from fp16 does the kernel itself widen
        # (aten/src/ATen/native/SoftMax.cpp).
        x = w.cast(f"{c.prefix}softmax_cast", x, scores, wide)
    op = Softmax(
        name=f"{c.prefix}softmax",
        dtype=w.setting.precision.vector,
        rows=p.batch * c.heads.heads * p.seq_q,
        columns=p.seq_kv,
        reads=(
            w.held(scores + (added if fused else 0.0), w.dtype_of[x]), *sinks,
        ),
        writes=(
            (w.held(scores, wide), w.act(scores))
            if compiled
            else (w.held(scores, wide if w.autocast else kept),)
        ),
    )  # fmt: skip
    extra = {"reads": scores}
    if compiled:
        x = w.put(op, (x,), "function", numel=scores, extra=extra)
        w.steps[-1].kept = wide
        return x
    dtype = wide if w.autocast else kept if kept == "fp32" else ""
    return w.put(op, (x,), "function", numel=scores, extra=extra, dtype=dtype)


def _falls_back(w: Writer, c: Core) -> bool:
    """Whether a fused softmax kernel does not take so many heads.

    Scaling, mask and softmax are then kernels of their own, in fp32.
    """
    fusion = w.setting.fusion
    if not fusion.softmax or w.autocast or w.setting.precision.act == "fp32":
        return False
    heads = np.asarray(c.seen.batch * c.heads.heads)
    return bool(np.any(heads % fusion.softmax_multiple))


def _compiled_softmax(w: Writer) -> bool:
    """Whether a compiler makes one kernel from scores to the cast result.

    Its dropout draws again in backward what it drew in forward: no mask.
    """
    fusion = w.setting.fusion
    return w.autocast and fusion.softmax and fusion.quantize


def _mask(w: Writer, x: int, c: Core, scores: float, added: float) -> int:
    """Append scaling and, where there is a mask or bias, its addition."""
    passes, dtype = 2 if np.any(added) else 1, w.setting.precision.act
    if _falls_back(w, c):
        dtype = "fp32"
    op = Elementwise(
        name=f"{c.prefix}mask" if passes > 1 else f"{c.prefix}scale",
        dtype=w.setting.precision.vector,
        numel=scores,
        function="scale_mask" if passes > 1 else "scale",
        flop_per_value=float(passes),
        reads=(w.held(passes * scores + added, dtype),),
        writes=(w.held(passes * scores, dtype),),
        kernels=passes,
    )
    # Backward undoes only the scaling: an addition passes gradients on.
    return w.put(op, (x,), "drop", numel=scores, extra={"mask": 0.0}, dtype=dtype)
