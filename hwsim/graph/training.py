"""Graph of one training microbatch: forward, loss, backward, update."""

from __future__ import annotations

from typing import Literal, get_args

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.inference import check_context
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.optimizer import Update, optimizer_block, optimizer_named
from hwsim.graph.parameters import device_parameters
from hwsim.graph.precision import resolve
from hwsim.graph.setting import Pass, Setting
from hwsim.graph.shard import check_count, check_positive, shard
from hwsim.graph.step import Plan, step_blocks
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

Recompute = Literal["none", "selective", "full"]
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
    recompute: Recompute = "none",
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    stack: StackSpec,
    last: bool = True,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
) -> OpGraph:
    """Return one microbatch on one of tp · dp devices.

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
        ``selective`` recomputes unfused attention, ``full`` each layer.
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

    Raises
    ------
    InputError
        If a count cannot be, the context is beyond the model's, or ``tp``
        does not divide the model.
    UnknownNameError
        If a dtype, optimizer or kind of recomputation is not known.
    """
    check_positive(micro_batch=micro_batch, seq=seq, dp=dp)
    check_stage(zero_stage)
    check_recompute(recompute)
    optimizer_named(optimizer)
    local = shard(model, tp)
    target = seq if decoder_seq is None else decoder_seq
    check_positive(decoder_seq=target)
    if decoder_seq is not None and model.kind != "encoder_decoder":
        raise InputError(f"decoder_seq is given but {model.id} has no encoder")
    check_context(model, max(seq, target))
    check_split(seq, tp, sequence_parallel)
    check_split(target, tp, sequence_parallel)
    setting = Setting(
        model,
        local,
        resolve(dtype, grad_dtype=grad_dtype),
        stack,
        training=True,
        sequence_parallel=sequence_parallel and tp > 1,
        dropout=uses_dropout(model) if dropout is None else dropout,
        accumulate=not last,
    )
    plan = _plan(setting, micro_batch, seq, target, recompute, dp, zero_stage, last)
    blocks = step_blocks(plan)
    if last:
        held = device_parameters(model, local)
        blocks.append(
            optimizer_block(
                Update(
                    setting, optimizer, held.total, held.linear, held.norms, dp,
                    zero_stage,
                )
            )
        )  # fmt: skip
    tokens = sum(p.tokens for p in plan.passes)
    return OpGraph("training", tuple(blocks), float(tokens * dp))


def uses_dropout(model: ModelSpec) -> bool:
    """Whether a model is usually trained with dropout.

    The generation with layer norms and learned positions (BERT, GPT-2, GPT-3)
    was; later decoders are not.
    """
    return model.norm == "layernorm" and model.position == "learned"


def check_stage(zero_stage: int) -> None:
    """Raise InputError unless the stage is 0 to 3."""
    check_count("zero_stage", zero_stage, 0)
    if zero_stage > 3:
        raise InputError(f"zero_stage is {zero_stage}; give 0, 1, 2 or 3")


def check_recompute(recompute: str) -> None:
    """Raise UnknownNameError unless it is a kind of recomputation."""
    if recompute not in get_args(Recompute):
        raise UnknownNameError("recompute", str(recompute), get_args(Recompute))


def check_split(seq: int, tp: int, sequence_parallel: bool) -> None:
    """Raise InputError if the sequence cannot be split among the devices."""
    if sequence_parallel and seq % tp:
        raise InputError(
            f"seq {seq} is not a multiple of tp {tp}, which sequence_parallel "
            f"needs; use {max(seq // tp, 1) * tp}"
        )


def _plan(
    setting: Setting,
    batch: int,
    seq: int,
    target: int,
    recompute: str,
    dp: int,
    zero_stage: int,
    last: bool,
) -> Plan:
    model = setting.model
    passes: tuple[Pass, ...]
    if model.kind == "encoder_decoder":
        passes = (
            Pass(batch, seq, seq, causal=False),
            Pass(batch, target, target, memory=seq),
        )
    else:
        passes = (Pass(batch, seq, seq, causal=model.kind == "decoder"),)
    share = MASKED_SHARE if model.kind == "encoder" else 1.0
    return Plan(setting, passes, recompute, dp, zero_stage, last, share)
