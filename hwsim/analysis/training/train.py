"""Training: one optimizer step, its memory, and where the time goes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import (
    Engine,
    GraphResult,
    breakdown_frame,
    largest_part,
)
from hwsim.analysis.memory_fit import MemoryFit
from hwsim.analysis.packing import pack_records
from hwsim.analysis.resolve import part_of
from hwsim.analysis.result import Result
from hwsim.analysis.training.config import TrainConfig, checked_config
from hwsim.analysis.training.knowledge import (
    STATED,
    Knowledge,
    Told,
    facts_of,
    knowledge_of,
    term_of,
    whole_runs,
    with_term,
)
from hwsim.analysis.training.make import make_step
from hwsim.analysis.training.memory import step_fit, step_memory
from hwsim.analysis.training.spread import Disturbance, StepSpread, step_spread
from hwsim.analysis.training.step import Step, StepMaker
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.footprint import Footprint
from hwsim.registry import draw
from hwsim.sim.records import Record
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """One optimizer step.

    Attributes
    ----------
    made : Step
        The step: its graphs, and the played pipeline if there is one.
    footprint : Footprint
        Memory of the fullest device, which is of pipeline rank
        ``memory_rank``. [B]
    spread : StepSpread or None
        Times of many steps, where jitter or stragglers were asked for.
    told : Told
        What the question says of its run, and what was chosen for it.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    config: TrainConfig
    fidelity: Fidelity
    made: Step
    footprint: Footprint
    memory_rank: int
    memory: MemoryFit
    spread: StepSpread | None = None
    told: Told = STATED

    kind = "train"

    @property
    def tokens_per_s_per_device(self) -> float:
        """Training tokens per second and device. [1/s]"""
        tokens = self.config.global_batch * self.config.seq
        return tokens / self.step_s / self.config.devices

    def work(self, name: str) -> float:
        """Work of one device in a step: ``flop``, ``model_flop`` or ``full_flop``."""
        return self.made.work(name)

    @property
    def model_flop_per_s_per_device(self) -> float:
        """Model FLOP, masked attention and no recomputation. [FLOP/s]"""
        return self.work("model_flop") / self.step_s

    @property
    def mfu(self) -> float:
        """Model FLOP per second over the dense peak of the dtype."""
        peak = self.system.device.peak(self.config.dtype)
        return self.model_flop_per_s_per_device / peak

    @property
    def hfu(self) -> float:
        """As ``mfu``, with all the arithmetic that the kernels perform."""
        peak = self.system.device.peak(self.config.dtype)
        return self.work("flop") / self.step_s / peak

    @property
    def interval_90(self) -> dict[str, tuple[float, float]] | None:
        """90 % prediction intervals by figure; none of a speed of light."""
        inside = self.made.operator_interval
        if inside is None:
            return None
        both = with_term(inside, term_of(self.knowledge))
        rate = both.inverse()
        return {
            "step_s": both.around(self.step_s),
            "tokens_per_s_per_device": rate.around(self.tokens_per_s_per_device),
            "mfu": rate.around(self.mfu),
        }

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        """What is known behind the prediction: its class, and why."""
        return knowledge_of(
            facts_of(
                self.system.device, self.stack, experts=self.config.ep > 1,
                fidelity=self.fidelity, told=self.told,
            )
        )  # fmt: skip

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of such answers."""
        found = super().accuracy()
        if "whole_runs" in found:
            found["whole_runs"] |= whole_runs(self.knowledge)
        return found

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family rest on."""
        return {
            family: used
            for graph in self.graphs
            for family, used in graph.fidelity_by_family.items()
        }

    @property
    def step_s(self) -> float:
        """Time of the whole step. [s]"""
        return self.made.step_s

    @property
    def parts(self) -> dict[str, float]:
        """Breakdown of ``step_s``, the mean over pipeline ranks. [s]"""
        return self.made.parts

    @property
    def step(self) -> GraphResult:
        """The graph that figures begin with: the last microbatch, or a stage."""
        return self.made.shown[0]

    @property
    def bubble_fraction(self) -> float:
        """Share of the step that pipeline ranks wait for each other."""
        played = self.made.pipeline
        return 0.0 if played is None else played.bubble_fraction

    @property
    def bound(self) -> str:
        """What most of the step goes to; ``bubble`` is waiting for other stages."""
        name, played = largest_part(self.parts), self.made.pipeline
        if name != "launch" or played is None:
            return name
        waiting = float(played.bubble.mean()) > self.parts["idle"] / 2
        return "bubble" if waiting else name

    @property
    def fits(self) -> bool:
        """Whether it fits in memory."""
        return self.memory.fits

    @property
    def graphs(self) -> list[GraphResult]:
        """The graphs behind the figures."""
        return list(self.made.shown)

    @property
    def ops(self) -> pd.DataFrame:
        """One row per distinct operator of the graphs that are shown."""
        import pandas as pd

        frames = [g.ops.assign(graph=g.graph.name) for g in self.graphs]
        return pd.concat(frames, ignore_index=True)

    @property
    def timeline(self) -> pd.DataFrame:
        """Simulated timeline: all stages, or the last microbatch of one."""
        import pandas as pd

        return pd.DataFrame(list(self.made.records), columns=list(Record._fields))

    def rank_names(self) -> dict[int, str]:
        """Return what each rank of the timeline is; nothing without a pipeline."""
        played = self.made.pipeline
        ranks = 0 if played is None else len(played.order)
        return {rank: f"pipeline rank {rank}" for rank in range(ranks)}

    @property
    def breakdown(self) -> pd.DataFrame:
        """Seconds and share of each part of the step."""
        return breakdown_frame(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        spread = {} if self.spread is None else {"spread": self.spread.to_dict()}
        ends = self.interval_90
        return {
            **self.header(),
            "model": self.model.id,
            "system": self.system.id,
            "device": self.system.device.id,
            "stack": self.stack.id,
            "fidelity": self.fidelity,
            "fidelity_by_family": self.fidelity_by_family,
            "config": self.config.to_dict(),
            "step_s": self.step_s,
            "interval_90": ends,
            "knowledge": None if ends is None else self.knowledge.to_dict(),
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "model_flop_per_s_per_device": self.model_flop_per_s_per_device,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "bubble_fraction": self.bubble_fraction,
            "memory_bytes": self.footprint.to_dict(),
            "memory_rank": self.memory_rank,
            "memory_usable_bytes": self.memory.usable,
            "fits": self.fits,
            "memory_verdict": self.memory.sentence(),
            "breakdown": dict(self.parts),
            "bound": self.bound,
            **spread,
        }

    def details(self) -> dict[str, Any]:
        """Return the graphs behind the figures, and the pipeline's timeline."""
        found: dict[str, Any] = {"graphs": [g.packed() for g in self.graphs]}
        if self.made.pipeline is not None and self.made.pipeline.records:
            found["timeline"] = pack_records(self.made.pipeline.records)
        return found

    def plot_roofline(self, path: str | None = None) -> Any:
        """Draw the operators under the device's ceilings; return the figure."""
        return draw("roofline", self.graphs, path=path)

    def plot_breakdown(self, path: str | None = None) -> Any:
        """Draw the breakdown of the step; return the figure."""
        return draw("breakdown", {"training step": self.parts}, path=path)

    def plot_timeline(self, path: str | None = None) -> Any:
        """Draw the simulated timeline: all stages, or the last microbatch."""
        return draw("timeline", self.made.records, path=path)


def run_training(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    disturbance: Disturbance | None = None,
    **asked: Any,
) -> TrainResult:
    """Answer for one optimizer step; see :func:`hwsim.train`."""
    config = checked_config(model, system, **asked)
    group = part_of(system, config.devices)
    maker = StepMaker(model, group, stack, config, fidelity, engine)
    made = make_step(maker)
    spread = None
    if disturbance is not None:
        spread = step_spread(
            made, disturbance, replicas=config.dp, overhead=maker.overhead
        )
    fullest = step_memory(model, stack, config)
    memory = step_fit(model, system.device, stack, config, fullest.footprint.total)
    return TrainResult(
        model, group, stack, config, made.shown[0].fidelity, made, fullest.footprint,
        fullest.rank, memory, spread,
    )  # fmt: skip
