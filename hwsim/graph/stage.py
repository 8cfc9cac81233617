"""Graphs of one pipeline stage: forward, backward, end of step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hwsim.errors import InputError
from hwsim.graph.lora import Lora
from hwsim.graph.opgraph import Block, OpGraph
from hwsim.graph.optimizer import (
    Update,
    optimizer_blocks,
    optimizer_named,
    parameter_gathers,
)
from hwsim.graph.parameters import Held
from hwsim.graph.partition import activation_message, layers_per_stage
from hwsim.graph.reduce import reduced_at_end
from hwsim.graph.split import accumulating, divided
from hwsim.graph.step import backward_blocks, forward_blocks, trained
from hwsim.graph.training import training_plan
from hwsim.graph.unit import Plan, Unit, roles, units
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

__all__ = ["StageGraphs", "activation_message", "layers_per_stage", "stage_graphs"]


@dataclass(frozen=True)
class StageGraphs:
    """What one device of a stage runs; each graph is made when first asked for.

    With m microbatches a step is m times ``forward``, m - 1 times
    ``backward``, once ``last_backward`` and once ``update``. A zero-bubble
    schedule plays ``input_gradients`` and ``weight_gradients`` in place of
    ``backward``, and ``last_input_gradients`` and ``last_weight_gradients``
    in place of ``last_backward``.

    Attributes
    ----------
    plan : Plan
        The microbatch before the update.
    optimizer : str
        Name of the optimizer.
    mirrored : bool
        Another stage holds the same layers: gradients are summed with it.
    """

    plan: Plan
    optimizer: str
    offload_optimizer: bool = False
    mirrored: bool = False
    _units: list[Unit] = field(repr=False, compare=False, default_factory=list)

    def _graph(self, name: str, blocks: Sequence[Block]) -> OpGraph:
        plan = self.plan
        tokens = sum(p.tokens for p in plan.passes) * plan.setting.layout.replicas
        return OpGraph(name, tuple(blocks), float(tokens))

    @cached_property
    def forward(self) -> OpGraph:
        """Forward of one microbatch; the last stage's ends with the loss."""
        return self._graph("forward", forward_blocks(self.plan, self._units))

    @cached_property
    def backward(self) -> OpGraph:
        """Backward that adds to the gradients of earlier microbatches."""
        again = replace(self.plan, last=False)
        apart = self.plan.setting.added_apart
        found = [
            replace(u, backward=accumulating(u.backward, apart)) if u.backward else u
            for u in self._units
        ]
        return self._graph("backward", backward_blocks(again, found))

    @cached_property
    def last_backward(self) -> OpGraph:
        """Backward of the last microbatch, with the reduction of gradients.

        Layer by layer beside compute where the stack overlaps it, else after.
        """
        return self._graph("backward", backward_blocks(self.plan, self._units))

    @cached_property
    def reduction(self) -> OpGraph | None:
        """Reduction of all gradients at once, as ``last_backward`` has it apart.

        For a schedule that plays ``backward`` for each microbatch and reduces
        by itself; None if nothing is replicated.
        """
        blocks = reduced_at_end(self.plan, self.trained)
        return self._graph("reduction", blocks) if blocks else None

    @cached_property
    def _divided(self) -> tuple[OpGraph, OpGraph | None]:
        return self._split(self.backward)

    @cached_property
    def _last_divided(self) -> tuple[OpGraph, OpGraph | None]:
        return self._split(self.last_backward)

    def _split(self, graph: OpGraph) -> tuple[OpGraph, OpGraph | None]:
        now, later = [], []
        for block in graph.blocks:
            inputs, weights = divided(block)
            now += [inputs] if inputs else []
            later += [weights] if weights else []
        weights_graph = self._graph("weight_gradients", later) if later else None
        return self._graph("input_gradients", now), weights_graph

    @property
    def input_gradients(self) -> OpGraph:
        """``backward`` without what only parameters' gradients need."""
        return self._divided[0]

    @property
    def weight_gradients(self) -> OpGraph | None:
        """The rest of ``backward``; None if nothing is trained."""
        return self._divided[1]

    weight = weight_gradients

    @property
    def last_input_gradients(self) -> OpGraph:
        """``last_backward`` without what only parameters' gradients need."""
        return self._last_divided[0]

    @property
    def last_weight_gradients(self) -> OpGraph | None:
        """The rest of ``last_backward``, with the reduction of gradients."""
        return self._last_divided[1]

    @cached_property
    def trained(self) -> Held:
        """Parameters of one device that get gradients."""
        if self.plan.setting.lora is None:
            return self.plan.held
        return trained(self._units)

    @property
    def held(self) -> Held:
        """Parameters of one device."""
        return self.plan.held

    @cached_property
    def _updates(self) -> Update:
        plan = self.plan
        tied, ranks = _tied(plan)
        return Update(
            plan.setting, self.optimizer, self.trained, plan.zero_stage, ranks,
            tied, self.offload_optimizer, self.mirrored,
        )  # fmt: skip

    @cached_property
    def update(self) -> OpGraph:
        """End of the step: tied table, norm of the gradients, optimizer."""
        return self._graph("update", optimizer_blocks(self._updates))

    @cached_property
    def gathering(self) -> OpGraph | None:
        """Gathers of updated parameters beside the forward passes that follow."""
        if not self.plan.setting.gathers_ahead(self.plan.zero_stage):
            return None
        nodes = tuple(parameter_gathers(self._updates))
        return self._graph("gathering", [Block("parameters", nodes)]) if nodes else None


def _tied(plan: Plan) -> tuple[float, int]:
    """Return values of a table that other stages hold too, and how many do."""
    setting, model = plan.setting, plan.setting.model
    tables = any(plan.starts(role) for role in roles(model))
    both = model.kind == "encoder_decoder"
    tied = model.tied_embeddings and model.output_head
    apart = setting.layout.pp > 1 and not (plan.first and plan.final)
    if not apart or not (tied or both) or setting.lora is not None:
        return 0.0, 1
    if not tables and not (plan.final and tied):
        return 0.0, 1
    return float(setting.shard.vocab * model.embedding_width), 2


def stage_graphs(
    model: ModelSpec,
    *,
    layers: tuple[int, int] | Sequence[int],
    first: bool,
    last: bool,
    micro_batch: int,
    seq: int,
    tp: int = 1,
    cp: int = 1,
    ep: int = 1,
    dp: int = 1,
    pp: int | None = None,
    dtype: str = "bf16",
    recompute: str = "none",
    recompute_every: int = 1,
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    stack: StackSpec,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
    lora: Lora | None = None,
    offload_optimizer: bool = False,
    offload_activations: bool = False,
    mirrored: bool = False,
    **more: Any,
) -> StageGraphs:
    """Return the graphs of one device of a pipeline stage.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    layers : tuple of two int, or range or list of int
        A pair (start, stop), or the indices of the layers; encoder layers
        are counted first. A stage with several parts (interleaved) takes one
        call for each part, and one with all of its layers for ``update``.
        None where the embedding or the head stands alone.
    first, last : bool
        Whether the embedding; the last norm, the head and the loss are here.
    micro_batch, seq : int
        Sequences of one data-parallel rank, and tokens of each (of all
        context-parallel ranks together).
    tp, cp, dp, pp : int
        Tensor-, context-, data- and pipeline-parallel devices. ``pp`` counts
        in the norm of the gradients and in sharing a tied table; None is 1
        for the whole model, else 2.
    ep : int
        Ranks, of the data- and context-parallel ones, that share experts out.
    recompute, recompute_every
        What is recomputed in layers whose index is a multiple.
    mirrored : bool
        Another stage holds the same layers (two-way schedules).
    lora, offload_optimizer, offload_activations, **more
        As for :func:`~hwsim.graph.training.training_graph`; ``more`` are
        ``cp_mode``, ``etp``, ``imbalance`` and ``capacity_factor``.

    Raises
    ------
    InputError
        If layers or degrees cannot be.
    UnknownNameError
        If a dtype, optimizer or kind of recomputation is not known.
    """
    optimizer_named(optimizer)
    indices = layer_indices(model, layers, alone=first or last)
    if pp is None:
        pp = 1 if first and last and len(indices) == len(model.layer_kinds) else 2
    plan = training_plan(
        model, indices, first=first, final=last, micro_batch=micro_batch, seq=seq,
        dtype=dtype, recompute=recompute, recompute_every=recompute_every,
        zero_stage=zero_stage, last=True, stack=stack, grad_dtype=grad_dtype,
        sequence_parallel=sequence_parallel, decoder_seq=decoder_seq,
        dropout=dropout, lora=lora, offload_activations=offload_activations,
        tp=tp, cp=cp, ep=ep, dp=dp, pp=pp, **more,
    )  # fmt: skip
    return StageGraphs(plan, optimizer, offload_optimizer, mirrored, units(plan))


def layer_indices(
    model: ModelSpec, layers: tuple[int, int] | Sequence[int], *, alone: bool = False
) -> Sequence[int]:
    """Return the checked indices of a stage's layers.

    ``alone``: there may be none, as the embedding or the head is there.
    """
    count = len(model.layer_kinds)
    if isinstance(layers, tuple):
        if len(layers) != 2:
            raise InputError(f"layers is {layers!r}; give (start, stop) or a range")
        indices: Sequence[int] = range(*layers)
    else:
        indices = layers
    if not indices:
        if alone:
            return indices
        raise InputError(
            "layers is empty; a stage has a layer, the embedding or the head"
        )
    if min(indices) < 0 or max(indices) >= count or len(set(indices)) < len(indices):
        raise InputError(
            f"layers {min(indices)} to {max(indices)} are not layers of {model.id} "
            f"once each; it has 0 to {count - 1}"
        )
    return indices
