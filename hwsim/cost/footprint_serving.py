"""Bytes that the stages of a serving replica keep in each device's memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hwsim.cost.footprint import (
    kv_cache_values,
    sequence_state_bytes,
    serving_activations,
    weight_bytes,
)
from hwsim.cost.footprint_parts import Footprint
from hwsim.graph.layout import Layout, joint_layout
from hwsim.graph.parameters import stage_parameters
from hwsim.graph.partition import layers_per_stage
from hwsim.graph.precision import Precision
from hwsim.graph.shard import shard
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import ModelSpec


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What one device of a serving replica's pipeline stage keeps. [B]

    Attributes
    ----------
    weights, activations : float
        Parameters; the most that is live at once.
    states : float
        Of state-space layers, for all sequences there may be.
    kv_token : float
        Keys and values of one token, the mean over a long context.
    """

    weights: float
    activations: float
    states: float
    kv_token: float

    @property
    def needed(self) -> float:
        """All but keys and values. [B]"""
        return self.weights + self.activations + self.states

    def with_draft(self, draft: StageMemory) -> StageMemory:
        """Return the same with another model beside it; one runs at a time."""
        return StageMemory(
            self.weights + draft.weights, max(self.activations, draft.activations),
            self.states + draft.states, self.kv_token + draft.kv_token,
        )  # fmt: skip


def serving_memory(
    model: ModelSpec,
    layout: Layout,
    *,
    tokens: int,
    sequences: int,
    context: int,
    precision: Precision,
    flash: bool = True,
    split: bool = False,
) -> list[StageMemory]:
    """Return what devices of each pipeline stage of a serving replica keep.

    Parameters
    ----------
    layout : Layout
        Of one replica, as :func:`~hwsim.graph.layout.joint_layout` gives it.
    tokens, sequences : int
        Most tokens of a step, and sequences, of one group.
    context : int
        Tokens over which windowed layers are averaged.
    precision : Precision
        Dtypes of arithmetic, weights and cache.
    flash : bool
        Attention is one kernel: scores are never stored.
    split : bool
        As for :func:`~hwsim.cost.footprint.kv_cache_values`.
    """
    local = shard(model, layout.tp, layout.etp)
    live = serving_activations(model, local, precision, 1, tokens, flash=flash)
    live += _gathered(model, layout, precision, tokens)
    stages = layers_per_stage(model, layout.pp)
    found = []
    for index, layers in enumerate(stages):
        kinds = Counter(model.layer_kinds[layers.start : layers.stop])
        held = stage_parameters(
            model, local, layout, kinds.items(), first=index == 0,
            last=index == len(stages) - 1,
        )  # fmt: skip
        weights = weight_bytes(held.dense + held.expert, precision)
        values = kv_cache_values(
            model, local, context=context, kinds=kinds, split=split
        )
        states = sequence_state_bytes(model, local, precision.act, kinds) * sequences
        token = values / context * DTYPE_BYTES[precision.kv]
        found.append(StageMemory(weights, live, states, token))
    return found


def _gathered(
    model: ModelSpec, layout: Layout, precision: Precision, tokens: int
) -> float:
    """Return the bytes of other groups' tokens that come through experts. [B]"""
    if layout.dp == 1 or model.moe is None:
        return 0.0
    rows = layout.dp
    if layout.expert_mode == "all_to_all":
        rows = min(layout.dp, model.moe.experts_per_token)
    return DTYPE_BYTES[precision.act] * tokens * rows * float(model.hidden)


def part_footprint(
    model: ModelSpec,
    layers: tuple[int, int],
    *,
    first: bool,
    last: bool,
    batch: int,
    context: int,
    tokens: int,
    tp: int,
    precision: Precision,
    flash: bool = True,
) -> Footprint:
    """Return what one device keeps of some layers of a decoder.

    Parameters
    ----------
    layers : tuple of two int
        (start, stop).
    first, last : bool
        Whether the embedding; the last norm and the head are here.
    batch, context : int
        Sequences, and the most tokens that each has.
    tokens : int
        Tokens of each sequence that are processed at once.
    """
    layout = joint_layout(model, tp=tp)
    local = shard(model, tp, layout.etp)
    kinds = Counter(model.layer_kinds[layers[0] : layers[1]])
    held = stage_parameters(model, local, layout, kinds.items(), first=first, last=last)
    values = kv_cache_values(model, local, context=context, kinds=kinds)
    states = sequence_state_bytes(model, local, precision.act, kinds)
    return Footprint(
        weights=weight_bytes(held.dense + held.expert, precision),
        kv_cache=batch * (values * DTYPE_BYTES[precision.kv] + states),
        activations=serving_activations(
            model, local, precision, batch, tokens, flash=flash
        ),
    )
