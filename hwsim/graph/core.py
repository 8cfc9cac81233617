"""The core of attention: one fused kernel, or products around a softmax."""

from __future__ import annotations

from hwsim.graph.op import Attention, Elementwise, Matmul, Operand, Softmax
from hwsim.graph.writer import Pass, Writer
from hwsim.specs.base import DTYPE_BYTES


def attention_core(
    w: Writer,
    parts: tuple[int, ...],
    p: Pass,
    *,
    window: int = 0,
    prefix: str = "",
    cross: bool = False,
) -> int:
    """Append scores, softmax and weighted sum of standard attention."""
    w.core = True
    if w.setting.fusion.attention == "fused":
        out = _fused(w, parts, p, window, prefix, cross)
    else:
        out = _unfused(w, parts, p, window, prefix, cross)
    w.core = False
    return out


def cached_tokens(p: Pass, window: int, *, in_core: bool, cross: bool) -> float:
    """Tokens of each sequence whose keys the kernel reads from the cache.

    Windowed layers keep the last ``window`` tokens; new tokens come from
    the projection unless a kernel before has put them into the cache.
    """
    if not p.cached:
        return 0.0
    if cross:
        return p.seq_kv
    history = p.seq_kv - p.seq_q
    if window:
        history = min(history, window - 1)
    return history + p.seq_q if p.mode == "decode" and not in_core else history


def kv_operands(
    w: Writer, p: Pass, window: int, width: float, cross: bool
) -> tuple[list[Operand], list[Operand]]:
    """Return what the core reads and writes of keys and values (``width``)."""
    fusion, precision = w.setting.fusion, w.setting.precision
    in_core = fusion.attention == "fused" and fusion.rotary and not w.setting.training
    size = DTYPE_BYTES[precision.kv]
    seen = cached_tokens(p, window, in_core=in_core, cross=cross)
    reads, writes = [], []
    if not (p.cached and cross) and not (p.mode == "decode" and not in_core):
        new = p.batch * (p.seq_kv if cross else p.seq_q)
        reads.append(w.act(new * width))
        if p.cached and in_core:
            nbytes = new * width * size
            writes.append(Operand("kv_cache", nbytes, precision.kv))
    if seen:
        nbytes = p.batch * seen * width * size
        reads.append(Operand("kv_cache", nbytes, precision.kv))
    return reads, writes


def _position_reads(w: Writer, p: Pass, cross: bool) -> list[Operand]:
    """Return the learned biases and sinks that scores are summed with."""
    model, heads = w.setting.model, w.setting.shard.heads
    reads = []
    if model.position == "relative" and not cross:
        reads.append(w.act(heads * p.seq_q * p.seq_kv))
    if model.attention_sinks:
        reads.append(w.parameters(heads))
    return reads


def _fused(
    w: Writer, parts: tuple[int, ...], p: Pass, window: int, prefix: str, cross: bool
) -> int:
    model, local = w.setting.model, w.setting.shard
    width = model.head_dim * local.kv_heads
    numel = p.tokens * local.heads * model.head_dim
    reads, writes = kv_operands(w, p, window, 2.0 * width, cross)
    reads.insert(0, w.act(numel))
    reads += _position_reads(w, p, cross)
    writes.insert(0, w.act(numel))
    if w.setting.training:
        writes.append(Operand("activation", 4.0 * p.tokens * local.heads, "fp32"))
    op = Attention(
        name=f"{prefix}attention",
        dtype=w.setting.precision.attention,
        mode=p.mode,
        batch=p.batch,
        heads=local.heads,
        kv_heads=local.kv_heads,
        head_dim=model.head_dim,
        v_head_dim=model.head_dim,
        seq_q=p.seq_q,
        seq_kv=p.seq_kv,
        causal=p.causal,
        window=window,
        kv_dtype=w.setting.precision.kv,
        reads=tuple(reads),
        writes=tuple(writes),
        kernels=2 if p.mode == "decode" else 1,
    )
    return w.put(op, parts, "attention", numel=numel)


def _unfused(
    w: Writer, parts: tuple[int, ...], p: Pass, window: int, prefix: str, cross: bool
) -> int:
    local, head_dim = w.setting.shard, w.setting.model.head_dim
    heads, groups = local.heads, local.heads // local.kv_heads
    scores = float(p.batch * heads * p.seq_q * p.seq_kv)
    kv_reads, _ = kv_operands(w, p, window, 2.0 * head_dim * local.kv_heads, cross)
    keys = p.batch * p.seq_kv * heads * head_dim
    stored = sum(o.nbytes for o in kv_reads)
    queries, values = parts[:1], parts[1:] or parts
    if groups > 1:
        # Frameworks without a grouped product repeat keys and values in memory.
        read = Operand(kv_reads[-1].role, stored, kv_reads[-1].dtype)
        values = (
            w.copy(f"{prefix}repeat_kv", values, read, w.act(2.0 * keys)),
        )
        side = w.act(keys)
    else:
        side = Operand(kv_reads[-1].role, stored / 2.0, kv_reads[-1].dtype)
    q = w.act(p.tokens * heads * head_dim)
    x = _product(
        w, f"{prefix}scores", queries + values, p, (p.seq_q, p.seq_kv, head_dim),
        (q, side), w.act(scores),
    )  # fmt: skip
    x = _mask(w, f"{prefix}mask", x, p, scores, cross)
    op = Softmax(
        name=f"{prefix}softmax",
        dtype=w.setting.precision.vector,
        rows=p.batch * heads * p.seq_q,
        columns=p.seq_kv,
        reads=(w.act(scores),),
        writes=(w.act(scores),),
    )
    x = w.put(op, (x,), "function", numel=scores, extra={"reads": scores})
    if w.setting.dropout:
        x = w.elementwise(
            f"{prefix}attention_dropout", "dropout", (x,), numel=scores,
            reads=scores, rule="drop", mask=scores,
        )  # fmt: skip
    out = _product(
        w, f"{prefix}values", (x, *values), p, (p.seq_q, head_dim, p.seq_kv),
        (w.act(scores), side), q,
    )  # fmt: skip
    return w.copy(f"{prefix}merge_heads", (out,), q, q)


def _product(
    w: Writer,
    name: str,
    inputs: tuple[int, ...],
    p: Pass,
    shape: tuple[float, float, float],
    reads: tuple[Operand, Operand],
    writes: Operand,
) -> int:
    dtype = w.setting.precision.attention
    m, n, k = shape
    batch = p.batch * w.setting.shard.heads
    op = Matmul(
        name=name,
        dtype=dtype,
        m=m,
        n=n,
        k=k,
        batch=batch,
        a_bytes=w.act_bytes,
        b_bytes=reads[1].nbytes / (batch * n * k),
        c_bytes=w.act_bytes,
        reads=reads,
        writes=(writes,),
    )
    return w.put(op, inputs, "product", numel=batch * m * n)


def _mask(
    w: Writer, name: str, x: int, p: Pass, scores: float, cross: bool
) -> int:
    """Append scaling, and where there is a mask or bias, its addition."""
    model, heads = w.setting.model, w.setting.shard.heads
    added = 0.0
    if model.position in {"relative", "alibi"} and not cross:
        added += heads * p.seq_q * p.seq_kv
    elif p.causal and p.seq_q > 1:
        added += p.seq_q * p.seq_kv
    passes = 2 if added else 1
    op = Elementwise(
        name=name,
        dtype=w.setting.precision.vector,
        numel=scores,
        function="scale_mask" if added else "scale",
        flop_per_value=float(passes),
        reads=(w.act(passes * scores + added), *_sinks(w)),
        writes=(w.act(passes * scores),),
        kernels=passes,
    )
    # The gradient passes an addition unchanged: only the scaling is undone.
    return w.put(op, (x,), "drop", numel=scores, extra={"mask": 0.0})


def _sinks(w: Writer) -> tuple[Operand, ...]:
    model = w.setting.model
    return (w.parameters(w.setting.shard.heads),) if model.attention_sinks else ()
