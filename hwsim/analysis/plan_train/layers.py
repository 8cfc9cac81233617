"""One microbatch of many layouts through each layer, communication beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.crowding import Flow, crowded, no_flow
from hwsim.analysis.plan_train.links import Beside, Links, Patterns
from hwsim.analysis.plan_train.listed import Space
from hwsim.analysis.plan_train.memory import MemoryModel, keyed, sharers
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.units import BUSY, Question, UnitTable
from hwsim.cost.contention import held_share, lost_time
from hwsim.cost.cost import FloatArray
from hwsim.cost.hostlink import host_link
from hwsim.schedule.pipeline.schedules import pipeline_schedule
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import calibration_for, resolved_fidelity

_TOTAL = 1
_FULL = RECOMPUTE.index("full")


@dataclass(frozen=True)
class Models:
    """What the layers of a search are made with."""

    asked: Question
    stages: StageMaker
    memory: MemoryModel
    links: Links
    patterns: Patterns


class Layers:
    """One microbatch through each layer kind and both ends, communication in."""

    def __init__(
        self, model: Models, space: Space, table: UnitTable, which: Any
    ) -> None:
        self.model, self.space = model, space
        self.kinds = len(model.memory.kinds)
        forward, backward = table.forward[which], table.backward[which]
        full = (space["recompute"] == _FULL)[:, None]
        again = np.where(full, forward, 0.0)
        again[:, self.kinds :] = 0.0
        self.split = np.isin(space["schedule"], _splitting(space.schedules))
        self.split &= space["pp"] > 1
        weights = table.weights[which] if self.split.any() else np.zeros_like(forward)
        self.weight = np.where(self.split[:, None], weights, 0.0)
        divided = table.inputs[which] + self.weight
        self.forward = forward
        self.backward = np.where(self.split[:, None], divided, backward) + again
        self.busy = self._busy(table, which, full)
        self._own = Own(table, which, full[:, 0])
        self._parameters()
        self.lead_forward = np.full(len(space), -np.inf)
        self.lead_backward = np.full(len(space), -np.inf)
        self.lead_weight = np.zeros(len(space))
        self._beside()
        for lead in (self.lead_forward, self.lead_backward):
            lead[np.isneginf(lead)] = 0.0

    def _busy(self, table: UnitTable, which: Any, full: Any) -> dict[str, FloatArray]:
        found = {}
        for name in BUSY:
            ahead, back = table.busy[name][0][which], table.busy[name][1][which]
            again = np.where(full, ahead, 0.0)
            again[:, self.kinds :] = 0.0
            found[name] = ahead + back + again
        return found

    def _parameters(self) -> None:
        """Parameters on a device: of each kind, the embedding, the head."""
        space, memory = self.space, self.model.memory
        keys, who = keyed(space, "tp", "ep")
        table = memory.parameters(keys)
        self.dense = table.dense[who][:, :, _TOTAL]
        self.expert = table.expert[who][:, : self.kinds, _TOTAL]
        self.replicas = (space["cp"] * space["dp"]).astype(float)
        self.sharers = sharers(space)
        self.tp = space["tp"].astype(float)

    def shared(
        self, name: str, dense: FloatArray, expert: FloatArray, width: float, at: Any
    ) -> Flow:
        """Return what it takes to reduce or gather so many parameters."""
        links, ep = self.model.links, self.space["ep"][at].astype(float)
        replicas, tp = self.replicas[at], self.tp[at]
        among = replicas if name == "all_reduce" else self.sharers[at]
        found = links.flow(name, dense * width, among, tp)
        if self.model.asked.model.moe is None:
            return found
        experts = replicas / ep
        if name != "all_reduce":
            experts = np.maximum(among / ep, 1.0)
        return found + links.flow(name, expert * width, experts, tp * ep)

    def _copied(self, dense: FloatArray, expert: FloatArray, at: Any) -> Flow:
        """Return what it takes to sum shards over the groups that hold copies."""
        links, ep = self.model.links, self.space["ep"][at].astype(float)
        width = DTYPE_BYTES[self.model.memory.precision.grad]
        tp, among = self.tp[at], self.sharers[at]
        copies = self.replicas[at] / among
        found = links.flow("all_reduce", dense * width / among, copies, tp * among)
        if self.model.asked.model.moe is None:
            return found
        experts = np.maximum(among / ep, 1.0)
        copies = self.replicas[at] / ep / experts
        return found + links.flow(
            "all_reduce", expert * width / experts, copies, tp * ep * experts
        )

    def reduced(self, dense: FloatArray, expert: FloatArray, at: Any) -> Flow:
        """Return what it takes to reduce the gradients of so many parameters."""
        width = DTYPE_BYTES[self.model.memory.precision.grad]
        zero = self.space["zero_stage"][at]
        found = no_flow(self.model.links.levels, len(zero))
        for name, where in (("all_reduce", zero == 0), ("reduce_scatter", zero > 0)):
            some = np.flatnonzero(where)
            flow = self.shared(name, dense[some], expert[some], width, at[some])
            found.time[some], found.load[:, some] = flow.time, flow.load
        two = np.flatnonzero((zero > 0) & (self.sharers[at] < self.replicas[at]))
        if len(two):
            flow = self._copied(dense[two], expert[two], at[two])
            found.time[two] += flow.time
            found.load[:, two] += flow.load
        return found

    def gathered(self, unit: int, at: Any) -> Flow:
        """Return what it takes to gather the parameters of one unit."""
        width = DTYPE_BYTES[self.model.memory.precision.parameter]
        expert = self._expert(unit, at)
        return self.shared("all_gather", self.dense[at, unit], expert, width, at)

    def _expert(self, unit: int, at: Any) -> FloatArray:
        return self.expert[at, unit] if unit < self.kinds else np.zeros(len(at))

    def unit_reduced(self, unit: int, at: Any) -> Flow:
        """Return what it takes to reduce the gradients of one unit."""
        return self.reduced(self.dense[at, unit], self._expert(unit, at), at)

    def _beside(self) -> None:
        """Put gathers, reductions and copies of each layer beside it."""
        space = self.space
        away = space["offload_activations"] > 0
        zero = np.where(self.replicas > 1, space["zero_stage"], 0)
        copies = self._copies() if away.any() else np.zeros((len(space), self.kinds))
        for stage in (1, 2, 3):
            for offload in (False, True):
                alike = zero <= 1 if stage == 1 else zero == stage
                at = np.flatnonzero(alike & (away == offload))
                if len(at) and (stage > 1 or offload):
                    self._patterned(stage, offload, at, copies)

    def _patterned(self, stage: int, offload: bool, at: Any, copies: Any) -> None:
        none = no_flow(self.model.links.levels, len(at))
        alone, slack = self.forward[at, self.kinds - 1].copy(), np.zeros(len(at))
        for unit in range(self.kinds):
            reduce = self.unit_reduced(unit, at) if stage >= 2 else none
            gather = self.gathered(unit, at) if stage == 3 else none
            copy = copies[at, unit]
            # In one graph with backward, copies out end beside it.
            out = np.where(self.space["pp"][at] > 1, copy, 0.0)
            beside = Beside(self.forward[at, unit], gather, none, out)
            self._chunked(stage, offload, beside, at, unit, back=False)
            beside = Beside(self.backward[at, unit], gather, reduce, copy)
            whole = np.flatnonzero(~self.split[at])
            self._chunked(stage, offload, beside.taken(whole), at[whole], unit)
            apart = np.flatnonzero(self.split[at])
            self._divided(stage, offload, beside.taken(apart), at[apart], unit)
            slack += self._in_chunk(unit, at) * (self._later(at, unit) - reduce.time)
        if stage >= 2:
            self._ends(stage, at, alone, np.maximum(slack, 0.0))

    def _ends(self, stage: int, at: Any, layer: FloatArray, slack: FloatArray) -> None:
        """Gather and reduce the parameters of the embedding and the head.

        The last layer runs beside the head's gather, all layers of a chunk
        beside its reduction; nothing is beside those of the embedding.
        """
        overlap = self.model.asked.stack.overlap.dp
        for unit, beside in ((self.kinds, False), (self.kinds + 1, overlap)):
            if stage == 3:
                gather = self.gathered(unit, at).time - layer * beside
                self.forward[at, unit] += np.maximum(gather, 0.0)
            reduce = np.maximum(self.unit_reduced(unit, at).time - slack * beside, 0.0)
            self.backward[at, unit] += reduce
            self.weight[at, unit] += np.where(self.split[at], reduce, 0.0)

    def _in_chunk(self, unit: int, at: Any) -> FloatArray:
        """Return how many layers of a kind a chunk of the pipeline has."""
        parts = self.space["pp"][at] * self.space["vpp"][at]
        found: FloatArray = self.model.stages.stages(1, 1).total[unit] / parts
        return found

    def _later(self, at: Any, unit: int) -> FloatArray:
        """Return the time of the pass that gradients are reduced beside. [s]"""
        weight, backward = self.weight[at, unit], self.backward[at, unit]
        found: FloatArray = np.where(self.split[at], weight, backward)
        return found

    def _chunked(
        self,
        stage: int,
        offload: bool,
        beside: Beside,
        at: Any,
        unit: int,
        *,
        back: bool = True,
    ) -> None:
        """Set one layer's time, and what a chunk of them takes besides."""
        target = self.backward if back else self.forward
        lead = self.lead_backward if back else self.lead_forward
        patterns = self.model.patterns
        slow = self.slowed(beside)
        each, once = patterns.chunk(stage, offload, slow, back=back)
        lost = self._lost(stage, beside, at, unit, back)
        if offload and stage > 1:
            # What waits for copies anyway is not late.
            alone, _ = patterns.chunk(stage, False, slow, back=back)
            lost = np.maximum(alone + lost - each, 0.0)
        each = each + lost
        target[at, unit] = each + self._behind(stage) * beside.reduce.time * back
        # The first gather of a chunk and its last reduction have no layer beside.
        lead[at] = np.maximum(lead[at], once - lost)

    def yielded(self, sent: FloatArray, compute: FloatArray) -> FloatArray:
        """Return what layers take longer beside so long transfers. [s]"""
        asked = self.model.asked
        fidelity = resolved_fidelity(asked.system.device, asked.fidelity)
        if fidelity == "roofline" or not asked.stack.overlap.dp:
            return np.zeros_like(compute)
        return lost_time(held_share(asked.system.device), sent, compute)

    def slowed(self, beside: Beside) -> Beside:
        """Return a layer whose products yield units to what is sent beside them."""
        sent = beside.gather.time + beside.reduce.time
        lost = self.yielded(sent, beside.compute)
        return replace(beside, compute=beside.compute + lost)

    def _lost(
        self, stage: int, beside: Beside, at: Any, unit: int, back: bool
    ) -> FloatArray:
        """Return what a layer loses where its own traffic meets the others'. [s]"""
        overlap = self.model.asked.stack.overlap
        if stage < 2 or not overlap.dp:
            return np.zeros(len(at))
        gather = beside.gather
        if back and not overlap.backward_prefetch:
            gather = no_flow(len(gather.load), len(at))  # it has the links to itself
        own, exposed = self._own.flow(beside.compute, at, unit, back)
        return crowded(beside.compute, exposed, own, gather, beside.reduce)

    def _divided(
        self, stage: int, offload: bool, beside: Beside, at: Any, unit: int
    ) -> None:
        """Gathers and copies go with the inputs' gradients, reductions later."""
        weight, none = self.weight[at, unit], no_flow(len(beside.gather.load), len(at))
        inputs = Beside(beside.compute - weight, beside.gather, none, beside.copy)
        self._chunked(stage, offload, inputs, at, unit)
        later = Beside(weight, none, beside.reduce, np.zeros(len(at)))
        slow = self.slowed(later)
        each, once = self.model.patterns.chunk(stage, False, slow, back=True)
        each = each + self._behind(stage) * beside.reduce.time
        self.weight[at, unit] = each
        self.backward[at, unit] += each
        self.lead_weight[at] = np.maximum(self.lead_weight[at], once)

    def _behind(self, stage: int) -> bool:
        """Whether gradients are reduced behind all layers of a chunk."""
        return stage == 2 and not self.model.asked.stack.overlap.dp

    def _copies(self) -> FloatArray:
        """Time of a layer's activations over the host link. [s]"""
        space, asked = self.space, self.model.asked
        link, rate = host_link(
            asked.system, calibration_for(asked.system.device, asked.fidelity)
        )
        keys, which = keyed(space, "tp", "cp", "ep", "recompute")
        layer = self.model.memory.kept(keys).layer[which]
        nbytes = layer * space["micro_batch"][:, None]
        found: FloatArray = nbytes / rate + (link.latency or 0.0)
        return found

    def parts(
        self, update: dict[str, FloatArray], exposed: FloatArray
    ) -> dict[str, FloatArray]:
        """Return the breakdown, the mean over ranks; idle is what is left. [s]"""
        space, kinds = self.space, self.kinds
        count = space.num_microbatches / space["pp"]
        units = np.ones(kinds + 2)
        units[:kinds] = self.model.stages.stages(1, 1).total
        found = {
            name: count * (self.busy[name] @ units) + update[name] for name in BUSY
        }
        whole = count * ((self.forward + self.backward) @ units)
        busy = sum(count * (self.busy[name] @ units) for name in BUSY)
        found["interconnect"] = np.maximum(whole - busy, 0.0) + exposed
        return found


class Own:
    """Transfers of layers themselves, forward and backward."""

    def __init__(self, table: UnitTable, which: Any, full: Any) -> None:
        self._table, self._which, self._full = table, which, full

    def flow(
        self, time: FloatArray, at: Any, unit: int, back: bool
    ) -> tuple[Flow, FloatArray]:
        """Return them, and the time of the layer in which nothing else runs."""
        keys, twice = self._which[at], self._full[at] if back else False

        def of(values: FloatArray) -> FloatArray:
            ahead, found = values[0][keys, unit], values[int(back)][keys, unit]
            both: FloatArray = found + np.where(twice, ahead, 0.0)
            return both

        table = self._table
        busy = np.add.reduce([of(table.busy[name]) for name in BUSY])
        sent = of(table.sent)
        load = np.stack([of(level) for level in table.load])
        exposed: FloatArray = np.clip(time - busy, 0.0, sent)
        return Flow(sent, load), exposed


def _splitting(names: tuple[str, ...]) -> list[int]:
    return [i for i, n in enumerate(names) if pipeline_schedule(n).splits_backward]
