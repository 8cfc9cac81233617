"""What a block is written with: values, operands, recorded steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from hwsim.graph.op import Attention, Op, Operand
from hwsim.graph.opgraph import BESIDE, COMPUTE, Block, Node
from hwsim.graph.setting import Setting
from hwsim.specs.base import DTYPE_BYTES

INPUT = 0  # value that enters a block
MEMORY = 1  # value that enters a decoder layer from the encoder

Rule = Literal[
    "linear", "product", "through", "add", "scale", "function", "drop", "enter",
    "leave", "attention", "norm", "rows", "none", "dispatch", "experts", "combine",
    "ring", "exchange", "scatter", "slice", "scan",
]  # fmt: skip


@dataclass(slots=True)
class Step:
    """A recorded operation: how its inputs' gradients follow from its own.

    ``adapter`` marks products whose weights are trained where the rest is
    frozen; ``other`` is a ring's kernel on other ranks' keys. ``dtype`` is
    that of the value, ``source`` of its first input, ``kept`` of what
    backward needs of it where that is another.
    """

    op: Op | None
    inputs: tuple[int, ...]
    rule: Rule
    numel: float = 0.0
    bias: float = 0.0
    core: bool = False
    sliced: bool = False
    extra: dict[str, float] = field(default_factory=dict)
    adapter: bool = False
    other: Attention | None = None
    dtype: str = ""
    source: str = ""
    kept: str = ""


class Recorder:
    """Keeps the nodes of a block in program order.

    Values are small integers; ``INPUT`` and ``MEMORY`` stand for what comes
    from other blocks.
    """

    def __init__(
        self, setting: Setting, tokens: float = 0.0, memory_tokens: float = 0.0
    ) -> None:
        self.setting = setting
        self.tokens, self.memory_tokens = tokens, memory_tokens
        self.nodes: list[Node] = []
        self.steps: list[Step] = []
        self.node_of: list[int] = [-1, -1]
        # Dtype of each value: with autocast some are fp32.
        self.dtype_of: list[str] = [setting.precision.stream] * 2
        self.autocast = setting.precision.autocast and setting.training
        self._quantised: dict[int, int] = {}
        # Values that what made them has written quantised.
        self._fed: set[int] = set()
        precision = setting.precision
        self.act_bytes = DTYPE_BYTES[precision.act]
        self.math_bytes = DTYPE_BYTES[precision.math]
        self.plain_math = precision.act if precision.quantised else precision.math
        self.core = False
        self.decoding = False  # a decode step, which is captured
        self._lane = COMPUTE

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Put operators on a second stream, in decode steps of stacks that do so."""
        if self.decoding and self.setting.stack.overlap.beside:
            self._lane = BESIDE
        try:
            yield
        finally:
            self._lane = COMPUTE

    # Operands ---------------------------------------------------------------

    def act(self, numel: float) -> Operand:
        """Activations of ``numel`` values."""
        return Operand("activation", numel * self.act_bytes, self.setting.precision.act)

    def held(self, numel: float, dtype: str) -> Operand:
        """Activations of ``numel`` values in a dtype of their own."""
        return Operand("activation", numel * DTYPE_BYTES[dtype], dtype)

    def stream(self, numel: float) -> Operand:
        """Values of the residual stream."""
        return self.held(numel, self.setting.precision.stream)

    def parameters(self, numel: float) -> Operand:
        """Unquantised parameters: norms, biases, tables."""
        if not self.autocast:
            return Operand("weight", numel * self.act_bytes, self.setting.precision.act)
        return Operand("weight", numel * 4.0, "fp32")

    def feed(self, numel: float) -> Operand:
        """Values on their way into a linear layer, quantised if that is fused."""
        precision = self.setting.precision
        fused = self.setting.fusion.quantize and not self.setting.two_passes
        if precision.quantised and fused:
            return Operand("activation", numel * self.math_bytes, precision.math)
        return self.act(numel)

    # Nodes ------------------------------------------------------------------

    def put(
        self,
        op: Op,
        inputs: tuple[int, ...],
        rule: Rule,
        *,
        numel: float = 0.0,
        stream: str = "",
        bias: float = 0.0,
        sliced: bool = False,
        extra: dict[str, float] | None = None,
        dtype: str = "",
    ) -> int:
        """Append an operator that reads the given values; return its value."""
        node_of = self.node_of
        dtype = dtype or self.setting.precision.act
        self.dtype_of.append(dtype)
        deps = tuple(sorted({node_of[i] for i in inputs if node_of[i] >= 0}))
        synced = self.waits_on_host(self.nodes, deps)
        self.nodes.append(Node(op, deps, stream or self._lane, synced=synced))
        node_of.append(len(self.nodes) - 1)
        if self.setting.training:
            self.steps.append(
                Step(
                    op, inputs, rule, numel, bias, self.core, sliced, extra or {},
                    dtype=dtype, source=self.dtype_of[inputs[0]],
                )
            )  # fmt: skip
        return len(node_of) - 1

    def waits_on_host(self, nodes: list[Node], deps: tuple[int, ...]) -> bool:
        """Whether the host waits for what a node depends on before it launches it."""
        setting = self.setting
        if not (setting.training and setting.stack.launch.collectives_wait):
            return False
        return any(nodes[dep].stream == "tp" for dep in deps)

    def alias(self, source: int, rule: Rule, numel: float) -> int:
        """Record a value that costs nothing forward but something backward."""
        self.node_of.append(self.node_of[source])
        dtype = self.dtype_of[source]
        self.dtype_of.append(dtype)
        self.steps.append(
            Step(
                None, (source,), rule, numel, core=self.core, dtype=dtype, source=dtype
            )
        )
        return len(self.node_of) - 1

    def block(self, name: str, output: int, repeat: int = 1) -> Block:
        """Return the block; ``output`` is the value that the next one needs."""
        index = self.node_of[output]
        return Block(name, tuple(self.nodes), repeat, index if index >= 0 else -1)
