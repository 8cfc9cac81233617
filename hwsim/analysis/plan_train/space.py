"""Every layout that a training step could have, as columns of integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hwsim.analysis.plan_train import choices as known
from hwsim.analysis.plan_train.choices import RECOMPUTE, Choices
from hwsim.analysis.plan_train.listed import FIELDS, IntArray, Listed, Part, Space
from hwsim.errors import HwsimError, InputError
from hwsim.graph.partition import even_parts
from hwsim.graph.shard import shard
from hwsim.schedule.pipeline.schedules import nearest_divisor as near
from hwsim.schedule.pipeline.schedules import pipeline_schedule, pipeline_schedules
from hwsim.schedule.pipeline.tasks import PipelineShape
from hwsim.specs.model import ModelSpec
from hwsim.specs.network import divisors
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

MAX_MICRO_BATCH = 32
MAX_VPP = 16
MIN_LOCAL_TOKENS = 512  # a context-parallel rank's share, unless cp is asked for


@dataclass(frozen=True)
class Enumerator:
    """Lists the layouts of one model on one system."""

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    choices: Choices
    global_batch: int
    seq: int

    def space(self, devices: int) -> Space:
        """Return every valid layout of so many devices."""
        listed = self.listed(devices)
        return next(listed.batches(max(len(listed), 1)))

    def listed(self, devices: int) -> Listed:
        """Return them without writing them down yet."""
        schedules = self.choices.schedule or pipeline_schedules()
        maker = _Maker(self, devices, schedules)
        parts = list(maker.parts())
        empty = Space(
            devices, self.global_batch, schedules,
            dict.fromkeys(FIELDS, np.zeros(0, np.int32)), maker.invalid,
            tuple(dict.fromkeys(maker.why)),
        )  # fmt: skip
        return Listed(empty, parts)


class _Maker:
    """Makes the blocks of one device count, and counts what is not valid."""

    def __init__(
        self, asked: Enumerator, devices: int, schedules: tuple[str, ...]
    ) -> None:
        self.asked, self.devices, self.schedules = asked, devices, schedules
        self.choices, self.model = asked.choices, asked.model
        self.fused = asked.stack.fusion.attention == "fused"
        self.layers = len(asked.model.layer_kinds)
        self.plugins = [pipeline_schedule(name) for name in schedules]
        self.invalid = 0
        self.why: list[str] = []
        self._runs = lru_cache(maxsize=None)(self._runs_of)
        self._split = lru_cache(maxsize=None)(self._cannot_split)

    def parts(self) -> Iterator[Part]:
        """Yield the layouts of each (tp, cp, pp)."""
        rest = self._product(
            self._zero(), self._recompute(),
            self._offload("offload_optimizer"), self._offload("offload_activations"),
        )  # fmt: skip
        alone = rest[rest[:, 0] == rest[:, 0].min()] if len(rest) else rest
        for pp in self._degrees("pp", {}):
            for tp in self._degrees("tp", {"pp": pp}):
                for cp in self._degrees("cp", {"pp": pp, "tp": tp}):
                    dp = self.devices // (pp * tp * cp)
                    yield from self._part(tp, cp, pp, dp, rest, alone)

    def _part(
        self, tp: int, cp: int, pp: int, dp: int, rest: IntArray, alone: IntArray
    ) -> Iterator[Part]:
        # Alone, there is nothing to share out: the stages are all the same.
        rest = rest if cp * dp > 1 else alone
        fault = self._fault(tp, cp, pp, dp)
        if fault:
            self.invalid += len(rest)
            self.why.append(fault)
            return
        runs, eps = self._runs(dp, pp), self._experts(cp * dp)
        if not len(runs) or not eps:
            return
        degrees = tp, cp, pp, dp
        if self.choices.dp_shard is None or dp in self.choices.dp_shard:
            yield Part(degrees, tuple(eps), runs, rest)
        for size in self._shards(tp, cp, dp):
            some = [e for e in eps if not (size * cp) % e or not e % (size * cp)]
            divided = rest[rest[:, 0] >= (1 if self.choices.dp_shard else 3)]
            if some and len(divided):
                yield Part(degrees, tuple(some), runs, divided, size)

    def _shards(self, tp: int, cp: int, dp: int) -> list[int]:
        """Return the ranks that may share states out where others hold copies.

        Unless it is asked for, those that a scale-up domain has room for.
        """
        networks = self.asked.system.networks
        inside = (networks[0].size if networks else 1) // (tp * cp)
        sizes = (inside,) if self.choices.dp_shard is None else self.choices.dp_shard
        found = [n for n in sizes if 1 < n < dp and not dp % n]
        for n in sizes if self.choices.dp_shard is not None else ():
            if dp % n:
                self.invalid += 1
                self.why.append(
                    f"dp_shard {n} does not divide dp {dp}; use {near(dp, n)}"
                )
        return found

    def _degrees(self, name: str, others: dict[str, int]) -> list[int]:
        number = self.devices // math.prod(others.values())
        chosen = getattr(self.choices, name)
        if chosen is None:
            return divisors(number)
        bad = [v for v in chosen if number % v]
        self.invalid += len(bad)
        beside = " x ".join(f"{k} {v}" for k, v in others.items() if v > 1)
        told = f"{number} devices"
        if beside:
            told = f"the {number} of {self.devices} devices that {beside} leaves"
        self.why += [
            f"{name} {v} does not divide {told}; use {name} {near(number, v)}"
            for v in bad
        ]
        return [v for v in chosen if number % v == 0]

    def _fault(self, tp: int, cp: int, pp: int, dp: int) -> str:
        if pp > self.layers:
            most = max(d for d in divisors(self.devices) if d <= self.layers)
            return f"pp {pp} is more than the {self.layers} layers; use {most}"
        if self.choices.dp is not None and dp not in self.choices.dp:
            asked = ", ".join(map(str, self.choices.dp))
            return (
                f"tp {tp}, cp {cp} and pp {pp} leave dp {dp}, not {asked}; use dp {dp}"
            )
        if self.asked.global_batch % dp:
            some = max(self.asked.global_batch // dp, 1) * dp
            return (
                f"global_batch {self.asked.global_batch} is not a multiple of "
                f"dp {dp}; use {some}"
            )
        return self._split(tp) or self._cannot_share(cp)

    def _cannot_split(self, tp: int) -> str:
        try:
            shard(self.model, tp)
        except HwsimError as error:
            return str(error)
        return ""

    def _cannot_share(self, cp: int) -> str:
        """Why a sequence cannot be shared out among ``cp`` ranks."""
        if cp == 1:
            return ""
        seq = self.asked.seq
        if not self.fused:
            return f"cp {cp} needs fused attention, which {self.asked.stack.id} has not"
        if seq % (2 * cp):
            return f"seq {seq} is not a multiple of 2 x cp = {2 * cp}"
        if self.choices.cp is None and seq // cp < MIN_LOCAL_TOKENS:
            return f"cp {cp} leaves fewer than {MIN_LOCAL_TOKENS} tokens to a rank"
        return ""

    def _experts(self, ranks: int) -> list[int]:
        moe, chosen = self.model.moe, self.choices.ep
        if moe is None:
            valid = [1]
        else:
            valid = [e for e in divisors(moe.experts) if ranks % e == 0]
        if chosen is None:
            return valid
        self.invalid += sum(e not in valid for e in chosen)
        if moe is None and any(e > 1 for e in chosen):
            self.why.append(f"{self.model.id} has no experts; use ep 1")
            return [e for e in chosen if e in valid]
        self.why += [
            f"ep {e} does not divide {moe.experts if moe else 1} experts and {ranks} "
            f"ranks; use {min(valid, key=lambda v: abs(v - e))}"
            for e in chosen if e not in valid
        ]  # fmt: skip
        return [e for e in chosen if e in valid]

    def _runs_of(self, dp: int, pp: int) -> IntArray:
        """Return rows of micro_batch, vpp, schedule that a pipeline can run."""
        share = self.asked.global_batch // dp
        sizes: Sequence[int] = self.choices.micro_batch or [
            d for d in divisors(share) if d <= MAX_MICRO_BATCH
        ]
        found = []
        for size in sizes:
            if share % size:
                self.invalid += 1
                self.why.append(
                    f"micro_batch {size} does not divide global_batch / dp = "
                    f"{share}; use {near(share, size)}"
                )
                continue
            found += [
                (size, vpp, place)
                for place, name in enumerate(self.schedules)
                for vpp in self._chunks(name, pp)
                if self._runs_on(place, PipelineShape(pp, share // size, vpp))
            ]
        if pp == 1:  # nothing is scheduled: one name stands for all
            found = list({row[0]: row for row in reversed(found)}.values())
        return np.array(found, dtype=np.int32).reshape(-1, 3)

    def _chunks(self, schedule: str, pp: int) -> Iterable[int]:
        if self.choices.vpp is not None:
            return [v for v in self.choices.vpp if self._enough(pp, v)]
        if schedule in {"gpipe", "1f1b", "zero_bubble", "dualpipe"} or pp == 1:
            return (1,)
        most = min(MAX_VPP, self.layers // pp)
        return [v for v in range(1, most + 1) if even_parts(self.layers, pp, v)]

    def _enough(self, pp: int, vpp: int) -> bool:
        fits = pp * vpp <= self.layers
        if fits and even_parts(self.layers, pp, vpp):
            return True
        self.invalid += 1
        what = "do not divide" if fits else "are more than"
        most = min(vpp, self.layers // pp)
        most = max(v for v in range(1, most + 1) if even_parts(self.layers, pp, v))
        self.why.append(
            f"pp {pp} x vpp {vpp} = {pp * vpp} parts {what} the {self.layers} layers; "
            f"use vpp {most}"
        )
        return False

    def _runs_on(self, place: int, shape: PipelineShape[int]) -> bool:
        if shape.pp == 1:
            return shape.vpp == 1
        try:
            self.plugins[place].check(shape)
        except InputError as error:
            self.invalid += 1
            self.why.append(str(error))
            return False
        return True

    def _zero(self) -> Sequence[int]:
        return self.choices.zero_stage or (0, 1, 2, 3)

    def _recompute(self) -> list[int]:
        # Fused attention keeps no scores: selective recomputation does nothing.
        every = ("none", "full") if self.fused else known.USUAL_RECOMPUTE
        return [RECOMPUTE.index(name) for name in self.choices.recompute or every]

    def _offload(self, name: str) -> Sequence[int]:
        chosen = getattr(self.choices, name)
        linked = self.asked.system.device.host_link is not None
        if chosen is None:
            return (0, 1) if linked else (0,)
        if any(chosen) and not linked:
            raise InputError(
                f"{name} needs a host_link, which device "
                f"{self.asked.system.device.id} has not; leave it off"
            )
        return [int(v) for v in chosen]

    def _product(self, *values: Sequence[int]) -> IntArray:
        grids = np.meshgrid(*map(np.array, values), indexing="ij")
        return np.stack([g.ravel() for g in grids], axis=1).astype(np.int32)
