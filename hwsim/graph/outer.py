"""What stands before and after the layers: embedding, last norm, head."""

from __future__ import annotations

import math

from hwsim.graph.op import Embedding, Operand
from hwsim.graph.precision import INDEX_BYTES
from hwsim.graph.setting import Pass, least
from hwsim.graph.writer import INPUT, Writer


def embedding(w: Writer, p: Pass) -> int:
    """Append the lookup of tokens and positions up to the first layer."""
    setting = w.setting
    model, tp = setting.model, setting.shard.tp
    width, tokens = model.embedding_width, p.tokens
    x = _lookup(w, "embedding", tokens, width, rows=tokens / tp)
    if tp > 1:
        nbytes = tokens * width * w.act_bytes
        split = setting.sequence_parallel and width == model.hidden
        x = w.collective(
            "embedding_reduce", "reduce_scatter" if split else "all_reduce", (x,),
            nbytes, "leave" if split else "through",
            setting.outer(tokens) * width,
        )  # fmt: skip
    tokens_here = setting.outer(tokens)
    if width != model.hidden:
        x = w.linear("embedding_in", x, tokens_here, model.hidden, width)
    x = _add_positions(w, x, p, tokens_here)
    if model.embedding_norm:
        x = w.norm("embedding_norm", (x,), tokens_here, model.hidden, to_linear=False)
    if setting.dropout:
        numel = tokens_here * model.hidden
        x = w.elementwise(
            "embedding_dropout", "dropout", (x,), numel=numel, reads=numel,
            rule="drop", mask=numel,
        )  # fmt: skip
    return x


def _lookup(w: Writer, name: str, tokens: float, width: int, *, rows: float) -> int:
    op = Embedding(
        name=name,
        dtype=w.setting.precision.act,
        tokens=tokens,
        columns=width,
        reads=(
            Operand("index", tokens * INDEX_BYTES, "int64"),
            w.parameters(rows * width),
        ),
        writes=(w.stream(tokens * width),),
    )
    table = {"rows": rows * width}
    return w.put(
        op, (INPUT,), "rows", numel=tokens * width, extra=table,
        dtype=w.setting.precision.stream,
    )  # fmt: skip


def _add_positions(w: Writer, x: int, p: Pass, tokens: float) -> int:
    """Append the sums with position, token-type and sinusoid rows."""
    model = w.setting.model
    hidden = model.hidden
    numel = tokens * hidden
    # One row per position serves the whole batch; decode has one per sequence.
    rows = 1.0 * (p.seq_q if p.several else p.batch)
    if model.position == "learned":
        table = _lookup(w, "positions", rows, hidden, rows=rows)
        x = _sum(w, "positions_add", (x, table), numel, numel + rows * hidden)
    elif model.position == "sinusoidal":
        x = _sum(w, "positions_add", (x,), numel, numel + rows * hidden)
    elif model.position == "relative":
        _relative_bias(w, p)
    if model.token_types:
        kinds = _lookup(
            w,
            "token_types",
            tokens,
            hidden,
            rows=least(float(model.token_types), tokens),
        )
        x = _sum(w, "token_types_add", (x, kinds), numel, 2 * numel)
    return x


def _sum(
    w: Writer, name: str, inputs: tuple[int, ...], numel: float, reads: float
) -> int:
    return w.elementwise(
        name, "add", inputs, numel=numel, reads=reads, writes=numel, rule="through"
    )


def _relative_bias(w: Writer, p: Pass) -> int:
    """Append the table of biases by distance that every layer adds to scores."""
    model, heads = w.setting.model, w.setting.shard.heads
    pairs = 1.0 * p.seq_q * p.seq_kv * w.setting.layout.cp
    op = Embedding(
        name="relative_bias",
        dtype=w.setting.precision.act,
        tokens=pairs,
        columns=heads,
        reads=(
            Operand("index", pairs * INDEX_BYTES, "int64"),
            w.parameters(model.relative_buckets * heads),
        ),
        writes=(w.act(pairs * heads),),
    )
    return w.put(op, (INPUT,), "none", numel=pairs * heads)


def final_norm(w: Writer, p: Pass) -> int:
    """Append the norm after a stack of layers; return the last value.

    The first layer's fused norm counts an addition that it does not need;
    this one leaves out the one that it does, so that the sum is exact.
    """
    model = w.setting.model
    if not model.final_norm:
        return INPUT
    return w.norm("final_norm", (INPUT,), w.setting.outer(p.tokens), model.hidden)


def head(w: Writer, x: int, rows: float, *, gather: bool) -> int:
    """Append the projection of ``rows`` positions to the vocabulary."""
    setting = w.setting
    model, local = setting.model, setting.shard
    width = model.embedding_width
    if width != model.hidden:
        x = w.linear("head_in", x, rows, width, model.hidden)
    logits = w.linear(
        "head", x, rows, local.vocab, width, bias=model.head_bias, quantise=False,
        alignment=_alignment(w),
    )  # fmt: skip
    if gather and local.tp > 1:
        nbytes = rows * local.vocab * local.tp * w.act_bytes
        logits = w.collective("logits_gather", "all_gather", (logits,), nbytes)
    return logits


def _alignment(w: Writer) -> float:
    """Return where rows of logits begin: at multiples of so many bytes. [B]

    Who shares a vocabulary out, or serves with it, pads it.
    """
    setting = w.setting
    alone = setting.training and setting.shard.tp == 1
    if not alone or setting.stack.padded_vocabulary:
        return 16.0
    return float(math.gcd(int(setting.model.vocab * w.act_bytes), 16))


def select_rows(w: Writer, x: int, rows: float) -> int:
    """Append the copy of the rows whose logits are wanted."""
    moved = w.act(rows * w.setting.model.hidden)
    return w.copy("select_rows", (x,), moved, moved)


def pooler(w: Writer, x: int, batch: int) -> int:
    """Append the dense layer on the first token of each sequence."""
    hidden = w.setting.model.hidden
    x = w.linear("pooler", x, batch, hidden, hidden, bias=True)
    numel = batch * hidden
    return w.elementwise(
        "pooler_tanh", "tanh", (x,), numel=numel, reads=numel, flop_per_value=8.0
    )


def masked_head(w: Writer, x: int, rows: float) -> int:
    """Append the dense layer and norm before a masked model's logits."""
    hidden = w.setting.model.hidden
    x = w.linear("transform", x, rows, hidden, hidden, bias=True)
    numel = rows * hidden
    x = w.elementwise(
        "transform_gelu", "gelu", (x,), numel=numel, reads=numel, flop_per_value=8.0
    )
    return w.norm("transform_norm", (x,), rows, hidden)
