"""Costs of measured rows under the conditions they were measured at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.measured.collective import collective_rows
from hwsim.analysis.measured.group import Group
from hwsim.analysis.measured.work import (
    Shapes,
    arithmetic,
    attention_shapes,
    attention_work,
    cache_bytes,
    elementwise_work,
    gemm_work,
    moe_work,
    or_default,
    out_widths,
    quantised_bytes,
    width,
)
from hwsim.cost.attention import decode_attention_cost, prefill_attention_cost
from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.cost.roofline import roofline_cost
from hwsim.cost.routing import Routing, expert_load
from hwsim.cost.sequence import add
from hwsim.errors import InputError
from hwsim.specs.calibration import with_parameters
from hwsim.specs.measurement.names import SCALED_DTYPES
from hwsim.specs.measurement.table import FamilyRows

# Kernels that give each row to a thread block of its own.
ROWWISE = (
    "softmax", "layernorm", "rmsnorm", "rmsnorm_head", "add_layernorm", "add_rmsnorm",
    "silu_and_mul", "embedding", "cross_entropy", "quantize_fp8", "quantize_int8",
)  # fmt: skip
# Names in recorded kernels by which libraries of routed experts are told apart.
EXPERT_LIBRARIES = ("cutlass", "trtllm", "triton")


def _speed_of_light(
    group: Group, flop: FloatArray, nbytes: FloatArray, dtype: str, unit: str = "matrix"
) -> Cost:
    """Return the roofline of what main memory must move."""
    moved = nbytes * (1.0 - group.resident(nbytes))
    return roofline_cost(
        flop, moved, device=group.device, dtype=dtype, unit=unit,  # type: ignore[arg-type]
    )  # fmt: skip


def _gemm(group: Group) -> Cost:
    rows = group.rows
    dtype = str(rows["dtype"][0])
    work = gemm_work(rows)
    if group.calibration is None:
        return _speed_of_light(group, work.flop, work.nbytes, arithmetic(dtype))
    element = width(dtype)
    cost = matmul_cost(
        rows["m"], rows["n"], rows["k"], batch=rows["batch"], device=group.device,
        calibration=group.calibration, dtype=arithmetic(dtype),
        a_bytes=element, b_bytes=element, c_bytes=out_widths(rows),
        resident=group.resident(work.nbytes), block_scales=dtype in SCALED_DTYPES,
    )  # fmt: skip
    extra = quantised_bytes(rows)
    if not np.any(extra):
        return cost
    return add(cost, _quantisation(group, extra))


def _quantisation(group: Group, nbytes: FloatArray) -> Cost:
    """Return the cost of the kernel that quantises activations before a product."""
    assert group.calibration is not None
    return elementwise_cost(
        nbytes, device=group.device, calibration=group.calibration,
        resident=group.resident(nbytes), rows=group.rows["m"] * group.rows["batch"],
    )  # fmt: skip


def _attention(group: Group) -> Cost:
    rows = group.rows
    dtype = str(rows["dtype"][0])
    if group.calibration is None:
        work = attention_work(rows)
        return _speed_of_light(group, work.flop, work.nbytes, dtype)
    shapes = attention_shapes(rows)
    if rows["op"][0] == "decode":
        return _decode(group, shapes)
    cost = _prefill(group, shapes)
    if rows["op"][0] == "prefill" or not np.any(rows["n_decode"]):
        return cost
    some = rows["n_decode"] > 0
    decode = shapes._replace(
        batch=np.where(some, rows["n_decode"], 1.0),
        seq_kv=np.where(some, rows["seq_kv_decode"], 1.0),
    )
    return _joined(cost, _decode(group, decode), some)


def _joined(first: Cost, second: Cost, some: NDArray[np.bool_]) -> Cost:
    """Return both parts of a mixed batch in one call, started once."""
    shared = np.minimum(first.overhead, second.overhead)
    both = add(first, second)
    scale = np.where(some, 1.0, 0.0)
    return Cost(
        time=first.time + scale * (second.time - shared),
        compute=first.compute + scale * second.compute,
        levels={
            name: part - (1.0 - scale) * second.levels.get(name, 0.0)
            for name, part in both.levels.items()
        },
        interconnect=first.interconnect + scale * second.interconnect,
        overhead=first.overhead + scale * (second.overhead - shared),
    )


def _prefill(group: Group, s: Shapes) -> Cost:
    assert group.calibration is not None
    return prefill_attention_cost(
        s.batch, s.heads, s.kv_heads, s.head_dim, s.seq_q, s.seq_kv,
        causal=bool(group.rows["causal"][0]), window=s.window, v_head_dim=s.v_head_dim,
        device=group.device, calibration=group.calibration,
        dtype=str(group.rows["dtype"][0]),
        kv_dtype=str(group.rows["kv_dtype"][0]) or None,
        write_kv=group.writes_kv,
        resident=group.resident(attention_work(group.rows).nbytes, "prefill"),
    )  # fmt: skip


def _decode(group: Group, s: Shapes) -> Cost:
    assert group.calibration is not None
    held = group.resident(cache_bytes(group.rows, s), "decode")
    return decode_attention_cost(
        s.batch, s.heads, s.kv_heads, s.head_dim, s.seq_kv,
        window=s.window, v_head_dim=s.v_head_dim, device=group.device,
        calibration=group.calibration, dtype=str(group.rows["dtype"][0]),
        kv_dtype=str(group.rows["kv_dtype"][0]) or None, resident=held,
    )  # fmt: skip


def _elementwise(group: Group) -> Cost:
    work = elementwise_work(group.rows)
    dtype = arithmetic(str(group.rows["dtype"][0]).partition("->")[0])
    if group.calibration is None:
        return _speed_of_light(group, work.flop, work.nbytes, dtype, "vector")
    by_row = np.isin(group.rows["op"].astype(str), ROWWISE)
    return elementwise_cost(
        work.nbytes, work.flop, device=group.device, calibration=group.calibration,
        resident=group.resident(work.nbytes), rows=by_row * group.rows["m"],
    )  # fmt: skip


def library_of(kernel: str) -> str:
    """Return the library that a recorded kernel of experts belongs to, if known."""
    found = (name for name in EXPERT_LIBRARIES if name in kernel.lower())
    return next(found, "")


def _moe(group: Group) -> Cost:
    rows = group.rows
    dtype = arithmetic(str(rows["dtype"][0]))
    gated = group.gated
    if group.calibration is None:
        work = moe_work(rows, gated)
        return _speed_of_light(group, work.flop, work.nbytes, dtype)
    name, _, exponent = str(rows["routing"][0]).rpartition("_")
    routing: Routing = "power_law" if name else "balanced"
    power = float(exponent) if name else 0.0
    touched = expert_load(
        rows["m"], rows["experts"], rows["topk"], rows["ep"], routing=routing,
        exponent=power, leftovers=group.benchmark.routing_leftovers,
    ).touched  # fmt: skip
    weights = (2.0 + gated) * rows["n"] / rows["tp"] * rows["k"] * width(dtype)
    return moe_ffn_cost(
        rows["m"], rows["n"], rows["k"], experts=rows["experts"], topk=rows["topk"],
        tp=rows["tp"], ep=rows["ep"], gated=gated, routing=routing,
        routing_exponent=power, leftovers=group.benchmark.routing_leftovers,
        device=group.device, calibration=group.calibration, dtype=dtype,
        resident=group.resident(touched * weights),
        library=library_of(str(rows["kernel"][0])),
    )  # fmt: skip


def _memory(group: Group) -> Cost:
    rows, device = group.rows, group.device
    touched = or_default(rows["working_set_bytes"], rows["nbytes"])
    if rows["op"][0] == "load_latency":
        return combine(overhead=_load_latency(group, touched))
    cache = device.cache
    fits = np.zeros(len(rows))
    # Software decides what the memories of TPUs and the like hold.
    if cache is not None and device.kind in {"cpu", "gpu"}:
        fits = (touched <= cache.size).astype(np.float64)
    if group.calibration is None:
        moved = rows["nbytes"] * (1.0 - fits)
        return roofline_cost(np.zeros(len(rows)), moved, device=device, dtype="fp32")
    calibration = group.calibration
    if rows["op"][0] == "read" and cache is not None and cache.bandwidth is not None:
        # The spec quotes the rate of just these streams.
        quoted = {"elementwise.cache_efficiency": 1.0}
        calibration = with_parameters(calibration, quoted)
    return elementwise_cost(
        rows["nbytes"], device=device, calibration=calibration, resident=fits
    )


def _load_latency(group: Group, touched: FloatArray) -> FloatArray:
    """Return the latency of the level that a working set fits in. [s]"""
    time = np.full(len(touched), np.nan)
    for level in reversed(group.device.memory.values()):
        if level.latency is not None:
            outermost = level is group.device.main_memory
            time[(touched <= level.size) | outermost] = level.latency
    if np.any(np.isnan(time)):
        raise InputError(f"device {group.device.id} gives no memory latency")
    return time


def _launch(group: Group) -> Cost:
    launch = group.device.launch
    if launch is None:
        raise InputError(f"device {group.device.id} gives no launch cost")
    if group.calibration is None:
        return combine(overhead=np.zeros(len(group.rows)))
    eager = group.rows["op"][0] == "launch_eager"
    time = launch.eager if eager else launch.graph
    return combine(overhead=np.full(len(group.rows), time))


def _host_link(group: Group) -> Cost:
    link = group.device.host_link
    if link is None:
        raise InputError(f"device {group.device.id} has no host_link in its spec")
    if group.calibration is None:
        return combine(interconnect=group.rows["nbytes"] / link.bandwidth)
    rate = link.bandwidth * group.calibration.elementwise.host_copy_efficiency
    return combine(
        interconnect=group.rows["nbytes"] / rate, overhead=link.latency or 0.0
    )


# By family: columns whose values a call shares, and the call.
COSTS: dict[str, tuple[tuple[str, ...], Callable[[Group], Cost]]] = {
    "gemm": (("dtype",), _gemm),
    "attention": (("op", "dtype", "kv_dtype", "causal", "write_kv"), _attention),
    "elementwise": (("dtype",), _elementwise),
    "moe": (("dtype", "routing", "kernel"), _moe),
    "collective": (
        (
            "op",
            "dtype",
            "kernel",
            "world_size",
            "gpus_per_node_used",
            "gpus_per_node_max",
        ),
        collective_rows,
    ),
    "memory": (("op", "dtype"), _memory),
    "launch": (("op",), _launch),
    "host_link": ((), _host_link),
}


def cost_rows(group: Group) -> Cost:
    """Return the cost of rows that share what one call needs."""
    rows: FamilyRows = group.rows
    cost = COSTS[rows.family][1](group)
    if rows.family == "launch" or group.calibration is None:
        return cost
    extra = group.eager_time()
    if not np.any(extra):
        return cost
    return add(cost, combine(overhead=extra))
