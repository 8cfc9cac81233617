"""One optimizer step over a pipeline of unlike devices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.evidence import evidence
from hwsim.analysis.graph_result import PARTS, GraphResult, largest_part
from hwsim.analysis.memory_fit import MemoryFit
from hwsim.analysis.mixing.train_place import StageLink, TrainPlace
from hwsim.analysis.packing import pack_records
from hwsim.analysis.result import Result
from hwsim.analysis.training.config import TrainConfig
from hwsim.analysis.training.knowledge import (
    Knowledge,
    facts_of,
    knowledge_of,
    least_sure,
    term_of,
    whole_runs,
    with_term,
)
from hwsim.analysis.training.step import Step
from hwsim.cost.energy import SECONDS_PER_HOUR, host_power
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.footprint import Footprint
from hwsim.registry import draw
from hwsim.sim.records import Record
from hwsim.specs.assumed import labelled
from hwsim.specs.base import Spec
from hwsim.specs.model import ModelSpec


@dataclass(frozen=True)
class TrainedPlace:
    """A place of the pipeline, its step played.

    Attributes
    ----------
    ranks : range
        Its pipeline ranks.
    layers : tuple of range
        Of each of them.
    footprint : Footprint
        Of the fullest device. [B]
    busy : float
        Work of the busiest rank, one microbatch. [s]
    parts : dict of str to float
        Breakdown of the step, the mean over its ranks. [s]
    power : float or None
        Mean of one device's board. [W]
    price : float or None
        Of one device. [USD/h]
    """

    place: TrainPlace
    config: TrainConfig
    ranks: range
    layers: tuple[range, ...]
    footprint: Footprint
    memory: MemoryFit
    busy: float
    parts: dict[str, float]
    power: float | None
    host_share: float
    price: float | None

    @property
    def devices(self) -> int:
        """Devices of the place."""
        return self.place.devices(self.config.cp)

    def to_dict(self) -> dict[str, Any]:
        """Return it with keys in SI."""
        p, c = self.place, self.config
        return {
            "system": p.system.id, "device": labelled(p.system),
            "stack": p.stack.id, "devices": self.devices, "tp": p.tp, "dp": p.dp,
            "stages": p.stages, "ranks": [self.ranks.start, self.ranks.stop],
            "layers": [self.layers[0].start, self.layers[-1].stop],
            "layers_per_stage": [len(part) for part in self.layers],
            "micro_batch": c.micro_batch, "microbatch_s": self.busy,
            "memory_bytes": self.footprint.to_dict(),
            "memory_usable_bytes": self.memory.usable, "fits": self.memory.fits,
            "breakdown": dict(self.parts), "idle_share": self.idle_share,
            "power_per_device_w": self.power, "price_usd_per_h": self.price,
        }  # fmt: skip

    @property
    def idle_share(self) -> float:
        """Share of the step that its devices wait for other stages."""
        total = math.fsum(self.parts.values())
        return self.parts["idle"] / total if total else 0.0


@dataclass(frozen=True, repr=False)
class MixedTrainResult(Result):
    """An optimizer step over pipeline stages on devices of several kinds.

    Attributes
    ----------
    made : Step
        The step, its pipeline played.
    places : tuple of TrainedPlace
        In the order that microbatches pass them.
    links : tuple of StageLink
        Between them.
    pue : float
        Facility over computer power.
    """

    model: ModelSpec
    fidelity: Fidelity
    made: Step
    places: tuple[TrainedPlace, ...]
    links: tuple[StageLink, ...]
    pue: float

    kind = "mixed_train"

    @property
    def step_s(self) -> float:
        """Time of the whole step. [s]"""
        return self.made.step_s

    @property
    def config(self) -> TrainConfig:
        """What is asked, as the first place sees it."""
        return self.places[0].config

    @property
    def devices(self) -> int:
        """Devices of all places."""
        return sum(place.devices for place in self.places)

    @property
    def tokens_per_s(self) -> float:
        """Training tokens per second, all devices together. [1/s]"""
        return self.config.global_batch * self.config.seq / self.step_s

    @property
    def mfu(self) -> float:
        """Model FLOP per second over the dense peaks of all devices together."""
        work = peak = 0.0
        for place in self.places:
            each = place.devices / place.place.stages
            for rank in place.ranks:
                runs = self.made.by_rank[rank].runs
                work += each * sum(float(g.graph.model_flop) * n for g, n in runs)
            device = place.place.system.device
            peak += place.devices * device.peak(self.config.dtype)
        return work / self.step_s / peak

    @property
    def bubble_fraction(self) -> float:
        """Share of the step that pipeline ranks wait for each other."""
        return self.made.pipeline.bubble_fraction if self.made.pipeline else 0.0

    @property
    def parts(self) -> dict[str, float]:
        """Breakdown of ``step_s``, the mean over devices. [s]"""
        return {
            name: sum(p.parts[name] * p.devices for p in self.places) / self.devices
            for name in PARTS
        }

    @property
    def bound(self) -> str:
        """What most of the step goes to; ``bubble`` is waiting for other stages."""
        name = largest_part(self.parts)
        return "bubble" if name == "launch" else name

    @property
    def fits(self) -> bool:
        """Whether every stage fits in memory."""
        return all(place.memory.fits for place in self.places)

    @property
    def knowledge(self) -> Knowledge:
        """What is known of the place that least is known of."""
        return least_sure(
            knowledge_of(
                facts_of(
                    one.place.system.device, one.place.stack,
                    experts=one.config.ep > 1, fidelity=self.fidelity,
                )
            )
            for one in self.places
        )  # fmt: skip

    @property
    def interval_90(self) -> dict[str, tuple[float, float]] | None:
        """90 % intervals; errors of all places taken to go together."""
        inside = self.made.operator_interval
        if inside is None:
            return None
        both = with_term(inside, term_of(self.knowledge))
        return {
            "step_s": both.around(self.step_s),
            "tokens_per_s": both.inverse().around(self.tokens_per_s),
        }

    @property
    def power_w(self) -> float | None:
        """Mean power at the wall: devices, hosts, facility. [W]"""
        found = [
            None
            if p.power is None
            else p.devices * (p.power + host_power(p.place.system.device, p.host_share))
            for p in self.places
        ]
        known = [power for power in found if power is not None]
        return self.pue * math.fsum(known) if len(known) == len(found) else None

    @property
    def energy_j(self) -> float | None:
        """Energy of a step at the wall. [J]"""
        return None if self.power_w is None else self.power_w * self.step_s

    @property
    def cost_usd(self) -> float | None:
        """Rent of all devices for a step. [USD]"""
        prices = [p.price for p in self.places]
        known = [
            p.devices * p.price * self.step_s / SECONDS_PER_HOUR
            for p in self.places
            if p.price is not None
        ]
        return math.fsum(known) if len(known) == len(prices) else None

    @property
    def graphs(self) -> list[GraphResult]:
        """Graphs of the busiest stage."""
        return list(self.made.shown)

    @property
    def records(self) -> tuple[Record, ...]:
        """The simulated timeline, a rank per pipeline stage."""
        return self.made.records

    def rank_names(self) -> dict[int, str]:
        """Return what runs each pipeline rank."""
        return {
            rank: f"stage {rank}: {place.place.system.device.name}"
            for place in self.places
            for rank in place.ranks
        }

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy on each device, by its id."""
        found: dict[str, Any] = {}
        for place in self.places:
            device = place.place.system.device
            runs = self.made.by_rank[place.ranks.start].runs
            used = {k: v for g, _ in runs for k, v in g.fidelity_by_family.items()}
            found[device.id] = evidence(device, used, "train")
            if "whole_runs" in found[device.id]:
                found[device.id]["whole_runs"] |= whole_runs(self.knowledge)
        return found

    def specs(self) -> dict[str, Spec]:
        """Return model, systems and stacks, each once, as ``role:id``."""
        found: dict[str, Spec] = {"model": self.model}
        for place in self.places:
            found[f"system:{place.place.system.id}"] = place.place.system
            found[f"stack:{place.place.stack.id}"] = place.place.stack
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        c = self.config
        own = ("tp", "dp", "micro_batch", "devices")
        config = {k: v for k, v in c.to_dict().items() if k not in own}
        return {
            **self.header(),
            "model": self.model.id,
            "fidelity": self.fidelity,
            "config": {**config, "devices": self.devices},
            "places": [place.to_dict() for place in self.places],
            "links": [link.to_dict() for link in self.links],
            "step_s": self.step_s,
            "interval_90": self.interval_90,
            "knowledge": self.knowledge.to_dict(),
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_device": self.tokens_per_s / self.devices,
            "mfu": self.mfu,
            "bubble_fraction": self.bubble_fraction,
            "breakdown": self.parts,
            "bound": self.bound,
            "fits": self.fits,
            "power_w": self.power_w,
            "energy_j": self.energy_j,
            "cost_usd": self.cost_usd,
            "pue": self.pue,
        }

    def details(self) -> dict[str, Any]:
        """Return the pipeline's timeline."""
        return {"timeline": pack_records(self.records)}

    def plot_timeline(self, path: str | None = None) -> Any:
        """Draw the simulated timeline of all stages."""
        return draw("timeline", self.records, path=path)
