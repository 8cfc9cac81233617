"""The backward pass of recorded operators, last one first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hwsim.graph.communicate import exchange_stream
from hwsim.graph.gradients import (
    attention_gradient,
    expert_gradient,
    function_gradient,
    gradient_cast,
    input_gradient,
    norm_gradient,
    product_gradients,
    ring_gradients,
    row_gradient,
    scan_gradient,
    turned_round,
    weight_gradient,
)
from hwsim.graph.op import Collective, CollectiveName, Elementwise, Matmul, Op
from hwsim.graph.opgraph import COMPUTE, Node
from hwsim.graph.setting import Setting
from hwsim.graph.split import expert_halves
from hwsim.graph.writer import (
    INPUT,
    MEMORY,
    Step,
    Writer,
    group_collective,
    tp_collective,
)

INCOMING = -1  # the gradient that the block before hands on


class Backward:
    """Appends the gradients of a writer's steps to a list of nodes.

    Parameters
    ----------
    writer : Writer
        The recorded forward block.
    nodes : list of Node
        What the backward block has before (forward or recomputed nodes).
    outputs : dict of int to int
        For each value whose gradient is known: the node that makes it, or
        ``INCOMING``.
    selective : bool
        Recompute unfused attention cores before their backward.
    """

    def __init__(
        self,
        writer: Writer,
        nodes: list[Node],
        outputs: dict[int, int],
        *,
        selective: bool = False,
    ) -> None:
        self.w = writer
        self.setting: Setting = writer.setting
        self.nodes = nodes
        self.grads: dict[int, list[int]] = {v: [n] for v, n in outputs.items()}
        self.selective = selective
        self.frozen = self.setting.lora is not None
        self.last_compute = len(nodes) - 1
        self._gathered: dict[int, int] = {}
        self._quantised: set[int] = set()  # gradients gathered in a narrow dtype

    # Emission ---------------------------------------------------------------

    def put(self, op: Op, after: tuple[int, ...], stream: str = COMPUTE) -> int:
        """Append a node that waits for the given ones."""
        deps = tuple(sorted({n for n in after if n != INCOMING}))
        synced = self.w.waits_on_host(self.nodes, deps)
        self.nodes.append(Node(op, deps, stream, synced=synced))
        index = len(self.nodes) - 1
        if stream == COMPUTE:
            self.last_compute = index
        return index

    def give(self, step: Step, node: int) -> None:
        """Hand a gradient to every distinct input of a step."""
        for value in dict.fromkeys(step.inputs):
            self.grads.setdefault(value, []).append(node)

    def communicate(
        self,
        name: str,
        collective: CollectiveName,
        numel: float,
        after: int,
        width: float | None = None,
    ) -> int:
        """Append a collective; without overlap it waits for all compute."""
        setting, nbytes = self.setting, numel * (width or self.w.act_bytes)
        op = tp_collective(
            name, collective, nbytes, setting.shard.tp, setting.precision.act
        )
        waits: tuple[int, ...] = (after,)
        if not setting.stack.overlap.tp:
            waits = (after, self.last_compute)
        return self.put(replace(op, phase="backward"), waits, "tp")

    # The pass ---------------------------------------------------------------

    def run(self) -> int:
        """Append all gradients; return the node that ends the chain."""
        steps = self.w.steps
        for index in range(len(steps) - 1, -1, -1):
            step, value = steps[index], index + 2
            if self.selective and step.core and not _core(steps, index + 1):
                self._recompute(index)
            found = self.grads.pop(value, [])
            if not found:
                continue
            fused = isinstance(step.op, Op) and getattr(step.op, "fused_add", False)
            dy = self._sum(step, found, allowed=2 if fused else 1)
            _RULES[step.rule](self, step, dy)
        self._sum_memory()
        found = self.grads.pop(INPUT, [])
        if not found:
            return self.last_compute
        size = self.setting.outer(self.w.tokens) * self.setting.model.hidden
        return self._sum(Step(None, (), "none", size), found)

    def _recompute(self, last: int) -> None:
        """Append the forward nodes of the attention core that ends at ``last``."""
        steps, first = self.w.steps, last
        while _core(steps, first - 1):
            first -= 1
        made: dict[int, int] = {}
        for index in range(first, last + 1):
            step = steps[index]
            # A fused kernel's backward recomputes the scores by itself.
            if step.op is None or step.rule in {"attention", "ring"}:
                continue
            after = tuple(made[v] for v in step.inputs if v in made)
            made[index + 2] = self.put(replace(step.op, phase="recompute"), after)

    def _sum(self, step: Step, found: list[int], allowed: int = 1) -> int:
        """Append the sum (or joining) of several gradients of one value."""
        extra = len(found) - allowed
        if extra < 1:
            return max(found)
        w, numel = self.w, step.numel
        dtype = step.dtype or self.setting.precision.stream
        reads = numel if step.sliced else numel * 2 * extra
        op = Elementwise(
            name="join_gradients" if step.sliced else "add_gradients",
            dtype=self.setting.precision.vector,
            numel=numel,
            function="copy" if step.sliced else "add",
            flop_per_value=0.0 if step.sliced else float(extra),
            reads=(w.held(reads, dtype),),
            writes=(w.held(numel if step.sliced else numel * extra, dtype),),
            phase="backward",
            kernels=1 if step.sliced else extra,
        )
        return self.put(op, tuple(found))

    def _sum_memory(self) -> None:
        """Append the sum into the encoder output's gradient over the layers."""
        found = self.grads.pop(MEMORY, [])
        if found:
            size = self.w.memory_tokens * self.setting.model.hidden
            self._sum(Step(None, (), "none", size), [*found, INCOMING])

    # Rules ------------------------------------------------------------------

    def linear(self, step: Step, dy: int) -> None:
        """Input gradient, then weight gradient, then bias gradient."""
        op = step.op
        if not isinstance(op, Matmul):
            return
        quantised = self.setting.precision.quantised and op.dtype != self.w.plain_math
        if quantised and dy not in self._quantised:
            dy = self.put(self._quantise(step.numel, op.dtype), (dy,))
        self.give(step, self.put(input_gradient(self.w, op), (dy,)))
        if self.frozen and not step.adapter:
            return
        waits = (dy, self._gather_again(step, dy))
        made = self.put(weight_gradient(self.w, op, step.bias), waits)
        if self.w.autocast:
            self.put(gradient_cast(self.w, op, step.bias), (made,))

    def _quantise(self, numel: float, dtype: str) -> Op:
        """Cast a gradient: along rows for inputs, along columns for weights."""
        w = self.w
        written = replace(w.act(numel), nbytes=numel * w.math_bytes * 2.0, dtype=dtype)
        return Elementwise(
            name="quantize_gradient",
            dtype=self.setting.precision.vector,
            numel=numel,
            function="quantize",
            flop_per_value=3.0,
            reads=(w.act(numel * (2.0 if self.setting.two_passes else 1.0)),),
            writes=(written,),
            phase="backward",
        )

    def _gather_again(self, step: Step, dy: int) -> int:
        """Append the gather of a split input that forward did not keep."""
        source = step.inputs[0]
        origin = self.w.steps[source - 2] if source >= 2 else None
        if (
            origin is None
            or origin.rule != "enter"
            or not self.setting.sequence_parallel
        ):
            return INCOMING
        if source not in self._gathered:
            self._gathered[source] = self.communicate(
                "input_gather", "all_gather", origin.numel, dy,
                self.w.sent_for(step.op),
            )  # fmt: skip
        return self._gathered[source]

    def product(self, step: Step, dy: int) -> None:
        """Gradients of both factors of a product of activations."""
        op = step.op
        if not isinstance(op, Matmul):
            return
        first, second = product_gradients(self.w, op)
        targets = step.inputs[:2]
        self.grads.setdefault(targets[0], []).append(self.put(first, (dy,)))
        self.grads.setdefault(targets[1], []).append(self.put(second, (dy,)))

    def through(self, step: Step, dy: int) -> None:
        """Pass the gradient on; an added bias sums it over the rows."""
        columns = step.extra.get("weights", 0.0)
        if columns and not self.frozen:
            op = row_gradient(self.w, step.numel, columns, step.dtype)
            self.put(op, (dy,))
        self.give(step, dy)

    def add(self, step: Step, dy: int) -> None:
        """Residual sum: the branch's gradient goes through the dropout mask."""
        branch, skip = step.inputs
        self.grads.setdefault(skip, []).append(dy)
        if step.extra.get("mask"):
            dy = self.put(function_gradient(self.w, step, saved=False), (dy,))
        elif step.source != step.dtype and isinstance(step.op, Elementwise):
            # The branch was narrower than the stream.
            cast = replace(
                step.op, name="gradient_cast", phase="backward", flop_per_value=0.0,
                reads=(self.w.held(step.numel, step.dtype),),
                writes=(self.w.held(step.numel, step.source),),
            )  # fmt: skip
            dy = self.put(cast, (dy,))
        self.grads.setdefault(branch, []).append(dy)

    def scale(self, step: Step, dy: int) -> None:
        """Copies and rotations: the same work the other way."""
        if step.op is not None:
            self.give(step, self.put(turned_round(step.op), (dy,)))

    def function(self, step: Step, dy: int) -> None:
        """Functions whose backward needs what forward read."""
        self.give(step, self.put(function_gradient(self.w, step), (dy,)))
        columns = step.extra.get("weights", 0.0)
        if columns and not self.frozen:
            self.put(row_gradient(self.w, step.numel, columns), (self.last_compute,))

    def drop(self, step: Step, dy: int) -> None:
        """Functions whose backward needs at most a mask."""
        self.give(step, self.put(function_gradient(self.w, step, saved=False), (dy,)))

    def enter(self, step: Step, dy: int) -> None:
        """Start of a tensor-parallel region: sum the devices' gradients."""
        split = self.setting.sequence_parallel
        kind: CollectiveName = "reduce_scatter" if split else "all_reduce"
        self.give(step, self.communicate("input_gradient_reduce", kind, step.numel, dy))

    def leave(self, step: Step, dy: int) -> None:
        """End of a region: every device needs the whole gradient."""
        if self.setting.sequence_parallel:
            made = self.w.steps[step.inputs[0] - 2].op if step.inputs[0] >= 2 else None
            width = self.w.sent_for(made)
            numel = step.numel * self.setting.shard.tp
            if made is None or width == self.w.act_bytes:
                dy = self.communicate("gradient_gather", "all_gather", numel, dy)
            else:
                dy = self.put(self._quantise(step.numel, made.dtype), (dy,))
                dy = self.communicate("gradient_gather", "all_gather", numel, dy, width)
                self._quantised.add(dy)
        self.give(step, dy)

    def attention(self, step: Step, dy: int) -> None:
        """Fused attention; keys of other ranks were not kept, and come again."""
        sources = [self.w.steps[v - 2] for v in step.inputs[1:] if v >= 2]
        again = [x.op for x in sources if x.rule == "scatter" and x.op is not None]
        waits = [self._collective(op, dy, name=f"{op.name}_again") for op in again]
        self.give(step, self.put(attention_gradient(self.w, step), (dy, *waits)))

    def scan(self, step: Step, dy: int) -> None:
        """Scan of a state space."""
        self.give(step, self.put(scan_gradient(self.w, step), (dy,)))

    def norm(self, step: Step, dy: int) -> None:
        """Norms; a fused residual sum adds the gradient that passes by."""
        self.give(step, self.put(norm_gradient(self.w, step), (dy,)))

    def rows(self, step: Step, dy: int) -> None:
        """Lookup tables: add each row's gradient to its place."""
        if not self.frozen:
            op = row_gradient(self.w, step.numel, step.extra["rows"], step.dtype)
            self.put(op, (dy,))

    def experts(self, step: Step, dy: int) -> None:
        """Routed experts."""
        op = expert_gradient(self.w, step)
        if self.frozen:
            op, _ = expert_halves(op)
        self.give(step, self.put(op, (dy,)))

    def exchange(self, step: Step, dy: int) -> None:
        """Rows or heads exchanged: the same exchange the other way."""
        if step.op is None:
            return
        made = self._collective(step.op, dy)
        beside = isinstance(step.op, Collective) and step.op.beside
        self.give(step, dy if beside else made)

    def scatter(self, step: Step, dy: int) -> None:
        """Keys gathered from all ranks: sum each rank's part of the gradient."""
        if isinstance(step.op, Collective):
            op = replace(step.op, collective="reduce_scatter")
            self.give(step, self._collective(op, dy))

    def slice(self, step: Step, dy: int) -> None:
        """Tokens that each rank takes its share of: gather their gradients."""
        self.give(step, self.communicate("tokens_gather", "all_gather", step.numel, dy))

    def _collective(self, op: Op, dy: int, name: str = "") -> int:
        axis = exchange_stream(op) if isinstance(op, Collective) else COMPUTE
        op = replace(op, name=name or f"{op.name}_gradient", phase="backward")
        return self.put(op, (dy,), axis)

    def ring(self, step: Step, dy: int) -> None:
        """Keys go round again, their gradients a step behind them.

        A block's gradients go on with the keys; after the last block they go
        home.
        """
        kv, layout = step.extra["kv"], self.setting.layout
        own, other = ring_gradients(self.w, step)
        if other is None:
            end = self.put(own, (dy,))
            if kv:
                end = self._pass_on("keys_gradient_send", kv, (end,))
            self.give(step, end)
            return
        keys, at = dy, self.put(own, (dy,))
        for _ in range(layout.cp - 1):
            keys = self._pass_on("keys_send", kv, (keys,))
            at = self.put(other, (at, keys))
            end = self._pass_on("keys_gradient_send", kv, (at,))
        self.give(step, end)

    def _pass_on(self, name: str, numel: float, after: tuple[int, ...]) -> int:
        nbytes = numel * self.w.act_bytes
        op = group_collective(self.setting, "cp", name, "send_recv", nbytes)
        return self.put(replace(op, phase="backward"), after, "cp")

    def none(self, step: Step, dy: int) -> None:
        """No gradient flows on."""


Method = Callable[[Backward, Step, int], None]
_RULES: dict[str, Method] = {
    "linear": Backward.linear,
    "product": Backward.product,
    "through": Backward.through,
    "add": Backward.add,
    "scale": Backward.scale,
    "function": Backward.function,
    "drop": Backward.drop,
    "enter": Backward.enter,
    "leave": Backward.leave,
    "attention": Backward.attention,
    "norm": Backward.norm,
    "rows": Backward.rows,
    "dispatch": Backward.scale,
    "combine": Backward.scale,
    "experts": Backward.experts,
    "exchange": Backward.exchange,
    "scatter": Backward.scatter,
    "slice": Backward.slice,
    "ring": Backward.ring,
    "scan": Backward.scan,
    "none": Backward.none,
}


def _core(steps: list[Step], index: int) -> bool:
    return 0 <= index < len(steps) and steps[index].core
