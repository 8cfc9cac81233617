"""Bytes that training keeps in the memory of each device of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from hwsim.cost.footprint_parts import Footprint
from hwsim.cost.footprint_states import StateWidths, state_widths
from hwsim.errors import InputError
from hwsim.graph.activation import Kept
from hwsim.graph.lora import Lora
from hwsim.graph.loss import loss_bytes
from hwsim.graph.modules import modules_of, scores_again
from hwsim.graph.optimizer import OFFLOAD_PIECES, Update, optimizer_named
from hwsim.graph.parameters import (
    Held,
    embedding_parameters,
    gathered_unit,
    head_parameters,
)
from hwsim.graph.partition import activation_message
from hwsim.graph.shard import local_heads
from hwsim.graph.stage import layer_indices
from hwsim.graph.training import trained_parameters, training_plan
from hwsim.graph.unit import Plan, roles
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.stack import Fusion, StackSpec

# Where no stack is given: the loss is one kernel, all else is as arguments say.
_ANY = StackSpec.model_construct(
    id="any", name="any", sources=(), fusion=Fusion(cross_entropy=True)
)


def training_footprint(
    model: ModelSpec,
    *,
    micro_batch: int,
    seq: int,
    tp: int = 1,
    dp: int = 1,
    dtype: str = "bf16",
    recompute: str = "none",
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    flash: bool = True,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
    **more: Any,
) -> Footprint:
    """Return what one training microbatch takes on each device.

    Parameters
    ----------
    model, micro_batch, seq, tp, dp, dtype, recompute, optimizer, zero_stage
        As for ``hwsim.graph.training.training_graph``.
    sequence_parallel : bool
        What lies between tensor-parallel regions is divided as well.
    flash : bool
        Attention is one kernel: scores are never stored.
    grad_dtype, decoder_seq, dropout
        As for ``hwsim.graph.training.training_graph``.
    **more
        As for :func:`stage_footprint`.

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large
       Transformer Models", 2022, arXiv:2205.05198, section 4.
    .. [2] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 5.
    """
    return stage_footprint(
        model, layers=range(len(model.layer_kinds)), first=True, last=True,
        micro_batch=micro_batch, seq=seq, tp=tp, dp=dp, dtype=dtype,
        recompute=recompute, optimizer=optimizer, zero_stage=zero_stage,
        sequence_parallel=sequence_parallel, flash=flash, grad_dtype=grad_dtype,
        decoder_seq=decoder_seq, dropout=dropout, **more,
    )  # fmt: skip


def stage_footprint(
    model: ModelSpec,
    *,
    layers: tuple[int, int] | Sequence[int],
    first: bool,
    last: bool,
    in_flight: float = 1.0,
    micro_batch: int,
    seq: int,
    dtype: str = "bf16",
    recompute: str = "none",
    recompute_every: int = 1,
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    flash: bool = True,
    stack: StackSpec | None = None,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
    lora: Lora | None = None,
    offload_optimizer: bool = False,
    offload_activations: bool = False,
    **degrees: Any,
) -> Footprint:
    """Return the peak of one device of a pipeline stage.

    Parameters
    ----------
    layers : tuple of two int, or range or list of int
        All layers of the stage, interleaved parts together.
    first, last : bool
        Whether the embedding; the last norm and the head are here.
    in_flight : float
        Microbatches whose activations the stage holds at once: pp - i on
        stage i of 1F1B, all of them with GPipe; parts of a stage count as
        their share.
    flash : bool
        Attention is one kernel: scores are never stored. ``stack`` says it
        where it is given.
    stack : StackSpec or None
        Software stack: whether parameters are fp32 under autocast.
    **degrees
        ``tp``, ``cp``, ``dp``, ``pp``, ``ep``, ``etp``, ``cp_mode``,
        ``imbalance`` and ``capacity_factor`` as for
        :func:`~hwsim.graph.layout.layout_of`; all else as for
        :func:`~hwsim.graph.stage.stage_graphs`.

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large
       Transformer Models", 2022, arXiv:2205.05198, section 4 and appendix B.
    .. [2] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 5.
    """
    if not isinstance(in_flight, int | float) or not 0 < in_flight < float("inf"):
        raise InputError(f"in_flight is {in_flight!r}; give a number above 0")
    optimizer_named(optimizer)
    plan = training_plan(
        model, layer_indices(model, layers, alone=first or last),
        first=first, final=last, micro_batch=micro_batch, seq=seq, dtype=dtype,
        recompute=recompute, recompute_every=recompute_every,
        zero_stage=zero_stage, last=True, stack=stack or _ANY,
        sequence_parallel=sequence_parallel,
        grad_dtype=grad_dtype, decoder_seq=decoder_seq, dropout=dropout, lora=lora,
        offload_activations=offload_activations, check_attention=False, **degrees,
    )  # fmt: skip
    if stack is not None:
        flash = stack.fusion.attention == "fused"
    kept = Kept.of(
        plan.setting,
        plan.passes,
        flash=flash,
        selective=scores_again(recompute),
    )
    return _Stage(plan, kept, optimizer, float(in_flight), offload_optimizer).total()


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the memory of one device depends on."""

    plan: Plan
    kept: Kept
    optimizer: str
    in_flight: float
    offload_optimizer: bool

    def total(self) -> Footprint:
        """Return all parts."""
        plan = self.plan
        trained = trained_parameters(plan)
        update = Update(plan.setting, self.optimizer, trained, plan.zero_stage)
        states = update.states + update.numel * self._widths.master
        if self.offload_optimizer:
            # One piece comes while one is updated and one goes.
            states *= 3 / OFFLOAD_PIECES
        gradients = self._share(trained, 2) * self._widths.gradient
        buffers = self._buffers(trained)
        return Footprint(
            weights=self._weights(trained),
            gradients=gradients,
            optimizer_states=states,
            activations=self._activations() + self._gathered(),
            buffers=buffers or None,
        )

    def _share(self, held: Held, stage: int) -> float:
        """Return the parameters that stay here when ``stage`` shares them out."""
        layout = self.plan.setting.layout
        if self.plan.zero_stage < stage:
            return held.total
        return (
            held.dense.total / layout.sharers
            + held.expert.total / layout.expert_sharers
        )

    @property
    def _widths(self) -> StateWidths:
        setting = self.plan.setting
        return state_widths(
            setting.precision, setting.stack.held, sharded=self.plan.gathers
        )

    def _weights(self, trained: Held) -> float:
        held, widths = self.plan.held, self._widths
        if self.plan.setting.lora is not None:
            held = Held(held.dense + trained.dense, held.expert)
        linear = held.dense.linear + held.expert.linear
        whole = held.total * widths.weight + linear * widths.linear
        shared = self._share(held, 3) / held.total if held.total else 1.0
        return whole * shared

    def _gathered(self) -> float:
        """Return the parameters gathered at one time: a unit and the next. [B]"""
        plan, setting = self.plan, self.plan.setting
        if not plan.gathers:
            return 0.0
        width = DTYPE_BYTES[setting.precision.act]
        found, tables = 2 * self._widest_unit(), 0.0
        if plan.first:
            tables += embedding_parameters(setting.model, setting.shard).total
        if setting.stack.held.masters and setting.stack.held.gathered == "layer":
            # The root's unit, tables and head, is not given back in between.
            own = not plan.first
            if plan.final:
                head = head_parameters(setting.model, setting.shard, own_table=own)
                tables += head.total
            return (found + tables) * width
        return max(found, tables) * width

    def _widest_unit(self) -> float:
        """Return the parameters of the largest unit that is gathered by itself."""
        setting = self.plan.setting
        found = (
            gathered_unit(
                setting.model, setting.shard, setting.layout, kind,
                setting.stack.held.gathered,
            )
            for kind, _ in self.plan.kinds()
        )  # fmt: skip
        return max(found, default=0.0)

    # Activations --------------------------------------------------------------

    def _activations(self) -> float:
        """Return what microbatches in flight keep, and one layer's rest. [B]"""
        plan, total, widest = self.plan, 0.0, 0.0
        for (kind, again), count in plan.groups():
            size = self._layer(kind, again=again)
            total += count * size
            # Recomputed, one layer's activations live during its backward.
            widest = max(widest, self._remade(kind, size) if again else 0.0)
        if plan.offload:
            # One layer's activations come or go while another's are in use.
            sizes = [self._layer(k, again=a) for (k, a), _ in plan.groups()]
            total = min(total, 2 * max(sizes, default=0.0) / self.in_flight)
        # Logits are gone before a layer is recomputed.
        passing = max(widest, self._logits())
        return self.in_flight * (total + self._ends()) + passing

    def _remade(self, kind: LayerKind, size: float) -> float:
        recompute = self.plan.recompute
        whole = self.kept.layer(kind)
        if modules_of(recompute):
            return whole - size
        return whole if recompute in {"operators", "full"} else 0.0

    def _layer(self, kind: LayerKind, *, again: bool) -> float:
        full = again and self.plan.recompute == "full"
        light = again and self.plan.recompute == "operators"
        return self.kept.layer(
            kind, full=full, again=again, operators=light,
            modules=modules_of(self.plan.recompute),
        )  # fmt: skip

    def _tokens(self, index: int) -> float:
        p = self.plan.passes[index]
        return float(p.batch * p.seq_q)

    def _ends(self) -> float:
        """Return the embedding's dropout, and inputs of last norm and head. [B]"""
        plan, setting = self.plan, self.plan.setting
        model = setting.model
        tokens = sum(
            self._tokens(i) for i, r in enumerate(roles(model)) if plan.starts(r)
        )
        total = setting.outer(tokens * model.hidden * setting.dropout)
        if plan.final:
            values = self._tokens(-1) * model.hidden
            total += setting.outer(values * (self.kept.stream + self.kept.act))
        return total

    def _logits(self) -> float:
        """Return logits and what the loss makes of them, gone after it. [B]"""
        plan, p = self.plan, self.plan.passes[-1]
        if not plan.final:
            return 0.0
        rows = p.batch * ceil(p.seq_q * plan.loss_share)
        rows *= plan.setting.model.predicted_tokens
        return loss_bytes(plan.setting) * rows * plan.setting.shard.vocab

    # Communication --------------------------------------------------------------

    def _buffers(self, trained: Held) -> float:
        """Return what is on its way to or from other devices. [B]"""
        plan, setting = self.plan, self.plan.setting
        layout, total = setting.layout, 0.0
        if plan.zero_stage >= 2 and layout.sharers > 1 and trained.total:
            # Gradients of a unit and the next, before they are shared out.
            numel = min(2 * self._widest_unit(), trained.total)
            total += numel * DTYPE_BYTES[setting.precision.grad]
        if layout.pp > 1 and not (plan.first and plan.final):
            p = plan.passes[0]
            total += 2 * activation_message(
                setting.model, p.batch, p.seq_q, layout.tp,
                setting.sequence_parallel, setting.precision.act,
                autocast=setting.precision.autocast,
            )  # fmt: skip
        return total + self._context_buffers() + self._expert_buffers()

    def _context_buffers(self) -> float:
        """Return keys and values (and queries) of other ranks. [B]"""
        setting, p = self.plan.setting, self.plan.passes[-1]
        model, local, layout = setting.model, setting.shard, setting.layout
        if layout.cp == 1:
            return 0.0
        tokens, width = self._tokens(-1), DTYPE_BYTES[setting.precision.act]
        shapes = [
            local_heads(model, local, kind)
            for kind, _ in self.plan.kinds()
            if kind.mixer == "attention"
        ]
        row = float(max((2 * shape.keys for shape in shapes), default=0))
        if model.mla is not None and shapes:
            row = local.kv_heads * float(model.head_dim + model.mla.v_head_dim)
        if layout.cp_mode == "ring":
            # Two blocks in turn, and in backward as many of their gradients.
            return 4 * tokens * row * width
        if layout.cp_mode == "all_gather":
            return 2 * layout.cp * tokens * row * width
        queries = max((shape.queries for shape in shapes), default=0)
        return p.batch * p.seq_q * width * (row + queries)

    def _expert_buffers(self) -> float:
        """Return the rows sent to and from experts. [B]"""
        setting = self.plan.setting
        layout, moe = setting.layout, setting.model.moe
        here = any(kind.moe for kind, _ in self.plan.kinds())
        if layout.ep == 1 or moe is None or not here:
            return 0.0
        rows = self._tokens(-1) * moe.experts_per_token * layout.load
        if setting.sequence_parallel or layout.etp < layout.tp:
            rows /= layout.tp
        columns = moe.latent or setting.model.hidden
        return 2 * rows * columns * DTYPE_BYTES[setting.precision.act]
