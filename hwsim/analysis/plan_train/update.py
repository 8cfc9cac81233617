"""The end of a step for many layouts: norm of the gradients, optimizer, gathers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hwsim.analysis.launches import launch_times
from hwsim.analysis.plan_train.listed import Space
from hwsim.analysis.plan_train.memory import keyed, two_ways
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.units import BUSY, Question
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import cost_ops
from hwsim.graph.opgraph import Block
from hwsim.graph.optimizer import Update, optimizer_blocks
from hwsim.graph.parameters import stage_parameters
from hwsim.graph.shard import shard
from hwsim.graph.training import training_plan
from hwsim.specs.calibration import resolved_fidelity


@dataclass(frozen=True)
class UpdateTimes:
    """Time of the update of the rank that holds most, and what it is busy with."""

    time: FloatArray
    busy: dict[str, FloatArray]


class UpdateModel:
    """Costs the distinct updates of a space in one call."""

    def __init__(self, asked: Question, stages: StageMaker) -> None:
        self.asked, self.stages = asked, stages
        self.kinds = [kind for kind, _ in asked.model.layer_groups()]
        self.fidelity = resolved_fidelity(asked.system.device, asked.fidelity)
        self.launches = launch_times(asked.system, asked.stack, self.fidelity)
        self._settings = lru_cache(maxsize=None)(self._setting)

    def times(self, space: Space) -> UpdateTimes:
        """Return the end of each layout's step."""
        columns = dict(space.columns)
        # Data- and context-parallel ranks hold the same: together they count.
        columns["dp"] = columns["dp"] * columns["cp"]
        columns["dp_shard"] = columns["dp_shard"] * columns["cp"]
        columns["two_ways"] = two_ways(space).astype(np.int64)
        columns["zero_stage"] = np.where(
            columns["zero_stage"] == 2, 1, columns["zero_stage"]
        )
        alike = Space(
            space.devices, space.global_batch, space.schedules, columns, space.invalid
        )
        keys, which = keyed(
            alike, "tp", "dp", "ep", "pp", "zero_stage", "offload_optimizer",
            "two_ways", "dp_shard",
        )  # fmt: skip
        found = [self._blocks(key) for key in keys]
        flat = [(i, block) for i, blocks in enumerate(found) for block in blocks]
        ops = [node.op for _, block in flat for node in block.nodes]
        costs = cost_ops(ops, self.asked.system, self.asked.stack, self.fidelity)
        time = np.zeros(len(keys))
        busy = {name: np.zeros(len(keys)) for name in BUSY}
        at = 0
        for index, block in flat:
            stop = at + len(block.nodes)
            time[index] += self._time(block, costs.time[at:stop])
            for name in BUSY:
                part = getattr(costs, name)[at:stop]
                busy[name][index] += block.repeat * float(part.sum())
            at = stop
        return UpdateTimes(time[which], {k: v[which] for k, v in busy.items()})

    def _time(self, block: Block, times: FloatArray) -> float:
        """Repeated pieces run beside each other; else all is a chain."""
        streams: dict[str, float] = {}
        for node, time in zip(block.nodes, times.tolist(), strict=True):
            streams[node.stream] = streams.get(node.stream, 0.0) + time
        whole, most = sum(streams.values()), max(streams.values())
        launched = sum(self.launches.of(n.op) for n in block.nodes)
        return max(whole + (block.repeat - 1) * most, block.repeat * launched)

    def _setting(self, tp: int, dp: int, ep: int, pp: int, shards: int) -> Any:
        asked = self.asked
        return training_plan(
            asked.model, [0], first=False, final=False, micro_batch=1, dp=dp, pp=pp,
            recompute="none", zero_stage=0, last=True, stack=asked.stack,
            grad_dtype=None, decoder_seq=None, dropout=None, dp_shard=shards or None,
            **asked.plan_options(tp, 1, ep),  # type: ignore[arg-type]
        ).setting  # fmt: skip

    def _blocks(self, key: tuple[int, ...]) -> list[Block]:
        tp, dp, ep, pp, zero_stage, offload, two, shards = key
        setting = self._settings(tp, dp, ep, pp, shards)
        held = self._held(tp, pp, setting, two)
        tied, ranks = 0.0, 1
        model = self.asked.model
        if pp > 1 and not two and model.tied_embeddings and model.output_head:
            tied, ranks = float(setting.shard.vocab * model.embedding_width), 2
        update = Update(
            setting, self.asked.optimizer, held, zero_stage, ranks, tied, bool(offload),
            bool(two),
        )  # fmt: skip
        return optimizer_blocks(update)

    def _held(self, tp: int, pp: int, setting: Any, two: int) -> Any:
        stages = self.stages.stages(pp, 1)
        counts = stages.both if two else stages.counts
        local = shard(self.asked.model, tp)
        ends = [(0, True, pp == 1 or bool(two))]
        ends += [(1, False, True)] if pp > 1 and not two else []
        ranks = [
            stage_parameters(
                self.asked.model, local, setting.layout,
                [(k, int(n)) for k, n in zip(self.kinds, counts[row], strict=True)],
                first=first, last=last,
            )
            for row, first, last in ends
        ]  # fmt: skip
        return max(ranks, key=lambda held: held.total)
