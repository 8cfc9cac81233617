"""Inference: prompt to first token, time per output token, memory, bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import (
    PARTS,
    Engine,
    GraphResult,
    breakdown_frame,
    largest_part,
    run_graph,
)
from hwsim.analysis.inference_request import (
    InferConfig,
    checked_request,
    gentler_requests,
    request_footprint,
)
from hwsim.analysis.memory_fit import MemoryFit, memory_fit
from hwsim.analysis.result import Result
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.footprint import Footprint
from hwsim.cost.interval import LogInterval, weighted
from hwsim.graph.gathered import can_gather, gathered_prefill_graph
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.registry import draw
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class InferResult(Result):
    """A batch of equal requests served together, from prompt to last token.

    Attributes
    ----------
    prefill, decode : GraphResult or None
        The prompt pass, and the decode step at the mean context.
    prefill_s, decode_step_s, ttft_s, tpot_s, latency_s : float
        Prompt pass; decode step at the mean context; time to first token
        (alone on the device, no queue); mean time per further output token;
        first to last. ``None`` where there is nothing of the kind. [s]
    tokens_per_s : float
        Output tokens of the whole batch over ``latency_s`` (prompt tokens
        where nothing is generated). [1/s]
    parts : dict of str to float
        Breakdown of ``latency_s``. [s]
    notes : tuple of str
        What was asked and could not be taken as it was.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    config: InferConfig
    fidelity: Fidelity
    prefill: GraphResult | None
    decode: GraphResult | None
    decode_steps: int
    tpot_s: float | None
    footprint: Footprint
    memory: MemoryFit
    parts: dict[str, float]
    notes: tuple[str, ...] = ()

    kind = "infer"

    @property
    def prefill_s(self) -> float:
        """Prompt pass. [s]"""
        return self.prefill.time_s if self.prefill else 0.0

    @property
    def ttft_s(self) -> float:
        """Time to first token, without queueing. [s]

        The prompt pass gives it, but for an encoder-decoder or an empty prompt:
        there it takes a first decode step.
        """
        stepped = self.decode_steps and self.decode_steps == self.config.output
        return self.prefill_s + ((self.tpot_s or 0.0) if stepped else 0.0)

    @property
    def decode_step_s(self) -> float | None:
        """One decode step at the mean context. [s]"""
        return self.decode.time_s if self.decode else None

    @property
    def latency_s(self) -> float:
        """Arrival to last token. [s]"""
        return self.prefill_s + self.decode_steps * (self.tpot_s or 0.0)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the batch per second of latency. [1/s]"""
        tokens = self.config.output or self.config.prompt
        return self.config.batch * tokens / self.latency_s

    @property
    def interval_90(self) -> dict[str, tuple[float, float] | None] | None:
        """90 % prediction intervals by figure; none of a speed of light."""
        if self.fidelity == "roofline":
            return None
        first = self.prefill.log_interval if self.prefill else None
        step = self.decode.log_interval if self.decode else None

        def joint(steps_s: float) -> LogInterval:
            times = ((first, self.prefill_s), (step, steps_s))
            return weighted([(part, time) for part, time in times if part is not None])

        to_first = joint(self.ttft_s - self.prefill_s)
        both = joint(self.latency_s - self.prefill_s)
        return {
            "prefill_s": _around(first, self.prefill_s),
            "decode_step_s": _around(step, self.decode_step_s),
            "ttft_s": to_first.around(self.ttft_s),
            "tpot_s": _around(step, self.tpot_s),
            "latency_s": both.around(self.latency_s),
            "tokens_per_s": both.inverse().around(self.tokens_per_s),
        }

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family rest on."""
        return {k: v for g in self.graphs for k, v in g.fidelity_by_family.items()}

    @property
    def mfu(self) -> float:
        """Model FLOP over peak, for the whole request."""
        peak = self.system.device.peak(self.config.dtype)
        flop = self.prefill.graph.model_flop if self.prefill else 0.0
        if self.decode:
            flop += self.decode_steps * self.decode.graph.model_flop
        return flop / (self.latency_s * peak)

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return largest_part(self.parts)

    @property
    def fits(self) -> bool:
        """Whether it fits in memory."""
        return self.memory.fits

    @property
    def graphs(self) -> list[GraphResult]:
        """The graphs behind the figures."""
        return [g for g in (self.prefill, self.decode) if g is not None]

    @property
    def ops(self) -> pd.DataFrame:
        """One row per distinct operator of both phases."""
        import pandas as pd

        frames = [g.ops.assign(graph=g.graph.name) for g in self.graphs]
        return pd.concat(frames, ignore_index=True)

    @property
    def timeline(self) -> pd.DataFrame:
        """Simulated timelines of both phases."""
        import pandas as pd

        frames = [g.timeline.assign(graph=g.graph.name) for g in self.graphs]
        return pd.concat(frames, ignore_index=True)

    @property
    def breakdown(self) -> pd.DataFrame:
        """Seconds and share of each part of the latency."""
        return breakdown_frame(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        decode_rate = self.config.batch / self.tpot_s if self.tpot_s else None
        return {
            **self.header(),
            "model": self.model.id,
            "system": self.system.id,
            "device": self.system.device.id,
            "stack": self.stack.id,
            "fidelity": self.fidelity,
            "fidelity_by_family": self.fidelity_by_family,
            "config": self.config.to_dict(),
            "prefill_s": self.prefill_s,
            "decode_step_s": self.decode_step_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "latency_s": self.latency_s,
            "tokens_per_s": self.tokens_per_s,
            "interval_90": self.interval_90,
            "decode_tokens_per_s": decode_rate,
            "memory_bytes": self.footprint.to_dict(),
            "memory_usable_bytes": self.memory.usable,
            "fits": self.fits,
            "memory_verdict": self.memory.sentence(),
            "breakdown": dict(self.parts),
            "bound": self.bound,
            "mfu": self.mfu,
            "notes": list(self.notes),
        }

    def details(self) -> dict[str, Any]:
        """Return the graphs behind the figures: operators and timelines."""
        return {"graphs": [g.packed() for g in self.graphs]}

    def plot_roofline(self, path: str | None = None) -> Any:
        """Draw all operators under the device's ceilings; return the figure."""
        return draw("roofline", self.graphs, path=path)

    def plot_breakdown(self, path: str | None = None) -> Any:
        """Draw the breakdown of each phase; return the figure."""
        return draw(
            "breakdown", {g.graph.name: g.parts for g in self.graphs}, path=path
        )

    def plot_timeline(self, path: str | None = None) -> Any:
        """Draw the simulated timeline of the last phase; return the figure."""
        return self.graphs[-1].plot_timeline(path)


def _around(
    interval: LogInterval | None, value: float | None
) -> tuple[float, float] | None:
    return None if interval is None or value is None else interval.around(value)


def run_inference(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    *,
    batch: int,
    prompt: int | None,
    output: int | None,
    tp: int,
    dtype: str,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
) -> InferResult:
    """Answer for a batch of equal requests; see :func:`hwsim.infer`."""
    config = checked_request(
        model, system, batch, prompt, output, tp, dtype, weight_dtype, kv_dtype
    )
    shapes: dict[str, Any] = {
        "batch": config.batch, "tp": config.tp, "dtype": dtype, "stack": stack,
        "weight_dtype": config.weight_dtype, "kv_dtype": config.kv_dtype,
    }  # fmt: skip
    group = system.subsystem(config.tp)
    prefill = None
    if config.prompt:
        prefill = _prefill(model, group, config, shapes, fidelity, engine)
    decode, tpot, step_parts = None, None, dict.fromkeys(PARTS, 0.0)
    two_sided = model.kind == "encoder_decoder"
    stepped = two_sided or not config.prompt
    steps = max(config.output - (0 if stepped else 1), 0)
    if steps:
        encoder = config.prompt if two_sided else 0
        first = 1 if two_sided else config.prompt + 1

        def at(context: int, how: Engine = "closed_form") -> GraphResult:
            graph = decode_graph(
                model, context=context, encoder_context=encoder, **shapes
            )
            return run_graph(graph, group, stack, fidelity=fidelity, engine=how)

        decode = at(first + (steps - 1) // 2, engine)
        ends = (at(first), decode, at(first + steps - 1))
        step_parts = {p: _simpson([e.parts[p] for e in ends]) for p in PARTS}
        tpot = sum(step_parts.values())
    parts = {
        p: (prefill.parts[p] if prefill else 0.0) + steps * step_parts[p] for p in PARTS
    }
    footprint = request_footprint(model, config, stack)
    memory = memory_fit(
        footprint.total,
        system.device,
        stack,
        gentler_requests(model, system, config, stack),
    )
    return InferResult(
        model, group, stack, config, resolved_fidelity(system.device, fidelity),
        prefill, decode, steps, tpot, footprint, memory, parts, _notes(model, output),
    )  # fmt: skip


def _prefill(
    model: ModelSpec,
    group: SystemSpec,
    config: InferConfig,
    shapes: dict[str, Any],
    fidelity: Fidelity,
    engine: Engine,
) -> GraphResult:
    """Return the pass over prompts in the faster of the layouts of its stack."""
    stack = shapes["stack"]
    graphs = [prefill_graph(model, prompt=config.prompt, **shapes)]
    if stack.gather_weights and can_gather(model, config.batch, config.tp):
        graphs.append(gathered_prefill_graph(model, prompt=config.prompt, **shapes))
    runs = [
        run_graph(g, group, stack, fidelity=fidelity, engine=engine) for g in graphs
    ]
    return min(runs, key=lambda run: run.time_s)


def _notes(model: ModelSpec, output: int | None) -> tuple[str, ...]:
    if model.kind != "encoder" or not output:
        return ()
    return (
        f"{model.id} is an encoder and generates nothing: output {output} was taken "
        "as 0",
    )


def _simpson(values: list[float]) -> float:
    """Mean over the decode steps; step time is smooth in the context length."""
    return (values[0] + 4.0 * values[1] + values[2]) / 6.0
