"""Blocks of one microbatch: forward, head with loss, backward, reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from hwsim.graph import outer
from hwsim.graph.backward import INCOMING, Backward
from hwsim.graph.loss import cross_entropy
from hwsim.graph.op import Op
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.optimizer import axis_collective
from hwsim.graph.parameters import (
    device_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
)
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.transformer import layer
from hwsim.graph.writer import Writer
from hwsim.specs.base import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """What one microbatch is: its passes, and how devices share it."""

    setting: Setting
    passes: tuple[Pass, ...]
    recompute: str
    dp: int
    zero_stage: int
    last: bool
    loss_share: float

    @property
    def reduces(self) -> bool:
        """Whether gradients go round the data-parallel group."""
        return self.dp > 1 and (self.last or self.zero_stage >= 2)

    @property
    def gathers(self) -> bool:
        """Whether parameters are gathered layer by layer."""
        return self.dp > 1 and self.zero_stage == 3

    @property
    def overlaps(self) -> bool:
        """Whether data-parallel communication runs beside compute."""
        return self.setting.stack.overlap.dp


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers (or what stands around them) that communicate together.

    The head goes straight from forward to backward: it is one block.
    """

    forward: Block | None
    backward: Block
    parameters: float


def step_blocks(plan: Plan) -> list[Block]:
    """Return forward and backward of one microbatch, gradients reduced."""
    units = _units(plan)
    blocks = [_gathered(plan, u.forward, u.parameters) for u in units if u.forward]
    for unit in reversed(units):
        block = unit.backward
        # Tables need no parameters to add gradients to their rows.
        if block.name != "embedding_backward":
            block = _gathered(plan, block, unit.parameters)
        blocks.append(_reduced(plan, block, unit.parameters))
    if plan.reduces and not plan.overlaps and not plan.gathers:
        blocks.append(_reduced_at_end(plan))
    return blocks


def _units(plan: Plan) -> list[Unit]:
    """Return what a microbatch goes through, first to last."""
    setting, model = plan.setting, plan.setting.model
    table = embedding_parameters(model, setting.shard).total
    units = []
    for p, role in zip(plan.passes, _roles(plan), strict=True):
        units.append(_unit(plan, p, "embedding", _embedding, table))
        table = 0.0  # stacks share it
        for kind, count in model.layer_groups():
            if kind.role == role:
                held = layer_parameters(model, setting.shard, kind).total
                body = partial(layer, kind=kind)
                units.append(_unit(plan, p, role, body, held, count))
        if p is not plan.passes[-1] and model.final_norm:
            units.append(_unit(plan, p, "norm", _norm, 0.0))
    units.append(_head_unit(plan, plan.passes[-1]))
    return units


def _roles(plan: Plan) -> tuple[str, ...]:
    kind = plan.setting.model.kind
    return ("encoder", "decoder") if kind == "encoder_decoder" else (kind,)


Body = Callable[[Writer, Pass], tuple[int, ...]]


def _embedding(w: Writer, p: Pass) -> tuple[int, ...]:
    return (outer.embedding(w, p),)


def _norm(w: Writer, p: Pass) -> tuple[int, ...]:
    return (outer.final_norm(w, p),)


def _unit(
    plan: Plan, p: Pass, name: str, body: Body, parameters: float, repeat: int = 1
) -> Unit:
    w = Writer(plan.setting, p.tokens, p.batch * p.memory)
    outputs = body(w, p)
    forward = w.block(name, outputs[0], repeat)
    full = plan.recompute == "full" and name in {"encoder", "decoder"}
    nodes = [_recomputed(n) for n in forward.nodes] if full else []
    pass_back = Backward(
        w, nodes, dict.fromkeys(outputs, INCOMING),
        selective=plan.recompute == "selective",
    )  # fmt: skip
    end = pass_back.run()
    return Unit(
        forward, Block(f"{name}_backward", tuple(nodes), repeat, end), parameters
    )


def _recomputed(node: Node) -> Node:
    op: Op = replace(node.op, phase="recompute")
    return Node(op, node.deps, node.stream)


def _head_unit(plan: Plan, p: Pass) -> Unit:
    """Return last norm, logits, loss and their gradients."""
    setting = plan.setting
    w = Writer(setting, p.tokens)
    x = outer.final_norm(w, p)
    rows = p.batch * ceil(p.seq_q * plan.loss_share)
    if rows < p.tokens:
        x = outer.select_rows(w, x, rows)
    x = outer.masked_head(w, x, rows) if setting.model.kind == "encoder" else x
    x = w.enter(x, "head_gather", rows)
    logits = outer.head(w, x, rows, gather=False)
    _, gradient = cross_entropy(w, logits, rows)
    end = Backward(w, w.nodes, {logits: gradient}).run()
    held = head_parameters(setting.model, setting.shard).total
    return Unit(None, Block("head", tuple(w.nodes), 1, end), held)


# Data parallelism -----------------------------------------------------------


def _gathered(plan: Plan, block: Block, parameters: float) -> Block:
    """Put the gather of a block's parameters before it.

    One layer is fetched ahead where communication overlaps. Among tensor-
    parallel devices the first operator (a norm) may start before its few
    parameters have come.
    """
    if not plan.gathers or not parameters:
        return block
    act = plan.setting.precision.act
    op = axis_collective(
        "parameter_gather", "all_gather", parameters * DTYPE_BYTES[act], plan.dp,
        stride=plan.setting.shard.tp, axis="dp", dtype=act,
        phase="backward" if block.name.endswith("backward") else "forward",
    )  # fmt: skip
    gather = Node(op, (), "dp", after=2 if plan.overlaps else 1)
    nodes, waits = [gather], True
    for node in block.nodes:
        deps = tuple(d + 1 for d in node.deps)
        if waits and node.stream == COMPUTE and (deps or plan.setting.shard.tp == 1):
            deps, waits = (0, *deps), False
        nodes.append(replace(node, deps=deps))
    return Block(block.name, tuple(nodes), block.repeat, block.output_index + 1)


def _reduced(plan: Plan, block: Block, parameters: float) -> Block:
    """Put the reduction of a block's gradients after it."""
    inside = plan.overlaps or plan.gathers
    if not plan.reduces or not inside or not parameters:
        return block
    last = max(i for i, n in enumerate(block.nodes) if n.stream == COMPUTE)
    op = _reduction(plan, parameters)
    node = Node(op, (last,), "dp")
    output = block.output_index if plan.overlaps else len(block.nodes)
    return Block(block.name, (*block.nodes, node), block.repeat, output)


def _reduction(plan: Plan, parameters: float) -> Op:
    grad = plan.setting.precision.grad
    return axis_collective(
        "gradient_reduce", "reduce_scatter" if plan.zero_stage else "all_reduce",
        parameters * DTYPE_BYTES[grad], plan.dp, stride=plan.setting.shard.tp,
        axis="dp", dtype=grad, phase="backward",
    )  # fmt: skip


def _reduced_at_end(plan: Plan) -> Block:
    held = device_parameters(plan.setting.model, plan.setting.shard).total
    node = Node(_reduction(plan, held), (), "dp", barrier=True)
    return Block("gradient_reduce", (node,))
