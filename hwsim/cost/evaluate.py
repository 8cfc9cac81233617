"""Costs of a whole graph: each distinct operator once, each kind in one call."""

from __future__ import annotations

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
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.cost.op_costs import OpCosts as OpCosts
from hwsim.cost.pace import slowest_pace
from hwsim.cost.roofline import roofline_cost
from hwsim.cost.scan import state_scan_cost
from hwsim.cost.stack_terms import (
    collective_by,
    derated,
    inner_dtype,
    product_by,
)
from hwsim.errors import InputError
from hwsim.graph.op import Attention, Collective, Copy, Matmul, MoeExperts, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.scan import StateScan
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import FIDELITIES, Calibration, calibration_for
from hwsim.specs.calibration import Fidelity as Fidelity
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

# Operators whose arithmetic runs on the matrix units.
MATRIX = (Matmul, Attention, MoeExperts, StateScan)


@dataclass(frozen=True, slots=True)
class _Context:
    system: SystemSpec
    calibration: Calibration
    stack: StackSpec
    warm: bool = True  # the operator before has just written the activations
    sustained_flop: float = 0.0  # matrix work that goes on without a pause


def cost_ops(
    ops: Sequence[Op],
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
    sustained_flop: float = 0.0,
    in_step: int = 1,
) -> OpCosts:
    """Return the cost of each operator on one device of a system.

    Parameters
    ----------
    ops : sequence of Op
        Operators of any kinds; shapes are those of one device.
    system : SystemSpec
        Gives the device, and the networks for collectives.
    stack : StackSpec
        Software stack: quality of its kernels.
    fidelity : str
        ``roofline`` is the speed of light from the datasheet;
        ``structured`` uses the parameters of the device's generation,
        ``calibrated`` those fitted to measurements of the device itself;
        ``auto`` the best there is. No time is below the speed of light.
    sustained_flop : float
        Matrix work that the operators are part of and that goes on without a
        pause: power limits lower its clocks. [FLOP]
    in_step : int
        Devices that wait for each other: matrix work takes as long as on the
        slowest of them.

    Raises
    ------
    InputError
        If the device lacks a dtype.
    """
    parameters = _parameters(system, fidelity, calibration)
    context = _Context(
        system, parameters, stack,
        sustained_flop=_within_window(sustained_flop, ops, system, parameters),
    )  # fmt: skip
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for index, op in enumerate(ops):
        groups.setdefault(_group_key(op, fidelity), []).append(index)
    size = len(ops)
    time, compute, interconnect, overhead = (np.zeros(size) for _ in range(4))
    levels: dict[str, FloatArray] = {}
    for key, where in groups.items():
        members = [ops[i] for i in where]
        cost = _COSTS[str(key[0])](members, context)
        time[where], compute[where] = cost.time, cost.compute
        interconnect[where], overhead[where] = cost.interconnect, cost.overhead
        for name, part in cost.levels.items():
            levels.setdefault(name, np.zeros(size))[where] = part
    if fidelity == "roofline":
        return OpCosts(tuple(ops), time, compute, levels, interconnect, overhead)
    extra = overhead * np.array([_more_kernels(op) for op in ops])
    # A learned factor, or a cache taken for faster than it is, ends at light.
    short = np.maximum(_speed_of_light(ops, context) - (time + extra), 0.0)
    overhead = overhead + (extra + short)
    pace = slowest_pace(system.device, in_step) - 1.0
    waits = pace * compute * np.array([isinstance(op, MATRIX) for op in ops])
    return OpCosts(
        tuple(ops), time + (extra + short + waits), compute + waits, levels,
        interconnect, overhead,
    )  # fmt: skip


def _parameters(
    system: SystemSpec, fidelity: Fidelity, given: Calibration | None
) -> Calibration:
    if fidelity not in FIDELITIES:
        raise InputError(
            f"fidelity {fidelity!r} is unknown; choose {' or '.join(FIDELITIES)}"
        )
    return given or calibration_for(system.device, fidelity)


def _more_kernels(op: Op) -> float:
    """Kernels beyond those whose start its own cost form already counts."""
    counted = isinstance(op, Matmul | Attention | MoeExperts | Collective)
    return 0.0 if counted else float(max(op.kernels - 1, 0))


def _speed_of_light(ops: Sequence[Op], context: _Context) -> FloatArray:
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for index, op in enumerate(ops):
        groups.setdefault(_group_key(op, "roofline"), []).append(index)
    bound = np.zeros(len(ops))
    for key, where in groups.items():
        if key[0] != "host_copy":
            bound[where] = _COSTS[str(key[0])]([ops[i] for i in where], context).time
    return bound


def cost_op(
    op: Op,
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
) -> Cost:
    """Return the cost of one operator, whose shapes may be arrays."""
    context = _Context(
        system, _parameters(system, fidelity, calibration), stack, warm=False
    )
    cost = _COSTS[str(_group_key(op, fidelity)[0])]([op], context)
    light = _COSTS[str(_group_key(op, "roofline")[0])]([op], context)
    short = np.maximum(light.time - cost.time, 0.0)[0]
    return Cost(
        time=cost.time[0] + short,
        compute=cost.compute[0],
        levels={name: part[0] for name, part in cost.levels.items()},
        interconnect=cost.interconnect[0],
        overhead=cost.overhead[0] + short,
    )


def cost_graph(
    graph: OpGraph,
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
    in_step: int = 1,
) -> OpCosts:
    """Return the costs of a graph's distinct nodes, in block order."""
    ops = [node.op for _, _, node, _ in graph.distinct()]
    return cost_ops(
        ops, system, stack, fidelity, calibration, sustained_flop=graph.flop,
        in_step=in_step,
    )  # fmt: skip


def _within_window(
    flop: float, ops: Sequence[Op], system: SystemSpec, calibration: Calibration
) -> float:
    """Return work no longer than the power controller looks back."""
    window = calibration.matmul.sustained_window
    dtypes = [op.dtype for op in ops if isinstance(op, Matmul)]
    device = system.device
    peak = device.peak(inner_dtype(device, dtypes[0])) if dtypes else 0.0
    return float(min(flop, peak * window))


def _group_key(op: Op, fidelity: Fidelity) -> tuple[Hashable, ...]:
    if isinstance(op, Collective):
        name = "collective_bound" if fidelity == "roofline" else "collective"
        return (
            name, op.collective, op.group_size, op.stride, op.fanout, op.direct,
        )  # fmt: skip
    if isinstance(op, Copy) and op.path != "device":
        return ("host_copy",)
    if fidelity == "roofline":
        return ("roofline", op.dtype, isinstance(op, MATRIX))
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
            op.weight_dtype, op.passes, op.exchanged, op.bias,
        )  # fmt: skip
    if isinstance(op, StateScan):
        return ("scan", op.dtype)
    return ("vector",)


def _column(ops: Sequence[Op], name: str) -> FloatArray:
    return np.asarray([getattr(op, name) for op in ops], dtype=np.float64)


def _cached_share(
    nbytes: FloatArray, context: _Context, usable: float = 0.5
) -> FloatArray:
    """Share of just-written activations in cache; half of it holds what is written."""
    cache = context.system.device.cache
    if cache is None or not context.warm:
        return np.zeros_like(nbytes)
    held: FloatArray = np.minimum(1.0, usable * cache.size / np.maximum(nbytes, 1.0))
    return held


def _matmul(ops: Sequence[Op], context: _Context) -> Cost:
    m, n, k, batch = (_column(ops, name) for name in ("m", "n", "k", "batch"))
    a, b, c = (_column(ops, name) for name in ("a_bytes", "b_bytes", "c_bytes"))
    activations = batch * (m * k * a + m * n * c)
    total = activations + batch * k * n * b
    cost = matmul_cost(
        m, n, k, batch=batch, device=context.system.device,
        calibration=context.calibration,
        dtype=inner_dtype(context.system.device, ops[0].dtype),
        a_bytes=a, b_bytes=b, c_bytes=c,
        resident=_cached_share(activations, context) * activations / total,
        sustained_flop=context.sustained_flop,
    )  # fmt: skip
    return product_by(cost, context.stack, ops[0].dtype)


def _attention(ops: Sequence[Op], context: _Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Attention)
    batch, heads, kv_heads, head_dim, seq_q, seq_kv = (
        _column(ops, name)
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
    return derated(cost, context.stack.attention_derate)


def _moe(ops: Sequence[Op], context: _Context) -> Cost:
    first = ops[0]
    assert isinstance(first, MoeExperts)
    shape = _column(ops, "tokens"), _column(ops, "ffn"), _column(ops, "hidden")
    names = "experts", "topk", "tp", "ep", "gated", "dtype"
    common: dict[str, Any] = {name: getattr(first, name) for name in names}
    common |= {"device": context.system.device, "calibration": context.calibration}
    if context.stack.fusion.experts != "fused":
        cost = expert_products_cost(
            *shape, **common, backward=first.passes > 1.0, bias=first.bias,
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
    return product_by(cost, context.stack, first.dtype)


def _vector(ops: Sequence[Op], context: _Context) -> Cost:
    nbytes = _column(ops, "nbytes")
    read = _column(ops, "nbytes_read")
    share = _cached_share(nbytes, context) * read / np.maximum(nbytes, 1.0)
    return elementwise_cost(
        nbytes, _column(ops, "flop"), device=context.system.device,
        calibration=context.calibration, resident=share,
        rows=np.asarray([getattr(op, "rows", 0.0) for op in ops], dtype=np.float64),
    )  # fmt: skip


def _scan(ops: Sequence[Op], context: _Context) -> Cost:
    return state_scan_cost(
        _column(ops, "flop"), _column(ops, "nbytes"), dtype=ops[0].dtype,
        device=context.system.device, calibration=context.calibration,
    )  # fmt: skip


def _host_copy(ops: Sequence[Op], context: _Context) -> Cost:
    link = context.system.device.host_link
    if link is None:
        raise InputError(
            f"device {context.system.device.id} has no host_link; "
            "offloading needs one in its spec"
        )
    rate = link.bandwidth * context.calibration.elementwise.host_copy_efficiency
    time = _column(ops, "nbytes_read") / rate
    return combine(interconnect=time, overhead=link.latency or 0.0)


def _collective(ops: Sequence[Op], context: _Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Collective)
    if first.direct:
        return direct_reduce_cost(
            _column(ops, "message"), first.group_size, system=context.system,
            calibration=context.calibration, stride=first.stride,
        )  # fmt: skip
    cost = collective_cost(
        first.collective, _column(ops, "message"), first.group_size,
        system=context.system, calibration=context.calibration, stride=first.stride,
        fanout=first.fanout,
    )  # fmt: skip
    return collective_by(cost, context.stack)


def _collective_bound(ops: Sequence[Op], context: _Context) -> Cost:
    first = ops[0]
    assert isinstance(first, Collective)
    time = collective_bound(
        first.collective, _column(ops, "message"), first.group_size,
        system=context.system, stride=first.stride, fanout=first.fanout,
    )  # fmt: skip
    return combine(interconnect=time)


def _roofline(ops: Sequence[Op], context: _Context) -> Cost:
    """Datasheet peaks; activations that the cache can hold never leave it."""
    matrix = isinstance(ops[0], MATRIX)
    device = context.system.device
    nbytes = _column(ops, "nbytes")
    activations = np.asarray(
        [
            sum(o.nbytes for o in (*op.reads, *op.writes) if o.role == "activation")
            for op in ops
        ],
        dtype=np.float64,
    )
    held = activations * _cached_share(activations, context, usable=1.0)
    traffic = {device.main_memory_name: nbytes - held}
    for name, level in device.memory.items():
        if level is device.cache and level.bandwidth:
            traffic[name] = held
    return roofline_cost(
        _column(ops, "flop"), traffic, device=device,
        dtype=inner_dtype(device, ops[0].dtype),
        unit="matrix" if matrix else "vector",
    )  # fmt: skip


_COSTS: dict[str, Callable[[Sequence[Op], _Context], Cost]] = {
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
