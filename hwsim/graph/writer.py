"""Writes the operators of one block, and records what backward needs of them."""

from __future__ import annotations

import numpy as np

from hwsim.graph.communicate import Communicator, group_collective, tp_collective
from hwsim.graph.op import Copy, Elementwise, Matmul, Norm, Operand
from hwsim.graph.opgraph import Node
from hwsim.graph.record import INPUT, MEMORY, Rule, Step
from hwsim.specs.base import DTYPE_BYTES

# Products of so few rows stream their weights as they are stored, and take and give
# activations as they are kept (llama.cpp: up to 8 by vectors, 32 by small tiles).
FEW_ROWS = 32

__all__ = [
    "INPUT",
    "MEMORY",
    "Rule",
    "Step",
    "Writer",
    "group_collective",
    "tp_collective",
]


def _many(rows: float) -> bool:
    return bool(np.all(np.asarray(rows) > FEW_ROWS))


class Writer(Communicator):
    """Appends operators to a block in program order.

    Values are small integers; ``INPUT`` and ``MEMORY`` stand for what comes
    from other blocks.
    """

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
            self.feed(out)
            if to_linear and narrow and self.setting.fusion.quantize_activation
            else self.held(out, dtype),
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
        if narrow and not self.setting.two_passes:
            self._fed.add(out)
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
        alignment: float = 16.0,
    ) -> int:
        """Append ``batch`` products of activations with stored weights.

        ``quantise=False`` keeps the layer in the activations' dtype;
        ``defer_bias`` leaves the bias to the operator that follows;
        ``alignment`` is where rows begin [B].
        """
        setting, precision = self.setting, self.setting.precision
        math, weight = self._math(name), precision.weight
        if self.autocast:
            x = self.narrowed(x, batch * m * k)
            self._cast_weight(name, batch * n * k)
        if not quantise:
            math, weight = self.plain_math, precision.table
        elif precision.quantised and math != self.plain_math:
            x = self.quantised(x, batch * m * k)
        apart = False
        if _many(m) and setting.fusion.stored == "copied":
            weight = self._copied(name, batch * n * k, math, weight)
            x, apart = self._apart(x, batch * m * k, math, weight)
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
        numel = batch * m * n
        op = Matmul(
            name=name, dtype=math, m=m, n=n, k=k, batch=batch, a_bytes=a_bytes,
            b_bytes=b_bytes, c_bytes=a_bytes if apart else self.act_bytes,
            reads=tuple(reads), alignment=alignment,
            writes=(self.held(numel, math) if apart else self.act(numel),),
        )  # fmt: skip
        out = self.put(
            op, (x,), "linear", numel=numel, bias=n if fused else 0.0, sliced=sliced,
            dtype=math if apart else "",
        )  # fmt: skip
        if apart:
            out = self.cast(f"{name}_widen", out, numel, precision.act)
        if bias and not defer_bias and not fused:
            out = self._bias(name, out, numel, batch * n)
        if setting.lora is not None and setting.lora.adapts(name):
            out = self._adapted(name, x, out, (m, n, k), sliced=sliced)
        return out

    def _copied(self, name: str, numel: float, math: str, weight: str) -> str:
        """Append the kernel that writes a narrower weight for a library.

        Return the dtype that its product reads.
        """
        if DTYPE_BYTES[weight] >= DTYPE_BYTES[math] or self.setting.stack.stored_int8:
            return weight
        op = Elementwise(
            name=f"{name}_dequantize",
            dtype=self.setting.precision.vector,
            numel=numel,
            function="cast",
            flop_per_value=1.0,
            reads=(Operand("weight", numel * DTYPE_BYTES[weight], weight),),
            writes=(Operand("weight", numel * DTYPE_BYTES[math], math),),
        )
        self.nodes.append(Node(op))
        return math

    def _apart(self, x: int, numel: float, math: str, weight: str) -> tuple[int, bool]:
        """Return what a library's product reads, and whether its dtype is apart."""
        if not self.setting.precision.widened or weight != math:
            return x, False
        return self.cast("cast", x, numel, math), True

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

    def _math(self, name: str) -> str:
        """Return the dtype of a product, which may be wider than most in training."""
        math, narrow = self.setting.precision.math, self.setting.model.narrow
        if narrow is None or not self.setting.training:
            return math
        return narrow.dtype(name, math, self.plain_math)

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
