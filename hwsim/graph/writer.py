"""Writes the nodes of one block, and records what backward needs of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hwsim.graph.op import (
    Attention,
    Collective,
    CollectiveName,
    Copy,
    Elementwise,
    Matmul,
    Norm,
    Op,
    Operand,
)
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.setting import Setting
from hwsim.specs.base import DTYPE_BYTES

INPUT = 0  # value that enters a block
MEMORY = 1  # value that enters a decoder layer from the encoder

Rule = Literal[
    "linear", "product", "through", "add", "scale", "function", "drop", "enter",
    "leave", "attention", "norm", "rows", "none", "dispatch", "experts", "combine",
    "ring", "exchange", "scatter", "slice",
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


class Writer:
    """Appends operators to a block in program order.

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
        precision = setting.precision
        self.act_bytes = DTYPE_BYTES[precision.act]
        self.math_bytes = DTYPE_BYTES[precision.math]
        self.plain_math = precision.act if precision.quantised else precision.math
        self.core = False

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
        if precision.quantised and self.setting.fusion.quantize:
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
        stream: str = COMPUTE,
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
        self.nodes.append(Node(op, deps, stream))
        node_of.append(len(self.nodes) - 1)
        if self.setting.training:
            self.steps.append(
                Step(
                    op, inputs, rule, numel, bias, self.core, sliced, extra or {},
                    dtype=dtype, source=self.dtype_of[inputs[0]],
                )
            )  # fmt: skip
        return len(node_of) - 1

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

    def elementwise(
        self,
        name: str,
        function: str,
        inputs: tuple[int, ...],
        *,
        numel: float,
        reads: float,
        writes: float | None = None,
        weights: float = 0.0,
        rule: Rule = "function",
        flop_per_value: float = 1.0,
        kernels: int = 1,
        mask: float = 0.0,
        to_linear: bool = False,
        onto_stream: bool = False,
    ) -> int:
        """Append an elementwise operator; sizes are in values.

        ``onto_stream``: a branch is added to the residual stream, which is
        the second input.
        """
        out = numel if writes is None else writes
        dtype, moved = self._elementwise_dtype(inputs, reads, onto_stream)
        if to_linear and self.setting.fusion.quantize:
            dtype = self.setting.precision.act
        read = (moved, self.parameters(weights))
        narrow = dtype == self.setting.precision.act
        written: tuple[Operand, ...] = (
            self.feed(out) if to_linear and narrow else self.held(out, dtype),
        )
        if mask:
            written += (Operand("activation", mask, "int8"),)
        op = Elementwise(
            name=name,
            dtype=self.setting.precision.vector,
            numel=numel,
            function=function,
            flop_per_value=flop_per_value,
            reads=read if weights else read[:1],
            writes=written,
            kernels=kernels,
        )
        extra = {"reads": reads, "mask": mask, "weights": weights}
        return self.put(op, inputs, rule, numel=out, extra=extra, dtype=dtype)

    def _elementwise_dtype(
        self, inputs: tuple[int, ...], reads: float, onto_stream: bool
    ) -> tuple[str, Operand]:
        """Return the widest dtype of the inputs, and what is read of them."""
        precision = self.setting.precision
        if not self.autocast:
            return precision.act, self.act(reads)
        dtypes = [self.dtype_of[i] for i in inputs]
        if onto_stream:
            dtypes[-1] = precision.stream
        widths = [DTYPE_BYTES[d] for d in dtypes]
        dtype = max(dtypes, key=DTYPE_BYTES.__getitem__)
        nbytes = reads * sum(widths) / len(widths)
        return dtype, Operand("activation", nbytes, dtype)

    def copy(
        self,
        name: str,
        inputs: tuple[int, ...],
        reads: Operand,
        writes: Operand,
        *,
        sliced: bool = False,
        kernels: int = 1,
    ) -> int:
        """Append a copy inside the device."""
        if reads.role == writes.role == "activation" and self.autocast and inputs:
            dtype = self.dtype_of[inputs[0]]
            wide = DTYPE_BYTES[dtype] / self.act_bytes
            reads = Operand(reads.role, reads.nbytes * wide, dtype)
            writes = Operand(writes.role, writes.nbytes * wide, dtype)
        op = Copy(
            name=name,
            dtype=writes.dtype,
            reads=(reads,),
            writes=(writes,),
            kernels=kernels,
        )
        known = DTYPE_BYTES.get(writes.dtype, self.act_bytes)
        numel = writes.nbytes / (known if self.autocast else self.act_bytes)
        return self.put(
            op, inputs, "scale", numel=numel, sliced=sliced,
            dtype=writes.dtype if self.autocast else "",
        )  # fmt: skip

    def norm(
        self,
        name: str,
        inputs: tuple[int, ...],
        rows: float,
        columns: float,
        *,
        fused_add: bool = False,
        weights: bool = True,
        to_linear: bool = True,
    ) -> int:
        """Append a norm; ``fused_add`` sums its two inputs first."""
        model, numel = self.setting.model, rows * columns
        scale = columns * (1 + model.norm_bias) if weights else 0.0
        mask = numel if fused_add and self.setting.dropout else 0.0
        source = self.dtype_of[inputs[-1]]
        if fused_add:
            source = self.setting.precision.stream
        narrow = to_linear and (self.setting.fusion.quantize or not self.autocast)
        dtype = self.setting.precision.act if narrow else source
        reads = [self.held(numel, source)]
        if fused_add:
            branch = self.held(numel, self.dtype_of[inputs[0]])
            reads[0] = Operand("activation", reads[0].nbytes + branch.nbytes, source)
        writes = [self.feed(numel) if narrow else self.held(numel, dtype)]
        if scale:
            reads.append(self.parameters(scale))
        if fused_add:
            writes.append(self.stream(numel))
        if mask:
            writes.append(Operand("activation", mask, "int8"))
        op = Norm(
            name=name,
            dtype=self.setting.precision.vector,
            rows=rows,
            columns=columns,
            function=model.norm,
            fused_add=fused_add,
            reads=tuple(reads),
            writes=tuple(writes),
        )
        extra = {"weights": scale, "mask": mask}
        out = self.put(op, inputs, "norm", numel=numel, extra=extra, dtype=dtype)
        if self.setting.training:
            self.steps[-1].source = source
        return out

    def linear(
        self,
        name: str,
        x: int,
        m: float,
        n: float,
        k: float,
        *,
        bias: bool = False,
        batch: float = 1,
        quantise: bool = True,
        sliced: bool = False,
        defer_bias: bool = False,
    ) -> int:
        """Append ``batch`` products of activations with stored weights.

        ``quantise=False`` keeps the layer in the activations' dtype;
        ``defer_bias`` leaves the bias to the operator that follows.
        """
        setting, precision = self.setting, self.setting.precision
        math, weight = precision.math, precision.weight
        if self.autocast:
            x = self.narrowed(x, batch * m * k)
            self._cast_weight(name, batch * n * k)
        if not quantise:
            math, weight = self.plain_math, precision.table
        elif precision.quantised:
            x = self.quantised(x, batch * m * k)
        a_bytes, b_bytes = DTYPE_BYTES[math], DTYPE_BYTES[weight]
        if setting.training and quantise:
            b_bytes, weight = a_bytes, math
        fused = bias and not defer_bias and setting.fusion.bias
        reads = [
            Operand("activation", batch * m * k * a_bytes, math),
            Operand("weight", batch * n * k * b_bytes, weight),
        ]
        if fused:
            reads.append(self.parameters(batch * n))
        op = Matmul(
            name=name,
            dtype=math,
            m=m,
            n=n,
            k=k,
            batch=batch,
            a_bytes=a_bytes,
            b_bytes=b_bytes,
            c_bytes=self.act_bytes,
            reads=tuple(reads),
            writes=(self.act(batch * m * n),),
        )
        numel = batch * m * n
        out = self.put(
            op, (x,), "linear", numel=numel, bias=n if fused else 0.0, sliced=sliced
        )
        if bias and not defer_bias and not fused:
            out = self._bias(name, out, numel, batch * n)
        if setting.lora is not None and setting.lora.adapts(name):
            out = self._adapted(name, x, out, (m, n, k), sliced=sliced)
        return out

    def _adapted(
        self,
        name: str,
        x: int,
        out: int,
        shape: tuple[float, float, float],
        *,
        sliced: bool,
    ) -> int:
        """Append a low-rank adapter and the sum with what it adapts."""
        lora = self.setting.lora
        if lora is None:
            return out
        m, n, k = shape
        low = self.linear(f"{name}_lora_down", x, m, lora.rank, k, quantise=False)
        self.steps[-1].adapter = True
        up = self.linear(f"{name}_lora_up", low, m, n, lora.rank, quantise=False)
        self.steps[-1].adapter = True
        numel = m * n
        out = self.elementwise(
            f"{name}_lora_add", "add", (out, up), numel=numel, reads=2 * numel,
            writes=numel, rule="through",
        )  # fmt: skip
        self.steps[-1].sliced = sliced
        return out

    def _bias(self, name: str, x: int, numel: float, columns: float) -> int:
        """Append the addition of a bias as a kernel of its own."""
        return self.elementwise(
            f"{name}_bias", "add_bias", (x,), numel=numel, reads=numel,
            weights=columns, rule="through",
        )  # fmt: skip

    def quantised(self, x: int, numel: float) -> int:
        """Return the value in the matrix units' dtype, quantised once."""
        if self.setting.fusion.quantize:
            return x
        if x not in self._quantised:
            dtype = self.setting.precision.math
            op = Elementwise(
                name="quantize",
                dtype=self.setting.precision.vector,
                numel=numel,
                function="quantize",
                flop_per_value=3.0,
                reads=(self.act(numel),),
                writes=(Operand("activation", numel * self.math_bytes, dtype),),
            )
            self._quantised[x] = self.put(op, (x,), "through", numel=numel)
        return self._quantised[x]

    def narrowed(self, x: int, numel: float) -> int:
        """Return the value in the products' dtype; a cast if it is in fp32.

        Each use casts again, unless a compiler sees them all (autocast keeps
        the casts of parameters only).
        """
        act, dtype = self.setting.precision.act, self.dtype_of[x]
        if not self.autocast or dtype == act:
            return x
        if x not in self._quantised or not self.setting.fusion.quantize:
            self._quantised[x] = self.cast("cast", x, numel, act)
        return self._quantised[x]

    def cast(self, name: str, x: int, numel: float, dtype: str) -> int:
        """Append a cast of a value."""
        op = Elementwise(
            name=name,
            dtype=self.setting.precision.vector,
            numel=numel,
            function="cast",
            flop_per_value=0.0,
            reads=(self.held(numel, self.dtype_of[x]),),
            writes=(self.held(numel, dtype),),
        )
        return self.put(op, (x,), "scale", numel=numel, dtype=dtype)

    def _cast_weight(self, name: str, numel: float) -> None:
        """Append the cast of a weight, once in each forward pass."""
        act = self.setting.precision.act
        op = Elementwise(
            name=f"{name}_weight_cast",
            dtype=self.setting.precision.vector,
            numel=numel,
            function="cast",
            flop_per_value=0.0,
            reads=(Operand("weight", numel * 4.0, "fp32"),),
            writes=(Operand("weight", numel * self.act_bytes, act),),
        )
        self.nodes.append(Node(op))

    # Other parallelism ------------------------------------------------------

    def among(
        self,
        axis: str,
        name: str,
        collective: CollectiveName,
        inputs: tuple[int, ...],
        nbytes: float,
        rule: Rule,
        numel: float,
    ) -> int:
        """Append a collective of the context- or expert-parallel group."""
        op = group_collective(self.setting, axis, name, collective, nbytes)
        return self.put(op, inputs, rule, numel=numel, stream=axis)

    # Tensor parallelism -----------------------------------------------------

    def collective(
        self,
        name: str,
        collective: CollectiveName,
        inputs: tuple[int, ...],
        nbytes: float,
        rule: Rule = "none",
        numel: float = 0.0,
    ) -> int:
        """Append a collective of the tensor-parallel group."""
        act, dtype = self.setting.precision.act, self.dtype_of[inputs[0]]
        if dtype != act and rule != "none":
            nbytes *= DTYPE_BYTES[dtype] / self.act_bytes
        op = tp_collective(name, collective, nbytes, self.setting.shard.tp, dtype)
        return self.put(op, inputs, rule, numel=numel, stream="tp", dtype=dtype)

    def enter(self, x: int, name: str, tokens: float) -> int:
        """Begin a tensor-parallel region: gather the sequence if it is split."""
        setting = self.setting
        if setting.shard.tp == 1 or not setting.training:
            return x
        numel = tokens * setting.model.hidden
        if not setting.sequence_parallel:
            return self.alias(x, "enter", numel)
        nbytes = numel * self.act_bytes
        return self.collective(name, "all_gather", (x,), nbytes, "enter", numel)

    def leave(self, x: int, name: str, tokens: float) -> int:
        """End a tensor-parallel region: sum the devices' partial results."""
        setting = self.setting
        if setting.shard.tp == 1:
            return x
        numel = tokens * setting.model.hidden
        nbytes = numel * self.act_bytes
        kind: CollectiveName = (
            "reduce_scatter" if setting.sequence_parallel else "all_reduce"
        )
        out = self.collective(name, kind, (x,), nbytes, "leave", setting.outer(numel))
        if setting.stack.overlap.tp:
            self._beside_product(self.node_of[out])
        return out

    def _beside_product(self, index: int) -> None:
        """Let a collective start with the product whose parts it sends."""
        node = self.nodes[index]
        source = self.nodes[node.deps[-1]] if node.deps else node
        if isinstance(source.op, Matmul):
            self.nodes[index] = Node(node.op, source.deps, node.stream)

    def block(self, name: str, output: int, repeat: int = 1) -> Block:
        """Return the block; ``output`` is the value that the next one needs."""
        index = self.node_of[output]
        return Block(name, tuple(self.nodes), repeat, index if index >= 0 else -1)


def group_collective(
    setting: Setting, axis: str, name: str, collective: CollectiveName, nbytes: float
) -> Collective:
    """Return a collective of the context- or expert-parallel group."""
    layout, dtype = setting.layout, setting.precision.act
    moved = (Operand("activation", nbytes, dtype),)
    return Collective(
        name=name,
        dtype=dtype,
        collective=collective,
        message=nbytes,
        group_size=layout.cp if axis == "cp" else layout.ep,
        stride=layout.tp if axis == "cp" else layout.expert_stride,
        axis=axis,
        reads=moved,
        writes=moved,
    )


def tp_collective(
    name: str, collective: CollectiveName, nbytes: float, tp: int, dtype: str
) -> Collective:
    """Return a collective of the tensor-parallel group."""
    moved = (Operand("activation", nbytes, dtype),)
    return Collective(
        name=name,
        dtype=dtype,
        collective=collective,
        message=nbytes,
        group_size=tp,
        reads=moved,
        writes=moved,
    )
