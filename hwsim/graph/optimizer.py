"""The end of a training step: gradient norm, update, parameters handed out."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwsim.errors import UnknownNameError
from hwsim.graph.op import (
    Collective,
    CollectiveName,
    Elementwise,
    Op,
    Operand,
    OptimizerUpdate,
    Phase,
    Role,
)
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.precision import Precision
from hwsim.graph.setting import Setting
from hwsim.specs.base import DTYPE_BYTES

# PyTorch's multi-tensor kernels take 320 blocks of 65536 values per launch
# (aten/src/ATen/native/cuda/ForeachFunctors.cuh, MultiTensorApply.cuh).
VALUES_PER_LAUNCH = 320 * 65536


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer keeps and does for each parameter.

    Attributes
    ----------
    state_bytes : float
        Of its own state, master weights not included. [B]
    flop : float
        Arithmetic of one update. [FLOP]
    passes : tuple
        Where it is written as one kernel per operation on all tensors: for
        each, values read and written (parameter, gradient or state).
    """

    state_bytes: float
    flop: float
    passes: tuple[tuple[str, int, int], ...]


_ADAM = (
    ("first_moment", 2, 1), ("second_moment_decay", 1, 1), ("second_moment", 2, 1),
    ("square_root", 1, 1), ("bias_correction", 1, 1), ("epsilon", 1, 1),
    ("update", 3, 1),
)  # fmt: skip
_DECAY = (("weight_decay", 1, 1),)
_MOMENTUM = (("momentum", 2, 1), ("update", 2, 1))
OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(8.0, 12.0, _ADAM),
    "adamw": Optimizer(8.0, 14.0, _DECAY + _ADAM),
    "sgd": Optimizer(0.0, 2.0, (("update", 2, 1),)),
    "momentum": Optimizer(4.0, 4.0, _MOMENTUM),
    "lion": Optimizer(4.0, 9.0, (*_DECAY, ("sign", 2, 1), *_MOMENTUM)),
    "lamb": Optimizer(8.0, 20.0, (*_ADAM, ("norms", 2, 0), ("scale", 2, 1))),
}


def optimizer_named(name: str) -> Optimizer:
    """Return the optimizer, or raise with the nearest known ones."""
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", str(name), OPTIMIZERS)
    return OPTIMIZERS[name]


def master_bytes(precision: Precision) -> float:
    """Bytes of a parameter's fp32 copy; none if it is that wide already. [B]"""
    return 4.0 if DTYPE_BYTES[precision.act] < 4 else 0.0


@dataclass(frozen=True, slots=True)
class Update:
    """What one device updates: how many parameters, shared with whom."""

    setting: Setting
    optimizer: str
    parameters: float
    linear: float
    norms: float
    dp: int
    zero_stage: int

    @property
    def numel(self) -> float:
        """Parameters that this device updates."""
        return self.parameters / (self.dp if self.zero_stage else 1)


def optimizer_block(u: Update) -> Block:
    """Return the block that ends a step; it waits for all that came before."""
    nodes: list[Node] = []
    tp = u.setting.shard.tp
    grad = DTYPE_BYTES[u.setting.precision.grad]

    def add(op: Op, stream: str = COMPUTE) -> None:
        deps = (len(nodes) - 1,) if nodes else ()
        nodes.append(Node(op, deps, stream, barrier=not nodes))

    if u.setting.sequence_parallel and u.norms:
        # Each device saw only its part of the sequence.
        add(_collective(u, "norm_gradients", "all_reduce", u.norms * grad, "tp"), "tp")
    add(_gradient_norm(u))
    if tp > 1:
        add(_collective(u, "norm_reduce_tp", "all_reduce", 4.0, "tp"), "tp")
    if u.zero_stage and u.dp > 1:
        add(_collective(u, "norm_reduce_dp", "all_reduce", 4.0, "dp"), "dp")
    for op in _updates(u):
        add(op)
    if u.zero_stage in {1, 2} and u.dp > 1:
        nbytes = u.parameters * DTYPE_BYTES[u.setting.precision.act]
        add(_collective(u, "parameters", "all_gather", nbytes, "dp"), "dp")
    if u.setting.precision.quantised:
        add(_quantise(u))
    return Block("optimizer", tuple(nodes))


def _collective(
    u: Update, name: str, collective: CollectiveName, nbytes: float, axis: str
) -> Collective:
    tp = u.setting.shard.tp
    return axis_collective(
        name, collective, nbytes, u.dp if axis == "dp" else tp,
        stride=tp if axis == "dp" else 1, axis=axis,
        dtype=u.setting.precision.grad, phase="optimizer",
    )  # fmt: skip


def axis_collective(
    name: str,
    collective: CollectiveName,
    nbytes: float,
    group_size: int,
    *,
    stride: int,
    axis: str,
    dtype: str,
    phase: Phase,
) -> Collective:
    """Return a collective on gradients or parameters among one axis' devices."""
    role: Role = "weight" if collective == "all_gather" else "gradient"
    whole, part = (
        Operand(role, nbytes, dtype),
        Operand(role, nbytes / group_size, dtype),
    )
    return Collective(
        name=name,
        dtype=dtype,
        collective=collective,
        message=nbytes,
        group_size=group_size,
        stride=stride,
        axis=axis,
        phase=phase,
        reads=(part if collective == "all_gather" else whole,),
        writes=(part if collective == "reduce_scatter" else whole,),
    )


def _gradients(u: Update) -> Operand:
    dtype = u.setting.precision.grad
    return Operand("gradient", u.numel * DTYPE_BYTES[dtype], dtype)


def _launches(u: Update) -> int:
    return max(ceil(u.numel / VALUES_PER_LAUNCH), 1)


def _gradient_norm(u: Update) -> Op:
    return Elementwise(
        name="gradient_norm",
        dtype=u.setting.precision.vector,
        numel=u.numel,
        function="norm",
        flop_per_value=2.0,
        reads=(_gradients(u),),
        writes=(Operand("gradient", 4.0, "fp32"),),
        phase="optimizer",
        kernels=_launches(u),
    )


def _updates(u: Update) -> list[Op]:
    spec = optimizer_named(u.optimizer)
    if u.setting.fusion.optimizer:
        return [_fused_update(u, spec)]
    return _passes(u, spec)


def _fused_update(u: Update, spec: Optimizer) -> Op:
    """One kernel: clipping, moments, master weights and the narrow copy."""
    act = u.setting.precision.act
    master = master_bytes(u.setting.precision)
    kept = Operand("optimizer_state", u.numel * (master + spec.state_bytes), "fp32")
    copy = Operand("weight", u.numel * DTYPE_BYTES[act], act)
    return OptimizerUpdate(
        name=u.optimizer,
        dtype=u.setting.precision.vector,
        numel=u.numel,
        optimizer=u.optimizer,
        flop_per_value=spec.flop,
        reads=(_gradients(u), kept) if master else (_gradients(u), kept, copy),
        writes=(kept, copy),
        phase="optimizer",
        kernels=_launches(u),
    )


def _passes(u: Update, spec: Optimizer) -> list[Op]:
    """One kernel per operation over all tensors, each through memory."""
    act, grad = u.setting.precision.act, _gradients(u)
    master = master_bytes(u.setting.precision)
    width = max(DTYPE_BYTES[act], 4.0)
    value = Operand("optimizer_state", u.numel * width, "fp32")
    copy = Operand("weight", u.numel * DTYPE_BYTES[act], act)
    ops = [_pass(u, "clip", (grad,), (grad,))]
    if master and grad.dtype != "fp32":
        ops.append(_pass(u, "gradient_cast", (grad,), (value,)))
    ops += [
        _pass(u, name, (value,) * reads, (value,) * writes)
        for name, reads, writes in spec.passes
    ]
    if master:
        ops.append(_pass(u, "parameter_cast", (value,), (copy,)))
    return ops


def _pass(
    u: Update, name: str, reads: tuple[Operand, ...], writes: tuple[Operand, ...]
) -> Op:
    return Elementwise(
        name=f"{u.optimizer}_{name}",
        dtype=u.setting.precision.vector,
        numel=u.numel,
        function=name,
        reads=reads,
        writes=writes,
        phase="optimizer",
        kernels=_launches(u),
    )


def _quantise(u: Update) -> Op:
    """Quantised copies of the linear weights, as stored and transposed."""
    precision = u.setting.precision
    nbytes = u.linear * DTYPE_BYTES[precision.math]
    return Elementwise(
        name="quantize_weights",
        dtype=precision.vector,
        numel=u.linear,
        function="quantize",
        flop_per_value=3.0,
        reads=(
            Operand("weight", u.linear * DTYPE_BYTES[precision.act], precision.act),
        ),
        writes=(Operand("weight", 2.0 * nbytes, precision.math),),
        phase="optimizer",
        kernels=max(ceil(u.linear / VALUES_PER_LAUNCH), 1),
    )
