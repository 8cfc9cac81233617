"""Step time of many layouts at once: the simulator's step in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.plan_links import Beside, Links, Patterns
from hwsim.analysis.plan_memory import MemoryModel, keyed
from hwsim.analysis.plan_space import RECOMPUTE, Space
from hwsim.analysis.plan_stages import StageMaker
from hwsim.analysis.plan_units import BUSY, Question, UnitCoster, UnitTable
from hwsim.analysis.plan_update import UpdateModel
from hwsim.cost.cost import FloatArray
from hwsim.schedule.pipeline import pipeline_schedule
from hwsim.schedule.pipeline_time import pipeline_time
from hwsim.specs.base import DTYPE_BYTES

_TOTAL = 1
_FULL, _SELECTIVE = RECOMPUTE.index("full"), RECOMPUTE.index("selective")
_KEYS_AT_ONCE = 64
Key = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class StepTimes:
    """Step time of each layout, and what it goes to. [s]"""

    step: FloatArray
    parts: dict[str, FloatArray]


class TimeModel:
    """Step time of layouts of one model on one system."""

    def __init__(
        self, asked: Question, stages: StageMaker, memory: MemoryModel, *, split: bool
    ) -> None:
        self.asked, self.stages, self.memory = asked, stages, memory
        self.coster = UnitCoster(asked, split)
        self.links, self.patterns = Links(asked), Patterns(asked)
        self.updates = UpdateModel(asked, stages)
        self._rows: dict[Key, int] = {}
        self._table: UnitTable | None = None

    def times(self, space: Space) -> StepTimes:
        """Return the step of each layout."""
        table, which = self._units(space)
        layers = _Layers(self, space, table, which)
        update = self.updates.times(space)
        work, extra = _spans(self, space, layers)
        bound = self.coster.fidelity == "roofline"
        host = 0.0 if bound else self.asked.stack.launch.step_overhead
        step = work + extra + update.time + host
        parts = layers.parts(update.busy, extra)
        parts["overhead"] = parts["overhead"] + host
        parts["idle"] = np.maximum(step - sum(parts.values()), 0.0)
        return StepTimes(step, parts)

    def _units(self, space: Space) -> tuple[UnitTable, Any]:
        """Cost the layers that have not been seen before."""
        selective = (space["recompute"] == _SELECTIVE).astype(np.int32)
        marked = Space(
            space.devices, space.global_batch, space.schedules,
            {**space.columns, "selective": selective}, space.invalid,
        )  # fmt: skip
        keys, place = keyed(marked, "tp", "cp", "ep", "micro_batch", "selective")
        new: list[Any] = [key for key in keys if key not in self._rows]
        for start in range(0, len(new), _KEYS_AT_ONCE):
            some = new[start : start + _KEYS_AT_ONCE]
            made = self.coster.table(some)
            for row, key in enumerate(some, start=len(self._rows)):
                self._rows[key] = row
            self._table = made if self._table is None else _joined(self._table, made)
        assert self._table is not None
        rows = np.array([self._rows[key] for key in keys], dtype=np.int64)  # type: ignore[index]
        return self._table, rows[place]


def _joined(old: UnitTable, new: UnitTable) -> UnitTable:
    def both(name: str) -> FloatArray:
        return np.concatenate([getattr(old, name), getattr(new, name)])

    busy = {
        name: np.concatenate([old.busy[name], new.busy[name]], axis=1) for name in BUSY
    }
    return UnitTable(
        both("forward"), both("backward"), both("inputs"), both("weights"), busy=busy
    )


class _Layers:
    """One microbatch through each layer kind and both ends, communication in."""

    def __init__(
        self, model: TimeModel, space: Space, table: UnitTable, which: Any
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
        self.tp = space["tp"].astype(float)

    def shared(
        self, name: str, dense: FloatArray, expert: FloatArray, width: float, at: Any
    ) -> FloatArray:
        """Return the time to reduce or gather so many parameters. [s]"""
        links, ep = self.model.links, self.space["ep"][at].astype(float)
        replicas, tp = self.replicas[at], self.tp[at]
        found = links.time(name, dense * width, replicas, tp)
        if self.model.asked.model.moe is None:
            return found
        return found + links.time(name, expert * width, replicas / ep, tp * ep)

    def reduced(self, dense: FloatArray, expert: FloatArray, at: Any) -> FloatArray:
        """Return the time to reduce the gradients of so many parameters. [s]"""
        width = DTYPE_BYTES[self.model.memory.precision.grad]
        zero = self.space["zero_stage"][at]
        found = np.zeros(len(zero))
        for name, where in (("all_reduce", zero == 0), ("reduce_scatter", zero > 0)):
            some = np.flatnonzero(where)
            found[some] = self.shared(name, dense[some], expert[some], width, at[some])
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
        self.copied = copies @ self.model.stages.stages(1, 1).total
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
            self._divided(
                stage, offload, beside.taken(apart), at[apart], unit
            )

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
        space = self.space
        link = self.model.asked.system.device.host_link
        assert link is not None
        keys, which = keyed(space, "tp", "cp", "ep", "recompute")
        layer = self.model.memory.kept(keys).layer[which]
        nbytes = layer * space["micro_batch"][:, None]
        return nbytes / link.bandwidth + (link.latency or 0.0)

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


def _spans(
    model: TimeModel, space: Space, layers: _Layers
) -> tuple[FloatArray, FloatArray]:
    """Return the time of all microbatches, and of reductions after them. [s]"""
    work, extra = np.zeros(len(space)), np.zeros(len(space))
    chunk, message = np.zeros((len(space), layers.kinds)), np.zeros(len(space))
    piped = np.flatnonzero(space["pp"] > 1)
    message[piped] = _message(model, space, piped)
    keys, which = keyed(space, "pp", "vpp", "schedule")
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(keys) + 1))
    for index, (pp, vpp, schedule) in enumerate(keys):
        at = order[bounds[index] : bounds[index + 1]]
        if pp == 1:
            work[at], extra[at] = _flat(model, space, layers, at)
        else:
            name = space.schedules[schedule]
            work[at] = _piped(model, space, layers, at, pp, vpp, name, message[at])
            chunk[at] = model.stages.stages(pp, vpp).counts[0] / vpp
    extra[piped] = _after(model, space, layers, chunk, piped)
    return work, extra


def _flat(
    model: TimeModel, space: Space, layers: _Layers, at: Any
) -> tuple[FloatArray, FloatArray]:
    counts, kinds = model.stages.stages(1, 1).total, layers.kinds
    units = np.concatenate([counts, [1.0, 1.0]])
    forward, backward = layers.forward[at], layers.backward[at]
    lead = layers.lead_forward[at] + layers.lead_backward[at]
    one = (forward + backward) @ units + lead
    one = one + _contended(layers.copied[at], forward @ units, backward @ units)
    reductions = np.stack(
        [layers.unit_reduced(unit, at) for unit in range(kinds + 2)], axis=1
    )
    zero = space["zero_stage"][at]
    after = _left_over(model, reductions, backward, counts)
    return space.num_microbatches[at] * one, np.where(zero >= 2, 0.0, after)


def _contended(copied: FloatArray, forward: FloatArray, backward: FloatArray) -> Any:
    """Waiting for activations while others still go out over the same link. [s]

    What forward has not sent when it ends takes half of the link from what
    backward fetches, for as many layers as are still to be sent.
    """
    late = np.maximum(copied - forward, 0.0)
    ratio = backward / np.where(copied > 0.0, copied, np.inf)
    return late * np.maximum(2.0 - ratio, 0.0)


def _left_over(
    model: TimeModel, reductions: FloatArray, backward: FloatArray, counts: FloatArray
) -> FloatArray:
    """Reductions that the last backward does not hide. [s]"""
    kinds = len(counts)
    table, head = reductions[:, kinds], reductions[:, kinds + 1]
    inner = reductions[:, :kinds] @ counts
    if not model.asked.stack.overlap.dp:
        return inner + table + head
    hidden = backward[:, :kinds] @ counts + backward[:, kinds]
    first = backward[:, :kinds].max(axis=1)
    waits = [
        head + inner + table - hidden,
        inner + table - (hidden - first),
        reductions[:, :kinds].max(axis=1) + table - backward[:, kinds],
        table,
    ]
    return np.maximum(np.maximum.reduce(waits), 0.0)


def _piped(
    model: TimeModel,
    space: Space,
    layers: _Layers,
    at: Any,
    pp: int,
    vpp: int,
    schedule: str,
    message: FloatArray,
) -> FloatArray:
    stages, kinds = model.stages.stages(pp, vpp), layers.kinds
    ends = np.zeros((len(stages.counts), 2))
    ends[0, 0] = ends[1, 1] = 1.0
    ranks = np.concatenate([stages.counts, ends], axis=1).T
    later = layers.lead_weight[at]
    leads = layers.lead_forward[at], layers.lead_backward[at] + later
    forward = layers.forward[at] @ ranks + vpp * leads[0][:, None]
    backward = layers.backward[at] @ ranks + vpp * leads[1][:, None]
    weight = layers.weight[at] @ ranks + vpp * later[:, None]
    slow = (forward + backward).argmax(axis=1)[:, None]
    ahead, back, late = (
        np.take_along_axis(t, slow, axis=1)[:, 0] for t in (forward, backward, weight)
    )
    everything = np.concatenate([stages.total, [1.0, 1.0]])
    total = (layers.forward[at] + layers.backward[at]) @ everything
    total = total + pp * vpp * (leads[0] + leads[1])
    return pipeline_time(
        schedule, pp, space.num_microbatches[at], vpp, ahead, back - late, message,
        weight=late, total=total,
    )  # fmt: skip


def _after(
    model: TimeModel, space: Space, layers: _Layers, chunk: FloatArray, at: Any
) -> FloatArray:
    """Return what reductions add to the end of pipelines. [s]

    Gradients of the first rank's first chunk are the last to be complete.
    """
    kinds = layers.kinds
    dense = (layers.dense[at, :kinds] * chunk[at]).sum(axis=1)
    expert = (layers.expert[at] * chunk[at]).sum(axis=1)
    last = layers.reduced(dense + layers.dense[at, kinds], expert, at)
    both = [i for i, n in enumerate(space.schedules) if _two_ways(n)]
    last = np.where(np.isin(space["schedule"][at], both), 2.0 * last, last)
    several = np.flatnonzero(space["vpp"][at] > 1)
    some = at[several]
    vpp, pp = space["vpp"][some].astype(float), space["pp"][some].astype(float)
    before = layers.reduced(dense[several], expert[several], some) * (vpp - 1.0)
    if model.asked.stack.overlap.dp:
        one = (layers.backward[some, :kinds] * chunk[some]).sum(axis=1)
        before = np.maximum(before - (vpp - 1.0) * pp * one, 0.0)
    last[several] += before
    return last


def _two_ways(schedule: str) -> bool:
    return pipeline_schedule(schedule).placement == "bidirectional"


def _message(model: TimeModel, space: Space, at: Any) -> FloatArray:
    """Time of the activations' way to the next stage. [s]"""
    some = space.taken(at)
    keys, which = keyed(some, "tp", "cp", "ep", "recompute")
    nbytes = model.memory.kept(keys).message[which] / 2.0 * some["micro_batch"]
    stride = (some["tp"] * some["cp"] * some["dp"]).astype(float)
    return model.links.send(nbytes, stride)
