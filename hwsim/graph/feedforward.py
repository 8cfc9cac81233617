"""Feed-forward block of one layer: dense, gated or a mixture of experts."""

from __future__ import annotations

from hwsim.graph.moe import experts, spread_experts
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
    if kind.moe and not w.setting.layout.whole_experts:
        return spread_experts(w, x, p.tokens, dense)
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
