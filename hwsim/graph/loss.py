"""Cross-entropy over a vocabulary that tensor parallelism may divide."""

from __future__ import annotations

from hwsim.graph.op import CrossEntropy, Elementwise, Op, Operand, Phase, Softmax
from hwsim.graph.setting import Setting
from hwsim.graph.writer import Writer
from hwsim.specs.base import DTYPE_BYTES


def cross_entropy(w: Writer, logits: int, rows: float) -> tuple[int, int]:
    """Append loss and its gradient; return (loss value, gradient's node).

    Frameworks compute it in fp32. Fused, one kernel each reads the logits and
    writes their gradient; otherwise cast, log-softmax, gather and the
    backward of each are kernels of their own.
    """
    columns = float(w.setting.shard.vocab)
    _metrics(w, logits, rows, columns)
    if w.setting.fusion.cross_entropy:
        return _fused(w, logits, rows, columns)
    if w.setting.fusion.loss == "vocab_parallel":
        return _vocab_parallel(w, logits, rows, columns)
    return _unfused(w, logits, rows, columns)


def loss_bytes(setting: Setting) -> float:
    """Return the bytes per logit that are there at once at the loss's fullest.

    Logits and, fused or compiled, their gradient; Megatron's in place, their fp32
    copy; else the copies that a framework's own kernels hold.
    """
    act, fusion = DTYPE_BYTES[setting.precision.act], setting.fusion
    copies = 1 if fusion.loss == "vocab_parallel" else setting.stack.held.losses
    if fusion.cross_entropy or not copies:
        return 2.0 * act
    return act + 4.0 * copies


def _wide(numel: float) -> Operand:
    return Operand("activation", numel * 4.0, "fp32")


def _reductions(w: Writer, x: int, rows: float, *names: str) -> int:
    """Append the reductions over the vocabulary's shards."""
    if w.setting.shard.tp == 1:
        return x
    for name in names:
        x = w.collective(f"loss_{name}", "all_reduce", (x,), rows * 4.0)
    return x


def _metrics(w: Writer, logits: int, rows: float, columns: float) -> None:
    """Append what a framework computes from the logits for its log alone."""
    for number in range(w.setting.stack.loss_metrics):
        op = Softmax(
            name=f"loss_metric_{number + 1}",
            dtype=w.setting.precision.vector,
            rows=rows,
            columns=columns,
            reads=(w.act(rows * columns),),
            writes=(w.act(rows * columns),),
            kernels=2,
        )
        _put(w, op, logits)


def _put(w: Writer, op: Op, x: int) -> int:
    return w.put(op, (x,), "none")


def _fused(w: Writer, logits: int, rows: float, columns: float) -> tuple[int, int]:
    def kernel(name: str, phase: Phase, writes: Operand) -> CrossEntropy:
        return CrossEntropy(
            name=name,
            dtype=w.setting.precision.vector,
            rows=rows,
            columns=columns,
            reads=(w.act(rows * columns),),
            writes=(writes,),
            phase=phase,
        )

    loss = _put(w, kernel("cross_entropy", "forward", _wide(rows)), logits)
    loss = _reductions(w, loss, rows, "maximum", "sum")
    gradient = kernel("cross_entropy_gradient", "backward", w.act(rows * columns))
    return loss, w.node_of[_put(w, gradient, loss)]


# Passes over fp32 logits, and whether each writes them; ranks sum after some.
_PASSES: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("maximum", False, ("maximum",)), ("subtract", True, ()), ("exp", True, ()),
    ("sum", False, ("sum", "target")), ("divide", True, ()),
)  # fmt: skip


def _vocab_parallel(
    w: Writer, logits: int, rows: float, columns: float
) -> tuple[int, int]:
    """Append Megatron's loss over a vocabulary shared out, in place and in fp32.

    References
    ----------
    .. [1] Megatron-LM, megatron/core/tensor_parallel/cross_entropy.py. Compiled
       (fused_cross_entropy.py) it moves as much: updates in place beside a sum are
       written twice.
    """
    numel = rows * columns
    wide, narrow = _wide(numel), w.act(numel)
    x = _put(w, _pass(w, "logits_cast", numel, narrow, wide), logits)
    for name, writes, sums in _PASSES:
        made = _pass(w, name, numel, wide, wide if writes else _wide(rows))
        x = _reductions(w, _put(w, made, x), rows, *sums)
    loss = _put(w, _pass(w, "loss", rows, _wide(rows), _wide(rows)), x)
    x = _put(w, _pass(w, "loss_gradient", numel, wide, wide, "backward"), loss)
    cast = _pass(w, "logits_cast_gradient", numel, wide, narrow, "backward")
    return loss, w.node_of[_put(w, cast, x)]


def _unfused(w: Writer, logits: int, rows: float, columns: float) -> tuple[int, int]:
    numel = rows * columns
    narrow = DTYPE_BYTES[w.setting.precision.act] < 4
    x = logits
    if narrow:
        x = _put(w, _pass(w, "logits_cast", numel, w.act(numel), _wide(numel)), x)
    x = _reductions(w, x, rows, "maximum")
    softmax = Softmax(
        name="log_softmax",
        dtype=w.setting.precision.vector,
        rows=rows,
        columns=columns,
        reads=(_wide(numel),),
        writes=(_wide(numel),),
    )
    x = _reductions(w, _put(w, softmax, x), rows, "sum", "target")
    loss = _put(w, _pass(w, "loss", rows, _wide(rows), _wide(rows)), x)
    x = _put(
        w, _pass(w, "loss_gradient", numel, _wide(rows), _wide(numel), "backward"), loss
    )
    turned = Softmax(
        name="log_softmax_gradient",
        dtype=w.setting.precision.vector,
        rows=rows,
        columns=columns,
        reads=(_wide(2.0 * numel),),
        writes=(_wide(numel),),
        phase="backward",
    )
    x = _put(w, turned, x)
    if narrow:
        cast = _pass(
            w, "logits_cast_gradient", numel, _wide(numel), w.act(numel), "backward"
        )
        x = _put(w, cast, x)
    return loss, w.node_of[x]


def _pass(
    w: Writer,
    name: str,
    numel: float,
    reads: Operand,
    writes: Operand,
    phase: Phase = "forward",
) -> Elementwise:
    return Elementwise(
        name=name,
        dtype=w.setting.precision.vector,
        numel=numel,
        function="cast" if "cast" in name else "gather",
        reads=(reads,),
        writes=(writes,),
        phase=phase,
    )
