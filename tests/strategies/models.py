"""Random valid model specs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from hwsim.specs.model import ModelSpec

SOURCE = {"kind": "assumed", "title": "drawn at random", "date": "2025-01-01"}
BIASES = ("norm_bias", "qkv_bias", "out_bias", "ffn_bias", "gated_ffn")
FLAGS = ("tied_embeddings", "parallel_block", "final_norm", "embedding_norm")


def _ints(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@st.composite
def moe_fields(draw: st.DrawFn, layers: int) -> dict[str, Any]:
    """Fields of a mixture of experts that fits so many layers."""
    experts, shared = draw(_ints(1, 64)), draw(_ints(0, 2))
    return {
        "experts": experts,
        "experts_per_token": draw(_ints(1, experts)),
        "expert_ffn": draw(_ints(1, 512)),
        "shared_experts": shared,
        "shared_ffn": draw(_ints(1, 512)) if shared else 0,
        "dense_layers": draw(_ints(0, layers)),
        "every": draw(_ints(1, 3)),
        "gated": draw(st.booleans()),
        "latent": draw(st.none() | _ints(1, 256)),
        "router_bias": draw(st.booleans()),
        "expert_bias": draw(st.booleans()),
        "shared_gate": bool(shared) and draw(st.booleans()),
    }


@st.composite
def mla_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of latent attention."""
    return {
        "q_lora_rank": draw(st.none() | _ints(1, 128)),
        "kv_lora_rank": draw(_ints(1, 128)),
        "qk_nope_head_dim": draw(_ints(1, 128)),
        "qk_rope_head_dim": draw(_ints(1, 64)),
        "v_head_dim": draw(_ints(1, 128)),
    }


@st.composite
def _attention(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(_ints(1, 8))
    if draw(st.booleans()):
        return {"heads": kv_heads, "mla": draw(mla_fields())}
    return {
        "kv_heads": kv_heads,
        "heads": kv_heads * draw(_ints(1, 8)),
        "head_dim": draw(_ints(1, 256)),
        "qk_norm": draw(st.sampled_from([None, "head", "full", "l2"])),
        "attention_sinks": draw(st.booleans()),
    }


@st.composite
def _position(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["learned", "rotary", "relative", "alibi", "none"]))
    context = draw(_ints(1, 4096))
    extra: dict[str, Any] = {
        "learned": {"position_rows": context + draw(_ints(0, 2))},
        "relative": {"relative_buckets": draw(_ints(1, 64))},
        "rotary": {"rotary_fraction": draw(st.floats(0.01, 1.0))},
    }.get(kind, {})
    return {"position": kind, "max_context": context, **extra}


@st.composite
def _window(draw: st.DrawFn, layers: int) -> dict[str, Any]:
    if draw(st.booleans()):
        return {}
    full = draw(st.lists(_ints(0, layers - 1), max_size=3, unique=True))
    return {
        "sliding_window": draw(_ints(1, 4096)),
        "full_attention_every": draw(_ints(0, 6)),
        "full_attention_layers": tuple(full),
    }


@st.composite
def _pattern(draw: st.DrawFn, layers: int, experts: bool) -> dict[str, Any]:
    """Layers with one branch or two, some of them state spaces."""
    letters = "M*-ma" + "E" * experts
    pattern = "".join(draw(st.lists(
        st.sampled_from(letters), min_size=layers, max_size=layers
    )))  # fmt: skip
    if not set(pattern) & set("Mm"):
        return {"pattern": pattern}
    groups = draw(_ints(1, 4))
    ssm = {
        "heads": groups * draw(_ints(1, 8)),
        "head_dim": draw(_ints(1, 64)),
        "state": draw(_ints(1, 128)),
        "groups": groups,
        "conv": draw(_ints(1, 4)),
        "chunk": draw(_ints(1, 256)),
        "conv_bias": draw(st.booleans()),
        "proj_bias": draw(st.booleans()),
    }
    return {"pattern": pattern, "ssm": ssm}


@st.composite
def _wide(draw: st.DrawFn, heads: int) -> dict[str, Any]:
    """Other heads in layers without a window."""
    return {
        "kv_heads": draw(st.sampled_from([d for d in (1, 2, 4) if heads % d == 0])),
        "head_dim": draw(_ints(1, 512)),
        "shared_kv": draw(st.booleans()),
        "rotary_fraction": draw(st.floats(0.01, 1.0)),
    }


@st.composite
def model_specs(draw: st.DrawFn) -> ModelSpec:
    """Any valid model spec, small."""
    kind = draw(st.sampled_from(["decoder", "encoder", "encoder_decoder"]))
    layers = draw(_ints(1, 12))
    fields: dict[str, Any] = {
        "id": "drawn",
        "name": draw(st.text("abcdé \"'\\", min_size=1, max_size=20)),
        "aliases": ("one", "two")[: draw(_ints(0, 2))],
        "kind": kind,
        "family": "drawn",
        "layers": layers,
        "encoder_layers": draw(_ints(1, 12)) if kind == "encoder_decoder" else 0,
        "hidden": draw(_ints(1, 512)),
        "ffn": draw(_ints(1, 2048)),
        "activation": draw(st.sampled_from(["gelu", "relu", "silu", "relu2"])),
        "vocab": draw(_ints(1, 5000)),
        "embedding_size": draw(st.none() | _ints(1, 512)),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "norms_per_layer": draw(_ints(0, 4)),
        "token_types": draw(_ints(0, 4)),
        "pooler": draw(st.booleans()),
        "sources": (SOURCE,),
    }
    fields |= {flag: draw(st.booleans()) for flag in (*BIASES, *FLAGS)}
    fields["output_head"] = draw(st.booleans())
    fields["head_bias"] = fields["output_head"] and draw(st.booleans())
    if kind != "encoder_decoder" and draw(st.booleans()):
        fields["moe"] = draw(moe_fields(layers))
    for part in (_attention(), _position(), _window(layers)):
        fields |= draw(part)
    if kind != "encoder_decoder" and draw(st.booleans()):
        fields["parallel_block"] = False
        fields |= draw(_pattern(layers, "moe" in fields))
    windowed = "sliding_window" in fields and "mla" not in fields
    if windowed and draw(st.booleans()):
        fields["full_attention"] = draw(_wide(fields["heads"]))
    return ModelSpec.model_validate(fields)
