"""The end of a training step: gradient norm, update, parameters handed out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from hwsim.graph.op import (
    Collective,
    CollectiveName,
    Copy,
    Elementwise,
    Op,
    Operand,
    OptimizerUpdate,
    Phase,
    Role,
)
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.optimizers import (
    OPTIMIZERS,
    Optimizer,
    master_bytes,
    optimizer_named,
)
from hwsim.graph.parameters import Held
from hwsim.graph.setting import Setting
from hwsim.specs.base import DTYPE_BYTES

__all__ = [
    "OPTIMIZERS",
    "Optimizer",
    "Update",
    "axis_collective",
    "master_bytes",
    "optimizer_blocks",
    "optimizer_named",
]

# PyTorch's multi-tensor kernels take 320 blocks of 65536 values per launch
# (aten/src/ATen/native/cuda/ForeachFunctors.cuh, MultiTensorApply.cuh).
VALUES_PER_LAUNCH = 320 * 65536


# Offloaded states are updated in so many pieces.
OFFLOAD_PIECES = 16


@dataclass(frozen=True, slots=True)
class Update:
    """What one device updates: how many parameters, shared with whom.

    Attributes
    ----------
    trained : Held
        Parameters of the device that get gradients.
    tied_ranks : int
        Pipeline stages that hold a copy of the same table; 1 is none.
    tied : float
        Parameters of that table on this device.
    offload : bool
        Optimizer states and master weights wait in host memory.
    mirrored : bool
        Another pipeline stage holds the same parameters (two-way schedules).
    """

    setting: Setting
    optimizer: str
    trained: Held
    zero_stage: int
    tied_ranks: int = 1
    tied: float = 0.0
    offload: bool = False
    mirrored: bool = False

    def _own(self, dense: float, expert: float) -> float:
        layout = self.setting.layout
        if self.zero_stage:
            dense /= layout.sharers
            expert /= layout.expert_sharers
        return dense + expert

    @property
    def numel(self) -> float:
        """Parameters that this device updates."""
        return self._own(self.trained.dense.total, self.trained.expert.total)

    @property
    def linear(self) -> float:
        """Linear weights that this device holds."""
        return self.trained.dense.linear + self.trained.expert.linear

    @property
    def states(self) -> float:
        """States of what this device updates, without master weights. [B]"""
        dense, expert = self.trained
        return optimizer_named(self.optimizer).states(
            self.numel, self._own(dense.factored, expert.factored)
        )

    @property
    def kept(self) -> float:
        """Master weights and states of what this device updates. [B]"""
        return self.numel * master_bytes(self.setting.precision) + self.states


def optimizer_blocks(u: Update) -> list[Block]:
    """Return the blocks that end a step; they wait for all that came before.

    States in host memory come and go piece by piece, each written back while
    the next ones are fetched.
    """
    nodes: list[Node] = []

    def add(op: Op, stream: str = COMPUTE) -> None:
        deps = (len(nodes) - 1,) if nodes else ()
        nodes.append(Node(op, deps, stream, barrier=not nodes))

    for op in (*_buffer_passes(u), *_repeated_gradients(u), *_global_norm(u)):
        add(op, op.axis if isinstance(op, Collective) else COMPUTE)
    if u.offload:
        update = _pieces(u)
        after = _handed_out(u)
        blocks = [Block("gradient_norm", tuple(nodes)), update]
        return [*blocks, Block("optimizer", tuple(after))] if after else blocks
    for op in _updates(u):
        add(op)
    nodes += [
        replace(n, deps=tuple(d + len(nodes) for d in n.deps) or (len(nodes) - 1,))
        for n in _handed_out(u)
    ]
    return [Block("optimizer", tuple(nodes))]


def _pieces(u: Update) -> Block:
    part = replace(u, trained=Held(*(p * (1.0 / OFFLOAD_PIECES) for p in u.trained)))
    nodes = [Node(_host_copy(part, back=False), (), "copy")]
    for op in _updates(part):
        nodes.append(Node(op, (len(nodes) - 1,)))
    updated = len(nodes) - 1
    nodes.append(Node(_host_copy(part, back=True), (updated,), "copy_out"))
    return Block("optimizer_pieces", tuple(nodes), OFFLOAD_PIECES, updated)


def _handed_out(u: Update) -> list[Node]:
    """Return what follows the update: shards gathered, weights quantised."""
    ahead = u.setting.gathers_ahead(u.zero_stage)
    nodes = [] if ahead else parameter_gathers(u)
    if u.setting.precision.quantised:
        nodes.append(Node(_quantise(u), tuple(range(len(nodes)))))
    return nodes


def parameter_gathers(u: Update) -> list[Node]:
    """Return the gathers of the updated shards of ZeRO 1 and 2."""
    layout = u.setting.layout
    dense, expert = u.trained
    nodes: list[Node] = []
    for name, numel, size, stride in (
        ("parameters", dense.total, layout.sharers, layout.tp),
        (
            "expert_parameters", expert.total, layout.expert_sharers,
            layout.etp * layout.ep,
        ),
    ):  # fmt: skip
        if u.zero_stage in {1, 2} and size > 1 and numel:
            nbytes = numel * DTYPE_BYTES[u.setting.precision.parameter]
            op = _collective(u, name, "all_gather", nbytes, "dp", size, stride)
            nodes.append(Node(op, (), "dp"))
    return nodes


def _buffer_passes(u: Update) -> list[Op]:
    """Return what goes over the whole buffer of gradients beside its reduction."""
    passes = u.setting.stack.gradient_passes
    if not passes:
        return []
    numel, dtype = sum(part.total for part in u.trained), u.setting.precision.grad
    moved = Operand("gradient", numel * DTYPE_BYTES[dtype] * passes / 2.0, dtype)
    return [
        Elementwise(
            name="gradient_buffer", dtype=u.setting.precision.vector, numel=numel,
            function="scale", reads=(moved,), writes=(moved,), phase="optimizer",
            kernels=passes,
        )
    ]  # fmt: skip


def _repeated_gradients(u: Update) -> list[Op]:
    """Return the sums of gradients that several ranks hold parts of."""
    grad = DTYPE_BYTES[u.setting.precision.grad]
    layout, norms = u.setting.layout, u.trained.dense.norms
    ops: list[Op] = []
    if u.tied_ranks > 1 and u.tied:
        stride = layout.stage_stride * (layout.pp - 1) // (u.tied_ranks - 1)
        nbytes = u.tied * grad / (layout.sharers if u.zero_stage >= 2 else 1)
        ops.append(
            _collective(
                u, "table_gradients", "all_reduce", nbytes, "pp", u.tied_ranks,
                max(stride, 1),
            )
        )  # fmt: skip
    if u.mirrored and u.numel:
        nbytes, apart = u.numel * grad, layout.stage_stride * max(layout.pp // 2, 1)
        ops.append(
            _collective(u, "mirror_gradients", "all_reduce", nbytes, "pp", 2, apart)
        )
    # Each device saw only its part of the sequence (or of an adapter's width).
    parted = u.setting.sequence_parallel or u.setting.lora is not None
    if parted and norms and layout.tp > 1:
        ops.append(
            _collective(
                u, "norm_gradients", "all_reduce", norms * grad, "tp", layout.tp, 1
            )
        )
    return ops


def _global_norm(u: Update) -> list[Op]:
    """Return the norm of all gradients, summed over ranks with different ones."""
    layout = u.setting.layout
    ops = [_gradient_norm(u)]
    groups = [("tp", layout.tp, 1)]
    if u.zero_stage:
        groups.append(("dp", layout.sharers, layout.tp))
    elif u.trained.expert.total:
        groups.append(("ep", layout.ep, layout.expert_stride))
    groups.append(("pp", layout.pp, layout.stage_stride))
    for axis, size, stride in groups:
        if size > 1:
            name = f"norm_reduce_{axis}"
            ops.append(_collective(u, name, "all_reduce", 4.0, axis, size, stride))
    return ops


def _host_copy(u: Update, *, back: bool) -> Op:
    """States and master weights from the host, or back."""
    moved = (Operand("optimizer_state", u.kept, "fp32"),)
    return Copy(
        name="states_save" if back else "states_fetch",
        dtype="fp32",
        path="device_to_host" if back else "host_to_device",
        reads=moved,
        writes=moved,
        phase="optimizer",
    )


def _collective(
    u: Update,
    name: str,
    collective: CollectiveName,
    nbytes: float,
    axis: str,
    size: int,
    stride: int,
) -> Collective:
    return axis_collective(
        name, collective, nbytes, size, stride=stride, axis=axis,
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
    if u.setting.fusion.optimizer or not spec.passes:
        return [_fused_update(u, spec)]
    return _passes(u, spec)


def _fused_update(u: Update, spec: Optimizer) -> Op:
    """One kernel: clipping, moments, master weights and the narrow copy."""
    act = u.setting.precision.parameter
    master = master_bytes(u.setting.precision)
    kept = Operand("optimizer_state", u.kept, "fp32")
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
    act, grad = u.setting.precision.parameter, _gradients(u)
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
