"""What a framework's operators do beside the products of routed experts."""

from __future__ import annotations

from typing import NamedTuple

from hwsim.graph.op import Elementwise
from hwsim.graph.writer import Writer
from hwsim.specs.model import MoeSpec

CLAMPS = ("clamp", "clamp_join")


class _Passes(NamedTuple):
    """Passes over 16-bit values that are read and written, and their kernels.

    ``singly`` of them have a strided or broadcast operand.
    """

    reads: float
    writes: float
    kernels: float
    singly: float = 0.0


class _Pair(NamedTuple):
    forward: _Passes
    backward: _Passes


# Megatron-Core, fused_bias_geglu.py: each half is clamped, both are joined; backward
# compares with each bound, joins two masks, selects, and joins the halves. Halves
# are strided views. By inner value.
_CLAMP = _Pair(_Passes(2, 2, 2, 2), _Passes(6, 3.5, 5, 5))
_CLAMP_JOIN = _Pair(_Passes(2, 2, 1), _Passes(3, 2.5, 2))
# Its TEGroupedMLP adds each expert's bias times the rows' weights: a product by
# broadcasting, a sum, and the experts' rows joined; backward has two such products,
# summed over rows and over columns. By row value. Kernels of the first and the third
# are per expert.
_BIAS = _Pair(_Passes(0, 1, 1, 1), _Passes(2, 2, 2, 2))
_BIAS_SUM = _Pair(_Passes(3, 2, 1), _Passes(3, 1, 2))
# With weights in fp32, which DeepEP and Hybrid-EP hand over, so is all up to a cast.
_WIDE = _Pair(_Passes(3, 4, 2, 2), _Passes(4, 4, 2, 2))
_WIDE_SUM = _Pair(_Passes(4, 3, 1), _Passes(8, 4, 4))


def expert_operators(
    w: Writer, y: int, values: tuple[float, float], moe: MoeSpec
) -> int:
    """Append clamps and biases of experts where they are operators of their own.

    Parameters
    ----------
    values : tuple of float
        Values of all rows, and of what lies between the products.
    """
    rows, inner = values
    if moe.clamped:
        for name, pair in zip(CLAMPS, (_CLAMP, _CLAMP_JOIN), strict=True):
            y = _operator(w, name, y, (rows, inner), pair)
    if moe.expert_bias:
        setting = w.setting
        local = moe.experts / setting.layout.ep
        wide = setting.fusion.exchange != "all_to_all" and setting.layout.ep > 1
        first, rest = (_WIDE, _WIDE_SUM) if wide else (_BIAS, _BIAS_SUM)
        y = _operator(w, "expert_bias", y, (rows, rows), first, local)
        y = _operator(w, "expert_bias_sum", y, (rows, rows), rest, local)
    return y


def _operator(
    w: Writer, name: str, y: int, values: tuple[float, float], pair: _Pair,
    times: float = 1.0,
) -> int:  # fmt: skip
    """Append one group of kernels; ``values``: of the result, and of a pass."""
    numel, passed = values
    ahead, back = pair
    op = Elementwise(
        name=name, dtype=w.setting.precision.vector, numel=passed, function=name,
        reads=(w.act(ahead.reads * passed),), writes=(w.act(ahead.writes * passed),),
        kernels=int(ahead.kernels * times), singly=ahead.singly * passed,
    )  # fmt: skip
    extra = {
        "back_reads": back.reads * passed * w.act_bytes,
        "back_writes": back.writes * passed * w.act_bytes,
        "back_kernels": float(int(back.kernels * times)),
        "back_singly": back.singly * passed,
    }
    return w.put(op, (y,), "function", numel=numel, extra=extra)
