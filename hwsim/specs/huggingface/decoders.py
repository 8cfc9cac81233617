"""Dense decoders of the Llama line: Hugging Face keys to model-spec fields.

One function per ``model_type``. Where a key may be absent, the default is the
one that the transformers library gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hwsim.specs.huggingface.config import MAX_LAYERS, Config, windows_except

Fields = dict[str, Any]
ALL_BIASES: Final = dict.fromkeys(
    ("norm_bias", "qkv_bias", "out_bias", "ffn_bias"), True
)


def rms_decoder(
    c: Config, *, kv_heads: int | None = None, head_dim: int | None = None
) -> Fields:
    """Return the fields that Llama and its many descendants share.

    Parameters
    ----------
    c : Config
        The config.
    kv_heads, head_dim : int or None
        Defaults where the config omits them; None takes the heads, and the
        hidden size over the heads.
    """
    heads = c.count("num_attention_heads")
    width = c.optional_count("head_dim") or head_dim
    return {
        "kind": "decoder",
        "layers": c.layers("num_hidden_layers"),
        "hidden": c.count("hidden_size"),
        "heads": heads,
        "kv_heads": c.count("num_key_value_heads", default=kv_heads or heads),
        **({} if width is None else {"head_dim": width}),
        "ffn": c.count("intermediate_size"),
        "gated_ffn": True,
        "activation": c.activation("hidden_act", default="silu"),
        "vocab": c.count("vocab_size"),
        "max_context": c.optional_count("max_position_embeddings"),
        "norm": "rmsnorm",
        "position": "rotary",
        "tied_embeddings": c.flag("tie_word_embeddings", default=False),
    }


def attention_bias(c: Config, *, default: bool = False) -> Fields:
    """Return the bias fields of ``attention_bias``: all four projections."""
    bias = c.flag("attention_bias", default=default)
    return {"qkv_bias": bias, "out_bias": bias}


def llama(c: Config) -> Fields:
    """Return the fields of a ``llama`` config."""
    ffn_bias = c.flag("mlp_bias", default=False)
    return rms_decoder(c) | attention_bias(c) | {"ffn_bias": ffn_bias}


def mistral(c: Config) -> Fields:
    """Return the fields of a ``mistral`` config; the window may be null."""
    fields = rms_decoder(c, kv_heads=8)
    window = c.optional_count("sliding_window")
    if "sliding_window" not in c.table:
        window = 4096
    return fields | c.windows(fields["layers"], window)


def qwen_windows(c: Config, layers: int) -> Fields:
    """Return the window fields of Qwen: layers from ``max_window_layers`` on."""
    if not c.flag("use_sliding_window", default=False):
        return {}
    window = c.count("sliding_window", default=4096)
    if c.items("layer_types", str):
        return c.windows(layers, window)
    first = c.count("max_window_layers", default=28, least=0, most=MAX_LAYERS)
    return windows_except(layers, window, list(range(min(first, layers))))


def qwen2(c: Config) -> Fields:
    """Return the fields of a ``qwen2`` config: biases on query, key, value."""
    fields = rms_decoder(c, kv_heads=32)
    return fields | {"qkv_bias": True} | qwen_windows(c, fields["layers"])


def qwen3(c: Config) -> Fields:
    """Return the fields of a ``qwen3`` config: a norm on query and key heads."""
    fields = rms_decoder(c, kv_heads=32, head_dim=128) | attention_bias(c)
    return fields | {"qk_norm": "head"} | qwen_windows(c, fields["layers"])


def phi3(c: Config) -> Fields:
    """Return the fields of a ``phi3`` config."""
    fields = rms_decoder(c)
    rotary = c.fraction("partial_rotary_factor", default=1.0)
    window = c.optional_count("sliding_window")
    return fields | {"rotary_fraction": rotary} | c.windows(fields["layers"], window)


def gemma(c: Config) -> Fields:
    """Return the fields of a ``gemma`` config: tied, gated GELU."""
    return rms_decoder(c, kv_heads=16, head_dim=256) | gemma_common(c)


def gemma_common(c: Config) -> Fields:
    """Return the fields that all Gemma configs share."""
    keys = ("hidden_activation", "hidden_act")
    return {
        "activation": c.activation(*keys, default="gelu"),
        "tied_embeddings": c.flag("tie_word_embeddings", default=True),
        **attention_bias(c),
    }


def gemma2(c: Config) -> Fields:
    """Return the fields of a ``gemma2`` config: every second layer windowed."""
    fields = rms_decoder(c, kv_heads=4, head_dim=256) | gemma_common(c)
    window = c.count("sliding_window", default=4096)
    windows = c.windows(fields["layers"], window, every=2)
    return fields | {"norms_per_layer": 4} | windows


def gemma3(c: Config) -> Fields:
    """Return the fields of a ``gemma3_text`` config: one full layer in six."""
    full = {"vocab_size": 262_208, "num_attention_heads": 8} | dict(c.table)
    c = Config(full, c.where)
    fields = rms_decoder(c, kv_heads=4, head_dim=256) | gemma_common(c)
    window = c.count("sliding_window", default=4096)
    pattern = ("sliding_window_pattern", "_sliding_window_pattern")
    every = c.count(*pattern, default=6, most=MAX_LAYERS)
    windows = c.windows(fields["layers"], window, every=every)
    return fields | {"norms_per_layer": 4, "qk_norm": "head"} | windows


def glm(c: Config) -> Fields:
    """Return the fields of a ``glm`` config: biases on query, key, value."""
    fields = rms_decoder(c, kv_heads=2, head_dim=128)
    return fields | {
        "qkv_bias": c.flag("attention_bias", default=True),
        "rotary_fraction": c.fraction("partial_rotary_factor", default=0.5),
    }


def glm4(c: Config) -> Fields:
    """Return the fields of a ``glm4`` config: norms after the blocks as well."""
    bias = c.flag("attention_bias", default=False)
    return glm(c) | {"qkv_bias": bias, "norms_per_layer": 4}


def chatglm(c: Config) -> Fields:
    """Return the fields of a ``chatglm`` config (ChatGLM2 to GLM-4)."""
    heads = c.count("num_attention_heads")
    multi_query = c.flag("multi_query_attention", default=False)
    groups = c.count("multi_query_group_num", default=1)
    bias = c.flag("add_bias_linear", default=False)
    rms = c.flag("rmsnorm", default=True)
    return {
        "kind": "decoder",
        "layers": c.layers("num_layers", "num_hidden_layers"),
        "hidden": c.count("hidden_size"),
        "heads": heads,
        "kv_heads": groups if multi_query else heads,
        "head_dim": c.count("kv_channels", default=128),
        "ffn": c.count("ffn_hidden_size"),
        "gated_ffn": True,
        "activation": "silu",
        "vocab": c.count("padded_vocab_size", "vocab_size"),
        "max_context": c.optional_count("seq_length"),
        "norm": "rmsnorm" if rms else "layernorm",
        "norm_bias": not rms,
        "qkv_bias": bias or c.flag("add_qkv_bias", default=False),
        "out_bias": bias,
        "ffn_bias": bias,
        "position": "rotary",
        "rotary_fraction": 0.5,
        "final_norm": c.flag("post_layer_norm", default=True),
        "tied_embeddings": c.flag("tie_word_embeddings", default=False),
    }


def nemotron(c: Config) -> Fields:
    """Return the fields of a ``nemotron`` config: LayerNorm, squared ReLU."""
    bias = c.flag("mlp_bias", default=False)
    return (
        rms_decoder(c)
        | attention_bias(c)
        | {
            "norm": "layernorm",
            "norm_bias": True,
            "gated_ffn": False,
            "ffn_bias": bias,
            "activation": c.activation("hidden_act", default="relu2"),
            "rotary_fraction": c.fraction("partial_rotary_factor", default=0.5),
        }
    )


def phi(c: Config) -> Fields:
    """Return the fields of a ``phi`` config: one norm, parallel, biases."""
    fields = rms_decoder(c) | ALL_BIASES
    qk_norm = c.flag("qk_layernorm", default=False)
    return fields | {
        "norm": "layernorm",
        "gated_ffn": False,
        "activation": c.activation("hidden_act", default="gelu_new"),
        "rotary_fraction": c.fraction("partial_rotary_factor", default=0.5),
        "head_bias": True,
        "parallel_block": True,
        "norms_per_layer": 1,
        "qk_norm": "head" if qk_norm else None,
    }


DECODERS: Final[dict[str, Callable[[Config], Fields]]] = {
    "chatglm": chatglm,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "glm": glm,
    "glm4": glm4,
    "llama": llama,
    "mistral": mistral,
    "nemotron": nemotron,
    "phi": phi,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
}
