"""Exact parameter counts of a model, part by part.

Every function takes a model spec and returns a plain ``int``: how many
numbers the part stores, as a checkpoint of the published model holds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwsim.specs.model_parts import HeadShape, LayerKind
    from hwsim.specs.model_shape import ModelShape


def linear_parameters(inputs: int, outputs: int, bias: bool) -> int:
    """Return the weights, and the biases if any, of one dense projection.

    Examples
    --------
    >>> linear_parameters(768, 3072, bias=True)
    2362368
    """
    return inputs * outputs + (outputs if bias else 0)


def norm_parameters(model: ModelShape, width: int | None = None) -> int:
    """Return the parameters of one norm over ``width`` (the hidden size)."""
    return (model.hidden if width is None else width) * (1 + model.norm_bias)


def attention_parameters(model: ModelShape, kind: LayerKind) -> int:
    """Return the parameters of one attention block, norms before it excluded."""
    if model.mla is not None:
        return _latent_attention_parameters(model)
    hidden, shape = model.hidden, model.heads_at(kind)
    count = linear_parameters(hidden, shape.projected, model.qkv_bias)
    count += linear_parameters(shape.queries, hidden, model.out_bias)
    if model.attention_sinks:
        count += model.heads
    return count + _qk_norm_parameters(model, shape)


def _qk_norm_parameters(model: ModelShape, shape: HeadShape) -> int:
    if model.qk_norm == "head":
        return 2 * norm_parameters(model, shape.head_dim)
    if model.qk_norm == "full":
        return norm_parameters(model, shape.queries + shape.keys)
    return 0


def ssm_parameters(model: ModelShape) -> int:
    """Return the parameters of one state-space block, the norm before it excluded.

    Projections in and out, the convolution, three values for each head (decay,
    step and skip) and the norm before the output. A selective scan has the
    projections of its steps instead, a decay for each state, and no norm.
    """
    ssm = model.ssm
    if ssm is None:
        return 0
    if ssm.step_rank:
        count = linear_parameters(model.hidden, 2 * ssm.inner, ssm.proj_bias)
        count += ssm.inner * (ssm.conv + ssm.conv_bias)
        count += ssm.inner * (ssm.step_rank + 2 * ssm.state)
        count += linear_parameters(ssm.step_rank, ssm.inner, True)
        count += ssm.inner * (ssm.state + 1)
        return count + linear_parameters(ssm.inner, model.hidden, ssm.proj_bias)
    shared = 2 * ssm.groups * ssm.state
    entering = 2 * ssm.inner + shared + ssm.heads
    count = linear_parameters(model.hidden, entering, ssm.proj_bias)
    count += (ssm.inner + shared) * (ssm.conv + ssm.conv_bias)
    count += 3 * ssm.heads + ssm.inner
    return count + linear_parameters(ssm.inner, model.hidden, ssm.proj_bias)


def _latent_attention_parameters(model: ModelShape) -> int:
    mla = model.mla
    if mla is None:
        return 0
    hidden, heads = model.hidden, model.heads
    query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if mla.q_lora_rank is None:
        count = hidden * query
    else:
        rank = mla.q_lora_rank
        count = linear_parameters(hidden, rank, model.qkv_bias)
        count += norm_parameters(model, rank) + rank * query
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    count += linear_parameters(hidden, latent, model.qkv_bias)
    count += norm_parameters(model, mla.kv_lora_rank)
    count += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return count + linear_parameters(heads * mla.v_head_dim, hidden, model.out_bias)


def ffn_parameters(model: ModelShape) -> int:
    """Return the parameters of one dense feed-forward block."""
    return _ffn(model.hidden, model.ffn, model.gated_ffn, model.ffn_bias)


def _ffn(hidden: int, width: int, gated: bool, bias: bool) -> int:
    entering = (2 if gated else 1) * linear_parameters(hidden, width, bias)
    return entering + linear_parameters(width, hidden, bias)


def moe_parameters(model: ModelShape, *, active: bool = False) -> int:
    """Return the parameters of one mixture-of-experts block.

    Parameters
    ----------
    model : ModelShape
        Zero is returned if it has no experts.
    active : bool
        Count only the experts that one token visits.
    """
    moe = model.moe
    if moe is None:
        return 0
    width = moe.latent or model.hidden
    expert = _ffn(width, moe.expert_ffn, moe.gated, moe.expert_bias)
    shared = _ffn(model.hidden, moe.shared_ffn, moe.gated, moe.expert_bias)
    count = linear_parameters(model.hidden, moe.experts, moe.router_bias)
    count += (moe.experts_per_token if active else moe.experts) * expert
    if moe.shared_experts:
        count += moe.shared_experts * shared
    if moe.latent:
        count += 2 * model.hidden * moe.latent
    return count + (model.hidden if moe.shared_gate else 0)


def layer_parameters(
    model: ModelShape, kind: LayerKind, *, active: bool = False
) -> int:
    """Return the parameters of one layer of the given kind."""
    count = model.norms_at(kind) * norm_parameters(model)
    if kind.mixer == "attention":
        count += attention_parameters(model, kind)
    elif kind.mixer == "ssm":
        count += ssm_parameters(model)
    if kind.moe:
        count += moe_parameters(model, active=active)
    elif kind.feed:
        count += ffn_parameters(model)
    if kind.role == "decoder" and model.kind == "encoder_decoder":
        count += attention_parameters(model, kind) + norm_parameters(model)
    return count


def embedding_parameters(model: ModelShape) -> int:
    """Return the rows of all lookup tables: tokens, positions, token types."""
    tokens = model.vocab * model.embedding_width
    positions = 0
    if model.position == "learned":
        positions = model.stacks * model.position_rows * model.hidden
    return tokens + positions + model.token_types * model.hidden


def head_parameters(model: ModelShape) -> int:
    """Return what the output projection adds to the (tied) embedding table."""
    if not model.output_head:
        return 0
    own = 0 if model.tied_embeddings else model.vocab * model.embedding_width
    return own + (model.vocab if model.head_bias else 0)


def outer_parameters(model: ModelShape) -> int:
    """Return what stands outside layers, lookup tables and output projection."""
    norms = int(model.final_norm) + int(model.embedding_norm)
    count = model.stacks * norms * norm_parameters(model)
    if model.embedding_width != model.hidden:
        count += 2 * model.embedding_width * model.hidden
    if model.position == "relative":
        count += model.stacks * model.relative_buckets * model.heads
    if model.pooler:
        count += linear_parameters(model.hidden, model.hidden, bias=True)
    return count


def total_parameters(model: ModelShape, *, active: bool = False) -> int:
    """Return the parameters of the whole model, or those one token visits."""
    layers = sum(
        count * layer_parameters(model, kind, active=active)
        for kind, count in model.layer_groups()
    )
    return (
        layers
        + embedding_parameters(model)
        + head_parameters(model)
        + outer_parameters(model)
    )
