"""Encoders and encoder-decoders of Hugging Face: config keys to spec fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hwsim.specs.huggingface.config import Config
from hwsim.specs.huggingface.decoders import ALL_BIASES, Fields


def _encoder(c: Config) -> Fields:
    return {
        "kind": "encoder",
        "vocab": c.count("vocab_size"),
        "norm": "layernorm",
        "position": "learned",
        "tied_embeddings": True,
        "output_head": False,
        "final_norm": False,
        "embedding_norm": True,
        **ALL_BIASES,
    }


def bert(c: Config) -> Fields:
    """Return the fields of a ``bert`` config: the encoder with its pooler."""
    kind = c.text("position_embedding_type", default="absolute")
    if kind != "absolute":
        raise c.fault("position_embedding_type", f"{kind!r} is not supported")
    return _encoder(c) | {
        "layers": c.layers("num_hidden_layers"),
        "hidden": c.count("hidden_size"),
        "heads": c.count("num_attention_heads"),
        "ffn": c.count("intermediate_size"),
        "activation": c.activation("hidden_act", default="gelu"),
        "max_context": c.count("max_position_embeddings", default=512),
        "token_types": c.count("type_vocab_size", default=2, least=0, most=1000),
        "pooler": True,
    }


def roberta(c: Config) -> Fields:
    """Return the fields of a ``roberta`` config: positions start after padding."""
    fields = bert(c)
    padding = c.count("pad_token_id", default=1, least=0)
    rows = fields["max_context"]
    if rows <= padding + 1:
        raise c.fault("max_position_embeddings", f"{rows} leaves no position")
    return fields | {"max_context": rows - padding - 1, "position_rows": rows}


def ernie(c: Config) -> Fields:
    """Return the fields of an ``ernie`` config: task embeddings if it uses them."""
    fields = bert(c)
    if c.flag("use_task_id", default=False):
        tasks = c.count("task_type_vocab_size", default=3, most=1000)
        fields["token_types"] += tasks
    return fields


def distilbert(c: Config) -> Fields:
    """Return the fields of a ``distilbert`` config."""
    return _encoder(c) | {
        "layers": c.layers("n_layers", "num_hidden_layers"),
        "hidden": c.count("dim", "hidden_size"),
        "heads": c.count("n_heads", "num_attention_heads"),
        "ffn": c.count("hidden_dim"),
        "activation": c.activation("activation", default="gelu"),
        "max_context": c.count("max_position_embeddings", default=512),
    }


def _t5(c: Config, *, tied: bool, projection: str) -> Fields:
    layers = c.layers("num_layers")
    projected = c.text("feed_forward_proj", default=projection)
    inner = Config({"feed_forward_proj": projected.removeprefix("gated-")}, c.where)
    return {
        "kind": "encoder_decoder",
        "layers": c.optional_count("num_decoder_layers") or layers,
        "encoder_layers": layers,
        "hidden": c.count("d_model"),
        "heads": c.count("num_heads"),
        "head_dim": c.count("d_kv", default=64),
        "ffn": c.count("d_ff"),
        "gated_ffn": projected.startswith("gated-"),
        "activation": inner.activation("feed_forward_proj"),
        "vocab": c.count("vocab_size"),
        "norm": "rmsnorm",
        "position": "relative",
        "relative_buckets": c.count(
            "relative_attention_num_buckets", default=32, most=100_000
        ),
        "tied_embeddings": c.flag("tie_word_embeddings", default=tied),
    }


def t5(c: Config) -> Fields:
    """Return the fields of a ``t5`` config (also T5 v1.1 and FLAN-T5)."""
    return _t5(c, tied=True, projection="relu")


def mt5(c: Config) -> Fields:
    """Return the fields of an ``mt5`` config."""
    return _t5(c, tied=False, projection="gated-gelu")


ENCODERS: Final[dict[str, Callable[[Config], Fields]]] = {
    "bert": bert,
    "distilbert": distilbert,
    "ernie": ernie,
    "mt5": mt5,
    "roberta": roberta,
    "t5": t5,
    "xlm-roberta": roberta,
}
