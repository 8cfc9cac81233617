"""Backward operators of single forward operators, with their traffic."""

from __future__ import annotations

from dataclasses import replace

from hwsim.graph.op import (
    Attention,
    Elementwise,
    Matmul,
    MoeExperts,
    Norm,
    Op,
    Operand,
    Softmax,
)
from hwsim.graph.scan import SelectiveScan, StateScan
from hwsim.graph.writer import Step, Writer
from hwsim.specs.base import DTYPE_BYTES


def gradient_writes(w: Writer, numel: float) -> Operand:
    """Parameter gradients of ``numel`` values."""
    dtype = w.setting.precision.grad
    return Operand("gradient", numel * DTYPE_BYTES[dtype], dtype)


def gradient_reads(w: Writer, numel: float) -> tuple[Operand, ...]:
    """Gradients of earlier microbatches, which new ones are added to."""
    added = w.setting.accumulate and w.setting.fusion.accumulate
    return (gradient_writes(w, numel),) if added else ()


def input_gradient(w: Writer, op: Matmul) -> Matmul:
    """dx[m, k] = dy[m, n] · W[n, k]."""
    moved = op.batch * op.m * op.n * op.a_bytes
    return replace(
        op,
        name=f"{op.name}_input_gradient",
        phase="backward",
        n=op.k,
        k=op.n,
        reads=(Operand("activation", moved, op.dtype), op.reads[1]),
        writes=(w.act(op.batch * op.m * op.k),),
    )


def weight_gradient(w: Writer, op: Matmul, bias: float) -> Matmul:
    """dW[n, k] = dy[m, n]^T · x[m, k], and the bias's sum if that is fused."""
    numel = op.batch * (op.n * op.k + bias)
    moved = op.batch * op.m * op.n * op.a_bytes
    grad = DTYPE_BYTES[w.setting.precision.grad]
    written: tuple[Operand, ...] = (gradient_writes(w, numel),)
    added = gradient_reads(w, numel)
    if w.autocast:  # the product's own dtype; a cast follows
        grad, written, added = w.act_bytes, (w.act(numel),), ()
    return replace(
        op,
        name=f"{op.name}_weight_gradient",
        phase="backward",
        m=op.n,
        n=op.k,
        k=op.m,
        b_bytes=op.a_bytes,
        c_bytes=grad,
        reads=(
            Operand("activation", moved, op.dtype),
            op.reads[0],
            *added,
        ),
        writes=written,
    )


def gradient_cast(w: Writer, op: Matmul, bias: float) -> Op:
    """Cast of a weight's gradient to the dtype that gradients are kept in."""
    numel = op.batch * (op.n * op.k + bias)
    return Elementwise(
        name=f"{op.name}_gradient_cast",
        dtype=w.setting.precision.vector,
        numel=numel,
        function="cast",
        flop_per_value=0.0,
        reads=(w.act(numel), *gradient_reads(w, numel)),
        writes=(gradient_writes(w, numel),),
        phase="backward",
    )


def product_gradients(w: Writer, op: Matmul) -> tuple[Matmul, Matmul]:
    """Gradients of both factors of out[m, n] = a[m, k] · b[k, n]."""
    out = w.act(op.batch * op.m * op.n)
    a, b = op.reads
    first = replace(
        op,
        name=f"{op.name}_first_gradient",
        phase="backward",
        n=op.k,
        k=op.n,
        reads=(out, b),
        writes=(a,),
    )
    second = replace(
        op,
        name=f"{op.name}_second_gradient",
        phase="backward",
        m=op.k,
        k=op.m,
        reads=(a, out),
        writes=(b,),
    )
    return first, second


def function_gradient(w: Writer, step: Step, *, saved: bool = True) -> Op:
    """Gradient of the input from dy and, if ``saved``, from what forward read."""
    op, dy = step.op, w.held(step.numel, step.dtype)
    if op is None:
        raise TypeError("a step without an operator has no function")
    inputs = step.extra.get("reads", step.numel)
    mask = step.extra.get("mask", 0.0)
    masked = (Operand("activation", mask, "int8"),) if mask else ()
    if isinstance(op, Softmax):
        kept = w.held(inputs, step.kept or step.dtype)
        return replace(
            op, name=f"{op.name}_gradient", phase="backward",
            reads=(dy, kept, *masked), writes=(w.held(inputs, step.source),),
        )  # fmt: skip
    reads, out = [dy], inputs if saved else step.numel
    if saved:
        reads.append(w.held(inputs, step.source))
    reads += masked
    several = step.extra.get("back_kernels", 0.0)
    if several:
        reads = [w.held(step.extra["back_reads"] / DTYPE_BYTES[step.dtype], step.dtype)]
        out = step.extra["back_writes"] / DTYPE_BYTES[step.source]
    return Elementwise(
        name=f"{op.name}_gradient",
        dtype=op.dtype,
        numel=step.numel,
        function=f"{getattr(op, 'function', op.kind)}_gradient",
        flop_per_value=2.0 * getattr(op, "flop_per_value", 1.0),
        reads=tuple(reads),
        writes=(w.held(out, step.source),),
        phase="backward",
        kernels=int(several) or 1,
        singly=step.extra.get("back_singly", 0.0),
    )


def row_gradient(w: Writer, numel: float, columns: float, dtype: str = "") -> Op:
    """Sum of ``numel`` gradients into ``columns`` parameters' gradients."""
    return Elementwise(
        name="row_gradient",
        dtype=w.setting.precision.vector,
        numel=numel,
        function="reduce_rows",
        reads=(
            w.held(numel, dtype or w.setting.precision.act),
            *gradient_reads(w, columns),
        ),
        writes=(gradient_writes(w, columns),),
        phase="backward",
    )


def turned_round(op: Op) -> Op:
    """Return a copy, rotation or exchange of rows with traffic reversed."""
    return replace(
        op,
        name=f"{op.name}_gradient",
        phase="backward",
        reads=op.writes,
        writes=tuple(o for o in op.reads if o.role != "index"),
    )


def attention_gradient(w: Writer, step: Step) -> Op:
    """Gradient of fused attention.

    It reads what forward read and wrote and the output's gradient, and
    writes one for each query, key and value; two small kernels sum rows
    before and convert the queries' gradient after.
    """
    op = step.op
    if not isinstance(op, Attention):
        raise TypeError("the step is no fused attention")
    return _kernel_gradient(w, op, step.numel)


def ring_gradients(w: Writer, step: Step) -> tuple[Op, Op | None]:
    """Gradients on a rank's own keys, and on each other rank's if it has them.

    The gradient of the queries so far is read and written again.
    """
    op, other = step.op, step.other
    if not isinstance(op, Attention):
        raise TypeError("the step is no fused attention")
    own = _kernel_gradient(w, op, step.numel)
    if other is None:
        return own, None
    plain = replace(other, reads=other.reads[:-1])
    made = _kernel_gradient(w, plain, step.numel)
    return own, replace(made, reads=(*made.reads, op.reads[0]))


def _kernel_gradient(w: Writer, op: Attention, numel: float) -> Attention:
    sinks = 1 if w.setting.model.attention_sinks else 0
    return replace(
        op,
        name=f"{op.name}_gradient",
        phase="backward",
        reads=(*op.reads, *op.writes, w.act(numel)),
        writes=(*op.reads[: len(op.reads) - sinks],),
        kernels=3,
    )


def scan_gradient(w: Writer, step: Step) -> StateScan | SelectiveScan:
    """Gradient of a scan: its states once more, then all that forward moved.

    Gradients of decays, steps and skips are summed on the way.
    """
    op = step.op
    if not isinstance(op, StateScan | SelectiveScan):
        raise TypeError("the step is no scan")
    weights = step.extra["weights"] if w.setting.lora is None else 0.0
    trained = (gradient_writes(w, weights),) if weights else ()
    added = gradient_reads(w, weights) if weights else ()
    return replace(
        op,
        name=f"{op.name}_gradient",
        phase="backward",
        reads=(*op.reads, *op.writes, w.act(step.numel), *added),
        writes=(*op.reads, *trained),
        kernels=2 * op.kernels,
    )


def norm_gradient(w: Writer, step: Step) -> Op:
    """Gradient of a norm: one kernel for rows, one for its parameters."""
    op = step.op
    if not isinstance(op, Norm):
        raise TypeError("the step is no norm")
    numel, mask = step.numel, step.extra["mask"]
    weights = step.extra["weights"] if w.setting.lora is None else 0.0
    # dy and the input; a fused sum also reads the gradient that passes by.
    kept = DTYPE_BYTES[step.source]
    width = DTYPE_BYTES[step.dtype] + kept * (2 if op.fused_add else 1)
    reads = [Operand("activation", numel * width, step.source)]
    writes = [w.held(numel, step.source)]
    if mask or (op.fused_add and w.autocast):
        # The branch has a gradient of its own: masked, or narrower.
        branch = w.act(numel)
        total = writes[0].nbytes + branch.nbytes
        writes = [Operand("activation", total, step.source)]
    if weights:
        reads += [w.parameters(weights), *gradient_reads(w, weights)]
        writes.append(gradient_writes(w, weights))
    if mask:
        reads.append(Operand("activation", mask, "int8"))
    return replace(
        op,
        name=f"{op.name}_gradient",
        phase="backward",
        reads=tuple(reads),
        writes=tuple(writes),
        kernels=2 if weights else 1,
    )


def expert_gradient(w: Writer, step: Step) -> MoeExperts:
    """Gradients of the routed experts' inputs and weights.

    Each of forward's products becomes two; every expert's gradient is
    written, whether a token came or not.
    """
    op = step.op
    if not isinstance(op, MoeExperts):
        raise TypeError("the step is no experts' block")
    weights = step.extra["weights"]
    rows, *inner, stored = op.reads
    return replace(
        op,
        name=f"{op.name}_gradient",
        phase="backward",
        reads=(
            rows, rows, *inner, *inner, w.act(step.numel), stored,
            *gradient_reads(w, weights),
        ),
        writes=(*inner, w.act(step.numel), gradient_writes(w, weights)),
        passes=2.0,
        kernels=5,
    )  # fmt: skip
