"""Bytes that a run keeps in the memory of each device."""

from __future__ import annotations

from collections.abc import Mapping

from hwsim.cost.footprint_parts import Footprint
from hwsim.cost.footprint_training import stage_footprint, training_footprint
from hwsim.graph.parameters import Parameters, device_parameters
from hwsim.graph.precision import Precision, resolve
from hwsim.graph.shard import (
    Shard,
    check_count,
    check_positive,
    local_heads,
    shard,
)
from hwsim.graph.statespace import state_bytes, widths
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind, ModelSpec

__all__ = [
    "Footprint",
    "inference_footprint",
    "kv_cache_values",
    "sequence_state_bytes",
    "serving_activations",
    "stage_footprint",
    "training_footprint",
    "weight_bytes",
]


def inference_footprint(
    model: ModelSpec,
    *,
    batch: int,
    context: int,
    prompt: int,
    tp: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    flash: bool = True,
    split: bool = False,
) -> Footprint:
    """Return what serving ``batch`` sequences takes on each device.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    batch, context : int
        Sequences, and the most tokens each has (of the decoder).
    prompt : int
        Tokens of each that are processed at once; in an encoder-decoder
        model those of the encoder. Of a decode step alone, 0.
    tp : int
        Tensor-parallel devices.
    dtype, kv_dtype, weight_dtype : str
        As for ``hwsim.graph.inference.prefill_graph``.
    flash : bool
        Attention is one kernel: scores are never stored.
    split : bool
        As for ``kv_cache_values``.
    """
    check_positive(batch=batch, context=context)
    check_count("prompt", prompt, 0)
    local, precision = shard(model, tp), resolve(dtype, kv_dtype, weight_dtype)
    held = device_parameters(model, local)
    kv = kv_cache_values(
        model, local, context=context, encoder_context=prompt, split=split
    )
    return Footprint(
        weights=weight_bytes(held, precision),
        kv_cache=batch
        * (
            kv * DTYPE_BYTES[precision.kv]
            + sequence_state_bytes(model, local, precision.act)
        ),
        activations=serving_activations(
            model, local, precision, batch, prompt, flash=flash
        ),
    )


def weight_bytes(held: Parameters, precision: Precision) -> float:
    """Return the bytes of parameters as inference stores them. [B]"""
    return (
        held.linear * DTYPE_BYTES[precision.weight]
        + held.plain * DTYPE_BYTES[precision.table]
    )


def kv_cache_values(
    model: ModelSpec,
    local: Shard,
    *,
    context: int,
    encoder_context: int = 0,
    kinds: Mapping[LayerKind, int] | None = None,
    split: bool = False,
) -> float:
    """Return the numbers that one device caches for one sequence.

    Windowed layers keep their window; latent attention keeps one latent on
    every device; key-value heads fewer than devices are on several, or with
    ``split`` such devices keep a share of the sequences each. With ``kinds``
    only so many layers of each kind count.
    """
    if model.kind == "encoder":
        return 0.0
    total = 0.0
    for kind, count in model.layer_groups() if kinds is None else kinds.items():
        if kind.role != "decoder" or kind.mixer != "attention":
            continue
        row = 2.0 * local_heads(model, local, kind).keys
        if model.mla is not None:
            row = float(model.mla.kv_lora_rank + model.mla.qk_rope_head_dim)
        elif split:
            row /= max(local.tp // model.heads_at(kind).kv_heads, 1)
        tokens = min(context, kind.window) if kind.window else context
        if model.kind == "encoder_decoder":
            tokens += encoder_context
        total += count * row * tokens
    return total


def sequence_state_bytes(
    model: ModelSpec,
    local: Shard,
    act: str,
    kinds: Mapping[LayerKind, int] | None = None,
) -> float:
    """Return what state-space layers keep of one sequence, however long. [B]"""
    if model.ssm is None:
        return 0.0
    groups = model.layer_groups() if kinds is None else kinds.items()
    layers = sum(n for kind, n in groups if kind.mixer == "ssm")
    return layers * state_bytes(model, local, act)


def serving_activations(
    model: ModelSpec,
    local: Shard,
    precision: Precision,
    batch: int,
    prompt: int,
    *,
    flash: bool,
) -> float:
    """Return the most that is live at once: the widest operator of a layer. [B]"""
    act, tokens = DTYPE_BYTES[precision.act], float(batch * max(prompt, 1))
    kinds = [kind for kind, _ in model.layer_groups()]
    mixer = max(_mixer_values(model, local, kind) for kind in kinds)
    attention = act * tokens * mixer
    if not flash:
        attention += act * tokens * prompt * local.heads * 2
    inner = max(_ffn_values(model, local, kind) for kind in kinds)
    stream = act * tokens * 2 * model.hidden
    rows = tokens if model.kind == "encoder" else batch
    logits = 4.0 * rows * local.vocab * local.tp if model.output_head else 0.0
    return stream + max(attention, act * tokens * inner, logits)


def _mixer_values(model: ModelSpec, local: Shard, kind: LayerKind) -> float:
    """Return the values per token of attention, or of a state space."""
    if kind.mixer == "none":
        return 0.0
    if kind.mixer == "ssm":
        w = widths(model, local)
        return float(w.entering + w.channels + w.inner)
    shape = local_heads(model, local, kind)
    return 2.0 * (shape.queries + shape.keys)


def _ffn_values(model: ModelSpec, local: Shard, kind: LayerKind) -> float:
    """Return the values per token between a feed-forward block's products."""
    moe = model.moe
    if not kind.feed:
        return 0.0
    if not kind.moe or moe is None:
        return local.ffn * (3.0 if model.gated_ffn else 2.0)
    entering = 3.0 if moe.gated else 2.0
    routed = moe.experts_per_token * moe.expert_ffn / local.tp
    return entering * (routed + local.shared_ffn)
