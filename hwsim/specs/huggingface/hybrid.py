"""State-space and hybrid decoders of Hugging Face: config keys to spec fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hwsim.specs.huggingface.config import Config
from hwsim.specs.huggingface.decoders import Fields, attention_bias, rms_decoder

_BLOCKS: Final = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def mamba2(c: Config) -> Fields:
    """Return the fields of a ``mamba2`` config: nothing but state spaces."""
    hidden = c.count("hidden_size", "d_model", default=4096)
    layers = c.layers("num_hidden_layers", "n_layer")
    width = c.count("head_dim", default=64)
    inner = c.count("expand", default=2) * hidden
    heads = c.count("num_heads", default=max(inner // width, 1))
    if heads * width != inner:
        raise c.fault(
            "num_heads", f"{heads} x head_dim {width} is not expand x hidden {inner}"
        )
    return {
        "kind": "decoder",
        "layers": layers,
        "hidden": hidden,
        "activation": c.activation("hidden_act", default="silu"),
        "vocab": c.count("vocab_size"),
        "norm": "rmsnorm",
        "tied_embeddings": c.flag("tie_word_embeddings", default=False),
        "pattern": "M" * layers,
        "ssm": {
            "heads": heads,
            "head_dim": width,
            "state": c.count("state_size", default=128),
            "groups": c.count("n_groups", default=8),
            "conv": c.count("conv_kernel", default=4),
            "chunk": c.count("chunk_size", default=256),
            "conv_bias": c.flag("use_conv_bias", default=True),
            "proj_bias": c.flag("use_bias", default=False),
        },
    }


def mamba(c: Config) -> Fields:
    """Return the fields of a ``mamba`` config: nothing but selective scans."""
    hidden = c.count("hidden_size", "d_model", default=768)
    layers = c.layers("num_hidden_layers", "n_layer")
    inner = c.count("intermediate_size", "d_inner", default=0, least=0)
    inner = inner or c.count("expand", default=2) * hidden
    rank = c.table.get("time_step_rank")
    return {
        "kind": "decoder",
        "layers": layers,
        "hidden": hidden,
        "activation": c.activation("hidden_act", default="silu"),
        "vocab": c.count("vocab_size"),
        "norm": "rmsnorm",
        "tied_embeddings": c.flag("tie_word_embeddings", default=True),
        "pattern": "M" * layers,
        "ssm": {
            "heads": inner,
            "head_dim": 1,
            "state": c.count("state_size", "d_state", default=16),
            "groups": 1,
            "conv": c.count("conv_kernel", "d_conv", default=4),
            "conv_bias": c.flag("use_conv_bias", default=True),
            "proj_bias": c.flag("use_bias", default=False),
            "step_rank": -(-hidden // 16) if rank in (None, "auto")
            else c.count("time_step_rank"),
        },
    }  # fmt: skip


def _pattern(c: Config) -> str:
    """Return the pattern of a ``nemotron_h`` config, from either spelling."""
    types = c.items("layers_block_type", str)
    for name in types:
        if name not in _BLOCKS:
            raise c.fault(
                "layers_block_type", f"unknown type {name[:40]!r}",
                f"known: {', '.join(_BLOCKS)}",
            )  # fmt: skip
    found = "".join(_BLOCKS[name] for name in types)
    pattern = found or c.text("hybrid_override_pattern")
    layers = c.count("num_hidden_layers", default=len(pattern))
    if layers != len(pattern):
        key = "layers_block_type" if found else "hybrid_override_pattern"
        raise c.fault(key, f"has {len(pattern)} entries for {layers} layers")
    return pattern


def nemotron_h(c: Config) -> Fields:
    """Return the fields of a ``nemotron_h`` config (Nemotron-H, Nemotron Nano)."""
    pattern = _pattern(c)
    heads, hidden = c.count("num_attention_heads"), c.count("hidden_size")
    width = c.count("head_dim", "attention_head_dim", default=hidden // heads or 1)
    fields = {
        "kind": "decoder",
        "layers": len(pattern),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": c.count("num_key_value_heads", default=heads),
        "head_dim": width,
        "ffn": c.count("intermediate_size"),
        "activation": c.activation("mlp_hidden_act", "hidden_act", default="relu2"),
        "vocab": c.count("vocab_size"),
        "max_context": c.optional_count("max_position_embeddings"),
        "norm": "rmsnorm",
        "position": "none",
        "tied_embeddings": c.flag("tie_word_embeddings", default=False),
        "ffn_bias": c.flag("mlp_bias", default=False),
        "pattern": pattern,
        "ssm": {
            "heads": c.count("mamba_num_heads"),
            "head_dim": c.count("mamba_head_dim"),
            "state": c.count("ssm_state_size"),
            "groups": c.count("n_groups", default=8),
            "conv": c.count("conv_kernel", default=4),
            "chunk": c.count("chunk_size", default=128),
            "conv_bias": c.flag("use_conv_bias", default=True),
            "proj_bias": c.flag("mamba_proj_bias", "use_bias", default=False),
        },
    } | attention_bias(c)
    return fields | ({"moe": _nemotron_experts(c)} if "E" in pattern else {})


def _nemotron_experts(c: Config) -> Fields:
    shared = c.count("n_shared_experts", default=0, least=0)
    width = c.count("moe_intermediate_size")
    return {
        "experts": c.count("n_routed_experts"),
        "experts_per_token": c.count("num_experts_per_tok"),
        "expert_ffn": width,
        "latent": c.optional_count("moe_latent_size"),
        "shared_experts": shared,
        "shared_ffn": c.count("moe_shared_expert_intermediate_size", default=width)
        if shared
        else 0,
        "gated": False,
        "router_bias": True,
    }


def _mamba_keys(c: Config, hidden: int) -> Fields:
    """Return the state space of configs with ``mamba_`` keys."""
    heads = c.count("mamba_n_heads", default=128)
    width = c.table.get("mamba_d_head")
    inner = c.count("mamba_expand", default=2) * hidden
    each = inner // heads if width in (None, "auto") else c.count("mamba_d_head")
    if heads * max(each, 1) != inner:
        raise c.fault(
            "mamba_n_heads", f"{heads} heads do not share {inner} values evenly"
        )
    return {
        "heads": heads,
        "head_dim": each,
        "state": c.count("mamba_d_state", default=256),
        "groups": c.count("mamba_n_groups", default=1),
        "conv": c.count("mamba_d_conv", default=4),
        "chunk": c.count("mamba_chunk_size", default=256),
        "conv_bias": c.flag("mamba_conv_bias", default=True),
        "proj_bias": c.flag("mamba_proj_bias", default=False),
    }


def bamba(c: Config) -> Fields:
    """Return the fields of a ``bamba`` config: few layers attend, all feed forward."""
    fields = rms_decoder(c, kv_heads=8) | attention_bias(c)
    layers = fields["layers"]
    attends = set(c.items("attn_layer_indices", int))
    if any(not 0 <= index < layers for index in attends):
        raise c.fault("attn_layer_indices", f"names a layer beyond {layers - 1}")
    return fields | {
        "rotary_fraction": c.fraction("partial_rotary_factor", default=0.5),
        "ffn_bias": c.flag("mlp_bias", default=False),
        "pattern": "".join("a" if i in attends else "m" for i in range(layers)),
        **_if_states(c, len(attends) < layers, fields["hidden"]),
    }


def _if_states(c: Config, any_: bool, hidden: int) -> Fields:
    return {"ssm": _mamba_keys(c, hidden)} if any_ else {}


def granite_hybrid(c: Config) -> Fields:
    """Return the fields of a ``granitemoehybrid`` config (Granite 4)."""
    fields = rms_decoder(c) | attention_bias(c)
    layers, experts = fields["layers"], c.count("num_local_experts", default=8, least=0)
    types = c.items("layer_types", str) or ["mamba"] * layers
    for name in types:
        if name not in {"mamba", "attention"}:
            raise c.fault("layer_types", f"unknown type {name[:40]!r}")
    if len(types) != layers:
        raise c.fault("layer_types", f"has {len(types)} entries for {layers} layers")
    shared = c.count("shared_intermediate_size", default=1024, least=0)
    fields |= {
        "position": "rotary"
        if c.text("position_embedding_type", default="rope") == "rope"
        else "none",
        "pattern": "".join("a" if name == "attention" else "m" for name in types),
        **_if_states(c, "mamba" in types, fields["hidden"]),
    }
    if not experts:
        return fields | {"ffn": shared or fields["ffn"]}
    moe = {
        "experts": experts,
        "experts_per_token": c.count("num_experts_per_tok", default=2),
        "expert_ffn": fields["ffn"],
        "shared_experts": int(shared > 0),
        "shared_ffn": shared,
    }
    return fields | {"moe": moe}


HYBRIDS: Final[dict[str, Callable[[Config], Fields]]] = {
    "bamba": bamba,
    "falcon_mamba": mamba,
    "granitemoehybrid": granite_hybrid,
    "mamba": mamba,
    "mamba2": mamba2,
    "nemotron_h": nemotron_h,
}
