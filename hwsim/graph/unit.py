"""Units of one microbatch: embedding, layers of one kind, norm, head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import NamedTuple

from hwsim.graph import outer, recompute
from hwsim.graph.backward import INCOMING, Backward
from hwsim.graph.beside import ring_exchanged
from hwsim.graph.lora import ROW_PARALLEL
from hwsim.graph.loss import cross_entropy
from hwsim.graph.modules import modules_of, rerun, scores_again
from hwsim.graph.op import Matmul
from hwsim.graph.opgraph import Block, Node
from hwsim.graph.parameters import (
    Held,
    Parameters,
    embedding_parameters,
    head_parameters,
    layer_held,
    stage_parameters,
)
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.split import accumulating
from hwsim.graph.transformer import layer
from hwsim.graph.windows import windowed
from hwsim.graph.writer import Writer
from hwsim.specs.model import LayerKind, ModelSpec

NOTHING = Held(Parameters(), Parameters())


@dataclass(frozen=True, slots=True)
class Plan:
    """What one microbatch is: its passes, and the part played here.

    Attributes
    ----------
    last : bool
        The microbatch before the update.
    layers : sequence of int
        Indices of the layers here, encoder layers counted first.
    first, final : bool
        Whether the embedding, and the last norm with the head, are here.
    recompute_every : int
        Layers whose index is a multiple are recomputed.
    offload : bool
        What layers keep for backward waits in host memory.
    """

    setting: Setting
    passes: tuple[Pass, ...]
    recompute: str
    zero_stage: int
    last: bool
    loss_share: float
    layers: Sequence[int]
    first: bool = True
    final: bool = True
    recompute_every: int = 1
    offload: bool = False

    @property
    def reduces(self) -> bool:
        """Whether gradients go round the ranks that hold the same parameters."""
        layout = self.setting.layout
        shared = max(layout.replicas, layout.expert_replicas) > 1
        return shared and (self.last or self.zero_stage >= 2)

    @property
    def gathers(self) -> bool:
        """Whether parameters are gathered layer by layer."""
        return self.setting.layout.sharers > 1 and self.zero_stage == 3

    @property
    def prefetches(self) -> bool:
        """Whether updated parameters are gathered beside this forward pass.

        In pipelines they are gathered while the first microbatches go through.
        """
        ahead = self.setting.gathers_ahead(self.zero_stage)
        return ahead and self.last and self.setting.layout.pp == 1

    @property
    def overlaps(self) -> bool:
        """Whether data-parallel communication runs beside compute."""
        return self.setting.stack.overlap.dp

    def kinds(self) -> list[tuple[LayerKind, int]]:
        """Return the kinds of layer here and how many there are of each."""
        counts: Counter[LayerKind] = Counter()
        for (kind, _), count in self.groups():
            counts[kind] += count
        return list(counts.items())

    def groups(self) -> list[tuple[tuple[LayerKind, bool], int]]:
        """Return kinds of layer, recomputed or not, and how many of each."""
        model = self.setting.model
        if self.recompute == "none" and len(self.layers) == len(model.layer_kinds):
            return [((kind, False), count) for kind, count in model.layer_groups()]
        kinds, every = model.layer_kinds, self.recompute_every
        again = self.recompute != "none"
        found = Counter((kinds[i], again and i % every == 0) for i in self.layers)
        return list(found.items())

    @property
    def scores_again(self) -> bool:
        """Whether an unfused attention core is run again before its backward."""
        return scores_again(self.recompute)

    def starts(self, role: str) -> bool:
        """Whether the embedding of a stack of layers is here."""
        return (
            self.first
            if role != "decoder"
            else starts_decoder(self.setting.model, self.layers, self.first)
        )

    @property
    def held(self) -> Held:
        """Parameters of one device."""
        setting = self.setting
        return stage_parameters(
            setting.model, setting.shard, setting.layout, self.kinds(),
            first=any(self.starts(r) for r in roles(setting.model)), last=self.final,
        )  # fmt: skip


def roles(model: ModelSpec) -> tuple[str, ...]:
    """Return the roles of a model's stacks of layers, in order."""
    both = model.kind == "encoder_decoder"
    return ("encoder", "decoder") if both else (model.kind,)


def starts_decoder(model: ModelSpec, layers: Sequence[int], first: bool) -> bool:
    """Whether the decoder's embedding is where these layers are."""
    if model.kind != "encoder_decoder":
        return first
    return model.encoder_layers in layers


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers (or what stands around them) that communicate together.

    Attributes
    ----------
    forward : Block or None
        None: forward and backward are one block.
    backward : Block or None
        None: nothing here is trained.
    held, trained : Held
        Parameters of one instance: all, and those that get gradients.
    recomputed : bool
        Backward begins with forward again.
    again : bool
        Recomputation of whatever extent reaches these layers.
    """

    name: str
    forward: Block | None
    backward: Block | None
    held: Held
    trained: Held
    recomputed: bool = False
    again: bool = False
    kind: LayerKind | None = None


def units(plan: Plan) -> list[Unit]:
    """Return what a microbatch goes through here, first to last."""
    setting, model = plan.setting, plan.setting.model
    table = Held(embedding_parameters(model, setting.shard), Parameters())
    found = []
    for p, role in zip(plan.passes, roles(model), strict=True):
        if plan.starts(role):
            found.append(_unit(plan, p, "embedding", _embedding, table))
            table = NOTHING  # stacks share it
        for (kind, again), count in plan.groups():
            if kind.role == role:
                held = layer_held(model, setting.shard, setting.layout, kind)
                body = partial(layer, kind=kind)
                found.append(_unit(plan, p, role, body, held, count, again, kind))
        ends = role == "encoder" and model.encoder_layers - 1 in plan.layers
        if p is not plan.passes[-1] and model.final_norm and ends:
            found.append(_unit(plan, p, "norm", _norm, NOTHING))
    if plan.final:
        found.append(_head_unit(plan, plan.passes[-1]))
    return found


Body = Callable[[Writer, Pass], tuple[int, ...]]


def _embedding(w: Writer, p: Pass) -> tuple[int, ...]:
    return (outer.embedding(w, p),)


def _norm(w: Writer, p: Pass) -> tuple[int, ...]:
    return (outer.final_norm(w, p),)


def _unit(
    plan: Plan,
    p: Pass,
    name: str,
    body: Body,
    held: Held,
    repeat: int = 1,
    again: bool = False,
    kind: LayerKind | None = None,
) -> Unit:
    w = Writer(plan.setting.of(kind), p.tokens, p.batch * p.memory)
    outputs = body(w, p)
    forward = _exchanged(plan, _cut_up(plan, w.block(name, outputs[0], repeat)))
    full = again and plan.recompute == "full"
    nodes = _run_again(plan, w, forward.nodes, kind) if again else []
    pass_back = Backward(
        w, nodes, dict.fromkeys(outputs, INCOMING),
        selective=again and plan.scores_again,
    )  # fmt: skip
    end = pass_back.run()
    if plan.setting.lora is not None and name in {"embedding", "norm"}:
        # No adapter stands before it in its stack: no gradient goes further.
        return Unit(name, forward, None, held, NOTHING)
    backward = Block(f"{name}_backward", tuple(nodes), repeat, end)
    backward = _exchanged(plan, _cut_up(plan, backward))
    backward = _added(plan.setting, backward)
    trained = _trained(w, held)
    if plan.setting.lora is not None:
        held = Held(held.dense + trained.dense, held.expert)
    return Unit(name, forward, backward, held, trained, full, again, kind)


def _exchanged(plan: Plan, block: Block) -> Block:
    """Return the block with gathers beside their products, if the stack does so."""
    if not plan.setting.rings:
        return block
    return replace(block, nodes=tuple(ring_exchanged(block.nodes)))


def _added(setting: Setting, backward: Block) -> Block:
    """Return the block with its gradients added to earlier ones, if that is apart."""
    apart = setting.added_apart if setting.accumulate else None
    return backward if apart is None else accumulating(backward, apart)


def _cut_up(plan: Plan, block: Block) -> Block:
    """Return a block as a stack that cuts up products runs it."""
    if not plan.setting.stack.overlap.windows:
        return block
    return replace(block, nodes=tuple(windowed(block.nodes)))


def _run_again(
    plan: Plan, w: Writer, nodes: Sequence[Node], kind: LayerKind | None
) -> list[Node]:
    """Return forward's kernels that backward begins with."""
    if plan.recompute == "full":
        if plan.setting.stack.recompute == "needed":
            return recompute.needed(w, nodes)
        return recompute.whole(nodes)
    if plan.recompute == "operators":
        return recompute.light(w, nodes)
    modules = modules_of(plan.recompute)
    return rerun(w, nodes, modules, kind) if modules and kind is not None else []


def _trained(w: Writer, held: Held) -> Held:
    """Return the parameters that get gradients: all, or the adapters."""
    if w.setting.lora is None:
        return held
    count = Parameters()
    for step in w.steps:
        if step.adapter and isinstance(step.op, Matmul):
            op = step.op
            numel = op.batch * op.n * op.k
            source, _, half = op.name.rpartition("_lora_")
            whole = (half == "up") == (source in ROW_PARALLEL)
            count += Parameters(
                linear=numel, norms=numel if whole else 0.0, factored=op.n + op.k
            )
    return Held(count, Parameters())


class Head(NamedTuple):
    """The head's nodes; those from ``cut`` on are the backward pass."""

    nodes: tuple[Node, ...]
    cut: int
    end: int


def _head(plan: Plan, p: Pass) -> tuple[Head, Writer]:
    """Return last norm, logits, loss and their gradients."""
    setting = plan.setting
    w = Writer(setting, p.tokens)
    x = outer.final_norm(w, p)
    rows = p.batch * ceil(p.seq_q * plan.loss_share)
    if rows < p.tokens:
        x = outer.select_rows(w, x, rows)
    x = outer.masked_head(w, x, rows) if setting.model.kind == "encoder" else x
    x = w.enter(x, "head_gather", rows, narrow=False)
    rows *= setting.model.predicted_tokens
    logits = outer.head(w, x, rows, gather=False)
    _, gradient = cross_entropy(w, logits, rows)
    cut = next(i for i, n in enumerate(w.nodes) if n.op.phase == "backward")
    end = Backward(w, w.nodes, {logits: gradient}).run()
    whole = _exchanged(plan, Block("head", tuple(w.nodes)))
    return Head(whole.nodes, cut, end), w


def _head_unit(plan: Plan, p: Pass) -> Unit:
    head, w = _head(plan, p)
    model, shard = plan.setting.model, plan.setting.shard
    has_table = any(plan.starts(r) for r in roles(model))
    dense = head_parameters(model, shard, own_table=not has_table)
    held = Held(dense, Parameters())
    forward = Block("head", head.nodes[: head.cut])
    later = tuple(
        replace(n, deps=tuple(d - head.cut for d in n.deps if d >= head.cut))
        for n in head.nodes[head.cut :]
    )
    backward = _added(
        plan.setting, Block("head_backward", later, 1, max(head.end - head.cut, 0))
    )
    trained = _trained(w, held)
    if plan.setting.lora is not None:
        held = Held(dense + trained.dense, held.expert)
    return Unit("head", forward, backward, held, trained)


def joined(head: Unit) -> Block:
    """Return forward and backward of the head as one block."""
    assert head.forward is not None
    assert head.backward is not None
    cut = len(head.forward.nodes)
    first, *rest = head.backward.nodes
    shifted = [replace(first, deps=(cut - 1,))]
    shifted += [replace(n, deps=tuple(d + cut for d in n.deps)) for n in rest]
    nodes = (*head.forward.nodes, *shifted)
    return Block("head", nodes, 1, head.backward.output_index + cut)
