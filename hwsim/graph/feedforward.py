"""Feed-forward block of one layer: dense, gated or a mixture of experts."""

from __future__ import annotations

from typing import NamedTuple

from hwsim.graph.moe import experts, joint_experts, spread_experts
from hwsim.graph.op import Elementwise, Operand
from hwsim.graph.setting import Pass
from hwsim.graph.writer import Writer
from hwsim.specs.model import LayerKind

# Arithmetic of one activation value. [FLOP]
ACTIVATION_FLOP = {"relu": 1.0, "relu2": 2.0, "silu": 4.0, "gelu": 8.0}


def feed_forward(w: Writer, x: int, p: Pass, kind: LayerKind) -> tuple[int, bool]:
    """Append the feed-forward block.

    Returns
    -------
    tuple of int and bool
        The value, and whether it is the whole sum: else it is one device's
        part.
    """
    model = w.setting.model
    layout = w.setting.layout
    if kind.moe and not layout.whole_experts:
        joint = layout.expert_mode == "gather"
        append = joint_experts if joint else spread_experts
        return append(w, x, p.tokens, dense)
    x = w.enter(x, "ffn_gather", p.tokens)
    if not kind.moe:
        out = dense(
            w, x, p.tokens, w.setting.shard.ffn, model.gated_ffn, bias=model.ffn_bias
        )
    else:
        out = experts(w, x, p.tokens, dense)
    return out, False


def dense(
    w: Writer,
    x: int,
    tokens: int,
    width: int,
    gated: bool,
    *,
    bias: bool,
    prefix: str = "",
) -> int:
    """Append two or, gated, three projections around an activation."""
    hidden, fusion = w.setting.model.hidden, w.setting.fusion
    defer = bias and not gated and fusion.activation
    if not gated:
        up = w.linear(
            f"{prefix}up", x, tokens, width, hidden, bias=bias, defer_bias=defer
        )
        parts: tuple[int, ...] = (up,)
    elif fusion.gate_up:
        parts = (w.linear(f"{prefix}gate_up", x, tokens, 2 * width, hidden, bias=bias),)
    else:
        parts = (
            w.linear(f"{prefix}gate", x, tokens, width, hidden, bias=bias),
            w.linear(f"{prefix}up", x, tokens, width, hidden, bias=bias),
        )
    y = _activation(w, parts, tokens * width, gated, width if defer else 0, prefix)
    return w.linear(f"{prefix}down", y, tokens, hidden, width, bias=bias)


def _activation(
    w: Writer, parts: tuple[int, ...], numel: float, gated: bool, bias: int, prefix: str
) -> int:
    function = w.setting.model.activation
    flop = ACTIVATION_FLOP[function]
    name = f"{prefix}{function}"
    if function == "gelu" and not gated and not w.setting.fusion.gelu:
        return _gelu_operators(w, name, parts, numel, bias)
    if not gated:
        kernels = 2 if function == "relu2" and not w.setting.fusion.activation else 1
        return w.elementwise(
            name, function, parts, numel=numel, reads=numel * kernels,
            writes=numel * kernels, weights=bias, flop_per_value=flop,
            kernels=kernels, to_linear=True,
        )  # fmt: skip
    if w.setting.fusion.activation:
        return w.elementwise(
            f"{name}_and_mul", f"{function}_and_mul", parts, numel=numel,
            reads=2 * numel, writes=numel, flop_per_value=flop + 1.0, to_linear=True,
        )  # fmt: skip
    gate = w.elementwise(
        name, function, parts[:1], numel=numel, reads=numel, flop_per_value=flop
    )
    return w.elementwise(
        f"{prefix}mul", "mul", (gate, parts[-1]), numel=numel, reads=2 * numel,
        writes=numel, to_linear=True,
    )  # fmt: skip


class _Passes(NamedTuple):
    """Narrow and wide values that are read and written, in so many kernels."""

    reads: tuple[float, float]
    writes: tuple[float, float]
    kernels: int

    def nbytes(self, w: Writer) -> tuple[float, float]:
        """Return bytes read and written of each value."""
        narrow, wide = w.act_bytes, 4.0 if w.autocast else w.act_bytes
        read, written = self.reads, self.writes
        return (
            read[0] * narrow + read[1] * wide, written[0] * narrow + written[1] * wide
        )  # fmt: skip


# The tanh form of GELU, x/2 (1 + tanh(c (x + a x^3))), one kernel for each
# operator: cube, product, sum, product, tanh, sum, half, product; backward two
# for each product of two tensors, three for the cube, and two sums
# (D. Hendrycks and K. Gimpel, 2016, arXiv:1606.08415).
_GELU = (_Passes((10, 0), (8, 0), 8), _Passes((17, 0), (11, 0), 11))
# With autocast the cube runs in fp32, and by promotion all that follows it:
# one cast before, and backward three to the input's dtype.
_GELU_AUTOCAST = (_Passes((4, 7), (1, 8), 9), _Passes((6, 14), (6, 8), 14))


def _gelu_operators(
    w: Writer, name: str, parts: tuple[int, ...], numel: float, bias: int
) -> int:
    """Append GELU written in a framework's operators."""
    forward, backward = _GELU_AUTOCAST if w.autocast else _GELU
    reads, writes = forward.nbytes(w)
    precision = w.setting.precision
    if bias:
        parts = (
            w.elementwise(
                f"{name}_bias", "add_bias", parts, numel=numel, reads=numel,
                weights=bias, rule="through",
            ),
        )  # fmt: skip
    dtype = precision.stream if w.autocast else precision.act
    op = Elementwise(
        name=name,
        dtype=precision.vector,
        numel=numel,
        function="gelu",
        flop_per_value=ACTIVATION_FLOP["gelu"],
        reads=(Operand("activation", numel * reads, dtype),),
        writes=(Operand("activation", numel * writes, dtype),),
        kernels=forward.kernels,
    )
    reads, writes = backward.nbytes(w)
    extra = {
        "back_reads": numel * reads, "back_writes": numel * writes,
        "back_kernels": float(backward.kernels),
    }  # fmt: skip
    return w.put(op, parts, "function", numel=numel, extra=extra, dtype=dtype)
