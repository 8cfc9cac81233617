"""Host time around the kernels of a graph: launches, and what each step costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hwsim.cost.evaluate import Fidelity
from hwsim.graph.op import Attention, Matmul, MoeExperts, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


class LaunchTimes(NamedTuple):
    """Host time per kernel, and before the first one. [s]

    Attributes
    ----------
    forward, backward : float
        Per kernel of the backward pass, and of all else.
    start : float
        Before the first kernel.
    """

    forward: float
    backward: float
    start: float

    def of(self, op: Op) -> float:
        """Return the host time to launch an operator. [s]"""
        each = self.backward if op.phase == "backward" else self.forward
        return each * op.kernels


def launches_of(
    graph: OpGraph, system: SystemSpec, stack: StackSpec, fidelity: Fidelity
) -> tuple[list[list[float]], float]:
    """Return host time to launch each node, by block, and before the first. [s]"""
    times = launch_times(system, stack, fidelity)
    prompt = 0.0
    tokens = float(np.max(graph.tokens)) / graph.meta.get("ranks", 1.0)
    if tokens > stack.launch.captured_tokens:
        prompt = _prompt_time(graph, system, stack, fidelity)
    bound = fidelity == "roofline"
    experts = 0.0 if bound else stack.launch.experts
    modules = 0.0 if bound else stack.launch.products
    launches = [
        [
            times.of(node.op)
            + prompt * node.op.kernels
            + _issue(node.op, experts)
            + module_time(node.op, modules)
            for node in b.nodes
        ]
        for b in graph.blocks
    ]
    return launches, times.start


def step_overhead(graph: OpGraph, stack: StackSpec, fidelity: Fidelity) -> float:
    """Return the host time of a step that nothing hides. [s]"""
    if fidelity == "roofline":
        return 0.0
    token = stack.launch.token_overhead if graph.name == "decode" else 0.0
    return float(stack.launch.step_overhead + token)


def launch_times(
    system: SystemSpec, stack: StackSpec, fidelity: Fidelity
) -> LaunchTimes:
    """Return host time per kernel, and before the first one. [s]"""
    launch, policy = system.device.launch, stack.launch
    if launch is None or fidelity == "roofline":
        return LaunchTimes(0.0, 0.0, 0.0)
    if policy.mode == "graph":
        return LaunchTimes(0.0, 0.0, launch.eager)
    forward = policy.host_time or 0.0
    backward = forward if policy.backward_time is None else policy.backward_time
    return LaunchTimes(max(forward, launch.eager), max(backward, launch.eager), 0.0)


def prompt_issue(
    graph: OpGraph, system: SystemSpec, stack: StackSpec, fidelity: Fidelity
) -> float:
    """Return the host time to issue a pass over prompts that is not captured. [s]"""
    calls = sum(n.op.kernels * b.repeat for b in graph.blocks for n in b.nodes)
    return _prompt_time(graph, system, stack, fidelity) * float(calls)


def _prompt_time(
    graph: OpGraph, system: SystemSpec, stack: StackSpec, fidelity: Fidelity
) -> float:
    launch = stack.launch
    known = system.device.launch is not None and fidelity != "roofline"
    prompts = graph.name == "prefill" and launch.mode == "graph"
    return launch.prompt_time if known and prompts else 0.0


def module_time(op: Op, forward: float) -> float:
    """Return host time of the module around an operator, beyond its kernels'. [s]

    Parameters
    ----------
    forward : float
        Of one forward pass in 16 bit. Backward takes as long: for a product's two
        gradients together. [s]
    """
    if not forward or not isinstance(op, Matmul | Attention):
        return 0.0
    width = 2.0 if DTYPE_BYTES[op.dtype] < 2.0 else 1.0
    halves = 2.0 if op.phase == "backward" and isinstance(op, Matmul) else 1.0
    return forward * width / halves


def _issue(op: Op, experts: float) -> float:
    """Return host time of routed experts beyond that of their kernels. [s]"""
    return experts * op.passes if experts and isinstance(op, MoeExperts) else 0.0
