"""Prompts shared out whole among devices that gather each layer's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.errors import InputError
from hwsim.graph.inference import (
    decoder_setting,
    embedding_block,
    head_block,
    layer_blocks,
)
from hwsim.graph.layout import Layout
from hwsim.graph.op import Collective, Operand
from hwsim.graph.opgraph import COMPUTE, Block, Node, OpGraph
from hwsim.graph.parameters import layer_held
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.shard import shard
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

# A layer's weights come while the layer before it computes.
_AHEAD = 2


def can_gather(model: ModelSpec, batch: int, tp: int) -> bool:
    """Whether prompts of a decoder can be shared out whole among devices."""
    return model.kind == "decoder" and model.moe is None and 1 < tp <= batch


def gathered_prefill_graph(
    model: ModelSpec,
    *,
    batch: int,
    prompt: int,
    tp: int,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    stack: StackSpec,
) -> OpGraph:
    """Return the pass of prompts on one of ``tp`` devices with weights gathered.

    Each device runs its share of the prompts through whole layers, whose weights
    it gathers from all; the head is split among them as ever.

    Parameters
    ----------
    model, batch, prompt, tp, dtype, kv_dtype, weight_dtype, stack
        As for :func:`~hwsim.graph.inference.prefill_graph`; ``batch`` is that of
        all devices.

    Raises
    ------
    InputError
        If prompts cannot be shared out so.

    References
    ----------
    .. [1] R. Pope et al., "Efficiently Scaling Transformer Inference", 2022,
       arXiv:2211.05102, section 3.2.3.
    """
    if not can_gather(model, batch, tp):
        raise InputError(
            f"{batch} prompts of {model.id} cannot be shared out among {tp} devices"
        )
    apart = decoder_setting(model, tp, dtype, kv_dtype, weight_dtype, stack)
    local = shard(model, 1, 1)
    whole = replace(apart, shard=local, layout=Layout())
    own = Pass(-(-batch // tp), prompt, prompt, causal=True, cached=True)
    blocks = [embedding_block(whole, own)]
    kinds = [kind for kind, _ in model.layer_groups()]
    for block, kind in zip(layer_blocks(whole, own, "decoder"), kinds, strict=True):
        held = layer_held(model, local, whole.layout, kind).dense
        nbytes = held.linear * DTYPE_BYTES[whole.precision.weight]
        blocks.append(_fetched(block, whole, nbytes, tp))
    all_ = replace(own, batch=batch)
    blocks += head_block(apart, all_)
    return OpGraph("prefill", tuple(blocks), float(all_.tokens), {"ranks": 1.0})


def _fetched(block: Block, setting: Setting, nbytes: float, tp: int) -> Block:
    """Put the gather of a layer's weights, one layer ahead, before it."""
    dtype = setting.precision.weight
    moved = (Operand("weight", nbytes, dtype),)
    op = Collective(
        name="weights_gather", dtype=dtype, collective="all_gather", message=nbytes,
        group_size=tp, reads=moved, writes=moved,
    )  # fmt: skip
    nodes = [Node(op, (), "gather", after=_AHEAD), *_behind(block.nodes)]
    return Block(block.name, tuple(nodes), block.repeat, block.output_index + 1)


def _behind(nodes: Sequence[Node]) -> list[Node]:
    """Return a block's nodes behind one more, which the first kernel waits for."""
    found, waits = [], True
    for node in nodes:
        deps = tuple(d + 1 for d in node.deps)
        if waits and node.stream == COMPUTE:
            deps, waits = (0, *deps), False
        found.append(replace(node, deps=deps))
    return found
