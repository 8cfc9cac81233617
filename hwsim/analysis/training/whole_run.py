"""The whole training run: steps, days with failures, energy, carbon, money."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.check import positive_int
from hwsim.analysis.result import Result
from hwsim.analysis.training.progress import simulated_runs
from hwsim.analysis.training.train import TrainResult
from hwsim.cost.energy import (
    JOULES_PER_KWH,
    SECONDS_PER_HOUR,
    carbon_kg,
    host_power,
    mean_power,
)
from hwsim.cost.reliability import daly_interval, expected_goodput, job_mtbf
from hwsim.errors import InputError
from hwsim.graph.training import trained_parameters, training_plan
from hwsim.sim.failures import FailurePlan, RunState
from hwsim.specs.base import Spec
from hwsim.specs.economics import Economics
from hwsim.units import format_quantity

DAY = 86_400.0


@dataclass(frozen=True)
class RunConfig:
    """What is asked of the whole run.

    Attributes
    ----------
    tokens : float
        Training tokens.
    checkpoint_interval : float or None
        Useful work between checkpoints; Daly's optimum if None. [s]
    device_mtbf, node_mtbf, restart_time, repair_time, write_time : float
        Failures and checkpoints; inf is never. [s]
    spares : int
        Spare nodes.
    pue, grid, price : float
        Facility over computer power; carbon intensity [g/kWh]; price of one
        device [USD/h], None where none is known.
    seed, replications : int
        Of the simulation of failures.
    """

    tokens: float
    checkpoint_interval: float | None
    device_mtbf: float
    node_mtbf: float
    restart_time: float
    repair_time: float
    write_time: float
    spares: int
    pue: float
    grid: float
    price: float | None
    seed: int
    replications: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))


@dataclass(frozen=True, repr=False)
class TrainingRun(Result):
    """A whole training run.

    Attributes
    ----------
    step : TrainResult
        One optimizer step.
    steps : int
        Steps that the tokens take.
    useful_s : float
        Compute time without failures and checkpoints. [s]
    mtbf_s, checkpoint_interval_s : float
        Of the whole job; useful work between checkpoints. [s]
    expected_goodput : float
        Closed form, spare nodes always at hand.
    wall_s : tuple of float
        Simulated wall times, one for each replication. [s]
    states : tuple of RunState
        How each replication ended.
    """

    step: TrainResult
    config: RunConfig
    steps: int
    useful_s: float
    mtbf_s: float
    checkpoint_interval_s: float
    expected_goodput: float
    power_per_device_w: float | None
    host_share: float
    wall_s: tuple[float, ...]
    states: tuple[RunState, ...]

    kind = "training_run"

    @property
    def mean_wall_s(self) -> float:
        """Mean simulated wall time. [s]"""
        return math.fsum(self.wall_s) / len(self.wall_s)

    @property
    def goodput(self) -> float:
        """Useful over wall time, simulated: effective training time."""
        return self.useful_s / self.mean_wall_s

    @property
    def device_hours(self) -> float:
        """Devices times wall time. [h]"""
        return self.step.config.devices * self.mean_wall_s / SECONDS_PER_HOUR

    @property
    def energy_j(self) -> float | None:
        """Energy drawn from the grid; None where the device quotes no power. [J]"""
        if self.power_per_device_w is None:
            return None
        each = self.power_per_device_w + self.host_power_w
        return self.step.config.devices * each * self.config.pue * self.mean_wall_s

    @property
    def host_power_w(self) -> float:
        """A device's part of hosts, network and fans. [W]"""
        return host_power(self.step.system.device, self.host_share)

    @property
    def carbon_kg(self) -> float | None:
        """CO2 equivalent. [kg]"""
        energy = self.energy_j
        return None if energy is None else carbon_kg(energy, self.config.grid)

    @property
    def cost_usd(self) -> float | None:
        """Rent of the devices. [USD]"""
        price = self.config.price
        return None if price is None else self.device_hours * price

    def percentiles(self) -> dict[str, float]:
        """Return p10, p50 and p90 of the simulated wall time. [s]"""
        values = np.percentile(self.wall_s, [10, 50, 90])
        return dict(zip(("p10", "p50", "p90"), map(float, values), strict=True))

    @property
    def fidelity(self) -> str:
        """What the costs of the step rest on."""
        return self.step.fidelity

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family of the step rest on."""
        return self.step.fidelity_by_family

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of such steps."""
        return self.step.accuracy()

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the step."""
        return self.step.specs()

    def details(self) -> dict[str, Any]:
        """Return the step's, and the wall time of every replication. [s]"""
        return {**self.step.details(), "wall_s": list(self.wall_s)}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        count, energy = len(self.states), self.energy_j
        return {
            **self.header(),
            "step": self.step.to_dict(),
            "config": self.config.to_dict(),
            "steps": self.steps,
            "useful_s": self.useful_s,
            "wall_s": self.mean_wall_s,
            "wall_percentiles_s": self.percentiles(),
            "days": self.mean_wall_s / DAY,
            "goodput": self.goodput,
            "expected_goodput": self.expected_goodput,
            "mtbf_s": self.mtbf_s,
            "checkpoint_interval_s": self.checkpoint_interval_s,
            "failures": sum(s.failures for s in self.states) / count,
            "lost_s": sum(s.lost for s in self.states) / count,
            "checkpoint_s": sum(s.writing for s in self.states) / count,
            "restart_s": sum(s.restarting for s in self.states) / count,
            "waiting_s": sum(s.waiting for s in self.states) / count,
            "device_hours": self.device_hours,
            "power_per_device_w": self.power_per_device_w,
            "host_power_per_device_w": None if energy is None else self.host_power_w,
            "energy_j": energy,
            "energy_kwh": None if energy is None else energy / JOULES_PER_KWH,
            "carbon_kg": self.carbon_kg,
            "cost_usd": self.cost_usd,
        }


def whole_run(
    step: TrainResult,
    economics: Economics,
    *,
    tokens: float,
    grid: str = "world",
    price: float | None = None,
    pue: float | None = None,
    device_mtbf: float | None = None,
    node_mtbf: float | None = None,
    restart_time: float | None = None,
    repair_time: float | None = None,
    write_time: float | None = None,
    checkpoint_interval: float | None = None,
    spares: int | None = None,
    seed: int = 0,
    replications: int = 20,
    resume: str | os.PathLike[str] | None = None,
) -> TrainingRun:
    """Answer for a whole run from one step; see :func:`hwsim.training_run`."""
    if not (math.isfinite(tokens) and tokens >= 1):
        raise InputError(f"tokens is {tokens}; give at least 1")
    reliability = economics.reliability
    nodes = math.ceil(step.config.devices / step.system.devices_per_node)
    chosen = {
        name: getattr(reliability, name) if given is None else given
        for name, given in (
            ("device_mtbf", device_mtbf), ("node_mtbf", node_mtbf),
            ("restart_time", restart_time), ("repair_time", repair_time),
        )
    }  # fmt: skip
    for name, value in chosen.items():
        _positive_time(name, value)
    size = _saved_parameters(step) * economics.checkpoint_bytes_per_parameter
    write = size / (nodes * economics.checkpoint_bandwidth_per_node)
    write = write if write_time is None else _positive_time("write_time", write_time)
    mtbf = float(
        job_mtbf(step.config.devices, chosen["device_mtbf"], nodes, chosen["node_mtbf"])
    )
    if checkpoint_interval is None:
        interval = float(daly_interval(write, mtbf))
    else:
        interval = _positive_time("checkpoint_interval", checkpoint_interval)
    # At least one step's work lies between two checkpoints.
    interval = max(interval, step.step_s)
    steps = math.ceil(tokens / (step.config.global_batch * step.config.seq))
    useful = steps * step.step_s
    if spares is None:
        spares = _usual_spares(chosen["repair_time"], mtbf)
    plan = FailurePlan(
        useful, interval, write, chosen["restart_time"], chosen["repair_time"], mtbf,
        positive_int("spares", spares, minimum=0),
    )  # fmt: skip
    _can_finish(plan)
    seed = positive_int("seed", seed, minimum=0)
    seeds = np.random.SeedSequence(seed).spawn(
        positive_int("replications", replications)
    )
    states = simulated_runs(plan, seeds, seed=seed, path=resume)
    config = RunConfig(
        tokens=tokens, checkpoint_interval=checkpoint_interval, write_time=write,
        spares=spares, pue=economics.pue if pue is None else _pue(pue),
        grid=economics.grid(grid),
        price=economics.prices.get(step.system.device.id) if price is None
        else _price(price),
        seed=seed, replications=replications, **chosen,
    )  # fmt: skip
    host = step.system.power_overhead
    return TrainingRun(
        step, config, steps, useful, mtbf, interval,
        float(expected_goodput(interval, write, chosen["restart_time"], mtbf)),
        None if step.system.device.power.tdp is None else mean_power(
            step.system.device, step.parts, economics.power,
            pipeline=step.config.pp > 1,
        ),
        economics.host_share if host is None else host,
        tuple(s.now for s in states), states,
    )  # fmt: skip


def _saved_parameters(step: TrainResult) -> float:
    """Return the parameters that a checkpoint holds: the model's, or its adapters'."""
    model, config = step.model, step.config
    if config.lora is None:
        return float(model.num_parameters)
    plan = training_plan(
        model, range(len(model.layer_kinds)), micro_batch=1, seq=config.seq,
        dtype=config.dtype, recompute="none", zero_stage=0, last=True,
        stack=step.stack, sequence_parallel=False, grad_dtype=None, decoder_seq=None,
        dropout=None, lora=config.lora,
    )  # fmt: skip
    return float(trained_parameters(plan).total)


def _usual_spares(repair_time: float, mtbf: float) -> int:
    """Return nodes that are seldom all in repair: their mean and three deviations."""
    repaired = repair_time / mtbf  # a Poisson number
    return math.ceil(repaired + 3.0 * math.sqrt(repaired)) if repaired else 0


def _positive_time(name: str, value: float) -> float:
    never = name.endswith("mtbf") or name == "checkpoint_interval"
    if math.isnan(value) or value < 0 or (never and value == 0):
        raise InputError(f"{name} is {value}; give a time in seconds above 0")
    return value


def _price(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"price is {value}; give USD per device hour, 0 or more")
    return value


def _pue(value: float) -> float:
    if not 1.0 <= value <= 5.0:
        raise InputError(f"pue is {value}; facility over computer power is 1 to 5")
    return value


def _can_finish(plan: FailurePlan) -> None:
    """Refuse runs that failures would hold back practically for ever."""
    goodput = float(
        expected_goodput(plan.interval, plan.write_time, plan.restart_time, plan.mtbf)
    )
    if goodput < 1e-3:
        raise InputError(
            f"the job fails every {format_quantity(plan.mtbf, 's', 3)} on average but "
            f"needs {format_quantity(plan.interval + plan.write_time, 's', 3)} between "
            "checkpoints and their restart: it would hardly get on; checkpoint faster "
            "or use fewer or more reliable devices"
        )
