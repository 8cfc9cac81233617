"""Parameters that one tensor-parallel device holds, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.graph.shard import Shard
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
    """

    linear: float = 0.0
    plain: float = 0.0
    norms: float = 0.0

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            self.linear + other.linear,
            self.plain + other.plain,
            self.norms + other.norms,
        )

    def __mul__(self, count: float) -> Parameters:
        return Parameters(self.linear * count, self.plain * count, self.norms * count)

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.plain


def attention_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return the parameters of one attention block, norms before it excluded."""
    if model.mla is not None:
        return _latent_parameters(model, local)
    hidden, width = model.hidden, model.head_dim
    entering = (local.heads + 2 * local.kv_heads) * width
    plain = entering * model.qkv_bias + hidden * model.out_bias
    plain += local.heads * model.attention_sinks
    if model.qk_norm == "head":
        plain += 2 * norm_parameters(model, width)
    elif model.qk_norm == "full":
        plain += norm_parameters(model, (local.heads + local.kv_heads) * width)
    return Parameters(hidden * (entering + local.heads * width), plain)


def _latent_parameters(model: ModelSpec, local: Shard) -> Parameters:
    mla, hidden = model.mla, model.hidden
    if mla is None:
        return Parameters()
    heads, rank = local.heads, mla.q_lora_rank
    queries = heads * model.head_dim
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    linear = hidden * latent + heads * mla.v_head_dim * hidden
    linear += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    plain = norm_parameters(model, mla.kv_lora_rank) + hidden * model.out_bias
    if rank is None:
        linear += hidden * queries
        plain += latent * model.qkv_bias
    else:
        linear += hidden * rank + rank * queries
        plain += norm_parameters(model, rank) + (rank + latent) * model.qkv_bias
    return Parameters(linear, plain)


def feed_forward_parameters(model: ModelSpec, local: Shard, *, moe: bool) -> Parameters:
    """Return the parameters of one feed-forward block."""
    hidden, spec = model.hidden, model.moe
    if not moe or spec is None:
        return _dense(hidden, local.ffn, model.gated_ffn, model.ffn_bias)
    expert = _dense(hidden, spec.expert_ffn / local.tp, spec.gated, spec.expert_bias)
    plain = hidden * spec.experts + spec.experts * spec.router_bias
    total = expert * spec.experts + Parameters(0.0, plain)
    if spec.shared_experts:
        shared = _dense(hidden, local.shared_ffn, spec.gated, spec.expert_bias)
        # Shared experts run as one wide block, but each has its own bias.
        extra = (spec.shared_experts - 1) * hidden * spec.expert_bias
        gate = hidden * spec.shared_gate
        total += shared + Parameters(0.0, extra + gate)
    return total


def _dense(hidden: int, width: float, gated: bool, bias: bool) -> Parameters:
    entering = 2 if gated else 1
    plain = (entering * width + hidden) * bias
    return Parameters((entering + 1) * hidden * width, plain)


def layer_parameters(model: ModelSpec, local: Shard, kind: LayerKind) -> Parameters:
    """Return the parameters of one layer on one device."""
    norm = float(norm_parameters(model))
    count = attention_parameters(model, local)
    count += feed_forward_parameters(model, local, moe=kind.moe)
    count += _norms(model.norms_per_layer * norm)
    if kind.role == "decoder" and model.kind == "encoder_decoder":
        count += attention_parameters(model, local) + _norms(norm)
    return count


def _norms(number: float) -> Parameters:
    return Parameters(0.0, number, number)


def embedding_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return the lookup tables, and what projects and norms their rows."""
    hidden, plain = model.hidden, float(local.vocab * model.embedding_width)
    plain += model.stacks * model.position_rows * hidden
    plain += model.token_types * hidden
    plain += model.stacks * model.relative_buckets * local.heads
    linear = 0.0
    if model.embedding_width != hidden:
        linear = float(model.embedding_width * hidden)
    count = Parameters(linear, plain)
    if model.embedding_norm:
        count += _norms(model.stacks * float(norm_parameters(model)))
    return count


def head_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return the last norm and what the output adds to a tied table."""
    count, hidden = Parameters(), model.hidden
    if model.final_norm:
        count += _norms(model.stacks * float(norm_parameters(model)))
    if model.embedding_width != hidden:
        count += Parameters(float(model.embedding_width * hidden))
    if model.output_head:
        own = 0 if model.tied_embeddings else local.vocab * model.embedding_width
        count += Parameters(0.0, float(own + local.vocab * model.head_bias))
    if model.pooler:
        count += Parameters(float(hidden * hidden), float(hidden))
    return count


def device_parameters(model: ModelSpec, local: Shard) -> Parameters:
    """Return all parameters of one device."""
    count = embedding_parameters(model, local) + head_parameters(model, local)
    for kind, repeat in model.layer_groups():
        count += layer_parameters(model, local, kind) * repeat
    return count
