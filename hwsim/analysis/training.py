"""Training: one optimizer step, its memory, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from hwsim.analysis.check import context_within, dtype_on, positive_int
from hwsim.analysis.graph_result import (
    PARTS,
    Engine,
    GraphResult,
    breakdown_frame,
    largest_part,
    run_graph,
)
from hwsim.analysis.memory_fit import MemoryFit, memory_fit
from hwsim.analysis.result import Result
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.footprint import Footprint, training_footprint
from hwsim.cost.interval import weighted
from hwsim.errors import InputError, nearest
from hwsim.graph.training import training_graph
from hwsim.registry import draw
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    import pandas as pd

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
TRAINING_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


@dataclass(frozen=True)
class TrainConfig:
    """What is asked: layout, sizes in sequences and tokens, dtypes by name."""

    devices: int
    tp: int
    dp: int
    micro_batch: int
    global_batch: int
    seq: int
    dtype: str
    recompute: Recompute
    optimizer: str
    zero_stage: int
    sequence_parallel: bool

    @property
    def num_microbatches(self) -> int:
        """Microbatches that each data-parallel rank accumulates."""
        return self.global_batch // (self.micro_batch * self.dp)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the number of microbatches."""
        return {**vars(self), "num_microbatches": self.num_microbatches}


@dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """One optimizer step.

    Attributes
    ----------
    step : GraphResult
        The last microbatch with gradient reduction and optimizer.
    accumulate : GraphResult or None
        A microbatch before it, if there is more than one.
    step_s : float
        Time of the whole step. [s]
    parts : dict of str to float
        Breakdown of ``step_s``. [s]
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    config: TrainConfig
    fidelity: Fidelity
    step: GraphResult
    accumulate: GraphResult | None
    step_s: float
    footprint: Footprint
    memory: MemoryFit
    parts: dict[str, float]

    kind = "train"

    @property
    def tokens_per_s_per_device(self) -> float:
        """Training tokens per second and device. [1/s]"""
        tokens = self.config.global_batch * self.config.seq
        return tokens / self.step_s / self.config.devices

    def work(self, name: str) -> float:
        """Work of one device in a step: ``flop``, ``model_flop`` or ``full_flop``."""
        last = float(getattr(self.step.graph, name))
        if self.accumulate is None:
            return last
        before = float(getattr(self.accumulate.graph, name))
        return last + (self.config.num_microbatches - 1) * before

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
        last = self.step.log_interval
        if last is None:
            return None
        both = last
        before = self.accumulate.log_interval if self.accumulate else None
        if before is not None:
            rest = max(self.step_s - self.step.time_s, 0.0)
            both = weighted([(last, self.step.time_s), (before, rest)])
        rate = both.inverse()
        return {
            "step_s": both.around(self.step_s),
            "tokens_per_s_per_device": rate.around(self.tokens_per_s_per_device),
            "mfu": rate.around(self.mfu),
        }

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family rest on."""
        return self.step.fidelity_by_family

    @property
    def bound(self) -> str:
        """What most of the step goes to."""
        return largest_part(self.parts)

    @property
    def fits(self) -> bool:
        """Whether it fits in memory."""
        return self.memory.fits

    @property
    def graphs(self) -> list[GraphResult]:
        """The graphs behind the figures."""
        return [self.step]

    @property
    def ops(self) -> pd.DataFrame:
        """One row per distinct operator of the last microbatch."""
        return self.step.ops

    @property
    def timeline(self) -> pd.DataFrame:
        """Simulated timeline of the last microbatch."""
        return self.step.timeline

    @property
    def breakdown(self) -> pd.DataFrame:
        """Seconds and share of each part of the step."""
        return breakdown_frame(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
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
            "interval_90": self.interval_90,
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "model_flop_per_s_per_device": self.model_flop_per_s_per_device,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "memory_bytes": self.footprint.to_dict(),
            "memory_usable_bytes": self.memory.usable,
            "fits": self.fits,
            "memory_verdict": self.memory.sentence(),
            "breakdown": dict(self.parts),
            "bound": self.bound,
        }

    def plot_roofline(self, path: str | None = None) -> Any:
        """Draw the operators under the device's ceilings; return the figure."""
        return self.step.plot_roofline(path)

    def plot_breakdown(self, path: str | None = None) -> Any:
        """Draw the breakdown of the step; return the figure."""
        return draw("breakdown", {"training step": self.parts}, path=path)

    def plot_timeline(self, path: str | None = None) -> Any:
        """Draw the simulated timeline of the last microbatch."""
        return self.step.plot_timeline(path)


def run_training(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    **asked: Any,
) -> TrainResult:
    """Answer for one optimizer step; see :func:`hwsim.train`."""
    config = _checked(model, system, **asked)
    group = system.subsystem(config.devices)

    def microbatch(last: bool) -> GraphResult:
        graph = training_graph(
            model, micro_batch=config.micro_batch, seq=config.seq, tp=config.tp,
            dp=config.dp, dtype=config.dtype, recompute=config.recompute,
            optimizer=config.optimizer, zero_stage=config.zero_stage,
            sequence_parallel=config.sequence_parallel, stack=stack, last=last,
        )  # fmt: skip
        return run_graph(graph, group, stack, fidelity=fidelity, engine=engine)

    step = microbatch(last=True)
    before = microbatch(last=False) if config.num_microbatches > 1 else None
    parts, step_s = dict(step.parts), step.time_s
    if before is not None:
        # The host's per-step overhead is paid once, not for each microbatch.
        times = config.num_microbatches - 1
        overhead = stack.launch.step_overhead if fidelity != "roofline" else 0.0
        step_s += times * (before.time_s - overhead)
        parts = {p: parts[p] + times * before.parts[p] for p in PARTS}
        parts["overhead"] -= times * overhead
    footprint = _footprint(model, stack, config)
    memory = memory_fit(
        footprint.total, system.device, stack, _changes(model, stack, config),
        _together(model, stack, config),
    )  # fmt: skip
    return TrainResult(
        model, group, stack, config, step.fidelity, step, before, step_s, footprint,
        memory, parts,
    )  # fmt: skip


def _checked(
    model: ModelSpec,
    system: SystemSpec,
    *,
    devices: Any,
    tp: Any,
    dp: Any,
    micro_batch: Any,
    global_batch: Any,
    seq: Any,
    dtype: str,
    recompute: str,
    optimizer: str,
    zero_stage: int,
    sequence_parallel: bool,
) -> TrainConfig:
    tp = positive_int("tp", tp)
    devices = system.num_devices if devices is None else devices
    devices = positive_int("devices", devices)
    _choice("recompute", recompute, RECOMPUTE)
    _choice("optimizer", optimizer, OPTIMIZERS)
    if zero_stage not in range(4):
        raise InputError(f"zero_stage is {zero_stage!r}; choose 0, 1, 2 or 3")
    dp = _data_parallel(devices, tp, dp)
    micro_batch = positive_int("micro_batch", micro_batch)
    asked = micro_batch * dp if global_batch is None else global_batch
    global_batch = positive_int("global_batch", asked)
    unit = micro_batch * dp
    if global_batch % unit:
        low = max(unit, global_batch // unit * unit)
        raise InputError(
            f"global_batch {global_batch} is not a multiple of micro_batch x dp = "
            f"{micro_batch} x {dp}; the nearest are {low} and {low + unit}"
        )
    seq = _sequence(model, seq)
    dtype_on(system.device, dtype)
    if dtype not in TRAINING_DTYPES:
        raise InputError(
            f"dtype {dtype} is not one to train in; choose {', '.join(TRAINING_DTYPES)}"
        )
    return TrainConfig(
        devices, tp, dp, micro_batch, global_batch, seq, dtype,
        cast("Recompute", recompute), optimizer, zero_stage, sequence_parallel,
    )  # fmt: skip


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        close = nearest(str(value), known) or list(known)
        raise InputError(f"{name} {value!r} is unknown; choose {', '.join(close)}")


def _data_parallel(devices: int, tp: int, asked: int | None) -> int:
    if asked is None:
        if devices % tp:
            raise InputError(
                f"tp {tp} does not divide {devices} devices; use a tp of "
                f"{', '.join(str(d) for d in range(1, 65) if devices % d == 0)}"
            )
        return devices // tp
    dp = positive_int("dp", asked)
    if tp * dp != devices:
        raise InputError(
            f"tp x dp = {tp} x {dp} = {tp * dp}, but {devices} devices are asked "
            "for; pipelines are not built yet, so tp x dp must equal devices"
        )
    return dp


def _sequence(model: ModelSpec, asked: int | None) -> int:
    default = min(model.max_context or 2048, 2048)
    seq = positive_int("seq", default if asked is None else asked)
    context_within(model, seq, "seq")
    return seq


def _footprint(
    model: ModelSpec, stack: StackSpec, config: TrainConfig, **changed: Any
) -> Footprint:
    now = {**vars(config), **changed}
    return training_footprint(
        model, micro_batch=now["micro_batch"], seq=now["seq"], tp=now["tp"],
        dp=now["dp"], dtype=now["dtype"], recompute=now["recompute"],
        optimizer=now["optimizer"], zero_stage=now["zero_stage"],
        sequence_parallel=now["sequence_parallel"],
        flash=stack.fusion.attention == "fused",
    )  # fmt: skip


def _changes(
    model: ModelSpec, stack: StackSpec, config: TrainConfig
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield single changes, the gentlest of each sort first."""

    def after(**changed: Any) -> Callable[[], float]:
        return lambda: _footprint(model, stack, config, **changed).total

    for name in RECOMPUTE[RECOMPUTE.index(config.recompute) + 1 :]:
        yield f"recompute {name}", after(recompute=name)
    micro = config.micro_batch // 2
    while micro >= 1:
        yield f"micro-batch {micro}", after(micro_batch=micro)
        micro //= 2
    if config.dp > 1:
        for stage in range(config.zero_stage + 1, 4):
            yield f"zero-stage {stage}", after(zero_stage=stage)
    tp = config.tp * 2
    while tp <= config.devices and config.devices % tp == 0:
        yield f"tp {tp}", after(tp=tp, dp=config.devices // tp)
        tp *= 2


def _together(
    model: ModelSpec, stack: StackSpec, config: TrainConfig
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield several changes at once, on ever more devices."""
    spared = {"zero_stage": 3, "recompute": "full", "micro_batch": 1}
    more = 1
    while config.devices * more <= 65_536:
        for tp in (config.tp, 8):
            if (config.devices * more) % tp:
                continue
            devices = config.devices * more
            changed = {**spared, "tp": tp, "dp": devices // tp}
            label = f"zero-stage 3, recompute full, micro-batch 1 and tp {tp}"
            if more > 1:
                label += f" on {devices} devices"
            yield (
                label,
                lambda changed=changed: (
                    _footprint(model, stack, config, **changed).total
                ),
            )
        more *= 2
