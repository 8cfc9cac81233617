"""Costs of a whole graph: each distinct operator once, each kind in one call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from hwsim.cost.contention import beside_collectives
from hwsim.cost.cost import Cost, FloatArray
from hwsim.cost.forms import FORMS, MATRIX, Context, form, group_key
from hwsim.cost.op_costs import OpCosts as OpCosts
from hwsim.cost.pace import slowest_pace
from hwsim.cost.stack_terms import inner_dtype
from hwsim.errors import InputError
from hwsim.graph.op import Attention, Collective, Matmul, MoeExperts, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.specs.calibration import FIDELITIES, Calibration, calibration_for
from hwsim.specs.calibration import Fidelity as Fidelity
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


def cost_ops(
    ops: Sequence[Op],
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
    sustained_flop: float | FloatArray = 0.0,
    in_step: int = 1,
    points: int = 0,
) -> OpCosts:
    """Return the cost of each operator on one device of a system.

    Parameters
    ----------
    ops : sequence of Op
        Operators of any kinds; shapes are those of one device.
    system : SystemSpec
        Gives the device, and the networks for collectives.
    stack : StackSpec
        Software stack: quality of its kernels.
    fidelity : str
        ``roofline`` is the speed of light from the datasheet;
        ``structured`` uses the parameters of the device's generation,
        ``calibrated`` those fitted to measurements of the device itself;
        ``auto`` the best there is. No time is below the speed of light.
    sustained_flop : float or ndarray of shape (points,)
        Matrix work that the operators are part of and that goes on without a
        pause: power limits lower its clocks. [FLOP]
    in_step : int
        Devices that wait for each other: matrix work takes as long as on the
        slowest of them.
    points : int
        Of a grid: shapes of operators may be arrays of so many points, and costs
        are of shape (n_op, points); 0: shapes are numbers.

    Raises
    ------
    InputError
        If the device lacks a dtype.
    """
    parameters = _parameters(system, fidelity, calibration)
    context = Context(
        system, parameters, stack,
        sustained_flop=_within_window(sustained_flop, ops, system, parameters),
        points=points,
    )  # fmt: skip
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for index, op in enumerate(ops):
        groups.setdefault(group_key(op, fidelity), []).append(index)
    size = (len(ops), points) if points else (len(ops),)
    time, compute, interconnect, overhead = (np.zeros(size) for _ in range(4))
    levels: dict[str, FloatArray] = {}
    for key, where in groups.items():
        members = [ops[i] for i in where]
        cost = form(str(key[0]), context)(members, context)
        time[where], compute[where] = cost.time, cost.compute
        interconnect[where], overhead[where] = cost.interconnect, cost.overhead
        for name, part in cost.levels.items():
            levels.setdefault(name, np.zeros(size))[where] = part
    if fidelity == "roofline":
        return OpCosts(tuple(ops), time, compute, levels, interconnect, overhead)
    extra = overhead * context.column([_more_kernels(op) for op in ops])
    # A learned factor, or a cache taken for faster than it is, ends at light.
    short = np.maximum(_speed_of_light(ops, context) - (time + extra), 0.0)
    overhead = overhead + (extra + short)
    pace = slowest_pace(system.device, in_step) - 1.0
    waits = pace * compute * context.column([isinstance(op, MATRIX) for op in ops])
    return OpCosts(
        tuple(ops), time + (extra + short + waits), compute + waits, levels,
        interconnect, overhead,
    )  # fmt: skip


def _parameters(
    system: SystemSpec, fidelity: Fidelity, given: Calibration | None
) -> Calibration:
    if fidelity not in FIDELITIES:
        raise InputError(
            f"fidelity {fidelity!r} is unknown; choose {' or '.join(FIDELITIES)}"
        )
    return given or calibration_for(system.device, fidelity)


def _more_kernels(op: Op) -> float:
    """Kernels beyond those whose start its own cost form already counts."""
    counted = isinstance(op, Matmul | Attention | MoeExperts | Collective)
    return 0.0 if counted else float(max(op.kernels - 1, 0))


def _speed_of_light(ops: Sequence[Op], context: Context) -> FloatArray:
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    for index, op in enumerate(ops):
        groups.setdefault(group_key(op, "roofline"), []).append(index)
    points = context.points
    bound = np.zeros((len(ops), points) if points else len(ops))
    for key, where in groups.items():
        if key[0] != "host_copy":
            bound[where] = FORMS[str(key[0])]([ops[i] for i in where], context).time
    return bound


def cost_op(
    op: Op,
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
) -> Cost:
    """Return the cost of one operator, whose shapes may be arrays."""
    context = Context(
        system, _parameters(system, fidelity, calibration), stack, warm=False
    )
    cost = form(str(group_key(op, fidelity)[0]), context)([op], context)
    light = FORMS[str(group_key(op, "roofline")[0])]([op], context)
    short = np.maximum(light.time - cost.time, 0.0)[0]
    return Cost(
        time=cost.time[0] + short,
        compute=cost.compute[0],
        levels={name: part[0] for name, part in cost.levels.items()},
        interconnect=cost.interconnect[0],
        overhead=cost.overhead[0] + short,
    )


def cost_graph(
    graph: OpGraph,
    system: SystemSpec,
    stack: StackSpec,
    fidelity: Fidelity = "auto",
    calibration: Calibration | None = None,
    in_step: int = 1,
    points: int = 0,
) -> OpCosts:
    """Return the costs of a graph's distinct nodes, in block order.

    ``points`` as for :func:`cost_ops`.
    """
    ops = [node.op for _, _, node, _ in graph.distinct()]
    costs = cost_ops(
        ops, system, stack, fidelity, calibration, sustained_flop=graph.flop,
        in_step=in_step, points=points,
    )  # fmt: skip
    if in_step < 2 or points or fidelity == "roofline":
        return costs
    return beside_collectives(graph.blocks, costs, stack, system.device)


def _within_window(
    flop: float | FloatArray,
    ops: Sequence[Op],
    system: SystemSpec,
    calibration: Calibration,
) -> float | FloatArray:
    """Return work no longer than the power controller looks back."""
    window = calibration.matmul.sustained_window
    dtypes = [op.dtype for op in ops if isinstance(op, Matmul)]
    device = system.device
    peak = device.peak(inner_dtype(device, dtypes[0])) if dtypes else 0.0
    if isinstance(flop, np.ndarray):
        return np.asarray(np.minimum(flop, peak * window), dtype=np.float64)
    return float(min(flop, peak * window))
