"""Prompts on replicas of their own, and the way of their keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsim.analysis.serving.pool import Pool
from hwsim.cost.collective import collective_cost
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.sim.serving.service import Handover
from hwsim.specs.calibration import calibration_for
from hwsim.units import format_quantity

_PROBES = (1e6, 1e9)  # sizes between which a transfer grows along a line. [B]


@dataclass(frozen=True)
class Before:
    """Replicas that run prompts, and how their keys and values leave them.

    Attributes
    ----------
    pool : Pool
        Those replicas.
    router : str
        How requests get to them.
    handover : Handover
        Time of a transfer.
    bandwidth : float
        Of one device's transfers, large ones. [B/s]
    """

    pool: Pool
    router: str
    handover: Handover
    bandwidth: float


def handover_between(
    prompts: Pool, pool: Pool, fidelity: Fidelity, bandwidth: float | None
) -> tuple[Handover, float]:
    """Return the time of a transfer between two pools, and its bandwidth. [B/s]

    Every device of the sender sends what it keeps of the prompt, every device
    of the receiver takes what it will keep; the larger of the two counts.

    Parameters
    ----------
    bandwidth : float or None
        Of one device; else that of the system that holds both pools. [B/s]

    Raises
    ------
    InputError
        If no network is known to join the pools.
    """
    token = max(prompts.capacity.token_bytes, pool.capacity.token_bytes)
    state = max(prompts.capacity.state_bytes, pool.capacity.state_bytes)
    latency = 0.0
    if bandwidth is None:
        latency, bandwidth = _network(prompts, pool, fidelity)
    return Handover(latency, token / bandwidth, state / bandwidth), bandwidth


def _network(prompts: Pool, pool: Pool, fidelity: Fidelity) -> tuple[float, float]:
    """Return latency and bandwidth of a message between replicas. [s, B/s]"""
    devices = prompts.devices + pool.devices
    system = pool.system
    if prompts.system.id != system.id or devices > system.num_devices:
        held = f"{system.id} has {system.num_devices}"
        if prompts.system.id != system.id:
            held = f"they are on {prompts.system.id} and {system.id}"
        raise InputError(
            f"no network is known between prefill and decode replicas: they need "
            f"{devices} devices of one system, but {held}; name a cluster that holds "
            'all, or give kv_bandwidth per device, such as "50 GB/s"'
        )
    cost = collective_cost(
        "send_recv", np.array(_PROBES), 2, system=system,
        calibration=calibration_for(system.device, fidelity),
        stride=prompts.layout.devices,
    )  # fmt: skip
    small, large = (float(t) for t in cost.time)
    rate = (_PROBES[1] - _PROBES[0]) / (large - small)
    return max(small - _PROBES[0] / rate, 0.0), rate


def describe(before: Before) -> dict[str, object]:
    """Return what the replicas for prompts are, and their link."""
    pool, layout = before.pool, before.pool.layout
    return {
        "system": pool.system.id, "device": pool.system.device.id,
        "engine": pool.engine.id, "stack": pool.stack.id, "tp": layout.tp,
        "pp": layout.pp, "ep": layout.ep, "attention_dp": layout.attention_dp,
        "replicas": pool.replicas, "router": before.router,
        "max_num_seqs": pool.engine.max_num_seqs,
        "max_num_batched_tokens": pool.engine.max_num_batched_tokens,
        "kv_bandwidth": before.bandwidth,
        "kv_bandwidth_text": format_quantity(before.bandwidth, "B/s"),
    }  # fmt: skip
