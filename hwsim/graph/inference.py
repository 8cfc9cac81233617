"""Graphs of one inference pass: prefill of prompts, one decode step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hwsim.errors import InputError
from hwsim.graph import outer
from hwsim.graph.attention import cross_keys, standard_heads
from hwsim.graph.core import cache_operand
from hwsim.graph.layout import Layout, joint_layout, layout_of
from hwsim.graph.opgraph import Block, OpGraph
from hwsim.graph.precision import resolve
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.shard import check_count, check_positive, shard
from hwsim.graph.transformer import layer
from hwsim.graph.windows import windowed
from hwsim.graph.writer import INPUT, Writer
from hwsim.specs.model import ModelSpec
from hwsim.specs.model_parts import Role
from hwsim.specs.stack import StackSpec


@dataclass(frozen=True, slots=True)
class Part:
    """Layers of one pipeline stage, and what stands around them.

    Attributes
    ----------
    layers : tuple of two int or None
        (start, stop); None is all.
    first, last : bool
        Whether the embedding; the last norm and the head are here.
    """

    layers: tuple[int, int] | None = None
    first: bool = True
    last: bool = True


def prefill_graph(
    model: ModelSpec,
    *,
    batch: int,
    prompt: int,
    history: int = 0,
    tp: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    stack: StackSpec,
    part: Part | None = None,
    **spread: Any,
) -> OpGraph:
    """Return the pass of ``batch`` prompts through a model.

    Decoders fill the KV cache and give the logits of each last position; an
    encoder gives its output at every position; an encoder-decoder runs its
    encoder and projects its output to the decoder's cross-attention cache.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    batch, prompt : int
        Sequences, and new tokens of each.
    history : int
        Tokens of each sequence that are in the cache already.
    tp : int
        Tensor-parallel devices; the graph is that of one of them.
    dtype, kv_dtype, weight_dtype : str
        Of the arithmetic, the cache and the linear weights; the last two
        follow the first unless given.
    stack : StackSpec
        What runs as one kernel.
    part : Part or None
        Layers of one pipeline stage; None is the whole model.
    **spread
        ``ep``, ``etp``, ``imbalance`` and ``capacity_factor`` as for
        :func:`~hwsim.graph.layout.layout_of`: ``ep`` data-parallel ranks,
        each with ``batch`` sequences of its own, share the experts out
        (``etp`` 1: ``ep`` counts all their ``tp`` devices). With ``dp`` so
        many ranks of ``tp`` devices each have ``batch`` sequences, and
        ``tp * dp`` devices hold the experts, ``ep`` of them apart and the
        others splitting each one.

    Raises
    ------
    InputError
        If a count is less than one, the context is longer than the model's,
        or ``tp`` does not divide the model.
    """
    check_positive(batch=batch, prompt=prompt)
    check_count("history", history, 0)
    check_context(model, prompt + history)
    if history and model.kind != "decoder":
        raise InputError(f"history is {history} but {model.id} is no decoder; use 0")
    setting = decoder_setting(model, tp, dtype, kv_dtype, weight_dtype, stack, spread)
    part = _checked_part(model, part)
    decoder = model.kind == "decoder"
    p = Pass(batch, prompt, prompt + history, causal=decoder, cached=decoder)
    role: Role = "decoder" if decoder else "encoder"
    blocks = [embedding_block(setting, p)] if part.first else []
    blocks += layer_blocks(setting, p, role, part.layers)
    if model.kind == "encoder_decoder":
        blocks += _cross_blocks(setting, p)
    elif part.last:
        blocks += head_block(setting, p)
    meta = {"ranks": float(_ranks(setting))}
    return OpGraph("prefill", tuple(blocks), 1.0 * p.tokens * _ranks(setting), meta)


def decode_graph(
    model: ModelSpec,
    *,
    batch: int,
    context: int,
    tp: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    stack: StackSpec,
    encoder_context: int = 0,
    part: Part | None = None,
    **spread: Any,
) -> OpGraph:
    """Return the step that gives every sequence its next token.

    Parameters
    ----------
    model : ModelSpec
        Architecture; not an encoder.
    batch, context : int
        Sequences, and keys that each one's new token sees, its own included.
    tp, dtype, kv_dtype, weight_dtype, stack
        As for ``prefill_graph``.
    encoder_context : int
        Encoder tokens of each sequence (encoder-decoder models only).
    part, **spread
        As for ``prefill_graph``.

    Raises
    ------
    InputError
        As for ``prefill_graph``; also if the model is an encoder, or
        ``encoder_context`` is missing or out of place.
    """
    check_positive(batch=batch, context=context)
    check_context(model, context)
    if model.kind == "encoder":
        raise InputError(f"{model.id} is an encoder: it has no decode step")
    both = model.kind == "encoder_decoder"
    check_count("encoder_context", encoder_context, 1 if both else 0)
    if encoder_context and not both:
        raise InputError(f"encoder_context is given but {model.id} has no encoder")
    setting = decoder_setting(model, tp, dtype, kv_dtype, weight_dtype, stack, spread)
    part = _checked_part(model, part)
    p = Pass(batch, 1, context, mode="decode", cached=True, memory=encoder_context)
    return _decoder_pass(setting, p, part)


def points_graph(
    model: ModelSpec,
    seen: Pass,
    *,
    tp: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    stack: StackSpec,
    part: Part | None = None,
    **spread: Any,
) -> OpGraph:
    """Return the passes of many points through a decoder as one graph.

    Parameters
    ----------
    seen : Pass
        Its sizes are arrays of float64, shape (points,), and so are those of the
        operators. Contexts are not checked against the model's.
    tp, dtype, kv_dtype, weight_dtype, stack, part, **spread
        As for ``prefill_graph``.
    """
    setting = decoder_setting(model, tp, dtype, kv_dtype, weight_dtype, stack, spread)
    return _decoder_pass(setting, seen, _checked_part(model, part))


def _decoder_pass(setting: Setting, p: Pass, part: Part) -> OpGraph:
    blocks = [embedding_block(setting, p)] if part.first else []
    blocks += layer_blocks(setting, p, "decoder", part.layers)
    if part.last:
        blocks += head_block(setting, p)
    meta = {"ranks": float(_ranks(setting))}
    return OpGraph(p.mode, tuple(blocks), 1.0 * p.tokens * _ranks(setting), meta)


def _ranks(setting: Setting) -> int:
    """Return the data-parallel ranks that share experts out."""
    return setting.layout.dp


def _checked_part(model: ModelSpec, part: Part | None) -> Part:
    if part is None:
        return Part()
    if model.kind == "encoder_decoder":
        raise InputError(f"{model.id} has two stacks: it is served in one part")
    layers = part.layers
    count = model.layers
    if layers is not None and not (0 <= layers[0] < layers[1] <= count):
        raise InputError(
            f"layers {layers[0]} to {layers[1]} are not layers of {model.id}; "
            f"give (start, stop) within 0 and {count}"
        )
    return part


def check_context(model: ModelSpec, context: int) -> None:
    """Raise InputError if the context is longer than the model's."""
    limit = model.max_context
    if limit is not None and context > limit:
        raise InputError(
            f"context {context} is beyond the {limit} tokens of {model.id}; "
            f"use at most {limit}"
        )


def decoder_setting(
    model: ModelSpec,
    tp: int,
    dtype: str,
    kv_dtype: str | None,
    weight_dtype: str | None,
    stack: StackSpec,
    spread: Mapping[str, Any] = MappingProxyType({}),
) -> Setting:
    """Return what a pass of inference is built with."""
    if not spread and tp == 1:
        layout = Layout()
    elif "dp" in spread:
        layout = joint_layout(model, tp=tp, **spread)
    else:
        # Its ranks are those that share the experts out, and no others.
        ep, etp = spread.get("ep", 1), spread.get("etp") or tp
        check_positive(tp=tp, ep=ep)
        ranks = max(ep // tp, 1) if etp == 1 else ep
        layout = layout_of(model, tp=tp, dp=ranks, **spread)
    wide = stack.wide_activations
    precision = resolve(dtype, kv_dtype, weight_dtype, wide=wide)
    local = shard(model, tp, layout.etp)
    return Setting(model, local, precision, stack, layout=layout)


def embedding_block(setting: Setting, p: Pass) -> Block:
    """Return the block before the layers."""
    w = Writer(setting)
    return w.block("embedding", outer.embedding(w, p))


def layer_blocks(
    setting: Setting, p: Pass, role: Role, layers: tuple[int, int] | None = None
) -> list[Block]:
    """Return one block for each kind of layer, repeated as often as it occurs."""
    blocks, groups = [], setting.model.layer_groups()
    if layers is not None:
        groups = tuple(Counter(setting.model.layer_kinds[slice(*layers)]).items())
    for kind, count in groups:
        if kind.role != role:
            continue
        w = Writer(setting)
        w.decoding = p.mode == "decode"
        values = layer(w, p, kind)
        block = w.block(kind.role, values[0], count)
        if setting.stack.overlap.windows:
            block = replace(block, nodes=tuple(windowed(block.nodes)))
        blocks.append(block)
    return blocks


def head_block(setting: Setting, p: Pass) -> list[Block]:
    """Return the block after the layers, if there is one."""
    model, w = setting.model, Writer(setting)
    x = outer.final_norm(w, p)
    rows = p.tokens
    if model.kind != "encoder" and p.several:
        rows = p.batch
        x = outer.select_rows(w, x, rows)
    if model.pooler:
        x = outer.pooler(w, x, p.batch)
    if model.output_head:
        x = outer.head(w, x, rows, gather=True)
    return [w.block("head", x)] if x != INPUT else []


def _cross_blocks(setting: Setting, p: Pass) -> list[Block]:
    """Return the encoder's last norm and the decoder layers' key projections."""
    model, blocks = setting.model, []
    if model.final_norm:
        w = Writer(setting)
        blocks.append(w.block("encoder_norm", outer.final_norm(w, p)))
    w = Writer(setting)
    parts = tuple(dict.fromkeys(cross_keys(w, INPUT, p.tokens)))
    heads = standard_heads(w)
    numel = 2.0 * p.tokens * heads.kv_heads * heads.qk
    done = w.copy("kv_write", parts, w.act(numel), cache_operand(w, numel))
    # Every projection reads the encoder's output: none waits for another.
    blocks.append(w.block("cross_keys", done, model.layers))
    return blocks
