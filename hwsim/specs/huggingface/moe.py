"""Mixture-of-experts decoders of Hugging Face: config keys to spec fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hwsim.specs.huggingface.config import MAX_LAYERS, Config, windows_except
from hwsim.specs.huggingface.decoders import (
    Fields,
    attention_bias,
    gemma_common,
    qwen_windows,
    rms_decoder,
)


def mixtral(c: Config) -> Fields:
    """Return the fields of a ``mixtral`` config."""
    fields = rms_decoder(c, kv_heads=8)
    windows = c.windows(fields["layers"], c.optional_count("sliding_window"))
    moe = {
        "experts": c.count("num_local_experts", default=8),
        "experts_per_token": c.count("num_experts_per_tok", default=2),
        "expert_ffn": fields["ffn"],
    }
    return fields | windows | {"moe": moe}


def _qwen_moe(c: Config, experts: int, per_token: int, width: int) -> Fields:
    dense = c.items("mlp_only_layers", int)
    if dense != list(range(len(dense))):
        raise c.fault("mlp_only_layers", f"{dense} are not the first layers")
    return {
        "experts": c.count("num_experts", "num_local_experts", default=experts),
        "experts_per_token": c.count("num_experts_per_tok", default=per_token),
        "expert_ffn": c.count("moe_intermediate_size", default=width),
        "dense_layers": len(dense),
        "every": c.count("decoder_sparse_step", default=1, most=MAX_LAYERS),
    }


def qwen2_moe(c: Config) -> Fields:
    """Return the fields of a ``qwen2_moe`` config: a gated shared expert."""
    fields = rms_decoder(c, kv_heads=16) | {"qkv_bias": True}
    moe = _qwen_moe(c, 60, 4, 1408) | {
        "shared_experts": 1,
        "shared_ffn": c.count("shared_expert_intermediate_size", default=5632),
        "shared_gate": True,
    }
    return fields | qwen_windows(c, fields["layers"]) | {"moe": moe}


def qwen3_moe(c: Config) -> Fields:
    """Return the fields of a ``qwen3_moe`` config."""
    fields = rms_decoder(c, kv_heads=4) | attention_bias(c) | {"qk_norm": "head"}
    moe = _qwen_moe(c, 128, 8, 768)
    return fields | qwen_windows(c, fields["layers"]) | {"moe": moe}


def _shared(c: Config, *, default: int) -> Fields:
    count = c.count("n_shared_experts", default=default, least=0)
    return {
        "shared_experts": count,
        "shared_ffn": c.count("moe_intermediate_size") if count else 0,
    }


def _latent(c: Config) -> Fields:
    rank = c.optional_count("q_lora_rank")
    if "q_lora_rank" not in c.table:
        rank = 1536
    return {
        "q_lora_rank": rank,
        "kv_lora_rank": c.count("kv_lora_rank", default=512),
        "qk_nope_head_dim": c.count("qk_nope_head_dim", default=128),
        "qk_rope_head_dim": c.count("qk_rope_head_dim", default=64),
        "v_head_dim": c.count("v_head_dim", default=128),
    }


def _deepseek(c: Config, *, dense: int, shared: int, scored: str) -> Fields:
    if c.count("moe_layer_freq", default=1) != 1:
        raise c.fault("moe_layer_freq", "only 1 is supported")
    fields = rms_decoder(c) | attention_bias(c)
    fields.pop("head_dim", None)
    fields["kv_heads"] = fields["heads"]
    experts = c.optional_count("n_routed_experts")
    method = c.text("topk_method", default=scored)
    first = c.count("first_k_dense_replace", default=dense, least=0, most=MAX_LAYERS)
    if experts is None:
        return fields | {"mla": _latent(c)}
    moe = {
        "experts": experts,
        "experts_per_token": c.count("num_experts_per_tok"),
        "expert_ffn": c.count("moe_intermediate_size"),
        "dense_layers": first,
        "router_bias": method == "noaux_tc",
        **_shared(c, default=shared),
    }
    return fields | {"mla": _latent(c), "moe": moe}


def deepseek_v2(c: Config) -> Fields:
    """Return the fields of a ``deepseek_v2`` config: latent attention."""
    return _deepseek(c, dense=0, shared=0, scored="greedy")


def deepseek_v3(c: Config) -> Fields:
    """Return the fields of a ``deepseek_v3`` config; extra MTP layers are left out."""
    return _deepseek(c, dense=3, shared=1, scored="noaux_tc")


def glm4_moe(c: Config) -> Fields:
    """Return the fields of a ``glm4_moe`` config (GLM-4.5)."""
    fields = rms_decoder(c, kv_heads=8, head_dim=128)
    moe = {
        "experts": c.count("n_routed_experts", default=128),
        "experts_per_token": c.count("num_experts_per_tok", default=8),
        "expert_ffn": c.count("moe_intermediate_size", default=1408),
        "dense_layers": c.count(
            "first_k_dense_replace", default=1, least=0, most=MAX_LAYERS
        ),
        "router_bias": True,
        **_shared(c, default=1),
    }
    normed = c.flag("use_qk_norm", default=False)
    return fields | {
        "qkv_bias": c.flag("attention_bias", default=False),
        "qk_norm": "head" if normed else None,
        "rotary_fraction": c.fraction("partial_rotary_factor", default=0.5),
        "moe": moe,
    }


def gpt_oss(c: Config) -> Fields:
    """Return the fields of a ``gpt_oss`` config: sinks, every other layer windowed."""
    fields = rms_decoder(c, kv_heads=8, head_dim=64)
    fields |= attention_bias(c, default=True)
    window = c.count("sliding_window", default=128)
    per_token = ("num_experts_per_tok", "experts_per_token")
    moe = {
        "experts": c.count("num_local_experts", "num_experts", default=128),
        "experts_per_token": c.count(*per_token, default=4),
        "expert_ffn": fields["ffn"],
        "router_bias": True,
        "expert_bias": True,
        "clamped": True,
    }
    fields["rotary_scale"] = _yarn_magnitude(c, factor=32.0)
    windows = c.windows(fields["layers"], window, every=2)
    return fields | windows | {"attention_sinks": True, "moe": moe}


def _yarn_magnitude(c: Config, factor: float) -> float:
    """Return the factor on what YaRN rotates; ``factor``: by how much it stretches.

    References
    ----------
    .. [1] B. Peng et al., "YaRN", 2023, arXiv:2309.00071, equation 22.
    """
    for key in ("rope_scaling", "rope_parameters"):
        rope = c.table_at(key)
        if rope.table and rope.text("rope_type", "type", default="yarn") != "yarn":
            return 1.0
        factor = rope.fraction("factor", default=factor, most=1e6)
    return round(1.0 + 0.1 * math.log(max(factor, 1.0)), 4)


def minimax_m2(c: Config) -> Fields:
    """Return the fields of a ``minimax_m2`` config."""
    fields = rms_decoder(c, kv_heads=8)
    width = fields.get("head_dim") or max(1, fields["hidden"] // fields["heads"])
    rotary = c.count("rotary_dim", default=width)
    normed = c.flag("use_qk_norm", default=True)
    moe = {
        "experts": c.count("num_local_experts"),
        "experts_per_token": c.count("num_experts_per_tok"),
        "expert_ffn": fields["ffn"],
        "router_bias": c.flag("use_routing_bias", default=True),
    }
    return fields | {
        "qk_norm": "full" if normed else None,
        "rotary_fraction": min(1.0, rotary / width),
        "moe": moe,
    }


def llama4(c: Config) -> Fields:
    """Return the fields of a ``llama4_text`` config; chunks count as windows."""
    fields = rms_decoder(c, kv_heads=8, head_dim=128) | attention_bias(c)
    layers, width = fields["layers"], fields["ffn"]
    chunk = c.count("attention_chunk_size", default=8192)
    period = c.count("no_rope_layer_interval", default=4, most=MAX_LAYERS)
    rotary = c.items("no_rope_layers", int)
    if rotary and not c.items("layer_types", str):
        full = [i for i, flag in enumerate(rotary) if not flag]
        windows = windows_except(layers, chunk, full)
    else:
        windows = c.windows(layers, chunk, every=period)
    normed = c.flag("use_qk_norm", default=True)
    moe = {
        "experts": c.count("num_local_experts", default=16),
        "experts_per_token": c.count("num_experts_per_tok", default=1),
        "expert_ffn": width,
        "shared_experts": 1,
        "shared_ffn": width,
        "every": c.count("interleave_moe_layer_step", default=1, most=MAX_LAYERS),
    }
    return (
        fields
        | windows
        | {
            "ffn": c.count("intermediate_size_mlp", default=16_384),
            "qk_norm": "l2" if normed else None,
            "moe": moe,
        }
    )


def gemma4(c: Config) -> Fields:
    """Return the fields of a ``gemma4_text`` config: other heads in full layers."""
    for key, what in (
        ("hidden_size_per_layer_input", "embeddings of each layer"),
        ("num_kv_shared_layers", "layers that share keys and values"),
    ):
        if c.count(key, default=0, least=0):
            raise c.fault(key, f"{what} are not supported")
    fields = rms_decoder(c, kv_heads=4, head_dim=256) | gemma_common(c)
    windows = c.windows(
        fields["layers"], c.count("sliding_window", default=512), every=6
    )
    fields |= windows | {"norms_per_layer": 4, "qk_norm": "head"}
    if windows:
        rope = c.table_at("rope_parameters").table_at("full_attention")
        fields["full_attention"] = {
            "kv_heads": c.count(
                "num_global_key_value_heads", default=fields["kv_heads"]
            ),
            "head_dim": c.count("global_head_dim", default=512),
            "shared_kv": c.flag("attention_k_eq_v", default=False),
            "rotary_fraction": rope.fraction("partial_rotary_factor", default=0.25),
        }
    if not c.flag("enable_moe_block", default=False):
        return fields
    moe = {
        "experts": c.count("num_experts"),
        "experts_per_token": c.count("top_k_experts", "num_experts_per_tok"),
        "expert_ffn": c.count("moe_intermediate_size", "expert_intermediate_size"),
        "shared_experts": 1,
        "shared_ffn": fields["ffn"],
    }
    return fields | {"moe": moe}


MOE_DECODERS: Final[dict[str, Callable[[Config], Fields]]] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "gemma4_text": gemma4,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "kimi_k2": deepseek_v3,
    "llama4_text": llama4,
    "minimax_m2": minimax_m2,
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}
