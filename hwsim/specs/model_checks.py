"""Defaults of a model spec's fields, and checks of how they go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwsim.specs.model_parts import PATTERN, MlaSpec, SsmSpec

if TYPE_CHECKING:
    from hwsim.specs.model_shape import ModelShape


def default_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec with those that follow from others."""
    filled = dict(data)
    _without_attention(filled)
    heads, hidden = filled.get("heads"), filled.get("hidden")
    if isinstance(heads, int):
        filled.setdefault("kv_heads", heads)
    if "head_dim" not in filled:
        width = _default_head_dim(hidden, heads, filled.get("mla"))
        if width is not None:
            filled["head_dim"] = width
    if filled.get("position") == "learned" and filled.get("max_context"):
        filled.setdefault("position_rows", filled["max_context"])
    return filled


def _without_attention(filled: dict[str, Any]) -> None:
    """Fill what no layer of a model without attention or feed-forward uses."""
    ssm, pattern = filled.get("ssm"), filled.get("pattern")
    shape = ssm.model_dump() if isinstance(ssm, SsmSpec) else ssm
    if not isinstance(pattern, str) or not pattern or not isinstance(shape, Mapping):
        return
    if not set(pattern) & set("*a"):
        filled.setdefault("heads", shape.get("heads"))
        if filled.get("mla") is None:
            filled.setdefault("head_dim", shape.get("head_dim"))
        filled.setdefault("position", "none")
    if not set(pattern) & set("-am"):
        filled.setdefault("ffn", filled.get("hidden"))


def check_model(model: ModelShape) -> None:
    """Raise ValueError if fields do not go together."""
    _check_stacks(model)
    _check_attention(model)
    _check_positions(model)
    _check_windows(model)
    _check_full_attention(model)
    _check_pattern(model)


def _default_head_dim(hidden: object, heads: object, mla: object) -> int | None:
    if isinstance(mla, MlaSpec):
        mla = mla.model_dump()
    if isinstance(mla, Mapping):
        widths = (mla.get("qk_nope_head_dim"), mla.get("qk_rope_head_dim"))
        return sum(w for w in widths if isinstance(w, int)) or None
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return None
    if hidden % heads:
        raise ValueError(
            f"hidden ({hidden}) is not a multiple of heads ({heads}); give head_dim"
        )
    return hidden // heads


def _check_stacks(model: ModelShape) -> None:
    both = model.kind == "encoder_decoder"
    if both != (model.encoder_layers > 0):
        raise ValueError(
            f"encoder_layers is {model.encoder_layers} in a model of kind "
            f"{model.kind}; only (and every) encoder_decoder has encoder layers "
            "beside its layers"
        )
    if both and model.moe is not None:
        raise ValueError("moe in an encoder_decoder model is not supported")
    if model.moe is not None and model.moe.dense_layers > model.layers:
        raise ValueError(
            f"moe.dense_layers is {model.moe.dense_layers} but there are only "
            f"{model.layers} layers"
        )
    if model.head_bias and not model.output_head:
        raise ValueError("head_bias is set but output_head is false")


def _check_attention(model: ModelShape) -> None:
    if model.heads % model.kv_heads:
        raise ValueError(
            f"heads ({model.heads}) is not a multiple of kv_heads "
            f"({model.kv_heads}); each key/value head serves the same number of heads"
        )
    mla = model.mla
    if mla is None:
        return
    width = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    if model.head_dim != width or model.kv_heads != model.heads:
        raise ValueError(
            f"with mla, head_dim must be {width} (qk_nope_head_dim + "
            f"qk_rope_head_dim) and kv_heads {model.heads} (heads); they are "
            f"{model.head_dim} and {model.kv_heads}"
        )
    if model.attention_sinks or model.qk_norm is not None:
        raise ValueError("mla with attention_sinks or qk_norm is not supported")


def _check_positions(model: ModelShape) -> None:
    learned = model.position == "learned"
    if learned != (model.position_rows > 0):
        raise ValueError(
            f"position is {model.position!r} and position_rows is "
            f"{model.position_rows}; a learned table needs max_context or "
            "position_rows, others have none"
        )
    if learned and (model.max_context or 0) > model.position_rows:
        raise ValueError(
            f"max_context is {model.max_context} but the learned table has only "
            f"{model.position_rows} position_rows"
        )
    if (model.position == "relative") != (model.relative_buckets > 0):
        raise ValueError(
            f"position is {model.position!r} and relative_buckets is "
            f"{model.relative_buckets}; relative positions need buckets, "
            "others have none"
        )


def _check_windows(model: ModelShape) -> None:
    patterned = model.full_attention_every or model.full_attention_layers
    if patterned and model.sliding_window is None:
        raise ValueError("a full-attention pattern is given but no sliding_window")
    if any(index >= model.layers for index in model.full_attention_layers):
        raise ValueError(
            f"full_attention_layers names layer {max(model.full_attention_layers)} "
            f"but there are only {model.layers} layers"
        )


def _check_pattern(model: ModelShape) -> None:
    pattern = model.pattern
    unknown = sorted(set(pattern) - set(PATTERN))
    if unknown:
        raise ValueError(
            f"pattern has {unknown[0]!r}; use {', '.join(PATTERN)}, one a layer"
        )
    if pattern and len(pattern) != model.layers:
        raise ValueError(
            f"pattern has {len(pattern)} letters but there are {model.layers} layers"
        )
    if pattern and (model.kind == "encoder_decoder" or model.parallel_block):
        raise ValueError(
            "a pattern of an encoder_decoder model or with parallel_block is not "
            "supported"
        )
    uses = any(kind.mixer == "ssm" for kind in model.layer_kinds)
    if uses != (model.ssm is not None):
        raise ValueError(
            "pattern has layers M or m but there is no ssm"
            if uses
            else "ssm is given but no layer of the pattern is M or m"
        )
    if "E" in pattern and model.moe is None:
        raise ValueError("pattern has layers E but there is no moe")


def _check_full_attention(model: ModelShape) -> None:
    wide = model.full_attention
    if wide is None:
        return
    if model.sliding_window is None or model.mla is not None:
        raise ValueError(
            "full_attention is for models with a sliding_window and without mla"
        )
    if model.heads % wide.kv_heads:
        raise ValueError(
            f"heads ({model.heads}) is not a multiple of full_attention.kv_heads "
            f"({wide.kv_heads})"
        )
