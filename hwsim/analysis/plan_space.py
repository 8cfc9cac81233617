"""Every layout that a training step could have, as columns of integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import HwsimError, InputError
from hwsim.graph.shard import shard
from hwsim.schedule.pipeline import pipeline_schedule, pipeline_schedules
from hwsim.schedule.pipeline_tasks import PipelineShape
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

IntArray = NDArray[np.int32]
RECOMPUTE = ("none", "selective", "full")
DEGREES = ("tp", "cp", "pp", "vpp", "ep", "dp", "micro_batch")
FIELDS = (
    *DEGREES, "zero_stage", "recompute", "schedule", "offload_optimizer",
    "offload_activations",
)  # fmt: skip
MAX_MICRO_BATCH = 32
MAX_VPP = 16
MIN_LOCAL_TOKENS = 512  # a context-parallel rank's share, unless cp is asked for


@dataclass(frozen=True)
class Choices:
    """Values that each part of a layout may take; None is every valid one."""

    tp: tuple[int, ...] | None = None
    cp: tuple[int, ...] | None = None
    pp: tuple[int, ...] | None = None
    vpp: tuple[int, ...] | None = None
    ep: tuple[int, ...] | None = None
    dp: tuple[int, ...] | None = None
    micro_batch: tuple[int, ...] | None = None
    zero_stage: tuple[int, ...] | None = None
    recompute: tuple[str, ...] | None = None
    schedule: tuple[str, ...] | None = None
    offload_optimizer: tuple[bool, ...] | None = None
    offload_activations: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, **asked: Any) -> Choices:
        """Return the choices that a caller asked for: values or lists of them."""
        known = {f.name for f in fields(cls)}
        for name in asked:
            if name not in known:
                raise InputError(
                    f"{name} is no part of a layout; choose {', '.join(sorted(known))}"
                )
        return cls(**{k: _several(k, v) for k, v in asked.items()})


def _several(name: str, value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    found = (value,) if isinstance(value, str | int) else tuple(value)
    if not found:
        raise InputError(f"{name} has no values; leave it out to try every valid one")
    for one in found:
        if name in DEGREES and (
            isinstance(one, bool) or not isinstance(one, int) or one < 1
        ):
            raise InputError(f"{name} is {one!r}; give integers of at least 1")
        if name == "zero_stage" and one not in range(4):
            raise InputError(f"zero_stage is {one!r}; choose 0, 1, 2 or 3")
        if name == "recompute" and one not in RECOMPUTE:
            raise InputError(f"recompute {one!r} is unknown; choose {RECOMPUTE}")
        if name == "schedule":
            pipeline_schedule(one)
    return tuple(sorted(set(found)))


@dataclass(frozen=True)
class Space:
    """Layouts of one device count, one entry of each column per layout.

    Attributes
    ----------
    columns : dict of str to ndarray of int32
        By name of ``FIELDS``; ``recompute`` and ``schedule`` are indices of
        ``RECOMPUTE`` and ``schedules``.
    invalid : int
        Combinations that were passed over because a rule forbids them.
    """

    devices: int
    global_batch: int
    schedules: tuple[str, ...]
    columns: dict[str, IntArray]
    invalid: int
    why: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["tp"])

    def __getitem__(self, name: str) -> IntArray:
        return self.columns[name]

    @property
    def num_microbatches(self) -> IntArray:
        """Microbatches that each data-parallel rank accumulates."""
        return self.global_batch // (self["micro_batch"] * self["dp"])

    def taken(self, where: Any) -> Space:
        """Return the layouts at some places."""
        columns = {name: column[where] for name, column in self.columns.items()}
        return Space(
            self.devices, self.global_batch, self.schedules, columns, self.invalid,
            self.why,
        )  # fmt: skip

    def row(self, index: int) -> dict[str, Any]:
        """Return one layout as :func:`hwsim.train` takes it."""
        row: dict[str, Any] = {k: int(v[index]) for k, v in self.columns.items()}
        row["recompute"] = RECOMPUTE[row["recompute"]]
        row["schedule"] = self.schedules[row["schedule"]]
        for name in ("offload_optimizer", "offload_activations"):
            row[name] = bool(row[name])
        return row


def divisors(number: int) -> list[int]:
    """Return all divisors, smallest first."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def _near(number: int, wanted: int) -> int:
    return min(divisors(number), key=lambda d: (abs(d - wanted), d))


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
        schedules = self.choices.schedule or pipeline_schedules()
        maker = _Maker(self, devices, schedules)
        parts = list(maker.parts())
        columns = {
            name: np.concatenate([p[:, i] for p in parts])
            if parts else np.zeros(0, np.int32)
            for i, name in enumerate(FIELDS)
        }  # fmt: skip
        return Space(
            devices, self.global_batch, schedules, columns, maker.invalid,
            tuple(dict.fromkeys(maker.why)),
        )  # fmt: skip


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

    def parts(self) -> Iterator[IntArray]:
        """Yield one array of layouts for each (tp, cp, pp)."""
        rest = self._product(
            self._zero(), self._recompute(),
            self._offload("offload_optimizer"), self._offload("offload_activations"),
        )  # fmt: skip
        alone = rest[rest[:, 0] == rest[:, 0].min()] if len(rest) else rest
        for pp in self._degrees("pp"):
            for tp in self._degrees("tp", self.devices // pp):
                for cp in self._degrees("cp", self.devices // (pp * tp)):
                    dp = self.devices // (pp * tp * cp)
                    yield from self._part(tp, cp, pp, dp, rest, alone)

    def _part(
        self, tp: int, cp: int, pp: int, dp: int, rest: IntArray, alone: IntArray
    ) -> Iterator[IntArray]:
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
        table = _crossed(np.array(eps, dtype=np.int32)[:, None], runs, rest)
        made = np.empty((len(table), len(FIELDS)), dtype=np.int32)
        made[:, :3] = tp, cp, pp
        made[:, 3], made[:, 4], made[:, 5] = table[:, 2], table[:, 0], dp
        made[:, 6], made[:, 9] = table[:, 1], table[:, 3]
        made[:, 7:9], made[:, 10:12] = table[:, 4:6], table[:, 6:8]
        yield made

    def _degrees(self, name: str, within: int | None = None) -> list[int]:
        number = self.devices if within is None else within
        chosen = getattr(self.choices, name)
        if chosen is None:
            return divisors(number)
        bad = [v for v in chosen if number % v]
        self.invalid += len(bad)
        self.why += [
            f"{name} {v} does not divide {number} devices; use {_near(number, v)}"
            for v in bad
        ]
        return [v for v in chosen if number % v == 0]

    def _fault(self, tp: int, cp: int, pp: int, dp: int) -> str:
        if pp > self.layers:
            return f"pp {pp} is more than the {self.layers} layers; use {self.layers}"
        if self.choices.dp is not None and dp not in self.choices.dp:
            return f"dp would be {dp}, which is not asked for"
        if self.asked.global_batch % dp:
            near = max(self.asked.global_batch // dp, 1) * dp
            return (
                f"global_batch {self.asked.global_batch} is not a multiple of "
                f"dp {dp}; use {near}"
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
                    f"{share}; use {_near(share, size)}"
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
        return range(1, min(MAX_VPP, self.layers // pp) + 1)

    def _enough(self, pp: int, vpp: int) -> bool:
        if pp * vpp <= self.layers:
            return True
        self.invalid += 1
        self.why.append(
            f"pp {pp} x vpp {vpp} makes more parts than the {self.layers} layers; "
            f"use vpp {self.layers // pp}"
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
        every = ("none", "full") if self.fused else RECOMPUTE
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


def _crossed(*tables: IntArray) -> IntArray:
    """Return every row of each table beside every row of the others."""
    sizes = [len(t) for t in tables]
    places = np.indices(sizes).reshape(len(sizes), -1)
    return np.concatenate(
        [t[p] for t, p in zip(tables, places, strict=True)], axis=1
    )  # fmt: skip
