"""Memory of a training step: the fullest device, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hwsim.analysis.memory_fit import MemoryFit, memory_fit
from hwsim.analysis.training.config import RECOMPUTE, TrainConfig
from hwsim.cost.footprint import Footprint
from hwsim.cost.footprint_training import stage_footprint
from hwsim.schedule.pipeline.check import in_flight
from hwsim.schedule.pipeline.schedules import pipeline_order
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

Change = tuple[str, Callable[[], float]]


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The fullest pipeline rank and its footprint."""

    rank: int
    footprint: Footprint


def step_memory(model: ModelSpec, stack: StackSpec, config: TrainConfig) -> StageMemory:
    """Return the footprint of the device that holds most."""
    options = config.graph_options()
    common = {
        **options, "pp": config.pp, "flash": stack.fusion.attention == "fused",
        "stack": stack,
    }  # fmt: skip
    if config.pp == 1:
        layers = range(len(model.layer_kinds))
        whole = stage_footprint(model, layers=layers, first=True, last=True, **common)
        return StageMemory(0, whole)
    parts = config.parts(model)
    order = pipeline_order(
        config.schedule, pp=config.pp, num_microbatches=config.num_microbatches,
        vpp=config.vpp,
    )  # fmt: skip
    held = in_flight(order)
    found = []
    for rank in range(config.pp):
        here = config.rank_parts(rank)
        layers_held = [layer for part in here for layer in parts[part]]
        microbatches = float(held[rank].sum()) / held.shape[1]
        stage = stage_footprint(
            model, layers=layers_held, first=0 in here, last=len(parts) - 1 in here,
            in_flight=max(microbatches, 1.0 / held.shape[1]), **common,
        )  # fmt: skip
        found.append(StageMemory(rank, stage))
    return max(found, key=lambda stage: stage.footprint.total)


def step_fit(
    model: ModelSpec,
    device: DeviceSpec,
    stack: StackSpec,
    config: TrainConfig,
    needed: float,
) -> MemoryFit:
    """Compare with the device's memory; say what would make it fit."""
    return memory_fit(
        needed, device, stack, _changes(model, stack, config),
        _together(model, stack, config),
    )  # fmt: skip


def _total(
    model: ModelSpec, stack: StackSpec, config: TrainConfig, changed: dict[str, Any]
) -> float:
    return step_memory(model, stack, replace(config, **changed)).footprint.total


def _changes(
    model: ModelSpec, stack: StackSpec, config: TrainConfig
) -> Iterator[Change]:
    """Yield single changes, the gentlest of each sort first."""

    def after(**changed: Any) -> Callable[[], float]:
        return partial(_total, model, stack, config, changed)

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
    while tp <= config.devices and config.dp % (tp // config.tp) == 0:
        dp = config.dp * config.tp // tp
        yield f"tp {tp}", after(tp=tp, dp=dp)
        tp *= 2


def _together(
    model: ModelSpec, stack: StackSpec, config: TrainConfig
) -> Iterator[Change]:
    """Yield several changes at once, on ever more devices."""
    inner = config.cp * config.pp
    devices = config.devices
    while devices <= 65_536:
        for tp in dict.fromkeys((config.tp, 8)):
            if devices % (tp * inner) or config.vpp > 1:
                continue
            changed = {
                "zero_stage": 3, "recompute": "full", "micro_batch": 1, "tp": tp,
                "dp": devices // (tp * inner), "devices": devices,
            }  # fmt: skip
            label = f"zero-stage 3, recompute full, micro-batch 1 and tp {tp}"
            if devices > config.devices:
                label += f" on {devices} devices"
            yield label, partial(_total, model, stack, config, changed)
        devices *= 2
