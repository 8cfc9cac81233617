"""Parameters that one tensor-parallel device holds, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hwsim.graph.layout import Layout
from hwsim.graph.shard import Shard, local_heads
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.parameter_count import norm_parameters


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters on one device.

    Attributes
    ----------
    linear : float
        Weights that are stored in the weights' dtype.
    plain : float
        Norms, biases, routers and tables: in the activations' dtype.
    norms : float
        Those of the plain ones that every tensor-parallel device holds and
        that see only its share of the tokens under sequence parallelism.
    factored : float
        Rows plus columns of all matrices, and all values of vectors: what a
        factored second moment keeps.
    """

    linear: float = 0.0
    plain: float = 0.0
    norms: float = 0.0
    factored: float = 0.0

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            self.linear + other.linear,
            self.plain + other.plain,
            self.norms + other.norms,
            self.factored + other.factored,
        )

    def __mul__(self, count: float) -> Parameters:
        return Parameters(
            self.linear * count,
            self.plain * count,
            self.norms * count,
            self.factored * count,
        )

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.plain


class Held(NamedTuple):
    """Parameters of one device: replicated as all are, and as experts are."""

    dense: Parameters
    expert: Parameters

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense.total + self.expert.total


def _matrices(*shapes: tuple[float, float]) -> Parameters:
    return Parameters(
        linear=sum(rows * columns for rows, columns in shapes),
        factored=sum(rows + columns for rows, columns in shapes),
    )


def _table(rows: float, columns: float) -> Parameters:
    kept = rows + columns if rows and columns else 0.0
    return Parameters(plain=rows * columns, factored=kept)


def _vector(count: float) -> Parameters:
    return Parameters(plain=count, factored=count)


def _norms(count: float) -> Parameters:
    return Parameters(plain=count, norms=count, factored=count)


def attention_parameters(model: ModelSpec, local: Shard, kind: LayerKind) -> Parameters:
    """Return the parameters of one attention block, norms before it excluded."""
    if model.mla is not None:
        return _latent_parameters(model, local)
    hidden, shape = model.hidden, local_heads(model, local, kind)
    queries, keys = shape.queries, shape.keys
    plain = shape.projected * model.qkv_bias + hidden * model.out_bias
    plain += local.heads * model.attention_sinks
    if model.qk_norm == "head":
        plain += 2 * norm_parameters(model, shape.head_dim)
    elif model.qk_norm == "full":
        plain += norm_parameters(model, queries + keys)
    values = () if shape.shared_kv else ((hidden, keys),)
    weights = _matrices((hidden, queries), (hidden, keys), *values, (queries, hidden))
    return weights + _vector(plain)


def ssm_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return the parameters of one state-space block, the norm before it excluded."""
    ssm, hidden = model.ssm, model.hidden
    if ssm is None:
        return Parameters()
    inner = local.ssm_heads * ssm.head_dim
    if ssm.step_rank:
        small = ssm.step_rank + 2 * ssm.state
        plain = inner * (ssm.conv + ssm.conv_bias + 1 + ssm.state + 1)
        plain += (2 * inner + hidden) * ssm.proj_bias
        shapes = ((hidden, 2 * inner), (inner, small), (ssm.step_rank, inner))
        return _matrices(*shapes, (inner, hidden)) + _vector(plain)
    shared = 2 * local.ssm_groups * ssm.state
    entering = 2 * inner + shared + local.ssm_heads
    plain = (inner + shared) * (ssm.conv + ssm.conv_bias) + 3 * local.ssm_heads
    plain += inner + (entering + hidden) * ssm.proj_bias
    return _matrices((hidden, entering), (inner, hidden)) + _vector(plain)


def _latent_parameters(model: ModelSpec, local: Shard) -> Parameters:
    mla = model.mla
    if mla is None:
        raise TypeError(f"model {model.id} has no latent attention")
    heads, hidden, rank = local.heads, model.hidden, mla.q_lora_rank
    queries = heads * model.head_dim
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    expanded = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    shapes = [(hidden, latent), (heads * mla.v_head_dim, hidden)]
    shapes.append((mla.kv_lora_rank, expanded))
    plain = norm_parameters(model, mla.kv_lora_rank) + hidden * model.out_bias
    if rank is None:
        shapes.append((hidden, queries))
        plain += latent * model.qkv_bias
    else:
        shapes += [(hidden, rank), (rank, queries)]
        plain += norm_parameters(model, rank) + (rank + latent) * model.qkv_bias
    return _matrices(*shapes) + _vector(plain)


def feed_forward_parameters(model: ModelSpec, local: Shard, *, moe: bool) -> Parameters:
    """Return the parameters of one feed-forward block."""
    spec = model.moe
    if not moe or spec is None:
        return _dense(model.hidden, local.ffn, model.gated_ffn, model.ffn_bias)
    return expert_parameters(model, local.tp) + _around_experts(model, local)


def expert_parameters(model: ModelSpec, etp: int, ep: int = 1) -> Parameters:
    """Return the routed experts of one layer on one of ``etp * ep`` ranks."""
    spec = model.moe
    if spec is None:
        return Parameters()
    width = spec.latent or model.hidden
    one = _dense(width, spec.expert_ffn / etp, spec.gated, spec.expert_bias)
    return one * (spec.experts / ep)


def _around_experts(model: ModelSpec, local: Shard) -> Parameters:
    """Return the router and the shared experts."""
    hidden, spec = model.hidden, model.moe
    if spec is None:
        return Parameters()
    total = _table(hidden, spec.experts) + _vector(spec.experts * spec.router_bias)
    if spec.latent:
        total += _matrices((hidden, spec.latent), (spec.latent, hidden))
    if spec.shared_experts:
        total += _dense(hidden, local.shared_ffn, spec.gated, spec.expert_bias)
        # Shared experts run as one wide block, but each has its own bias.
        extra = (spec.shared_experts - 1) * hidden * spec.expert_bias
        total += _vector(extra + hidden * spec.shared_gate)
    return total


def _dense(hidden: int, width: float, gated: bool, bias: bool) -> Parameters:
    entering = 2 if gated else 1
    shapes = ((hidden, width),) * (entering + 1)
    return _matrices(*shapes) + _vector((entering * width + hidden) * bias)


def layer_parameters(
    model: ModelSpec, local: Shard, kind: LayerKind, *, experts: bool = True
) -> Parameters:
    """Return the parameters of one layer on one device."""
    norm = float(norm_parameters(model))
    count = _norms(model.norms_at(kind) * norm)
    if kind.mixer == "attention":
        count += attention_parameters(model, local, kind)
    elif kind.mixer == "ssm":
        count += ssm_parameters(model, local)
    if kind.moe and not experts:
        count += _around_experts(model, local)
    elif kind.feed:
        count += feed_forward_parameters(model, local, moe=kind.moe)
    if kind.role == "decoder" and model.kind == "encoder_decoder":
        count += attention_parameters(model, local, kind) + _norms(norm)
    return count


def layer_held(model: ModelSpec, local: Shard, layout: Layout, kind: LayerKind) -> Held:
    """Return the parameters of one layer; experts apart if replicated apart."""
    if layout.whole_experts or not kind.moe:
        return Held(layer_parameters(model, local, kind), Parameters())
    return Held(
        layer_parameters(model, local, kind, experts=False),
        expert_parameters(model, layout.etp, layout.ep),
    )


def gathered_unit(
    model: ModelSpec, local: Shard, layout: Layout, kind: LayerKind, unit: str
) -> float:
    """Return the parameters of a layer, or of its largest ``product``."""
    held = layer_held(model, local, layout, kind)
    if unit == "layer":
        return held.total
    sizes = [0.0]
    if kind.mixer == "attention":
        sizes.append(model.hidden * float(local_heads(model, local, kind).queries))
    if kind.feed and not kind.moe:
        sizes.append(model.hidden * float(local.ffn))
    elif kind.feed and model.moe is not None:
        experts = expert_parameters(model, layout.etp, layout.ep).linear
        sizes.append(experts / (3 if model.moe.gated else 2))
    return max(sizes) or held.total


def _token_table(model: ModelSpec, local: Shard) -> Parameters:
    return _table(local.vocab, model.embedding_width)


def embedding_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return the lookup tables, and what projects and norms their rows."""
    hidden, stacks = model.hidden, model.stacks
    count = _token_table(model, local)
    count += _table(model.position_rows, hidden) * stacks
    count += _table(model.token_types, hidden)
    count += _table(model.relative_buckets, local.heads) * stacks
    if model.embedding_width != hidden:
        count += _matrices((model.embedding_width, hidden))
    if model.embedding_norm:
        count += _norms(stacks * float(norm_parameters(model)))
    return count


def head_parameters(
    model: ModelSpec, local: Shard, *, own_table: bool = False
) -> Parameters:
    """Return the last norm and what the output adds to a tied table.

    ``own_table``: the tied table is on another device; this one has a copy.
    """
    count, hidden = Parameters(), model.hidden
    if model.final_norm:
        count += _norms(model.stacks * float(norm_parameters(model)))
    if model.embedding_width != hidden:
        count += _matrices((model.embedding_width, hidden))
    if model.output_head:
        if own_table or not model.tied_embeddings:
            count += _token_table(model, local)
        count += _vector(local.vocab * model.head_bias)
    if model.pooler:
        count += _matrices((hidden, hidden)) + _vector(hidden)
    return count


def device_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return all parameters of one device."""
    count = embedding_parameters(model, local) + head_parameters(model, local)
    for kind, repeat in model.layer_groups():
        count += layer_parameters(model, local, kind) * repeat
    return count


def stage_parameters(
    model: ModelSpec,
    local: Shard,
    layout: Layout,
    kinds: Iterable[tuple[LayerKind, int]],
    *,
    first: bool,
    last: bool,
) -> Held:
    """Return the parameters of one device of a pipeline stage.

    Parameters
    ----------
    kinds : iterable of (LayerKind, int)
        Layers of the stage by kind.
    first, last : bool
        Whether it has the embedding; the last norm and the head. A head tied
        to a table elsewhere has a copy of it.
    """
    dense, expert = Parameters(), Parameters()
    if first:
        dense += embedding_parameters(model, local)
    if last:
        dense += head_parameters(model, local, own_table=not first)
    for kind, repeat in kinds:
        held = layer_held(model, local, layout, kind)
        dense += held.dense * repeat
        expert += held.expert * repeat
    return Held(dense, expert)
