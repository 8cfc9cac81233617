"""Dense decoders of the GPT line: Hugging Face keys to model-spec fields.

One function per ``model_type``. Where a key may be absent, the default is the
one that the transformers library gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hwsim.specs.huggingface.config import Config
from hwsim.specs.huggingface.decoders import ALL_BIASES, Fields, attention_bias


def layernorm_decoder(
    c: Config, *, layers: str, hidden: str, heads: str, tied: bool
) -> Fields:
    """Return what older decoders share, given how they name their keys."""
    width = c.count(hidden)
    return {
        "kind": "decoder",
        "layers": c.layers("num_hidden_layers", layers),
        "hidden": width,
        "heads": c.count("num_attention_heads", heads),
        "ffn": 4 * width,
        "activation": "gelu",
        "vocab": c.count("vocab_size"),
        "norm": "layernorm",
        "norm_bias": True,
        "position": "rotary",
        "tied_embeddings": c.flag("tie_word_embeddings", default=tied),
    }


def _openai(c: Config, *, tied: bool) -> Fields:
    fields = layernorm_decoder(
        c, layers="n_layer", hidden="n_embd", heads="n_head", tied=tied
    )
    return fields | {
        "ffn": c.count("n_inner", default=fields["ffn"]),
        "activation": c.activation("activation_function", "afn", default="gelu"),
    }


def gpt2(c: Config) -> Fields:
    """Return the fields of a ``gpt2`` config."""
    rows = c.count("n_positions", "n_ctx", default=1024)
    learned = {"position": "learned", "max_context": rows}
    return _openai(c, tied=True) | ALL_BIASES | learned


def gpt1(c: Config) -> Fields:
    """Return the fields of an ``openai-gpt`` config: no final norm."""
    rows = c.count("n_positions", "n_ctx", default=512)
    learned = {"position": "learned", "max_context": rows, "final_norm": False}
    return _openai(c, tied=True) | ALL_BIASES | learned


def gptj(c: Config) -> Fields:
    """Return the fields of a ``gptj`` config: one norm, parallel blocks."""
    fields = _openai(c, tied=False)
    width = max(1, fields["hidden"] // fields["heads"])
    rotary = c.count("rotary_dim", default=64)
    return fields | {
        "max_context": c.count("n_positions", default=2048),
        "rotary_fraction": min(1.0, rotary / width),
        "ffn_bias": True,
        "head_bias": True,
        "parallel_block": True,
        "norms_per_layer": 1,
    }


def gpt_neox(c: Config) -> Fields:
    """Return the fields of a ``gpt_neox`` config (also Pythia)."""
    fields = layernorm_decoder(
        c,
        layers="num_layers",
        hidden="hidden_size",
        heads="num_heads",
        tied=False,
    )
    return (
        fields
        | attention_bias(c, default=True)
        | {
            "ffn": c.count("intermediate_size"),
            "ffn_bias": True,
            "activation": c.activation("hidden_act", default="gelu"),
            "max_context": c.count("max_position_embeddings", default=2048),
            "rotary_fraction": c.fraction(
                "rotary_pct", "partial_rotary_factor", default=0.25
            ),
            "parallel_block": c.flag("use_parallel_residual", default=True),
        }
    )


def opt(c: Config) -> Fields:
    """Return the fields of an ``opt`` config; its table has 2 spare rows."""
    fields = layernorm_decoder(
        c,
        layers="num_layers",
        hidden="hidden_size",
        heads="num_heads",
        tied=True,
    )
    if not c.flag("layer_norm_elementwise_affine", default=True):
        raise c.fault("layer_norm_elementwise_affine", "false is not supported")
    bias = c.flag("enable_bias", default=True)
    context = c.count("max_position_embeddings", default=2048)
    before = c.flag("do_layer_norm_before", default=True)
    removed = c.flag("_remove_final_layer_norm", default=False)
    width = c.count("word_embed_proj_dim", default=fields["hidden"])
    return fields | {
        "ffn": c.count("ffn_dim"),
        "activation": c.activation("activation_function", default="relu"),
        "qkv_bias": bias,
        "out_bias": bias,
        "ffn_bias": bias,
        "position": "learned",
        "max_context": context,
        "position_rows": context + 2,
        "final_norm": before and not removed,
        "embedding_size": None if width == fields["hidden"] else width,
    }


def bloom(c: Config) -> Fields:
    """Return the fields of a ``bloom`` config: ALiBi, norm after embedding."""
    hidden = "hidden_size" if c.table.get("hidden_size") is not None else "n_embed"
    fields = layernorm_decoder(
        c, layers="n_layer", hidden=hidden, heads="n_head", tied=True
    )
    return fields | ALL_BIASES | {"position": "alibi", "embedding_norm": True}


def falcon(c: Config) -> Fields:
    """Return the fields of a ``falcon`` config, old and new decoder."""
    fields = layernorm_decoder(
        c, layers="n_layer", hidden="hidden_size", heads="n_head", tied=True
    )
    new = c.flag("new_decoder_architecture", default=False)
    parallel = new or c.flag("parallel_attn", default=True)
    norms = c.count("num_ln_in_parallel_attn", default=2, most=2) if new else 1
    shared = 1 if c.flag("multi_query", default=True) else fields["heads"]
    kv_heads = c.count("num_kv_heads", "n_head_kv", default=fields["heads"])
    bias = c.flag("bias", default=False)
    return fields | {
        "kv_heads": kv_heads if new else shared,
        "ffn": c.count("ffn_hidden_size", default=fields["ffn"]),
        "activation": c.activation("activation", default="gelu"),
        "qkv_bias": bias,
        "out_bias": bias,
        "ffn_bias": bias,
        "position": "alibi" if c.flag("alibi", default=False) else "rotary",
        "max_context": c.optional_count("max_position_embeddings") or 2048,
        "parallel_block": parallel,
        "norms_per_layer": norms if parallel else 2,
    }


def mpt(c: Config) -> Fields:
    """Return the fields of an ``mpt`` config: ALiBi unless switched off."""
    fields = layernorm_decoder(
        c, layers="n_layers", hidden="d_model", heads="n_heads", tied=True
    )
    attention = c.table_at("attn_config")
    bias = not c.flag("no_bias", default=True)
    position: Fields = {"position": "none"}
    if attention.flag("alibi", default=True):
        position = {"position": "alibi"}
    elif attention.flag("rope", default=False):
        position = {"position": "rotary"}
    elif c.flag("learned_pos_emb", default=True):
        position = {"position": "learned"}
    if position["position"] != "alibi":
        position["max_context"] = c.count("max_seq_len", default=2048)
    kind = attention.text("attn_type", default="multihead_attention")
    heads = 1 if kind == "multiquery_attention" else fields["heads"]
    return (
        fields
        | position
        | {
            "kv_heads": attention.count("kv_n_heads", default=heads),
            "ffn": c.count("expansion_ratio", default=4, most=1000) * fields["hidden"],
            "norm_bias": bias,
            "qkv_bias": bias,
            "out_bias": bias,
            "ffn_bias": bias,
            "qk_norm": "full" if attention.flag("qk_ln", default=False) else None,
        }
    )


CLASSIC_DECODERS: Final[dict[str, Callable[[Config], Fields]]] = {
    "bloom": bloom,
    "falcon": falcon,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "mpt": mpt,
    "openai-gpt": gpt1,
    "opt": opt,
}
