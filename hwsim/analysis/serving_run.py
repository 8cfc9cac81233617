"""Playing a service: memory for keys and values, replicas, columns of results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simpy

from hwsim.analysis.memory_fit import memory_fit
from hwsim.analysis.serving_layout import ReplicaLayout
from hwsim.cost.footprint_serving import serving_memory
from hwsim.errors import InputError
from hwsim.graph.precision import resolve
from hwsim.schedule.batching import policy_named
from hwsim.sim.arrivals import Arrivals
from hwsim.sim.serving import Replica, StepCost
from hwsim.sim.serving_batch import Limits
from hwsim.sim.serving_cluster import Cluster, Engine, router_named
from hwsim.sim.serving_joint import JointReplica
from hwsim.sim.serving_records import Requests, StepLog, StepPower, StepSums
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Traffic
from hwsim.units import format_quantity

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_SAMPLE = 3000  # requests of the run that finds the saturated rate


@dataclass(frozen=True, slots=True)
class Capacity:
    """Blocks of one replica, and how many tokens of one request they hold."""

    blocks: int
    block_size: int

    @property
    def tokens(self) -> int:
        """Tokens that all blocks hold."""
        return self.blocks * self.block_size


def capacity_of(
    model: ModelSpec,
    group: SystemSpec,
    stack: StackSpec,
    engine: EngineSpec,
    config: Any,
) -> Capacity:
    """Return the blocks that weights and activations leave on each device.

    Raises
    ------
    InputError
        If there is no room for a single block.
    """
    layout = config.layout
    # Windowed layers keep their window only: a block is as large as it is on
    # average over a long context.
    long = max(model.max_context or 8192, engine.block_size)
    stages = serving_memory(
        model, layout.joint(model), tokens=engine.max_num_batched_tokens,
        sequences=engine.max_num_seqs, context=long,
        precision=resolve(config.dtype, config.kv_dtype, config.weight_dtype),
        flash=stack.fusion.attention == "fused",
    )  # fmt: skip
    needed = max(stage.needed for stage in stages)
    fit, size = memory_fit(needed, group.device, stack, ()), engine.block_size
    # A stage of states alone: sequences grow for nothing.
    endless = engine.max_num_seqs * -(-long // size)
    blocks = min(
        int((fit.usable - s.needed) // (s.kv_token * size))
        if s.kv_token
        else endless * (s.needed < fit.usable)
        for s in stages
    )
    if blocks < 1:
        states = any(stage.states for stage in stages)
        raise InputError(
            f"{model.id} leaves no memory for keys and values on "
            f"{layout.devices} x {group.device.id}: weights, activations"
            f"{' and states' if states else ''} take "
            f"{format_quantity(needed, 'B')} of {format_quantity(fit.usable, 'B')} "
            "per device; raise tp, or store weights in fp8 or int4 (weight_dtype)"
            f"{', or lower max_num_seqs' if states else ''}"
        )
    return Capacity(blocks, engine.block_size)


@dataclass(frozen=True)
class Run:
    """Columns of answered requests, in order of arrival, and sums over steps.

    Attributes
    ----------
    arrival, first, finish : ndarray
        Times. [s]
    inputs, outputs, replica, preempted : ndarray of int
        Tokens; who served it; how often it was preempted.
    asked : int
        Requests there were.
    rate : float or None
        Mean open-loop arrivals. [1/s]
    energy : float or None
        Of all devices, over the run. [J]
    """

    arrival: FloatArray
    first: FloatArray
    finish: FloatArray
    inputs: IntArray
    outputs: IntArray
    replica: IntArray
    preempted: IntArray
    sums: StepSums
    asked: int
    rate: float | None
    energy: float | None

    @property
    def duration(self) -> float:
        """First arrival to last token. [s]"""
        if not self.finish.size:
            return 0.0
        return float(self.finish.max() - self.arrival.min())

    @property
    def preemptions(self) -> int:
        """How often a request was preempted."""
        return int(self.preempted.sum())

    @property
    def ttft(self) -> FloatArray:
        """Time to first token of each. [s]"""
        return self.first - self.arrival

    @property
    def e2e(self) -> FloatArray:
        """Time to last token of each. [s]"""
        return self.finish - self.arrival

    @property
    def tpot(self) -> FloatArray:
        """Mean gap between tokens of each; NaN where there is one token. [s]"""
        gaps = np.where(self.outputs > 1, self.outputs - 1, np.nan)
        return (self.finish - self.first) / gaps

    def busy_share(self, replicas: int) -> float:
        """Return the share of time that replicas (groups) run steps."""
        span = replicas * self.duration
        return self.sums.busy_time / span if span > 0 else 0.0

    def frame(self) -> pd.DataFrame:
        """Return one row per request."""
        import pandas as pd

        return pd.DataFrame(
            {
                "arrival_s": self.arrival,
                "input_tokens": self.inputs,
                "output_tokens": self.outputs,
                "replica": self.replica,
                "preemptions": self.preempted,
                "first_token_s": self.first,
                "finish_s": self.finish,
                "ttft_s": self.ttft,
                "tpot_s": self.tpot,
                "e2e_s": self.e2e,
            }
        )


def _limits(engine: EngineSpec, capacity: Capacity, layout: ReplicaLayout) -> Limits:
    return Limits(
        engine.max_num_seqs, engine.max_num_batched_tokens * layout.pp,
        engine.chunked_prefill,
        capacity.blocks, capacity.block_size,
        math.ceil(engine.watermark * capacity.blocks), engine.reserve,
        engine.intake_interval, engine.wait_steps,
        engine.wait_share * engine.max_num_batched_tokens * layout.pp,
    )  # fmt: skip


def engine_of(
    requests: Requests,
    table: StepCost,
    engine: EngineSpec,
    capacity: Capacity,
    layout: ReplicaLayout,
    power: StepPower | None = None,
    index: int = 0,
) -> Engine:
    """Return one replica that serves requests of these columns."""
    policy, limits = policy_named(engine.policy), _limits(engine, capacity, layout)
    groups = [
        Replica(requests, table, policy, limits, StepLog(power), index=index)
        for _ in range(layout.attention_dp)
    ]
    return groups[0] if len(groups) == 1 else JointReplica(groups)


def play(
    arrivals: Arrivals,
    table: StepCost,
    power: StepPower | None,
    engine: EngineSpec,
    capacity: Capacity,
    config: Any,
    traffic: Traffic,
    progress: Callable[[int, int], None] | None,
) -> tuple[Run, bool]:
    """Play the requests; an interrupt ends the run and keeps what is done."""
    requests = Requests(
        arrivals.inputs.tolist(), arrivals.outputs.tolist(), arrivals.arrival,
        engine.request_overhead,
    )  # fmt: skip
    replicas = [
        engine_of(requests, table, engine, capacity, config.layout, power, i)
        for i in range(config.replicas)
    ]

    def tell(_: float) -> None:
        if progress is not None:
            left = sum([r.outstanding for r in replicas])
            progress(max(len(requests) - left, 0), len(requests))

    cluster = Cluster(
        simpy.Environment(), replicas, router_named(config.router), tell
    )  # fmt: skip
    complete = True
    try:
        cluster.run(requests, traffic.concurrency)
    except KeyboardInterrupt:
        complete = False
    return _collect(requests, replicas, power, traffic), complete


def _collect(
    requests: Requests,
    replicas: list[Engine],
    power: StepPower | None,
    traffic: Traffic,
) -> Run:
    sums = StepSums()
    logs = [log for replica in replicas for log in replica.logs]
    for log in logs:
        sums.merge(log.flush())
    # Groups in lock step all count the steps that they run together.
    sums.steps *= len(replicas) / len(logs)
    sums.events = sums.events * len(replicas) // len(logs)
    finish = np.array(requests.finish)
    done = ~np.isnan(finish)
    columns = [
        np.array(c)[done] for c in (requests.arrival, requests.first, requests.finish)
    ]
    whole = [
        np.array(c, dtype=np.int64)[done]
        for c in (requests.inputs, requests.outputs, requests.replica,
                  requests.preemptions)
    ]  # fmt: skip
    energy = None
    if power is not None and done.any():
        span = float(columns[2].max() - columns[0].min())
        slack = max(span * len(logs) - sums.busy_time, 0.0)
        energy = sums.energy + slack * power.idle
    arrival, first, last = columns
    inputs, outputs, replica_of, preempted = whole
    return Run(
        arrival, first, last, inputs, outputs, replica_of, preempted, sums,
        len(requests), _rate(requests, traffic), energy,
    )  # fmt: skip


def _rate(requests: Requests, traffic: Traffic) -> float | None:
    if traffic.concurrency is not None:
        return None
    if traffic.rate is not None:
        return traffic.rate
    span = requests.arrival[-1] - requests.arrival[0]
    return (len(requests) - 1) / span if span > 0 else math.inf


def saturated_rate(
    arrivals: Arrivals,
    table: StepCost,
    engine: EngineSpec,
    capacity: Capacity,
    layout: ReplicaLayout,
) -> float:
    """Return the requests per second of one replica that never waits for any.

    A sample of the requests stands in its queue from the start; the middle of
    the completions counts.
    """
    count = arrivals.inputs.size
    most = 4 * engine.max_num_seqs * layout.attention_dp
    take = np.arange(max(_SAMPLE, most)) % count
    requests = Requests(
        arrivals.inputs[take].tolist(), arrivals.outputs[take].tolist(),
        np.zeros(take.size),
    )  # fmt: skip
    replica = engine_of(requests, table, engine, capacity, layout)
    replica.preload(range(take.size))
    replica.advance(math.inf)
    ends = np.sort(np.array(requests.finish))
    low, high = int(0.2 * take.size), int(0.8 * take.size)
    span = float(ends[high] - ends[low])
    return (high - low) / span if span > 0 else take.size / float(ends[-1])
