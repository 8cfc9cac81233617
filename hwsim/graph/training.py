"""Graph of one training microbatch: forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.inference import check_context
from hwsim.graph.layout import Layout, layout_of, local_sequence
from hwsim.graph.lora import Lora
from hwsim.graph.modules import MODULES, modules_of
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.optimizer import Update, optimizer_blocks, optimizer_named
from hwsim.graph.parameters import Held
from hwsim.graph.precision import resolve
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.shard import check_count, check_positive, shard
from hwsim.graph.step import step_blocks, trained
from hwsim.graph.unit import Plan, units
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

Recompute = Literal["none", "selective", "operators", "full"]
# Share of positions that a masked language model predicts (Devlin et al.,
# 2018, arXiv:1810.04805, section 3.1).
MASKED_SHARE = 0.15


def training_graph(
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
    stack: StackSpec,
    last: bool = True,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
    offload_optimizer: bool = False,
    **more: Any,
) -> OpGraph:
    """Return one microbatch on one of tp · cp · dp devices.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    micro_batch, seq : int
        Sequences of one data-parallel rank, and tokens of each.
    tp, dp : int
        Tensor- and data-parallel devices; tensor-parallel ones are adjacent.
    dtype : str
        Of the matrix products; what is narrower than 4 bytes trains with
        fp32 master weights.
    recompute : str
        ``selective`` recomputes unfused attention, ``operators`` all but products
        and fused attention, ``full`` each layer; names of modules joined by
        ``+`` (``layernorm+moe_act``): see :mod:`hwsim.graph.modules`.
    zero_stage : int
        0 to 3: what data-parallel devices share out (optimizer states,
        gradients, parameters).
    last : bool
        The microbatch before the update. The others add their gradients to
        those in memory; of n microbatches n - 1 are such.
    grad_dtype : str or None
        Of stored gradients; as activations unless given.
    decoder_seq : int or None
        Target tokens of an encoder-decoder model; as ``seq`` unless given.
    dropout : bool or None
        None: as is usual for the model, see ``uses_dropout``.
    offload_optimizer : bool
        Optimizer states and master weights are fetched from host memory for
        the update, and written back.
    **more
        ``cp``, ``cp_mode``, ``ep``, ``etp``, ``imbalance`` and
        ``capacity_factor`` as for :func:`~hwsim.graph.layout.layout_of`;
        ``recompute_every`` (layers whose index is a multiple are recomputed),
        ``offload_activations`` (what layers keep waits in host memory) and
        ``lora`` (a :class:`~hwsim.graph.lora.Lora`: only adapters are
        trained).

    Raises
    ------
    InputError
        If a count cannot be, the context is beyond the model's, or ``tp``
        does not divide the model.
    UnknownNameError
        If a dtype, optimizer or kind of recomputation is not known.
    """
    layers = range(len(model.layer_kinds))
    plan = training_plan(
        model, layers, micro_batch=micro_batch, seq=seq, tp=tp, dp=dp, dtype=dtype,
        recompute=recompute, zero_stage=zero_stage, last=last, stack=stack,
        sequence_parallel=sequence_parallel, grad_dtype=grad_dtype,
        decoder_seq=decoder_seq, dropout=dropout, **more,
    )  # fmt: skip
    optimizer_named(optimizer)
    blocks = step_blocks(plan)
    if last:
        update = Update(
            plan.setting, optimizer, trained_parameters(plan), zero_stage,
            offload=offload_optimizer,
        )  # fmt: skip
        blocks += optimizer_blocks(update)
    tokens = sum(p.tokens for p in plan.passes)
    replicas = plan.setting.layout.replicas
    return OpGraph("training", tuple(blocks), float(tokens * replicas))


def training_plan(
    model: ModelSpec,
    layers: Sequence[int],
    *,
    micro_batch: int,
    seq: int,
    dtype: str,
    recompute: str,
    zero_stage: int,
    last: bool,
    stack: StackSpec,
    sequence_parallel: bool,
    grad_dtype: str | None,
    decoder_seq: int | None,
    dropout: bool | None,
    first: bool = True,
    final: bool = True,
    recompute_every: int = 1,
    lora: Lora | None = None,
    offload_activations: bool = False,
    check_attention: bool = True,
    **degrees: Any,
) -> Plan:
    """Return the checked plan of one microbatch through some layers."""
    check_positive(micro_batch=micro_batch, seq=seq, recompute_every=recompute_every)
    check_stage(zero_stage)
    check_recompute(recompute)
    layout = layout_of(model, **degrees)
    local = shard(model, layout.tp, layout.etp)
    target = _target(model, seq, decoder_seq)
    if check_attention:
        _check_ring(layout, stack)
    split = sequence_parallel and layout.tp > 1
    precision = resolve(
        dtype, grad_dtype=grad_dtype or stack.gradients, autocast=stack.autocast
    )
    setting = Setting(
        model, local, precision, stack, training=True, sequence_parallel=split,
        dropout=uses_dropout(model) if dropout is None else dropout,
        accumulate=not last, layout=layout, lora=lora,
    )  # fmt: skip
    passes = _passes(
        model, micro_batch, local_sequence(seq, layout, split),
        local_sequence(target, layout, split),
    )  # fmt: skip
    return Plan(
        setting, passes, recompute, zero_stage, last,
        MASKED_SHARE if model.kind == "encoder" else 1.0, layers, first, final,
        recompute_every, offload_activations,
    )  # fmt: skip


def _target(model: ModelSpec, seq: int, decoder_seq: int | None) -> int:
    """Return the tokens of a sequence that the decoder sees."""
    target = seq if decoder_seq is None else decoder_seq
    check_positive(decoder_seq=target)
    if decoder_seq is not None and model.kind != "encoder_decoder":
        raise InputError(f"decoder_seq is given but {model.id} has no encoder")
    check_context(model, max(seq, target))
    return target


def trained_parameters(plan: Plan) -> Held:
    """Return the parameters of one device that get gradients."""
    return plan.held if plan.setting.lora is None else trained(units(plan))


def _check_ring(layout: Layout, stack: StackSpec) -> None:
    """Scores of one block at a time need the running softmax of a fused kernel."""
    ring = layout.cp > 1 and layout.cp_mode == "ring"
    if ring and stack.fusion.attention != "fused":
        raise InputError(
            f"cp_mode ring needs fused attention, which stack {stack.id} has not; "
            "use cp_mode all_to_all or all_gather"
        )


def uses_dropout(model: ModelSpec) -> bool:
    """Whether a model is usually trained with dropout.

    The generation with layer norms and learned positions (BERT, GPT-2, GPT-3)
    was; later decoders are not, MPT among them, whose rates are 0 unless set
    (llm-foundry, configuration_mpt.py).
    """
    return (
        model.norm == "layernorm"
        and model.position == "learned"
        and model.family != "MPT"
    )


def check_stage(zero_stage: int) -> None:
    """Raise InputError unless the stage is 0 to 3."""
    check_count("zero_stage", zero_stage, 0)
    if zero_stage > 3:
        raise InputError(f"zero_stage is {zero_stage}; give 0, 1, 2 or 3")


def check_recompute(recompute: str) -> None:
    """Raise UnknownNameError unless it is a kind of recomputation."""
    if recompute not in get_args(Recompute) and not modules_of(str(recompute)):
        known = (*get_args(Recompute), *MODULES)
        raise UnknownNameError("recompute", str(recompute), known)


def check_split(seq: int, tp: int, sequence_parallel: bool) -> None:
    """Raise InputError if the sequence cannot be split among the devices."""
    if sequence_parallel and seq % tp:
        raise InputError(
            f"seq {seq} is not a multiple of tp {tp}, which sequence_parallel "
            f"needs; use {max(seq // tp, 1) * tp}"
        )


def _passes(model: ModelSpec, batch: int, seq: int, target: int) -> tuple[Pass, ...]:
    if model.kind == "encoder_decoder":
        return (
            Pass(batch, seq, seq, causal=False),
            Pass(batch, target, target, memory=seq),
        )
    return (Pass(batch, seq, seq, causal=model.kind == "decoder"),)
