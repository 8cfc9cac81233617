"""One operator on one device: time, work, traffic and what binds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hwsim.analysis.check import dtype_on, known_dtype
from hwsim.analysis.result import Result
from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.evaluate import Fidelity, cost_op
from hwsim.cost.interval import family_of, op_logs
from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.op import (
    Attention,
    Collective,
    Elementwise,
    Matmul,
    MoeExperts,
    Norm,
    Op,
    Operand,
    Softmax,
)
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import Basis, calibration_for, resolved_fidelity
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

COLLECTIVES = (
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast",
    "send_recv",
)  # fmt: skip

_NO_SHAPE = frozenset({"kernels", "a_bytes", "b_bytes", "c_bytes"})


@dataclass(frozen=True, repr=False)
class OpResult(Result):
    """The cost of one operator, or of an array of them.

    Attributes
    ----------
    op : Op
        The operator with its shapes.
    cost : Cost
        Device time, host launch not included. [s]
    interval : (ndarray, ndarray) or None
        90 % prediction interval of the time; None for a speed of light. [s]
    """

    op: Op
    system: SystemSpec
    fidelity: Fidelity | Basis
    cost: Cost
    interval: tuple[FloatArray, FloatArray] | None = None

    kind = "op"

    @property
    def time_s(self) -> Any:
        """Device time: a float, or an array where shapes were arrays. [s]"""
        return _plain(self.cost.time)

    @property
    def interval_90(self) -> dict[str, tuple[Any, Any]] | None:
        """90 % prediction interval of ``time_s``. [s]"""
        if self.interval is None:
            return None
        low, high = self.interval
        return {"time_s": (_plain(low), _plain(high))}

    def _interval_listed(self) -> dict[str, list[Any]] | None:
        if self.interval is None:
            return None
        return {"time_s": [_listed(_plain(end)) for end in self.interval]}

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the cost of the operator's family rests on."""
        return {family_of(self.op): self.fidelity}

    @property
    def flop(self) -> Any:
        """Arithmetic. [FLOP]"""
        return _plain(self.op.flop)

    @property
    def nbytes(self) -> Any:
        """Traffic when each operand moves once. [B]"""
        message = getattr(self.op, "message", None)
        return _plain(self.op.nbytes if message is None else message)

    @property
    def bound(self) -> Any:
        """What most of the time goes to: a part or a memory level."""
        return _plain(self.cost.bound())

    @property
    def breakdown(self) -> dict[str, Any]:
        """Seconds of compute, memory, interconnect and overhead."""
        return {
            "compute": _plain(self.cost.compute),
            "memory": _plain(self.cost.memory),
            "interconnect": _plain(self.cost.interconnect),
            "overhead": _plain(self.cost.overhead),
        }

    def details(self) -> dict[str, Any]:
        """Return the shape, as far as it is of single numbers."""
        shape = {
            field.name: value
            for field in fields(self.op)
            if field.name not in _NO_SHAPE
            and isinstance(value := getattr(self.op, field.name), int | float)
            and not isinstance(value, bool)
        }
        return {"shape": {k: v for k, v in shape.items() if v}}

    def to_dict(self) -> dict[str, Any]:
        """Return time, work, traffic, bound and breakdown, in SI."""
        return {
            **self.header(),
            "op": self.op.name,
            "device": self.system.device.id,
            "system": self.system.id,
            "dtype": self.op.dtype,
            "fidelity": self.fidelity,
            "time_s": _listed(self.time_s),
            "interval_90": self._interval_listed(),
            "flop": _listed(self.flop),
            "nbytes": _listed(self.nbytes),
            "flop_per_s": _listed(np.asarray(self.flop) / np.asarray(self.time_s)),
            "bytes_per_s": _listed(np.asarray(self.nbytes) / np.asarray(self.time_s)),
            "bound": _listed(self.bound),
            "breakdown": {k: _listed(v) for k, v in self.breakdown.items()},
            "memory_levels": {
                k: _listed(_plain(v)) for k, v in self.cost.levels.items()
            },
        }


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array


def _listed(value: Any) -> Any:
    return np.asarray(value).tolist()


def run_op(
    kind: str,
    system: SystemSpec,
    stack: StackSpec,
    *,
    dtype: str,
    fidelity: Fidelity = "auto",
    **shapes: Any,
) -> OpResult:
    """Cost one operator; see :func:`hwsim.op`."""
    name = str(kind).casefold().replace("-", "_")
    _broadcast(shapes)
    if name in COLLECTIVES:
        op = _collective(name, dtype, shapes)
    elif name in _BUILDERS:
        dtype_on(system.device, dtype)
        op = _BUILDERS[name](dtype, shapes)
    else:
        raise UnknownNameError("operator", kind, [*_BUILDERS, *COLLECTIVES])
    if shapes:
        raise InputError(
            f"operator {name} takes no {', '.join(sorted(shapes))}; "
            f"it takes {', '.join(_TAKES.get(name, _TAKES['collective']))}"
        )
    used = resolved_fidelity(system.device, fidelity)
    cost = cost_op(op, system, stack, used)
    if used == "roofline":
        return OpResult(op, system, used, cost)
    family = family_of(op)
    calibration = calibration_for(system.device, used).without(stack.replaced)
    low, high = op_logs(family, cost.time, calibration)
    ends = (cost.time * np.exp(low), cost.time * np.exp(high))
    return OpResult(op, system, calibration.fidelities()[family], cost, ends)


_TAKES = {
    "matmul": ("m", "n", "k", "batch", "weight_dtype"),
    "prefill": (
        "batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv", "window",
        "causal", "kv_dtype",
    ),
    "decode": (
        "batch", "heads", "kv_heads", "head_dim", "seq_kv", "window", "kv_dtype",
    ),
    "elementwise": ("m", "n", "inputs"),
    "layernorm": ("m", "n"),
    "rmsnorm": ("m", "n"),
    "softmax": ("m", "n"),
    "moe": (
        "m", "n", "k", "experts", "topk", "tp", "ep", "gated", "weight_dtype",
    ),
    "collective": ("bytes", "group"),
}  # fmt: skip


def _broadcast(shapes: dict[str, Any]) -> None:
    """Refuse arrays that do not fit each other."""
    sizes = {k: np.shape(v) for k, v in shapes.items() if np.ndim(v)}
    try:
        np.broadcast_shapes(*sizes.values())
    except ValueError:
        told = ", ".join(f"{k} {list(v)}" for k, v in sizes.items())
        raise InputError(f"shapes do not broadcast: {told}") from None


def _shape(shapes: dict[str, Any], name: str, default: Any = None) -> Any:
    """Take one shape, a positive whole number or an array of them."""
    value = shapes.pop(name, None)
    value = default if value is None else value
    if value is None:
        raise InputError(f"{name} is missing; give it as a positive number")
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; give a positive number") from None
    if not np.all(np.isfinite(array)) or np.any(array < 1):
        bad = array if array.ndim == 0 else array[~(array >= 1)][0]
        raise InputError(f"{name} is {bad:g}; give a positive number")
    if np.any(array > 1e12):
        raise InputError(f"{name} is {np.max(array):g}; that is beyond any machine")
    return float(array) if array.ndim == 0 else array


def _scalar(shapes: dict[str, Any], name: str, default: Any = None) -> int:
    """Take one shape that may not be an array: another one is another kernel."""
    value = _shape(shapes, name, default)
    if np.ndim(value):
        raise InputError(f"{name} is an array; give one whole number per call")
    return int(value)


def _tensor(role: Any, numel: Any, dtype: str) -> Operand:
    return Operand(role, numel * DTYPE_BYTES[dtype], dtype)


def _matmul(dtype: str, shapes: dict[str, Any]) -> Op:
    m, n, k = (_shape(shapes, name) for name in ("m", "n", "k"))
    batch = _shape(shapes, "batch", 1)
    weight = known_dtype("weight_dtype", shapes.pop("weight_dtype", None) or dtype)
    # Narrow types accumulate and store in 16 bit.
    out = dtype if DTYPE_BYTES[dtype] >= 2 else "bf16"
    return Matmul(
        name="matmul", dtype=dtype, m=m, n=n, k=k, batch=batch,
        a_bytes=DTYPE_BYTES[dtype], b_bytes=DTYPE_BYTES[weight],
        c_bytes=DTYPE_BYTES[out],
        reads=(
            _tensor("activation", batch * m * k, dtype),
            _tensor("weight", batch * k * n, weight),
        ),
        writes=(_tensor("activation", batch * m * n, out),),
    )  # fmt: skip


def _attention(mode: Any) -> Any:
    def build(dtype: str, shapes: dict[str, Any]) -> Op:
        batch, heads = _shape(shapes, "batch", 1), _shape(shapes, "heads")
        kv_heads = _shape(shapes, "kv_heads", heads)
        head_dim = _scalar(shapes, "head_dim", 128)
        seq_kv = _shape(shapes, "seq_kv")
        seq_q = 1.0 if mode == "decode" else _shape(shapes, "seq_q", seq_kv)
        kv_dtype = known_dtype("kv_dtype", shapes.pop("kv_dtype", None) or dtype)
        causal = bool(shapes.pop("causal", True))
        window = int(shapes.pop("window", 0) or 0)
        if np.any(np.asarray(heads) % np.asarray(kv_heads)):
            raise InputError(f"heads {heads:g} is not a multiple of {kv_heads:g}")
        if np.any(np.asarray(seq_q) > np.asarray(seq_kv)):
            raise InputError("seq_q exceeds seq_kv, which counts the new tokens too")
        values = batch * heads * head_dim
        # Keys that no query's window reaches are not read.
        seen = np.minimum(seq_kv, seq_q + window - 1) if window else seq_kv
        return Attention(
            name=mode, mode=mode, dtype=dtype, batch=batch, heads=heads,
            kv_heads=kv_heads, head_dim=head_dim, v_head_dim=head_dim, seq_q=seq_q,
            seq_kv=seq_kv, causal=causal, window=window, kv_dtype=kv_dtype,
            reads=(
                _tensor("activation", values * seq_q, dtype),
                _tensor("kv_cache", 2 * batch * kv_heads * head_dim * seen, kv_dtype),
            ),
            writes=(_tensor("activation", values * seq_q, dtype),),
        )  # fmt: skip

    return build


def _elementwise(dtype: str, shapes: dict[str, Any]) -> Op:
    numel = _shape(shapes, "m") * _shape(shapes, "n", 1)
    inputs = _shape(shapes, "inputs", 1)
    return Elementwise(
        name="elementwise", dtype=dtype, numel=numel, function="elementwise",
        reads=(_tensor("activation", inputs * numel, dtype),),
        writes=(_tensor("activation", numel, dtype),),
    )  # fmt: skip


def _rowwise(name: Any) -> Any:
    def build(dtype: str, shapes: dict[str, Any]) -> Op:
        m, n = _shape(shapes, "m"), _shape(shapes, "n")
        values = (_tensor("activation", m * n, dtype),)
        if name == "softmax":
            return Softmax(
                name=name, dtype=dtype, rows=m, columns=n, reads=values, writes=values
            )
        return Norm(
            name=name, dtype=dtype, rows=m, columns=n, function=name, reads=values,
            writes=values,
        )  # fmt: skip

    return build


def _moe(dtype: str, shapes: dict[str, Any]) -> Op:
    m, n, k = (_shape(shapes, name) for name in ("m", "n", "k"))
    experts, topk = _scalar(shapes, "experts"), _scalar(shapes, "topk", 1)
    tp, ep = _scalar(shapes, "tp", 1), _scalar(shapes, "ep", 1)
    gated = bool(shapes.pop("gated", True))
    weight = known_dtype("weight_dtype", shapes.pop("weight_dtype", None) or dtype)
    if topk > experts or experts % ep:
        raise InputError(
            f"{experts} experts with topk {topk} and ep {ep}: topk must not exceed "
            "the experts and ep must divide them"
        )
    # The share of experts that at least one token reaches.
    touched = experts / ep * (1.0 - (1.0 - topk / experts) ** m)
    return MoeExperts(
        name="moe", dtype=dtype, tokens=m, hidden=k, ffn=n, experts=experts,
        topk=topk, tp=tp, ep=ep, gated=gated, weight_dtype=weight,
        reads=(
            _tensor("activation", m * topk / ep * k, dtype),
            _tensor("weight", touched * (3 if gated else 2) * k * n / tp, weight),
        ),
        writes=(_tensor("activation", m * topk / ep * k, dtype),),
    )  # fmt: skip


def _collective(name: Any, dtype: str, shapes: dict[str, Any]) -> Op:
    message, group = _shape(shapes, "bytes"), _scalar(shapes, "group")
    return Collective(
        name=name, dtype=known_dtype("dtype", dtype), collective=name,
        message=message, group_size=group,
    )  # fmt: skip


_BUILDERS = {
    "matmul": _matmul,
    "prefill": _attention("prefill"),
    "decode": _attention("decode"),
    "elementwise": _elementwise,
    "layernorm": _rowwise("layernorm"),
    "rmsnorm": _rowwise("rmsnorm"),
    "softmax": _rowwise("softmax"),
    "moe": _moe,
}
