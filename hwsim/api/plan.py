"""Planning: the best layout of a training job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hwsim.analysis.economy import Limits, economy_of
from hwsim.analysis.plan_train.choices import Choices
from hwsim.analysis.plan_train.plan import Objective, TrainPlan
from hwsim.analysis.plan_train.planner import Planner, device_counts
from hwsim.analysis.plan_train.rows import Names
from hwsim.analysis.plan_train.search import Runner, in_this_process
from hwsim.analysis.resolve import named, resolve
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

System = str | SystemSpec | DeviceSpec


def plan_train(
    model: str | ModelSpec,
    system: System | Sequence[System],
    *,
    devices: int | Iterable[int] | None = None,
    global_batch: int,
    seq: int,
    dtype: str | None = None,
    optimizer: str = "adamw",
    sequence_parallel: bool = True,
    objective: Objective = "time",
    memory: float | None = None,
    step_time: float | None = None,
    tokens: float | None = None,
    deadline: float | None = None,
    budget: float | None = None,
    power: float | None = None,
    price: float | None = None,
    pue: float | None = None,
    simulate: int = 5,
    cluster: str | None = None,
    stack: str | StackSpec = "default-training",
    fidelity: Fidelity = "auto",
    overrides: Iterable[str] = (),
    progress: Callable[[int, int, float], None] | None = None,
    **choices: Any,
) -> TrainPlan:
    """Find the best layout of a training job among all valid ones.

    Every layout is costed in closed form, over arrays; the best ones are then
    simulated exactly as :func:`hwsim.train` does.

    Parameters
    ----------
    model : str or ModelSpec
        Name, path or loaded spec.
    system : str, spec or sequence of them
        Where it may run.
    devices : int, iterable of int or None
        Device counts to try, for example ``range(64, 513, 64)``; None is all
        of each system.
    global_batch, seq : int
        Sequences per optimizer step; tokens of each.
    sequence_parallel : bool
        Divide norms and dropout over tp wherever the sequence allows it.
    dtype : str or None
        Arithmetic; by default what each system's device is usually trained in.
    objective : str
        ``time``, ``energy``, ``money`` or ``memory``: what is least at the best.
    memory, step_time, power : float or None
        Limits: memory of a device [B], time of a step [s], mean power of the
        whole job at the wall [W].
    tokens, deadline, budget : float or None
        Tokens of the whole run; its longest time without failures [s] and its
        dearest rent [USD].
    price, pue : float or None
        Of one device [USD/h]; facility over computer power. The reference's
        by default.
    simulate : int
        How many of the best are simulated.
    cluster : str or None
        Address of a Dask scheduler whose workers search; None is this process.
    progress : callable or None
        Told the layouts done, all layouts, and the best step so far [s].
    **choices
        Values (or lists of them) that parts of a layout are held to: ``tp``,
        ``cp``, ``pp``, ``vpp``, ``ep``, ``dp``, ``micro_batch``, ``zero_stage``,
        ``dp_shard`` (hybrid sharding), ``recompute``, ``schedule``,
        ``offload_optimizer``, ``offload_activations``. By default every valid
        value is tried: micro-batches up to 32, up to 16 chunks per rank, at
        least 512 tokens per context-parallel rank; hybrid sharding within a
        scale-up domain, of parameters too (stage 3).

    Returns
    -------
    TrainPlan
        ``best``, ``table``, ``pareto``, ``reasons``, counts and times.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If nothing can be found; the message has the nearest valid choice.
    """
    given = [system] if isinstance(system, str | SystemSpec | DeviceSpec) else system
    systems: list[System] = list(given)
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    if not systems:
        raise InputError("no system is given; name at least one")
    resolved = [resolve(model, one, stack, overrides) for one in systems]
    spec, _, software = resolved[0]
    planner = Planner(
        spec, [r[1] for r in resolved], software, device_counts(devices), global_batch,
        seq, dtype, optimizer, fidelity,
        sequence_parallel, Choices.of(**choices),
        Limits(memory, step_time, tokens, deadline, budget, power),
        economy_of(price, pue), objective, simulate, _runner(cluster),
        _names(model, stack, systems, resolved, fidelity, overrides),
    )  # fmt: skip
    return planner.plan(progress)


def _names(
    model: str | ModelSpec,
    stack: str | StackSpec,
    given: Sequence[System],
    resolved: Sequence[tuple[ModelSpec, SystemSpec, StackSpec]],
    fidelity: Fidelity,
    overrides: Iterable[str],
) -> Names:
    """Return what was asked for as one writes it in a command."""
    systems = {
        found[1].id: named("system", one)
        for one, found in zip(given, resolved, strict=True)
        if not isinstance(one, SystemSpec | DeviceSpec)
    }
    spec, _, software = resolved[0]
    return Names(
        spec.id if isinstance(model, ModelSpec) else named("model", model),
        software.id if isinstance(stack, StackSpec) else named("stack", stack),
        systems, fidelity, tuple(overrides),
    )  # fmt: skip


def _runner(cluster: str | None) -> Runner:
    if cluster is None:
        return in_this_process
    from hwsim.analysis.plan_train.cluster import on_cluster

    return on_cluster(cluster)
