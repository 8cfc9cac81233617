"""Cost forms of each kind of operator, for a group of operators in one call.

Columns are of shape (n_op,); in a grid, where shapes of operators are arrays of
so many points, of shape (n_op, points) or (n_op, 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.cost.attention import decode_attention_cost, prefill_attention_cost
from hwsim.cost.collective import (
    collective_bound,
    collective_cost,
    direct_reduce_cost,
)
from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.expert_products import expert_products_cost
from hwsim.cost.hostlink import host_link
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.cost.roofline import roofline_cost
from hwsim.cost.scan import state_scan_cost
from hwsim.cost.stack_terms import (
    alignment_rate,
    attention_rate,
    collective_by,
    derated,
    inner_dtype,
    product_by,
    repeated,
    stored_rate,
)
from hwsim.errors import InputError
from hwsim.graph.op import Attention, Collective, Copy, Matmul, MoeExperts, Op
from hwsim.graph.scan import StateScan
from hwsim.registry import Registry
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Calibration, Fidelity
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

# Operators whose arithmetic runs on the matrix units.
MATRIX = (Matmul, Attention, MoeExperts, StateScan)


@dataclass(frozen=True, slots=True)
class Context:
    """What operators run on.

    Attributes
    ----------
    warm : bool
        The operator before has just written the activations.
    sustained_flop : float or ndarray of shape (points,)
        Matrix work that goes on without a pause. [FLOP]
    points : int
        Of a grid; 0: shapes are numbers.
    """

    system: SystemSpec
    calibration: Calibration
    stack: StackSpec
    warm: bool = True
    sustained_flop: float | FloatArray = 0.0
    points: int = 0

    def column(self, values: Sequence[Any]) -> FloatArray:
        """Return one value per operator as a column; in a grid of all points."""
        if not self.points or not any(isinstance(v, np.ndarray) for v in values):
            flat = np.asarray(values, dtype=np.float64)
            return flat[:, np.newaxis] if self.points else flat
        column = np.empty((len(values), self.points))
        for row, value in zip(column, values, strict=True):
            row[:] = value
        return column


def group_key(op: Op, fidelity: Fidelity) -> tuple[Hashable, ...]:
    """Return what operators that are costed in one call have in common."""
    if isinstance(op, Collective):
        name = "collective_bound" if fidelity == "roofline" else "collective"
        return (
            name, op.collective, op.group_size, op.stride, op.fanout, op.direct,
            op.within,
        )  # fmt: skip
    if isinstance(op, Copy) and op.path != "device":
        return ("host_copy",)
    if fidelity == "roofline":
        return ("roofline", op.dtype, isinstance(op, MATRIX), isinstance(op, Matmul))
    if isinstance(op, Matmul):
        return ("matmul", op.dtype)
    if isinstance(op, Attention):
        return (
            f"attention_{op.mode}", op.dtype, op.kv_dtype, op.causal, op.window,
            op.v_head_dim, op.shared_kv, op.phase == "backward",
        )  # fmt: skip
    if isinstance(op, MoeExperts):
        return (
            "moe", op.dtype, op.experts, op.topk, op.tp, op.ep, op.gated,
            op.weight_dtype, op.passes, op.exchanged,
        )  # fmt: skip
    if isinstance(op, StateScan):
        return ("scan", op.dtype)
    return ("vector",)


def _column(ops: Sequence[Op], name: str, context: Context) -> FloatArray:
    return context.column([getattr(op, name) for op in ops])


def _cached_share(
    nbytes: FloatArray, context: Context, usable: float = 0.5
) -> FloatArray:
    """Share of just-written activations in cache; half of it holds what is written."""
    cache = context.system.device.cache
    if cache is None or not context.warm:
        return np.zeros_like(nbytes)
    held: FloatArray = np.minimum(1.0, usable * cache.size / np.maximum(nbytes, 1.0))
    return held


def _matmul(ops: Sequence[Op], context: Context) -> Cost:
    m, n, k, batch = (_column(ops, name, context) for name in ("m", "n", "k", "batch"))
    parts = _column(ops, "parts", context)
    m = m / parts
    a, b, c = (
        _column(ops, name, context) for name in ("a_bytes", "b_bytes", "c_bytes")
    )
    activations = batch * (m * k * a + m * n * c)
    total = activations + batch * k * n * b
    device, dtype = context.system.device, ops[0].dtype
    cost = matmul_cost(
        m, n, k, batch=batch, device=device,
        calibration=context.calibration,
        dtype=inner_dtype(device, dtype),
        a_bytes=a, b_bytes=b, c_bytes=c,
        resident=_cached_share(activations, context) * activations / total,
        sustained_flop=context.sustained_flop,
    )  # fmt: skip
    rate = stored_rate(context.stack, device, context.calibration, dtype, m, b)
    if any(op.alignment < 16.0 for op in ops if isinstance(op, Matmul)):
        begins = _column(ops, "alignment", context)
        rate = rate * alignment_rate(device, context.calibration, dtype, begins)
    return product_by(repeated(cost, parts), context.stack, dtype, rate)


def _attention(ops: Sequence[Op], context: Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Attention)
    batch, heads, kv_heads, head_dim, seq_q, seq_kv = (
        _column(ops, name, context)
        for name in ("batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")
    )
    common = {
        "window": first.window, "v_head_dim": first.v_head_dim,
        "device": context.system.device, "calibration": context.calibration,
        "dtype": inner_dtype(context.system.device, first.dtype),
        "kv_dtype": first.kv_dtype,
    }  # fmt: skip
    if first.mode == "decode":
        cost = decode_attention_cost(
            batch, heads, kv_heads, head_dim, seq_kv,
            shared_kv=first.shared_kv, **common,  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        cost = prefill_attention_cost(
            batch, heads, kv_heads, head_dim, seq_q, seq_kv, causal=first.causal,
            backward=first.phase == "backward", **common,  # type: ignore[arg-type]
        )  # fmt: skip
    return derated(cost, attention_rate(context.stack, context.system.device))


def _moe(ops: Sequence[Op], context: Context) -> Cost:
    first = ops[0]
    assert isinstance(first, MoeExperts)
    shape = (
        _column(ops, "tokens", context),
        _column(ops, "ffn", context),
        _column(ops, "hidden", context),
    )
    names = "experts", "topk", "tp", "ep", "gated", "dtype"
    common: dict[str, Any] = {name: getattr(first, name) for name in names}
    common |= {"device": context.system.device, "calibration": context.calibration}
    if context.stack.fusion.experts != "fused":
        cost = expert_products_cost(
            *shape, **common, backward=first.passes > 1.0,
            each=context.stack.fusion.experts == "each",
            sustained_flop=context.sustained_flop,
        )  # fmt: skip
        return product_by(cost, context.stack, first.dtype)
    cost = moe_ffn_cost(
        *shape, **common, exchanged=first.ep > 1 and first.exchanged,
        weight_bytes=DTYPE_BYTES[first.weight_dtype],
    )  # fmt: skip
    # Backward is two products (data and weight gradient) where forward has one.
    cost = derated(cost, 1.0 / first.passes)
    stored = np.full_like(shape[0], DTYPE_BYTES[first.weight_dtype])
    rate = stored_rate(
        context.stack, context.system.device, context.calibration, first.dtype,
        shape[0], stored,
    )  # fmt: skip
    return product_by(cost, context.stack, first.dtype, np.minimum(rate, 1.0))


def _vector(ops: Sequence[Op], context: Context) -> Cost:
    nbytes = _column(ops, "nbytes", context)
    read = _column(ops, "nbytes_read", context)
    share = _cached_share(nbytes, context) * read / np.maximum(nbytes, 1.0)
    return elementwise_cost(
        nbytes, _column(ops, "flop", context), device=context.system.device,
        calibration=context.calibration, resident=share,
        rows=context.column([getattr(op, "rows", 0.0) for op in ops]),
        singly=context.column([getattr(op, "singly", 0.0) for op in ops]),
    )  # fmt: skip


def _scan(ops: Sequence[Op], context: Context) -> Cost:
    return state_scan_cost(
        _column(ops, "flop", context), _column(ops, "nbytes", context),
        dtype=ops[0].dtype, device=context.system.device,
        calibration=context.calibration,
    )  # fmt: skip


def _host_copy(ops: Sequence[Op], context: Context) -> Cost:
    link, rate = host_link(context.system, context.calibration)
    time = _column(ops, "nbytes_read", context) / rate
    return combine(interconnect=time, overhead=link.latency or 0.0)


def _collective(ops: Sequence[Op], context: Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Collective)
    if first.direct:
        return direct_reduce_cost(
            _column(ops, "message", context), first.group_size, system=context.system,
            calibration=context.calibration, stride=first.stride,
        )  # fmt: skip
    cost = collective_cost(
        first.collective, _column(ops, "message", context), first.group_size,
        system=context.system, calibration=context.calibration, stride=first.stride,
        fanout=first.fanout, within=first.within,
    )  # fmt: skip
    return collective_by(cost, context.stack)


def _collective_bound(ops: Sequence[Op], context: Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Collective)
    time = collective_bound(
        first.collective, _column(ops, "message", context), first.group_size,
        system=context.system, stride=first.stride, fanout=first.fanout,
    )  # fmt: skip
    return combine(interconnect=time)


def _roofline(ops: Sequence[Op], context: Context) -> Cost:
    """Datasheet peaks; activations that the cache can hold never leave it."""
    matrix = isinstance(ops[0], MATRIX)
    device = context.system.device
    nbytes = _column(ops, "nbytes", context)
    activations = context.column(
        [
            sum(o.nbytes for o in (*op.reads, *op.writes) if o.role == "activation")
            for op in ops
        ]
    )
    held = activations * _cached_share(activations, context, usable=1.0)
    traffic = {device.main_memory_name: nbytes - held}
    for name, level in device.memory.items():
        if level is device.cache and level.bandwidth:
            traffic[name] = held
    flop = _column(ops, "flop", context)
    if isinstance(ops[0], Matmul):
        shape = (_column(ops, name, context) for name in ("m", "b_bytes"))
        rate = stored_rate(
            context.stack, device, context.calibration, ops[0].dtype, *shape
        )
        flop = flop / np.maximum(rate, 1.0)
    return roofline_cost(
        flop, traffic, device=device,
        dtype=inner_dtype(device, ops[0].dtype),
        unit="matrix" if matrix else "vector",
    )  # fmt: skip


CostModel = Callable[[Sequence[Op], Context], Cost]
FORMS: dict[str, CostModel] = {
    "matmul": _matmul,
    "attention_prefill": _attention,
    "attention_decode": _attention,
    "moe": _moe,
    "scan": _scan,
    "vector": _vector,
    "host_copy": _host_copy,
    "collective": _collective,
    "collective_bound": _collective_bound,
    "roofline": _roofline,
}
COST_MODELS = "hwsim.cost_models"


@functools.cache
def _registered() -> Registry[CostModel]:
    return Registry(COST_MODELS, "cost model")


def form(kind: str, context: Context) -> CostModel:
    """Return the cost form of a kind of operators: the stack's, else hwsim's own.

    Raises
    ------
    UnknownNameError
        If the stack names a model that no installed package registers under
        ``hwsim.cost_models``.
    """
    name = context.stack.costs.of(kind)
    if name is None:
        return FORMS[kind]
    model = _registered().get(name)

    def checked(ops: Sequence[Op], context: Context) -> Cost:
        return _checked(name, model(ops, context), ops, context)

    return checked


def _checked(name: str, cost: Cost, ops: Sequence[Op], context: Context) -> Cost:
    """Return a cost that fits its operators; refuse one that does not."""
    shape = (len(ops), context.points) if context.points else (len(ops),)
    time = np.asarray(cost.time) if isinstance(cost, Cost) else np.zeros(0)
    fits = time.shape == shape or (context.points and time.shape == (len(ops), 1))
    if not fits and not _of_arrays(ops):
        raise InputError(
            f"cost model {name!r} answers in shape {time.shape} for {len(ops)} "
            f"operators; return a Cost of shape {shape}"
        )
    if not (np.all(np.isfinite(time)) and np.all(time >= 0)):
        raise InputError(f"cost model {name!r} answers times that are no times")
    return cost


def _of_arrays(ops: Sequence[Op]) -> bool:
    """Whether an operator stands for many shapes."""
    return any(isinstance(getattr(op, n), np.ndarray) for op in ops
               for n in op.__dataclass_fields__)  # fmt: skip
