"""One model on unlike devices: stages, phases, embedding or cache on a host."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.evidence import evidence
from hwsim.analysis.graph_result import PARTS, largest_part
from hwsim.analysis.memory_fit import MemoryFit
from hwsim.analysis.mixing.place import LATENCY, PassTime, Place, Work
from hwsim.analysis.result import Result
from hwsim.cost.interval import weighted
from hwsim.errors import InputError
from hwsim.specs.assumed import labelled
from hwsim.specs.base import Spec

Chain = tuple[Place, ...]


@dataclass(frozen=True)
class Hop:
    """The link between two places, and between prefill and decode.

    Attributes
    ----------
    bandwidth : float
        All devices of a place together. [B/s]
    latency : float
        Of one message. [s]
    assumed : bool
        Whether nobody gave them.
    """

    bandwidth: float
    latency: float = LATENCY
    assumed: bool = False

    def time(self, nbytes: float) -> float:
        """Return the time of one message. [s]"""
        return nbytes / self.bandwidth + self.latency


@dataclass(frozen=True)
class Stage:
    """One place of a chain, timed.

    Attributes
    ----------
    role : str
        ``prefill``, ``decode`` or ``both``.
    prefill, decode : PassTime or None
        The prompts' pass; a decode step at the mean context.
    """

    place: Place
    role: str
    prefill: PassTime | None
    decode: PassTime | None
    memory: MemoryFit

    def to_dict(self) -> dict[str, Any]:
        """Return it with keys in SI."""
        passes = {"prefill": self.prefill, "decode": self.decode}
        return {
            "role": self.role, "system": self.place.system.id,
            "device": labelled(self.place.system), "tp": self.place.tp,
            "layers": list(self.place.layers),
            **{f"{k}_s": p.time_s if p else None for k, p in passes.items()},
            "memory_needed_bytes": self.memory.needed,
            "memory_usable_bytes": self.memory.usable, "fits": self.memory.fits,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class MixedResult(Result):
    """A batch of equal requests on devices of several kinds.

    Attributes
    ----------
    stages : tuple of Stage
        All places, in the order that tokens pass them.
    handover_s : float
        Keys and values on their way from prefill to decode. [s]
    hop_s : dict of str to float
        Activations between stages, of ``prefill`` and of one ``decode`` step. [s]
    """

    work: Work
    stages: tuple[Stage, ...]
    link: Hop
    tpot_s: float | None
    decode_parts: dict[str, float]
    hop_s: dict[str, float]
    handover_s: float
    host_bytes: float
    host_usable: float | None

    kind = "mixed"

    @property
    def ttft_s(self) -> float:
        """Time to first token, without queueing. [s]"""
        passes = [s.prefill.time_s for s in self.stages if s.prefill is not None]
        return math.fsum(passes) + self.hop_s["prefill"]

    @property
    def decode_steps(self) -> int:
        """Tokens after the first."""
        return max(self.work.output - 1, 0)

    @property
    def latency_s(self) -> float:
        """Prompt to last token, the handover included. [s]"""
        steps = self.decode_steps * (self.tpot_s or 0.0)
        return self.ttft_s + (self.handover_s if self.decode_steps else 0.0) + steps

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of one batch over its latency. [1/s]"""
        return self.work.batch * self.work.output / self.latency_s

    @property
    def saturated_tokens_per_s(self) -> float | None:
        """Decoding, with a batch in every decode stage at once. [1/s]"""
        slowest = [s.decode.time_s for s in self.stages if s.decode is not None]
        return self.work.batch / max(slowest) if slowest and self.tpot_s else None

    @property
    def parts(self) -> dict[str, float]:
        """Breakdown of the latency. [s]"""
        found = dict.fromkeys((*PARTS, "host"), 0.0)
        for stage in self.stages:
            for name, value in (stage.prefill.parts if stage.prefill else {}).items():
                found[name] += value
        for name, value in self.decode_parts.items():
            found[name] += self.decode_steps * value
        found["interconnect"] += self.hop_s["prefill"]
        found["interconnect"] += self.handover_s if self.decode_steps else 0.0
        return {k: v for k, v in found.items() if v or k in PARTS}

    @property
    def bound(self) -> str:
        """What most of the latency goes to."""
        return largest_part(self.parts)

    @property
    def fits(self) -> bool:
        """Whether every device, and the host, holds its share."""
        held = self.host_usable is None or self.host_bytes <= self.host_usable
        return held and all(stage.memory.fits for stage in self.stages)

    @property
    def interval_90(self) -> dict[str, tuple[float, float]] | None:
        """90 % interval of the latency; errors of all places taken together."""
        found = []
        for stage in self.stages:
            for timed, times in ((stage.prefill, 1), (stage.decode, self.decode_steps)):
                log = timed.run.log_interval if timed else None
                if timed is not None and log is not None:
                    found.append((log, timed.time_s * times))
        if not found:
            return None
        return {"latency_s": weighted(found).around(self.latency_s)}

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of each device's passes, by its id."""
        used: dict[str, dict[str, str]] = {}
        devices = {s.place.system.device.id: s.place.system.device for s in self.stages}
        for stage in self.stages:
            mine = used.setdefault(stage.place.system.device.id, {})
            for timed in (stage.prefill, stage.decode):
                if timed is not None:
                    mine.update(timed.run.fidelity_by_family)
        return {k: evidence(devices[k], known, "infer") for k, known in used.items()}

    def specs(self) -> dict[str, Spec]:
        """Return model and systems, each once, as ``role:id``."""
        found: dict[str, Spec] = {"model": self.work.model}
        hosts = (self.work.kv_host, self.work.embedding_host)
        for system in (*(s.place.system for s in self.stages), *hosts):
            if system is not None:
                found[f"system:{system.id}"] = system
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        w = self.work
        return {
            **self.header(),
            "model": w.model.id,
            "config": {
                "batch": w.batch, "prompt": w.prompt, "output": w.output,
                "dtype": w.dtype, "weight_dtype": w.weight_dtype,
                "kv_dtype": w.kv_dtype,
                "kv_host": w.kv_host.id if w.kv_host else None,
                "embedding_host": w.embedding_host.id if w.embedding_host else None,
            },
            "link": vars(self.link),
            "stages": [stage.to_dict() for stage in self.stages],
            "ttft_s": self.ttft_s, "tpot_s": self.tpot_s,
            "handover_s": self.handover_s, "hop_s": dict(self.hop_s),
            "latency_s": self.latency_s, "interval_90": self.interval_90,
            "tokens_per_s": self.tokens_per_s,
            "saturated_tokens_per_s": self.saturated_tokens_per_s,
            "breakdown": self.parts, "bound": self.bound,
            "host_bytes": self.host_bytes, "host_usable_bytes": self.host_usable,
            "fits": self.fits,
        }  # fmt: skip


def run_mixed(work: Work, prefill: Chain, decode: Chain, link: Hop) -> MixedResult:
    """Answer for a model spread over places; equal chains share their memory."""
    same = prefill == decode
    context = work.prompt + work.output
    steps = max(work.output - 1, 0)
    middle = work.prompt + 1 + max(steps - 1, 0) // 2
    stages = [
        Stage(p, "both" if same else "prefill", p.prefill(work),
              p.decode(work, middle) if same and steps else None,
              p.memory(work, context if same else work.prompt))
        for p in prefill
    ]  # fmt: skip
    if not same:
        stages += [
            Stage(p, "decode", None, p.decode(work, middle) if steps else None,
                  p.memory(work, context))
            for p in decode
        ]  # fmt: skip
    rows = work.batch * work.row_bytes
    hops = {
        "prefill": (len(prefill) - 1) * link.time(rows * work.prompt),
        "decode": (len(decode) - 1) * link.time(rows),
    }
    tpot, parts = _mean_step(work, decode, steps, hops["decode"])
    handover = 0.0
    if not same and work.kv_host is None:
        handover = link.time(sum(p.kv_bytes(work, work.prompt) for p in prefill))
    return MixedResult(
        work, tuple(stages), link, tpot, parts, hops, handover,
        *_on_host(work, decode, context),
    )  # fmt: skip


def _mean_step(
    work: Work, chain: Chain, steps: int, hop: float
) -> tuple[float | None, dict[str, float]]:
    """Return the mean decode step and its parts, by Simpson over the context."""
    if not steps:
        return None, {}
    first = work.prompt + 1
    ends = (first, first + (steps - 1) // 2, first + steps - 1)
    total = dict.fromkeys((*PARTS, "host"), 0.0)
    for weight, context in zip((1, 4, 1), ends, strict=True):
        for place in chain:
            for name, value in place.decode(work, context).parts.items():
                total[name] += weight / 6.0 * value
    total["interconnect"] += hop
    return math.fsum(total.values()), total


def _on_host(work: Work, decode: Chain, context: int) -> tuple[float, float | None]:
    """Return what the fuller host keeps, and what it has room for. [B]"""
    held: dict[str, float] = {}
    room: dict[str, float] = {}
    kept = (
        (work.kv_host, sum(p.kv_bytes(work, context) for p in decode)),
        (work.embedding_host, sum(p.table_bytes(work) * p.tp for p in decode)),
    )
    for host, nbytes in kept:
        if host is not None:
            room[host.id] = host.device.main_memory.size
            held[host.id] = held.get(host.id, 0.0) + nbytes
    if not held:
        return 0.0, None
    name = max(held, key=lambda key: held[key] / room[key])
    return held[name], room[name]


def split_layers(
    work: Work, places: Sequence[Place], given: Sequence[int | None]
) -> Chain:
    """Return places with the layers that they hold.

    Where none are given, layers are shared out so that the slowest stage of a
    decode step is as fast as can be, each within its memory.

    Raises
    ------
    InputError
        If the given ones do not add up, or no split fits.
    """
    total, n = work.model.layers, len(places)
    known = [count for count in given if count is not None]
    if known and len(known) < n:
        raise InputError("give layers for every stage, or for none")
    if known and sum(known) != total:
        raise InputError(
            f"stages hold {sum(known)} layers, but {work.model.id} has {total}"
        )
    counts = known or _balanced(work, places)
    starts = [0, *itertools.accumulate(counts)]
    return tuple(
        _with_layers(place, (a, b), total)
        for place, (a, b) in zip(places, itertools.pairwise(starts), strict=True)
    )


def _with_layers(place: Place, layers: tuple[int, int], total: int) -> Place:
    first, last = layers[0] == 0, layers[1] == total
    return Place(place.system, place.stack, place.tp, layers, first, last)


def _balanced(work: Work, places: Sequence[Place]) -> list[int]:
    total, n = work.model.layers, len(places)
    if n > total:
        raise InputError(f"{n} stages, but {work.model.id} has {total} layers")
    if n == 1:
        return [total]
    context = work.prompt + work.output
    # Time is nearly linear in the layers; the rest stands around them.
    cost = np.full((n, total + 1), np.inf)
    for i, place in enumerate(places):
        wide = min(4, total - n + 1)
        few, many = (
            _with_layers(place, _span(i, n, k, total), total)
            .decode(work, context)
            .time_s
            for k in (1, wide)
        )
        slope = (many - few) / max(wide - 1, 1)
        for k in range(1, total + 1 - (n - 1)):
            trial = _with_layers(place, _span(i, n, k, total), total)
            if trial.memory(work, context).fits:
                cost[i, k] = few + (k - 1) * slope
    return _least_worst(cost, total, work)


def _span(i: int, n: int, k: int, total: int) -> tuple[int, int]:
    """Return k layers where a stage's stand, as far as its memory can tell."""
    if i == 0:
        return 0, k
    return (total - k, total) if i == n - 1 else (1, 1 + k)


def _least_worst(cost: Any, total: int, work: Work) -> list[int]:
    """Return counts that add up, the greatest of their costs the least."""
    n = len(cost)
    best = cost[0].copy()
    choices = []
    for i in range(1, n):
        joint = np.full(total + 1, np.inf)
        choice = np.zeros(total + 1, dtype=int)
        for m in range(i + 1, total + 1):
            ks = np.arange(1, m - i + 1)
            worst = np.maximum(best[m - ks], cost[i, ks])
            at = int(np.argmin(worst))
            joint[m], choice[m] = worst[at], ks[at]
        best = joint
        choices.append(choice)
    if not np.isfinite(best[total]):
        raise InputError(
            f"no split of {work.model.id} over these stages fits in their memory; add "
            "stages, raise tp, or store weights in fp8 or int4 (weight_dtype)"
        )
    counts, left = [], total
    for choice in reversed(choices):
        counts.append(int(choice[left]))
        left -= counts[-1]
    return [left, *reversed(counts)]
