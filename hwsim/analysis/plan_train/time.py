"""Step time of many layouts at once: the simulator's step in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.crowding import no_flow
from hwsim.analysis.plan_train.layers import Layers, Models
from hwsim.analysis.plan_train.links import Beside, Links, Patterns
from hwsim.analysis.plan_train.listed import Space
from hwsim.analysis.plan_train.memory import MemoryModel, keyed
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.units import BUSY, Key, Question, UnitCoster, UnitTable
from hwsim.analysis.plan_train.update import UpdateModel
from hwsim.cost.cost import FloatArray
from hwsim.schedule.pipeline.ahead import exposed_gather
from hwsim.schedule.pipeline.schedules import pipeline_schedule
from hwsim.schedule.pipeline.time import pipeline_time
from hwsim.specs.base import DTYPE_BYTES

_FULL, _NONE = RECOMPUTE.index("full"), RECOMPUTE.index("none")
_KEYS_AT_ONCE = 64


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
        self.asked = asked
        self.models = Models(asked, stages, memory, Links(asked), Patterns(asked))
        self.coster = UnitCoster(asked, split)
        self.updates = UpdateModel(asked, stages)
        self._rows: dict[Key, int] = {}
        self._table: UnitTable | None = None

    def times(self, space: Space) -> StepTimes:
        """Return the step of each layout."""
        table, which = self._units(space)
        layers = Layers(self.models, space, table, which)
        update = self.updates.times(space)
        work, extra = _spans(self.models, space, layers)
        bound = self.coster.fidelity == "roofline"
        host = 0.0 if bound else self.asked.stack.launch.step_overhead
        step = work + extra + update.time + host
        parts = layers.parts(update.busy, extra)
        parts["overhead"] = parts["overhead"] + host
        parts["idle"] = np.maximum(step - sum(parts.values()), 0.0)
        return StepTimes(step, parts)

    def _units(self, space: Space) -> tuple[UnitTable, Any]:
        """Cost the layers that have not been seen before."""
        # In full a layer runs again as it is: it is built as without recomputation.
        again = np.where(space["recompute"] == _FULL, _NONE, space["recompute"])
        marked = Space(
            space.devices, space.global_batch, space.schedules,
            {**space.columns, "again": again}, space.invalid,
        )  # fmt: skip
        keys, place = keyed(marked, "tp", "cp", "ep", "micro_batch", "again")
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
        pair = getattr(old, name), getattr(new, name)
        # Keys are the last axis but one.
        return np.concatenate(pair, axis=pair[0].ndim - 2)

    busy = {
        name: np.concatenate([old.busy[name], new.busy[name]], axis=1) for name in BUSY
    }
    return UnitTable(
        both("forward"), both("backward"), both("inputs"), both("weights"), busy,
        both("sent"), both("load"),
    )  # fmt: skip


def _spans(
    model: Models, space: Space, layers: Layers
) -> tuple[FloatArray, FloatArray]:
    """Return the time of all microbatches, and of reductions after them. [s]"""
    work, extra = np.zeros(len(space)), np.zeros(len(space))
    chunk, message = np.zeros((len(space), layers.kinds)), np.zeros(len(space))
    piped = np.flatnonzero(space["pp"] > 1)
    if len(piped):
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
    if len(piped):
        extra[piped] = _after(model, space, layers, chunk, piped)
    return work, extra


def _flat(
    model: Models, space: Space, layers: Layers, at: Any
) -> tuple[FloatArray, FloatArray]:
    counts, kinds = model.stages.stages(1, 1).total, layers.kinds
    units = np.concatenate([counts, [1.0, 1.0]])
    forward, backward = layers.forward[at], layers.backward[at]
    lead = layers.lead_forward[at] + layers.lead_backward[at]
    one = (forward + backward) @ units + lead
    reductions = np.stack(
        [layers.unit_reduced(unit, at).time for unit in range(kinds + 2)], axis=1
    )
    zero = space["zero_stage"][at]
    after = _left_over(model, reductions, backward, counts)
    if model.asked.stack.overlap.dp:
        lost = layers.yielded(reductions, backward)
        after = after + lost[:, :kinds] @ counts + lost[:, -1]
    after = np.where(zero >= 2, 0.0, after)
    return space.num_microbatches[at] * one, after + _ahead(model, space, layers, at)


def _ahead(model: Models, space: Space, layers: Layers, at: Any) -> FloatArray:
    """What a forward pass takes longer while parameters are gathered. [s]"""
    some = np.flatnonzero(_gathers_ahead(model, space, at))
    found, at = np.zeros(len(at)), at[some]
    if not len(at):
        return found
    counts, kinds = model.stages.stages(1, 1).total, layers.kinds
    # Nothing runs beside the gather of the embedding, a layer beside the head's.
    last = layers.forward[at, kinds - 1]
    head = layers.gathered(kinds + 1, at).time
    extra = layers.gathered(kinds, at).time + np.maximum(head - last, 0.0)
    once, none = np.full(len(at), -np.inf), no_flow(model.links.levels, len(at))
    for unit in range(kinds):
        alone, gather = layers.forward[at, unit], layers.gathered(unit, at)
        beside = layers.slowed(Beside(alone, gather, none, np.zeros(len(at))))
        each, first = model.patterns.chunk(3, False, beside, back=False)
        extra = extra + counts[unit] * (each - alone)
        once = np.maximum(once, first)
    found[some] = extra + once
    return found


def _gathers_ahead(model: Models, space: Space, at: Any) -> Any:
    overlap, zero = model.asked.stack.overlap, space["zero_stage"][at]
    return (overlap.dp and overlap.parameters) & ((zero == 1) | (zero == 2))


def _left_over(
    model: Models, reductions: FloatArray, backward: FloatArray, counts: FloatArray
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
    found: FloatArray = np.maximum(np.maximum.reduce(waits), 0.0)
    return found


def _piped(
    model: Models,
    space: Space,
    layers: Layers,
    at: Any,
    pp: int,
    vpp: int,
    schedule: str,
    message: FloatArray,
) -> FloatArray:
    stages = model.stages.stages(pp, vpp)
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
    model: Models, space: Space, layers: Layers, chunk: FloatArray, at: Any
) -> FloatArray:
    """Return what reductions add to the end of pipelines. [s]

    Gradients of the first rank's first chunk are the last to be complete.
    """
    kinds = layers.kinds
    dense = (layers.dense[at, :kinds] * chunk[at]).sum(axis=1)
    expert = (layers.expert[at] * chunk[at]).sum(axis=1)
    last = layers.reduced(dense + layers.dense[at, kinds], expert, at).time
    both = [i for i, n in enumerate(space.schedules) if _two_ways(n)]
    last = np.where(np.isin(space["schedule"][at], both), 2.0 * last, last)
    several = np.flatnonzero(space["vpp"][at] > 1)
    some = at[several]
    vpp, pp = space["vpp"][some].astype(float), space["pp"][some].astype(float)
    before = layers.reduced(dense[several], expert[several], some).time * (vpp - 1.0)
    if model.asked.stack.overlap.dp:
        one = (layers.backward[some, :kinds] * chunk[some]).sum(axis=1)
        before = np.maximum(before - (vpp - 1.0) * pp * one, 0.0)
    last[several] += before
    # ZeRO 2 and 3 reduce gradients within each microbatch's backward.
    found: FloatArray = np.where(space["zero_stage"][at] >= 2, 0.0, last)
    return found + _awaited(model, space, layers, chunk, at)


def _awaited(
    model: Models, space: Space, layers: Layers, chunk: FloatArray, at: Any
) -> FloatArray:
    """How long the first rank waits for its updated parameters. [s]"""
    some = np.flatnonzero(_gathers_ahead(model, space, at))
    found, at = np.zeros(len(at)), at[some]
    if not len(at):
        return found
    kinds, vpp = layers.kinds, space["vpp"][at].astype(float)
    held = chunk[at] * vpp[:, None]
    dense = (layers.dense[at, :kinds] * held).sum(axis=1) + layers.dense[at, kinds]
    expert = (layers.expert[at] * held).sum(axis=1)
    width = DTYPE_BYTES[model.memory.precision.parameter]
    whole = layers.shared("all_gather", dense, expert, width, at).time
    forward = (layers.forward[at, :kinds] * chunk[at]).sum(axis=1)
    found[some] = exposed_gather(whole, forward, held.sum(axis=1), space["pp"][at], vpp)
    return found


def _two_ways(schedule: str) -> bool:
    return pipeline_schedule(schedule).placement == "bidirectional"


def _message(model: Models, space: Space, at: Any) -> FloatArray:
    """Time of the activations' way to the next stage. [s]"""
    some = space.taken(at)
    keys, which = keyed(some, "tp", "cp", "ep", "recompute")
    nbytes = model.memory.kept(keys).message[which] / 2.0 * some["micro_batch"]
    stride = (some["tp"] * some["cp"] * some["dp"]).astype(float)
    return model.links.send(nbytes, stride)
