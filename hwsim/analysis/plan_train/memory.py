"""Memory of many layouts at once: the footprint's formulas over arrays.

What activations take is asked of :func:`~hwsim.cost.footprint_training.\
stage_footprint` itself, once for each distinct layer; how parameters are shared
out, and how many microbatches are in flight, is arithmetic on columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.listed import Space
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.units import Question
from hwsim.cost.cost import FloatArray
from hwsim.cost.footprint import Footprint
from hwsim.cost.footprint_states import StateWidths, state_widths
from hwsim.cost.footprint_training import stage_footprint
from hwsim.graph.layout import layout_of
from hwsim.graph.optimizer import OFFLOAD_PIECES, optimizer_named
from hwsim.graph.parameters import (
    Held,
    Parameters,
    embedding_parameters,
    gathered_unit,
    head_parameters,
    layer_held,
)
from hwsim.graph.precision import Precision, resolve
from hwsim.graph.shard import shard
from hwsim.schedule.pipeline.schedules import pipeline_schedule
from hwsim.schedule.pipeline.time import peak_in_flight
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind

Ends = tuple[bool, bool, bool]  # first, start of a decoder behind an encoder, last
# Of parameters: linear weights, all, what factored optimizers keep, and of layers
# what is gathered by itself.
_LINEAR, _TOTAL, _FACTORED, _UNIT = range(4)


@dataclass(frozen=True)
class ParameterTable:
    """Parameters on one device, by (tp, ep): shape (n_key, n_unit, 4).

    Units are the layer kinds, the embedding, the head beside its embedding
    and the head apart from it.
    """

    dense: FloatArray
    expert: FloatArray


@dataclass(frozen=True)
class KeptTable:
    """Activations of one sequence, by (tp, cp, ep, recompute). [B]

    Attributes
    ----------
    layer, peak, buffers : ndarray, shape (n_key, n_kind)
        Kept in flight, there for a moment beside it, communication buffers.
    first, starts, last, logits : ndarray, shape (n_key,)
        What both ends, and the start of a decoder behind an encoder, add for each
        microbatch in flight; the loss once.
    """

    layer: FloatArray
    peak: FloatArray
    buffers: FloatArray
    message: FloatArray
    first: FloatArray
    starts: FloatArray
    last: FloatArray
    logits: FloatArray


def keyed(
    space: Space, *names: str
) -> tuple[list[tuple[int, ...]], np.ndarray[Any, Any]]:
    """Return the distinct values of some columns, and which each layout has."""
    code = np.zeros(len(space), dtype=np.int64)
    sizes = [int(space[name].max(initial=0)) + 1 for name in names]
    for name, size in zip(names, sizes, strict=True):
        code = code * size + space[name]
    found, place = np.unique(code, return_inverse=True)
    keys = []
    for value in found.tolist():
        key = []
        for size in reversed(sizes):
            value, one = divmod(value, size)
            key.append(one)
        keys.append(tuple(reversed(key)))
    return keys, place


class MemoryModel:
    """Peak memory of the fullest device of each layout."""

    def __init__(self, asked: Question, stages: StageMaker) -> None:
        self.asked, self.stages = asked, stages
        self.kinds = [kind for kind, _ in asked.model.layer_groups()]
        self.layer = [self._plain_layer(kind) for kind in self.kinds]
        self.precision: Precision = resolve(
            asked.dtype, grad_dtype=asked.stack.gradients,
            autocast=asked.stack.autocast,
        )  # fmt: skip
        self._kept: dict[tuple[int, ...], list[Any]] = {}

    def _plain_layer(self, kind: LayerKind) -> int:
        """Return a layer of a kind with which no decoder starts, if there is one."""
        found = [i for i, k in enumerate(self.asked.model.layer_kinds) if k == kind]
        return next((i for i in found if i != self.stages.decoder_start), found[0])

    def parameters(self, keys: list[tuple[int, ...]]) -> ParameterTable:
        """Return what one device holds, for each (tp, ep)."""
        model, rows = self.asked.model, []
        for tp, ep in keys:
            local = shard(model, tp)
            layout = layout_of(model, tp=tp, ep=ep, dp=ep)
            nothing = Parameters()
            parts = [layer_held(model, local, layout, k) for k in self.kinds]
            ends = (
                embedding_parameters(model, local),
                head_parameters(model, local),
                head_parameters(model, local, own_table=True),
            )
            parts += [Held(one, nothing) for one in ends]
            how = self.asked.stack.held.gathered
            units = [gathered_unit(model, local, layout, k, how) for k in self.kinds]
            units += [0.0] * len(ends)
            rows.append(
                [
                    [[*_three(p.dense), unit], [*_three(p.expert), 0.0]]
                    for p, unit in zip(parts, units, strict=True)
                ]
            )
        table = np.array(rows, dtype=np.float64)
        return ParameterTable(table[:, :, 0], table[:, :, 1])

    def kept(self, keys: list[tuple[int, ...]]) -> KeptTable:
        """Return what activations take, for each (tp, cp, ep, recompute)."""
        for key in keys:
            if key not in self._kept:
                self._kept[key] = self._probed(*key)
        columns = zip(*(self._kept[key] for key in keys), strict=True)
        return KeptTable(*(np.array(c, dtype=np.float64) for c in columns))

    def _probed(self, tp: int, cp: int, ep: int, recompute: int) -> list[Any]:
        @cache
        def ask(layer: int, held: float, **ends: bool) -> Footprint:
            return stage_footprint(
                self.asked.model, layers=[layer],
                first=ends.get("first", False), last=ends.get("last", False),
                in_flight=held, micro_batch=1, dp=ep, pp=2, zero_stage=0,
                optimizer=self.asked.optimizer, recompute=RECOMPUTE[recompute],
                stack=self.asked.stack,
                **self.asked.plan_options(tp, cp, ep),  # type: ignore[arg-type]
            )  # fmt: skip

        def pair(layer: int, **ends: bool) -> tuple[float, float]:
            one = ask(layer, 1.0, **ends).activations
            each = ask(layer, 2.0, **ends).activations - one
            return each, one - each

        each, rest = zip(*map(pair, self.layer), strict=True)
        buffers = [ask(i, 1.0).buffers or 0.0 for i in self.layer]
        alone = ask(self.layer[0], 1.0, first=True, last=True).buffers or 0.0
        start = pair(self.layer[0], first=True)
        end = pair(self.layer[0], last=True)
        decoder, starts = self.stages.decoder_start, 0.0
        if decoder >= 0:
            kind = self.kinds.index(self.asked.model.layer_kinds[decoder])
            starts = pair(decoder)[0] - each[kind]
        message = buffers[0] - alone
        return [
            each, rest, [b - message for b in buffers], message,
            start[0] - each[0], starts, end[0] - each[0], end[1],
        ]  # fmt: skip

    def needed(self, space: Space) -> FloatArray:
        """Return the footprint of the fullest device of each layout. [B]"""
        found = np.zeros(len(space))
        tp_ep, who = keyed(space, "tp", "ep")
        parameters = self.parameters(tp_ep)
        settings, which = keyed(space, "tp", "cp", "ep", "recompute")
        kept = self.kept(settings)
        pipelines, pipe = keyed(space, "pp", "vpp")
        order = np.argsort(pipe, kind="stable")
        bounds = np.searchsorted(pipe[order], np.arange(len(pipelines) + 1))
        for index, (pp, vpp) in enumerate(pipelines):
            where = order[bounds[index] : bounds[index + 1]]
            stages = self.stages.stages(pp, vpp)
            two = two_ways(space)[where] & (pp > 1)
            one_way = [
                (counts, rank, (rank == 0, starts, rank == pp - 1))
                for counts, rank, starts in zip(
                    stages.counts, stages.rank, stages.starts, strict=True
                )
            ]
            pairs = [
                (counts, i, (not i, starts, not i))
                for i, (counts, starts) in enumerate(
                    zip(stages.both, stages.both_start, strict=True)
                )
            ]
            for at, ranks in ((where[~two], one_way), (where[two], pairs)):
                if not len(at):
                    continue
                group = _Group(
                    self, space.taken(at), parameters, who[at], kept, which[at]
                )
                for counts, rank, ends in ranks:
                    held = in_flight(group.space, rank)
                    total = group.total(counts, held, ends)
                    found[at] = np.maximum(found[at], total)
        return found


def sharers(space: Space) -> FloatArray:
    """Return the ranks that share states out in each layout."""
    among = np.where(space["dp_shard"] > 0, space["dp_shard"], space["dp"])
    found: FloatArray = (space["cp"] * among).astype(float)
    return found


def two_ways(space: Space) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which layouts hold a stage from either end on each rank."""
    both = [
        i
        for i, name in enumerate(space.schedules)
        if pipeline_schedule(name).placement == "bidirectional"
    ]
    return np.isin(space["schedule"], both) & (space["pp"] > 1)


def in_flight(space: Space, rank: int) -> FloatArray:
    """Return the microbatches that a rank holds in each layout of one depth."""
    pp, vpp = space["pp"].astype(float), space["vpp"].astype(float)
    count = space.num_microbatches.astype(float)
    held = np.ones(len(space))
    for index, name in enumerate(space.schedules):
        at = np.flatnonzero((space["schedule"] == index) & (pp > 1))
        if not len(at):
            continue
        p, v, m = pp[at], vpp[at], count[at]
        if name == "1f1b":
            held[at] = np.minimum(m, p - rank)
        elif name == "interleaved":
            ahead = 2.0 * (p - 1.0 - rank) + (v - 1.0) * p
            held[at] = np.minimum(m * v, ahead + 1.0) / v
        else:
            both = pipeline_schedule(name).placement == "bidirectional"
            held[at] = peak_in_flight(name, p, m, v) / (2.0 if both else 1.0)
    return held


def _three(p: Parameters) -> list[float]:
    return [p.linear, p.total, p.factored]


class _Group:
    """Layouts of one pipeline depth, and the parts of their footprint."""

    def __init__(
        self,
        model: MemoryModel,
        space: Space,
        parameters: ParameterTable,
        who: Any,
        kept: KeptTable,
        which: Any,
    ) -> None:
        self.model, self.space = model, space
        self.dense, self.expert = parameters.dense[who], parameters.expert[who]
        self.table, self.which = kept, which
        self.replicas = (space["cp"] * space["dp"]).astype(float)
        self.sharers = sharers(space)
        self.expert_sharers = self.replicas / space["ep"]
        hybrid = self.sharers < self.replicas
        if hybrid.any():
            inside = np.maximum(self.sharers / space["ep"], 1.0)
            self.expert_sharers = np.where(hybrid, inside, self.expert_sharers)
        self.zero, self.batch = space["zero_stage"], space["micro_batch"].astype(float)

    def total(self, layers: FloatArray, held: FloatArray, ends: Ends) -> FloatArray:
        """Return the footprint of one rank. [B]"""
        first, starts, last = ends
        table = first or starts
        kinds = len(layers)
        take = np.concatenate([layers, [table, last and table, last and not table]])
        dense = np.einsum("nux,u->nx", self.dense, take)
        expert = np.einsum("nux,u->nx", self.expert, take)
        here = layers > 0
        widest = np.where(here, self.dense[:, :kinds, _UNIT], 0.0).max(axis=1)
        return (
            self._states(dense, expert, widest)
            + self._gathered(widest, first, last)
            + self._activations(layers, held, ends)
        )

    def _share(self, dense: FloatArray, expert: FloatArray, stage: int) -> FloatArray:
        whole = dense + expert
        part = dense / self.sharers + expert / self.expert_sharers
        return np.where(self.zero >= stage, part, whole)

    def _states(
        self, dense: FloatArray, expert: FloatArray, widest: FloatArray
    ) -> FloatArray:
        """Weights, gradients with their buffer, optimizer states. [B]"""
        d, e = dense[:, _TOTAL], expert[:, _TOTAL]
        linear = dense[:, _LINEAR] + expert[:, _LINEAR]
        gathers = (self.zero == 3) & (self.sharers > 1)
        policy, precision = self.model.asked.stack.held, self.model.precision
        apart, shards = (
            state_widths(precision, policy, sharded=sharded)
            for sharded in (False, True)
        )
        width = {
            name: np.where(gathers, getattr(shards, name), getattr(apart, name))
            for name in StateWidths.__slots__
        }
        whole = (d + e) * width["weight"] + linear * width["linear"]
        weights = whole * self._share(d, e, 3) / (d + e)
        gradients = self._share(d, e, 2) * width["gradient"]
        passing = (self.zero >= 2) & (self.sharers > 1)
        grad = DTYPE_BYTES[precision.grad]
        gradients = gradients + passing * np.minimum(2 * widest, d + e) * grad
        numel = self._share(d, e, 1)
        factored = self._share(dense[:, _FACTORED], expert[:, _FACTORED], 1)
        optimizer = optimizer_named(self.model.asked.optimizer)
        kept = 4.0 * factored if optimizer.factored else optimizer.state_bytes * numel
        states = numel * width["master"] + kept
        away = self.space["offload_optimizer"] > 0
        kept = np.where(away, states * 3 / OFFLOAD_PIECES, states)
        found: FloatArray = weights + gradients + kept
        return found

    def _gathered(self, widest: FloatArray, first: bool, last: bool) -> FloatArray:
        """Parameters gathered at one time. [B]"""
        tables: FloatArray = self.dense[:, -3:, _TOTAL]
        embedding, head, alone = tables.T
        most, held = 2 * widest, self.model.asked.stack.held
        if held.masters and held.gathered == "layer":
            most = most + first * embedding + last * (head if first else alone)
        elif first:
            most = np.maximum(most, embedding)
        gathers = (self.zero == 3) & (self.sharers > 1)
        width = DTYPE_BYTES[self.model.precision.act]
        found: FloatArray = gathers * (most * width)
        return found

    def _activations(
        self, layers: FloatArray, held: FloatArray, at: Ends
    ) -> FloatArray:
        table, which, batch, here = self.table, self.which, self.batch, layers > 0
        size = table.layer[which] * here
        total = batch * (size @ layers)
        away = self.space["offload_activations"] > 0
        total = np.where(
            away, np.minimum(total, batch * 2 * size.max(axis=1) / held), total
        )
        first, starts, last = at
        ends = first * table.first[which] + last * table.last[which]
        ends = batch * (ends + starts * table.starts[which])
        passing = (table.peak[which] * here).max(axis=1)
        if last:
            passing = np.maximum(passing, table.logits[which])
        found: FloatArray = held * (total + ends) + batch * passing
        found = found + batch * (table.buffers[which] * here).max(axis=1)
        if not (first and last):
            found = found + batch * table.message[which]
        return found
