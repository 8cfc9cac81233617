"""Mixture of experts: router, dispatch, grouped products, combine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwsim.graph.op import MoeCombine, MoeDispatch, MoeExperts, Operand, Softmax
from hwsim.graph.writer import Writer
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import MoeSpec

Dense = Callable[..., int]


def touched_experts(experts: int, topk: int, tokens: float) -> float:
    """Return the expected experts that get a token when all are as likely.

    Examples
    --------
    >>> touched_experts(8, 2, 1)
    2.0
    """
    return experts * (1.0 - float((1.0 - topk / experts) ** tokens))


@dataclass(frozen=True, slots=True)
class ExpertTraffic:
    """Values that the experts' kernels move on one device, by what they are."""

    rows: float
    inner: float
    weights: float


def expert_traffic(
    model_hidden: int, moe: MoeSpec, tp: int, pairs: float, touched: float
) -> ExpertTraffic:
    """Return the values moved for ``pairs`` token-expert pairs."""
    ffn = moe.expert_ffn / tp
    entering = 2 if moe.gated else 1
    weights = touched * (entering + 1) * model_hidden * ffn
    if moe.expert_bias:
        weights += touched * (entering * ffn + model_hidden)
    return ExpertTraffic(pairs * model_hidden, pairs * ffn, weights)


def experts(w: Writer, x: int, tokens: int, dense: Dense) -> int:
    """Append router, routed experts and shared experts up to partial sums."""
    setting = w.setting
    moe, hidden = setting.model.moe, setting.model.hidden
    if moe is None:
        raise TypeError(f"model {setting.model.id} has no experts")
    scores = w.linear(
        "router", x, tokens, moe.experts, hidden, bias=moe.router_bias, quantise=False
    )
    topk = moe.experts_per_token
    gate = Softmax(
        name="topk",
        dtype=setting.precision.vector,
        rows=tokens,
        columns=moe.experts,
        reads=(w.act(tokens * moe.experts),),
        writes=(
            Operand("activation", 4.0 * tokens * topk, "fp32"),
            Operand("index", 4.0 * tokens * topk, "int32"),
        ),
    )
    chosen = w.put(
        gate, (scores,), "function", numel=tokens * moe.experts,
        extra={"reads": tokens * moe.experts},
    )  # fmt: skip
    rows = _dispatch(w, (x, chosen), tokens, topk)
    y = _experts(w, rows, tokens, moe)
    out = _combine(w, (y, chosen), tokens, topk)
    if not moe.shared_experts:
        return out
    shared = dense(
        w, x, tokens, setting.shard.shared_ffn, moe.gated, bias=moe.expert_bias,
        prefix="shared_",
    )  # fmt: skip
    numel = tokens * hidden
    if moe.shared_gate:
        weight = w.linear("shared_gate", x, tokens, 1, hidden, quantise=False)
        shared = w.elementwise(
            "shared_scale", "sigmoid_mul", (shared, weight), numel=numel,
            reads=numel + tokens, writes=numel, flop_per_value=2.0,
        )  # fmt: skip
    return w.elementwise(
        "shared_add", "add", (out, shared), numel=numel, reads=2 * numel,
        writes=numel, rule="through",
    )  # fmt: skip


def _dispatch(w: Writer, inputs: tuple[int, int], tokens: int, topk: int) -> int:
    """Append the sort by expert; training also moves the rows."""
    hidden = w.setting.model.hidden
    pairs = tokens * topk
    reads = [Operand("index", 4.0 * pairs, "int32")]
    writes = [Operand("index", 4.0 * pairs, "int32")]
    if w.setting.training:
        reads.append(w.act(tokens * hidden))
        writes.append(w.act(pairs * hidden))
    op = MoeDispatch(
        name="dispatch",
        dtype=w.setting.precision.vector,
        tokens=tokens,
        columns=hidden,
        topk=topk,
        reads=tuple(reads),
        writes=tuple(writes),
        kernels=2,
    )
    return w.put(op, inputs, "dispatch", numel=pairs * hidden)


def _experts(w: Writer, rows: int, tokens: int, moe: MoeSpec) -> int:
    setting, precision = w.setting, w.setting.precision
    hidden, tp = setting.model.hidden, setting.shard.tp
    touched = touched_experts(moe.experts, moe.experts_per_token, tokens)
    pairs = tokens * moe.experts_per_token
    traffic = expert_traffic(hidden, moe, tp, pairs, touched)
    rows_dtype = precision.math if precision.quantised else precision.act
    if precision.quantised:
        rows = w.quantised(rows, traffic.rows)
    weight = precision.weight if not setting.training else rows_dtype
    entering = 2 if moe.gated else 1
    row_bytes = DTYPE_BYTES[rows_dtype]
    op = MoeExperts(
        name="experts",
        dtype=precision.math,
        tokens=tokens,
        hidden=hidden,
        ffn=moe.expert_ffn,
        experts=moe.experts,
        topk=moe.experts_per_token,
        tp=tp,
        gated=moe.gated,
        weight_dtype=weight,
        reads=(
            Operand("activation", traffic.rows * row_bytes, rows_dtype),
            w.act(entering * traffic.inner),
            Operand("activation", traffic.inner * row_bytes, rows_dtype),
            Operand("weight", traffic.weights * DTYPE_BYTES[weight], weight),
        ),
        writes=(
            w.act(entering * traffic.inner),
            Operand("activation", traffic.inner * row_bytes, rows_dtype),
            w.act(traffic.rows),
        ),
        kernels=3,
    )
    weights = expert_traffic(hidden, moe, tp, pairs, moe.experts).weights
    return w.put(op, (rows,), "experts", numel=traffic.rows, extra={"weights": weights})


def _combine(w: Writer, inputs: tuple[int, int], tokens: int, topk: int) -> int:
    hidden = w.setting.model.hidden
    op = MoeCombine(
        name="combine",
        dtype=w.setting.precision.vector,
        tokens=tokens,
        columns=hidden,
        topk=topk,
        reads=(
            w.act(tokens * topk * hidden),
            Operand("activation", 4.0 * tokens * topk, "fp32"),
        ),
        writes=(w.act(tokens * hidden),),
    )
    return w.put(op, inputs, "combine", numel=tokens * hidden)
