"""Mixture of experts: router, dispatch, grouped products, combine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwsim.graph.expert_operators import expert_operators
from hwsim.graph.op import (
    MoeCombine,
    MoeDispatch,
    MoeExperts,
    Operand,
    Softmax,
)
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
    missed: float = (1.0 - topk / experts) ** tokens
    return experts * (1.0 - missed)


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
    moe = _spec(w)
    x = w.narrowed(x, tokens * w.setting.model.hidden)
    chosen = _router(w, x, tokens, moe)
    narrow = _into_latent(w, x, tokens, moe)
    rows = _dispatch(w, (narrow, chosen), tokens, moe)
    y = _experts(w, rows, tokens, moe)
    out = _combine(w, (y, chosen), tokens, moe)
    out = _out_of_latent(w, out, tokens, moe)
    if not moe.shared_experts:
        return out
    return _add_shared(w, out, _shared(w, x, tokens, moe, dense), tokens)


def spread_experts(w: Writer, x: int, tokens: int, dense: Dense) -> tuple[int, bool]:
    """Append the block where expert-parallel ranks share the experts out.

    Every rank routes its own tokens, rows go to the ranks of their experts
    and come back. Under sequence parallelism a rank's own tokens are its
    part of the sequence, and ranks that split an expert gather its rows; with
    whole experts (``etp`` 1) each takes its share of repeated tokens.

    Returns
    -------
    tuple of int and bool
        The value, and whether it is the whole sum (not one device's part).
    """
    setting, moe = w.setting, _spec(w)
    tp, layout = setting.shard.tp, setting.layout
    topk, hidden = moe.experts_per_token, setting.model.hidden
    width = moe.latent or hidden
    split, shared = setting.sequence_parallel, tp > 1 and layout.etp == 1
    x = w.narrowed(x, setting.outer(tokens) * hidden)
    own, mine = x, 1.0 * tokens
    if split or shared:
        mine = tokens / tp
    if shared and not split and setting.training:
        own = w.alias(x, "slice", tokens * hidden)
    chosen = _router(w, own, mine, moe)
    narrow, known = _into_latent(w, own, mine, moe), w.map_of_rows(chosen, mine)
    rows = _dispatch(w, (narrow, known), mine, moe)
    numel = mine * topk * width * layout.load
    rows = _exchange(w, "dispatch_exchange", rows, numel)
    gathers = split and layout.etp > 1
    group = mine * layout.ep * layout.load * (tp if gathers else 1)
    if gathers:
        nbytes = numel * tp * w.act_bytes
        rows = w.collective(
            "rows_gather", "all_gather", (rows,), nbytes, "enter", numel * tp
        )
    rows = _sorted(w, "sort", rows, group, moe)
    y = _sorted(w, "unsort", _experts(w, rows, group, moe), group, moe)
    if gathers:
        nbytes = numel * tp * w.act_bytes
        y = w.collective("rows_reduce", "reduce_scatter", (y,), nbytes, "leave", numel)
    y = _exchange(w, "combine_exchange", y, numel)
    out = _out_of_latent(w, _combine(w, (y, chosen), mine, moe), mine, moe)
    whole = split or shared
    if shared and not split:
        nbytes = tokens * hidden * w.act_bytes
        out = w.collective(
            "tokens_gather", "all_gather", (out,), nbytes, "through", tokens * hidden
        )
    if not moe.shared_experts:
        return out, whole
    x = w.enter(x, "shared_gather", tokens)
    beside = _shared(w, x, tokens, moe, dense)
    if whole:
        beside = w.leave(beside, "shared_reduce", tokens)
        return _add_shared(w, out, beside, setting.outer(tokens)), True
    return _add_shared(w, out, beside, tokens), False


def joint_experts(w: Writer, x: int, tokens: int, dense: Dense) -> tuple[int, bool]:
    """Append the block where every rank sees the tokens of all (inference).

    Tokens of other groups are gathered; each rank works on the rows of its
    own experts, or of its part of them, and sums over the ranks go back.

    Returns
    -------
    tuple of int and bool
        The value, one device's part of the sum, and False.
    """
    setting, moe = w.setting, _spec(w)
    groups, width = setting.layout.dp, moe.latent or setting.model.hidden
    every = tokens * groups
    chosen = _router(w, x, tokens, moe)
    rows, numel = _into_latent(w, x, tokens, moe), 1.0 * every * width
    nbytes = numel * w.act_bytes
    if groups > 1:
        rows = w.among(
            "dp", "tokens_gather", "all_gather", (rows,), nbytes, "none", numel
        )
    rows = _dispatch(w, (rows, chosen), every, moe, moved=False)
    out = _experts(w, rows, every, moe)
    out = _combine(w, (out, chosen), every, moe, setting.layout.ep)
    if groups > 1:
        out = w.among(
            "dp", "tokens_reduce", "reduce_scatter", (out,), nbytes, "none",
            numel / groups,
        )  # fmt: skip
    out = _out_of_latent(w, out, tokens, moe)
    if not moe.shared_experts:
        return out, False
    return _add_shared(w, out, _shared(w, x, tokens, moe, dense), tokens), False


def _exchange(w: Writer, name: str, rows: int, numel: float) -> int:
    setting = w.setting
    if setting.layout.ep == 1:
        return rows
    nbytes = numel * w.act_bytes
    hidden = setting.stack.overlap.ep if setting.training else 0.0
    if hidden < 1.0:
        rows = w.exchange(name, rows, (1.0 - hidden) * nbytes, numel)
    if not hidden:
        return rows
    out = w.exchange(f"{name}_beside", rows, hidden * nbytes, numel)
    w.node_of[out] = w.node_of[rows]
    return out


def _sorted(w: Writer, name: str, rows: int, tokens: float, moe: MoeSpec) -> int:
    """Append the sort of received rows by expert, where it is a kernel."""
    setting = w.setting
    fusion, ep = setting.fusion, setting.layout.ep
    apart = fusion.experts != "fused" and fusion.exchange == "all_to_all"
    if not (setting.training and apart and 1 < ep < moe.experts):
        return rows
    topk, hidden = moe.experts_per_token, setting.model.hidden
    numel = tokens * topk / ep * hidden
    op = MoeDispatch(
        name=name, dtype=setting.precision.vector, tokens=tokens / ep, columns=hidden,
        topk=topk, reads=(w.act(numel),), writes=(w.act(numel),),
    )  # fmt: skip
    return w.put(op, (rows,), "dispatch", numel=numel)


def _spec(w: Writer) -> MoeSpec:
    moe = w.setting.model.moe
    if moe is None:
        raise TypeError(f"model {w.setting.model.id} has no experts")
    return moe


def _router(w: Writer, x: int, tokens: float, moe: MoeSpec) -> int:
    """Append the choice of experts and their weights."""
    hidden, topk = w.setting.model.hidden, moe.experts_per_token
    scores = w.linear(
        "router", x, tokens, moe.experts, hidden, bias=moe.router_bias, quantise=False
    )
    gate = Softmax(
        name="topk",
        dtype=w.setting.precision.vector,
        rows=tokens,
        columns=moe.experts,
        reads=(w.act(tokens * moe.experts),),
        writes=(
            Operand("activation", 4.0 * tokens * topk, "fp32"),
            Operand("index", 4.0 * tokens * topk, "int32"),
        ),
    )
    return w.put(
        gate, (scores,), "function", numel=tokens * moe.experts,
        extra={"reads": tokens * moe.experts},
    )  # fmt: skip


def _into_latent(w: Writer, x: int, tokens: float, moe: MoeSpec) -> int:
    """Append the projection to the width that experts work in, if it is another.

    References
    ----------
    .. [1] NVIDIA, "Nemotron 3", 2025, arXiv:2512.20848 (LatentMoE).
    """
    if moe.latent is None:
        return x
    return w.linear("latent_down", x, tokens, moe.latent, w.setting.model.hidden)


def _out_of_latent(w: Writer, x: int, tokens: float, moe: MoeSpec) -> int:
    if moe.latent is None:
        return x
    return w.linear("latent_up", x, tokens, w.setting.model.hidden, moe.latent)


def _shared(w: Writer, x: int, tokens: int, moe: MoeSpec, dense: Dense) -> int:
    """Append the experts that every token visits."""
    hidden, ffn = w.setting.model.hidden, w.setting.shard.shared_ffn
    with w.beside():
        bias = moe.expert_bias
        shared = dense(w, x, tokens, ffn, moe.gated, bias=bias, prefix="shared_")
    if not moe.shared_gate:
        return shared
    numel = tokens * hidden
    weight = w.linear("shared_gate", x, tokens, 1, hidden, quantise=False)
    return w.elementwise(
        "shared_scale", "sigmoid_mul", (shared, weight), numel=numel,
        reads=numel + tokens, writes=numel, flop_per_value=2.0,
    )  # fmt: skip


def _add_shared(w: Writer, out: int, shared: int, tokens: float) -> int:
    numel = tokens * w.setting.model.hidden
    return w.elementwise(
        "shared_add", "add", (out, shared), numel=numel, reads=2 * numel,
        writes=numel, rule="through",
    )  # fmt: skip


def _dispatch(
    w: Writer,
    inputs: tuple[int, int],
    tokens: float,
    moe: MoeSpec,
    *,
    moved: bool = True,
) -> int:
    """Append the sort by expert; training and exchange also move the rows."""
    hidden, topk = moe.latent or w.setting.model.hidden, moe.experts_per_token
    pairs = tokens * topk
    reads = [Operand("index", 4.0 * pairs, "int32")]
    writes = [Operand("index", 4.0 * pairs, "int32")]
    if moved and (w.setting.training or w.setting.layout.ep > 1):
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


def _experts(w: Writer, rows: int, tokens: float, moe: MoeSpec) -> int:
    """Append this rank's share of the experts of ``tokens`` of all ranks."""
    setting, precision = w.setting, w.setting.precision
    layout = setting.layout
    tp, ep, hidden = layout.etp, layout.ep, moe.latent or setting.model.hidden
    touched = touched_experts(moe.experts, moe.experts_per_token, tokens) / ep
    pairs = tokens * moe.experts_per_token / ep
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
        ep=ep,
        load=1.0 if layout.whole_experts else layout.load,
        exchanged=layout.expert_mode == "all_to_all",
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
    weights = expert_traffic(hidden, moe, tp, pairs, moe.experts / ep).weights
    y = w.put(op, (rows,), "experts", numel=traffic.rows, extra={"weights": weights})
    if ep == 1:
        w.count_rows(y)
    if setting.training and setting.fusion.experts == "each":
        y = expert_operators(w, y, (traffic.rows, traffic.inner), moe)
    return y


def _combine(
    w: Writer, inputs: tuple[int, int], tokens: float, moe: MoeSpec, ranks: int = 1
) -> int:
    """Append the weighted sum of the rows that ``ranks`` share out."""
    hidden, topk = moe.latent or w.setting.model.hidden, moe.experts_per_token
    op = MoeCombine(
        name="combine",
        dtype=w.setting.precision.vector,
        tokens=tokens,
        columns=hidden,
        topk=topk,
        reads=(
            w.act(tokens * topk * hidden / ranks),
            Operand("activation", 4.0 * tokens * topk, "fp32"),
        ),
        writes=(w.act(tokens * hidden),),
    )
    return w.put(op, inputs, "combine", numel=tokens * hidden)
