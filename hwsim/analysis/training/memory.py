"""Memory of a training step: the fullest device, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hwsim.analysis.memory_fit import MemoryFit, memory_fit
from hwsim.analysis.training.config import (
    RECOMPUTE,
    TrainConfig,
    recompute_extent,
)
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
    if config.pp == 1:
        layers = range(len(model.layer_kinds))
        return StageMemory(
            0, held_memory(model, stack, config, layers, (True, True), 1.0)
        )
    parts, held = config.parts(model), held_microbatches(config)
    found = [
        StageMemory(rank, rank_memory(model, stack, config, rank, parts, held[rank]))
        for rank in range(config.pp)
    ]
    return max(found, key=lambda stage: stage.footprint.total)


def host_bytes(model: ModelSpec, stack: StackSpec, config: TrainConfig) -> float:
    """Return what a device of the fullest rank keeps in its host's memory. [B]"""
    if not (config.offload_optimizer or config.offload_activations):
        return 0.0
    here = replace(config, offload_optimizer=False, offload_activations=False)
    whole = step_memory(model, stack, here).footprint
    kept = step_memory(model, stack, config).footprint
    # On the device, pieces of what is away pass through.
    states = whole.optimizer_states or 0.0 if config.offload_optimizer else 0.0
    return states + max((whole.activations or 0.0) - (kept.activations or 0.0), 0.0)


def held_microbatches(config: TrainConfig) -> list[float]:
    """Return the microbatches that each pipeline rank holds at its fullest."""
    order = pipeline_order(
        config.schedule, pp=config.pp, num_microbatches=config.num_microbatches,
        vpp=config.vpp,
    )  # fmt: skip
    held = in_flight(order)
    chunks = float(held.shape[1])
    return [max(float(rank.sum()), 1.0) / chunks for rank in held]


def rank_memory(
    model: ModelSpec,
    stack: StackSpec,
    config: TrainConfig,
    rank: int,
    parts: Sequence[Sequence[int]],
    held: float,
) -> Footprint:
    """Return the footprint of a device of one pipeline rank.

    Parameters
    ----------
    parts : sequence of range
        Layers of each part of the pipeline.
    held : float
        Microbatches that the rank holds at its fullest.
    """
    here = config.rank_parts(rank)
    layers = [layer for part in here for layer in parts[part]]
    ends = (0 in here, len(parts) - 1 in here)
    return held_memory(model, stack, config, layers, ends, held)


def held_memory(
    model: ModelSpec,
    stack: StackSpec,
    config: TrainConfig,
    layers: Sequence[int],
    ends: tuple[bool, bool],
    held: float,
) -> Footprint:
    """Return the footprint of a stage with these layers.

    Parameters
    ----------
    ends : tuple of two bool
        Whether the embedding, and the head, are there.
    held : float
        Microbatches that it holds at its fullest.
    """
    return stage_footprint(
        model, layers=layers, first=ends[0], last=ends[1], in_flight=held,
        pp=config.pp, flash=stack.fusion.attention == "fused", stack=stack,
        **config.graph_options(),
    )  # fmt: skip


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

    for name in RECOMPUTE[recompute_extent(config.recompute) + 1 :]:
        if name == "operators":  # few frameworks have it
            continue
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
