"""One microbatch of many layouts through each layer, communication beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.links import Beside, Links, Patterns
from hwsim.analysis.plan_train.memory import MemoryModel, keyed, sharers
from hwsim.analysis.plan_train.space import Space
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.units import BUSY, Question, UnitTable
from hwsim.cost.cost import FloatArray
from hwsim.cost.hostlink import host_link
from hwsim.schedule.pipeline.schedules import pipeline_schedule
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.calibration import calibration_for

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
        self._parameters()
        self.lead_forward = np.zeros(len(space))
        self.lead_backward = np.zeros(len(space))
        self.lead_weight = np.zeros(len(space))
        self.copied = np.zeros(len(space))
        self._beside()

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
    ) -> FloatArray:
        """Return the time to reduce or gather so many parameters. [s]"""
        links, ep = self.model.links, self.space["ep"][at].astype(float)
        replicas, tp = self.replicas[at], self.tp[at]
        among = replicas if name == "all_reduce" else self.sharers[at]
        found = links.time(name, dense * width, among, tp)
        if self.model.asked.model.moe is None:
            return found
        experts = replicas / ep
        if name != "all_reduce":
            experts = np.maximum(among / ep, 1.0)
        return found + links.time(name, expert * width, experts, tp * ep)

    def _copied(self, dense: FloatArray, expert: FloatArray, at: Any) -> FloatArray:
        """Return the time to sum shards over the groups that hold copies. [s]"""
        links, ep = self.model.links, self.space["ep"][at].astype(float)
        width = DTYPE_BYTES[self.model.memory.precision.grad]
        tp, among = self.tp[at], self.sharers[at]
        copies = self.replicas[at] / among
        found = links.time("all_reduce", dense * width / among, copies, tp * among)
        if self.model.asked.model.moe is None:
            return found
        experts = np.maximum(among / ep, 1.0)
        copies = self.replicas[at] / ep / experts
        return found + links.time(
            "all_reduce", expert * width / experts, copies, tp * ep * experts
        )

    def reduced(self, dense: FloatArray, expert: FloatArray, at: Any) -> FloatArray:
        """Return the time to reduce the gradients of so many parameters. [s]"""
        width = DTYPE_BYTES[self.model.memory.precision.grad]
        zero = self.space["zero_stage"][at]
        found = np.zeros(len(zero))
        for name, where in (("all_reduce", zero == 0), ("reduce_scatter", zero > 0)):
            some = np.flatnonzero(where)
            found[some] = self.shared(name, dense[some], expert[some], width, at[some])
        two = np.flatnonzero((zero > 0) & (self.sharers[at] < self.replicas[at]))
        if len(two):
            found[two] += self._copied(dense[two], expert[two], at[two])
        return found

    def _gathered(self, unit: int, at: Any) -> FloatArray:
        width = DTYPE_BYTES[self.model.memory.precision.parameter]
        expert = self._expert(unit, at)
        return self.shared("all_gather", self.dense[at, unit], expert, width, at)

    def _expert(self, unit: int, at: Any) -> FloatArray:
        return self.expert[at, unit] if unit < self.kinds else np.zeros(len(at))

    def unit_reduced(self, unit: int, at: Any) -> FloatArray:
        """Return the time to reduce the gradients of one unit. [s]"""
        return self.reduced(self.dense[at, unit], self._expert(unit, at), at)

    def _beside(self) -> None:
        """Put gathers, reductions and copies of each layer beside it."""
        space = self.space
        away = space["offload_activations"] > 0
        zero = np.where(self.replicas > 1, space["zero_stage"], 0)
        copies = self._copies() if away.any() else np.zeros((len(space), self.kinds))
        self.copied = away * (copies @ self.model.stages.stages(1, 1).total)
        for stage in (1, 2, 3):
            for offload in (False, True):
                alike = zero <= 1 if stage == 1 else zero == stage
                at = np.flatnonzero(alike & (away == offload))
                if len(at) and (stage > 1 or offload):
                    self._patterned(stage, offload, at, copies)

    def _patterned(self, stage: int, offload: bool, at: Any, copies: Any) -> None:
        for unit in range(self.kinds + 2):
            layer, none = unit < self.kinds, np.zeros(len(at))
            reduce = self.unit_reduced(unit, at) if stage >= 2 else none
            gather = self._gathered(unit, at) if stage == 3 else none
            if not layer:
                # Nothing runs beside the ends of a stage.
                self.forward[at, unit] += gather
                self.backward[at, unit] += reduce
                continue
            copy = copies[at, unit]
            # In one graph with backward, copies out end beside it.
            out = np.where(self.space["pp"][at] > 1, copy, 0.0)
            beside = Beside(self.forward[at, unit], gather, none, out)
            self._chunked(stage, offload, beside, at, unit, back=False)
            whole = np.flatnonzero(~self.split[at])
            beside = Beside(self.backward[at, unit], gather, reduce, copy)
            self._chunked(stage, offload, beside.taken(whole), at[whole], unit)
            apart = np.flatnonzero(self.split[at])
            self._divided(stage, offload, beside.taken(apart), at[apart], unit)

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
        each, once = patterns.chunk(stage, offload, beside, back=back)
        target[at, unit] = each + self._behind(stage) * beside.reduce * back
        lead[at] = np.maximum(lead[at], once)

    def _divided(
        self, stage: int, offload: bool, beside: Beside, at: Any, unit: int
    ) -> None:
        """Gathers and copies go with the inputs' gradients, reductions later."""
        weight, none = self.weight[at, unit], np.zeros(len(at))
        inputs = Beside(beside.compute - weight, beside.gather, none, beside.copy)
        self._chunked(stage, offload, inputs, at, unit)
        later = Beside(weight, none, beside.reduce, none)
        each, once = self.model.patterns.chunk(stage, False, later, back=True)
        each = each + self._behind(stage) * beside.reduce
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


def _splitting(names: tuple[str, ...]) -> list[int]:
    return [i for i, n in enumerate(names) if pipeline_schedule(n).splits_backward]
