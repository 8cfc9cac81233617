"""Recomputation of single modules of a layer, as Megatron-Core names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.graph.expert_operators import CLAMPS
from hwsim.graph.op import Attention, Elementwise, MoeExperts, Norm, Op, Operand
from hwsim.graph.opgraph import Node
from hwsim.graph.writer import Writer
from hwsim.specs.model import LayerKind

# ``core_attn``: scores and their sums; ``layernorm``: norms before attention and
# feed-forward; ``mla_up_proj``: queries, keys and values out of latents; ``mlp``:
# dense feed-forward; ``moe``: all of a mixture, its exchanges too; ``moe_act``: the
# routed experts' activation; ``shared_experts``: experts that every token visits.
MODULES = (
    "core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act",
    "shared_experts",
)  # fmt: skip
JOIN = "+"

_UP = frozenset(
    {"q_a_norm", "q_b", "q_b_quantize", "kv_a_norm", "rotary", "kv_b", "join_keys"}
)


def modules_of(recompute: str) -> frozenset[str]:
    """Return the modules that a kind of recomputation names; none of the others.

    Examples
    --------
    >>> sorted(modules_of("moe_act+layernorm")), modules_of("full")
    (['layernorm', 'moe_act'], frozenset())
    """
    words = frozenset(recompute.split(JOIN))
    return words if words <= frozenset(MODULES) else frozenset()


def scores_again(recompute: str) -> bool:
    """Whether attention's scores are made again in backward, kept by no kernel."""
    return recompute in {"selective", "operators"} or "core_attn" in modules_of(
        recompute
    )


def rerun(
    w: Writer, nodes: Sequence[Node], modules: frozenset[str], kind: LayerKind
) -> list[Node]:
    """Return the forward kernels of some modules of a layer, to be run again."""
    inside = _branch(nodes)
    found: list[Node] = []
    place: dict[int, int] = {}
    for index, node in enumerate(nodes):
        op: Op | None = node.op
        if not _runs(node.op, modules, kind, inside=index in inside):
            op = _activated(w, node.op) if "moe_act" in modules else None
        if op is None:
            continue
        place[index] = len(found)
        deps = tuple(place[d] for d in node.deps if d in place)
        made = replace(op, phase="recompute")
        found.append(Node(made, deps, node.stream, synced=node.synced))
    return found


def _branch(nodes: Sequence[Node]) -> range:
    """Return where the feed-forward's operators stand, its norm and sum left out."""
    names = [node.op.name for node in nodes]
    first = names.index("ffn_norm") + 1 if "ffn_norm" in names else 0
    ends = ("ffn_add", "ffn_post_norm")
    last = next((i for i, n in enumerate(names) if n in ends), len(names))
    return range(first, last)


def _runs(op: Op, modules: frozenset[str], kind: LayerKind, *, inside: bool) -> bool:
    """Whether an operator belongs to a module that is run again."""
    whole = "moe" if kind.moe else "mlp"
    shared = op.name.startswith("shared_") and op.name != "shared_add"
    return (
        (whole in modules and bool(kind.feed) and inside)
        or ("core_attn" in modules and isinstance(op, Attention))
        or ("layernorm" in modules and isinstance(op, Norm) and op.name not in _UP)
        or ("mla_up_proj" in modules and op.name in _UP)
        or ("shared_experts" in modules and inside and shared)
    )


def _activated(w: Writer, op: Op) -> Op | None:
    """Return the experts' activation by itself, or what stands for a part of it."""
    if op.name in CLAMPS:
        return op
    if not isinstance(op, MoeExperts):
        return None
    inner = op.tokens * op.topk / op.ep * op.ffn / op.tp
    entering = 2.0 if op.gated else 1.0
    made: tuple[Operand, ...] = (w.act(inner),)
    return Elementwise(
        name="experts_activation", dtype=w.setting.precision.vector, numel=inner,
        function=w.setting.model.activation, flop_per_value=4.0,
        reads=(w.act(entering * inner),), writes=made,
    )  # fmt: skip
