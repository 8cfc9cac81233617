"""A pool of equal replicas: what they run on, memory, tables, engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.memory_fit import memory_fit
from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.analysis.serving.step_cost import Deployment, TableOf, step_table
from hwsim.cost.footprint_serving import StageMemory, serving_memory
from hwsim.errors import InputError
from hwsim.graph.precision import resolve
from hwsim.schedule.batching import policy_named
from hwsim.sim.serving.arrivals import Arrivals
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.cost import StepCost
from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.prefix import CachingReplica
from hwsim.sim.serving.records import Requests, StepLog, StepPower
from hwsim.sim.serving.replica import Replica
from hwsim.sim.serving.routers import Engine
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.units import format_quantity

_SAMPLE = 3000  # requests of the run that finds the saturated rate


@dataclass(frozen=True, slots=True)
class Capacity:
    """Blocks of one replica's group, and how many tokens they hold.

    Attributes
    ----------
    token_bytes, state_bytes : float
        Of one token, and of one sequence whatever its length, on the device
        that keeps most. [B]
    """

    blocks: int
    block_size: int
    token_bytes: float = 0.0
    state_bytes: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens that all blocks hold."""
        return self.blocks * self.block_size


@dataclass(frozen=True)
class Pool:
    """Equal replicas behind one router.

    Attributes
    ----------
    system : SystemSpec
        What each replica has devices of.
    capacity : Capacity
        Memory of each group.
    table, power
        Times and energy of steps; set by :func:`tabulated`.
    """

    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    layout: ReplicaLayout
    replicas: int
    capacity: Capacity
    table: StepCost | None = None
    power: StepPower | None = None

    @property
    def groups(self) -> int:
        """Groups of all replicas."""
        return self.replicas * self.layout.attention_dp

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.layout.devices

    @property
    def group(self) -> SystemSpec:
        """The system of one replica's devices."""
        return self.system.subsystem(self.layout.devices)

    def engine_of(self, requests: Requests, index: int = 0) -> Engine:
        """Return one replica that serves requests of these columns."""
        if self.table is None:
            raise TypeError("the pool has no table of step times yet")
        policy = policy_named(self.engine.policy)
        limits = self._limits()
        caching = self.engine.prefix_caching and requests.prefixes is not None
        made = CachingReplica if caching else Replica
        groups = [
            made(requests, self.table, policy, limits, StepLog(self.power), index=index)
            for _ in range(self.layout.attention_dp)
        ]
        return groups[0] if len(groups) == 1 else JointReplica(groups)

    def engines(self, requests: Requests) -> list[Engine]:
        """Return all replicas."""
        return [self.engine_of(requests, index) for index in range(self.replicas)]

    def _limits(self) -> Limits:
        engine, capacity = self.engine, self.capacity
        return Limits(
            engine.max_num_seqs, engine.max_num_batched_tokens * self.layout.pp,
            engine.chunked_prefill, capacity.blocks, capacity.block_size,
            math.ceil(engine.watermark * capacity.blocks), engine.reserve,
            engine.intake_interval, engine.wait_steps,
            engine.wait_share * engine.max_num_batched_tokens * self.layout.pp,
            self._swap_time(), engine.lookahead, engine.balance_steps,
        )  # fmt: skip

    def _swap_time(self) -> float | None:
        """Return the time that a block takes to or from the host. [s]"""
        if self.engine.preemption != "swap":
            return None
        device = self.system.device
        if device.host_link is None:
            raise InputError(
                f"{device.id} names no host_link, over which preemption by swap moves "
                "blocks; set device.host_link.bandwidth, or use recompute"
            )
        kept = self.capacity.token_bytes * self.capacity.block_size
        return float(kept / device.host_link.bandwidth)

    def saturated_rate(
        self, arrivals: Arrivals, *, prompts_only: bool = False, handed: bool = False
    ) -> float:
        """Return the requests per second of all replicas when none ever waits.

        A sample of the requests stands in the queue of one replica from the
        start; the middle of the completions counts.

        Parameters
        ----------
        prompts_only, handed : bool
            A request is its prompt and one token; or all after that.
        """
        count = arrivals.inputs.size
        most = 4 * self.engine.max_num_seqs * self.layout.attention_dp
        take = np.arange(max(_SAMPLE, most)) % count
        if handed:
            take = take[arrivals.outputs[take] > 1]
        if not take.size:
            return math.inf
        outputs = np.ones_like(take) if prompts_only else arrivals.outputs[take]
        requests = Requests(
            arrivals.inputs[take].tolist(), outputs.tolist(), np.zeros(take.size)
        )
        if handed:
            for request in range(take.size):
                requests.generated[request] = requests.handed[request] = 1
        replica = self.engine_of(requests)
        replica.preload(range(take.size))
        replica.advance(math.inf)
        ends = np.sort(np.array(requests.finish))
        low, high = int(0.2 * take.size), int(0.8 * take.size)
        span = float(ends[high] - ends[low])
        one = (high - low) / span if span > 0 else take.size / float(ends[-1])
        if handed:  # requests of one token pass it by
            one /= float(np.mean(arrivals.outputs > 1))
        return one * self.replicas


def pool_of(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    engine: EngineSpec,
    layout: ReplicaLayout,
    replicas: int,
    config: Any,
    draft: ModelSpec | None = None,
) -> Pool:
    """Return a pool, its memory worked out, without tables.

    Parameters
    ----------
    config : object
        Has ``dtype``, ``kv_dtype`` and ``weight_dtype``.

    Raises
    ------
    InputError
        If there is no room for a single block.
    """
    group = system.subsystem(layout.devices)
    capacity = capacity_of(model, group, stack, engine, layout, config, draft)
    return Pool(system, stack, engine, layout, replicas, capacity)


def tabulated(
    pool: Pool,
    model: ModelSpec,
    config: Any,
    longest: int,
    tables: Callable[[Deployment], TableOf] = step_table,
) -> Pool:
    """Return a pool with the times and energy of its steps.

    Parameters
    ----------
    config : object
        Has ``dtype``, ``kv_dtype``, ``weight_dtype`` and ``fidelity``.
    longest : int
        Most tokens that a request may have.
    tables : callable
        Makes them.
    """
    deployment = Deployment(
        model,
            pool.system,
            pool.stack,
            pool.engine,
            pool.layout,
        config.dtype,
        config.weight_dtype,
        config.kv_dtype,
        config.fidelity,
            longest,
    )  # fmt: skip
    table, power = tables(deployment)
    return replace(pool, table=table, power=power)


def capacity_of(
    model: ModelSpec,
    group: SystemSpec,
    stack: StackSpec,
    engine: EngineSpec,
    layout: ReplicaLayout,
    config: Any,
    draft: ModelSpec | None = None,
) -> Capacity:
    """Return the blocks that weights and activations leave on each device.

    Parameters
    ----------
    group : SystemSpec
        One replica's devices.
    config : object
        Has ``dtype``, ``kv_dtype`` and ``weight_dtype``.
    draft : ModelSpec or None
        A smaller model beside it, on the last stage of a pipeline, with keys and
        values of its own.

    Raises
    ------
    InputError
        If there is no room for a single block.
    """
    # Windowed layers keep their window only: a block is as large as it is on
    # average over a long context.
    long = max(model.max_context or 8192, engine.block_size)
    precision = resolve(config.dtype, config.kv_dtype, config.weight_dtype)

    def kept(served: ModelSpec, shared: ReplicaLayout) -> list[StageMemory]:
        return serving_memory(
            served, shared.joint(served), tokens=engine.max_num_batched_tokens,
            sequences=engine.max_num_seqs, context=long, precision=precision,
            flash=stack.fusion.attention == "fused", split=stack.split_sequences,
        )  # fmt: skip

    stages = kept(model, layout)
    if draft is not None:
        beside = kept(draft, ReplicaLayout(layout.tp))[0]
        stages = [*stages[:-1], stages[-1].with_draft(beside)]
    sampling = stack.sampling_bytes * engine.max_num_seqs * model.vocab
    stages = [replace(s, activations=s.activations + sampling) for s in stages]
    needed = max(stage.needed for stage in stages)
    fit, size = memory_fit(needed, group.device, stack, ()), engine.block_size
    # A stage of states alone: sequences grow for nothing.
    endless = engine.max_num_seqs * -(-long // size)
    blocks = min(
        int(engine.cache_share * (fit.usable - s.needed) // (s.kv_token * size))
        if s.kv_token
        else endless * (s.needed < fit.usable)
        for s in stages
    )
    states = max(stage.states for stage in stages)
    if blocks < 1:
        raise InputError(
            f"{model.id} leaves no memory for keys and values on "
            f"{layout.devices} x {group.device.id}: weights, activations"
            f"{' and states' if states else ''} take "
            f"{format_quantity(needed, 'B')} of {format_quantity(fit.usable, 'B')} "
            "per device; raise tp, or store weights in fp8 or int4 (weight_dtype)"
            f"{', or lower max_num_seqs' if states else ''}"
        )
    token = max(stage.kv_token for stage in stages)
    return Capacity(blocks, size, token, states / engine.max_num_seqs)
