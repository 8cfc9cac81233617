"""Software stacks: what a framework fuses, overlaps, launches and adds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hwsim.specs.base import CatalogSpec, Fraction, Seconds, Spec


class LaunchPolicy(Spec):
    """How kernels reach the device.

    Attributes
    ----------
    mode : str
        ``eager``: the host issues each kernel; ``graph``: a captured graph is
        replayed, only the device-side gap is left.
    host_time : float or None
        Host time per kernel issue including the framework; the device's own
        figure is used where it is larger. [s]
    step_overhead : float
        Host time per step or per token that nothing hides (scheduler,
        sampling, data loading). [s]
    """

    mode: Literal["eager", "graph"] = "graph"
    host_time: Seconds | None = None
    step_overhead: Seconds = 0.0


class Fusion(Spec):
    """Which operators run as one kernel."""

    attention: Literal["fused", "unfused"] = "fused"
    qkv: bool = True
    gate_up: bool = True
    residual_norm: bool = True
    activation: bool = True
    rotary: bool = True
    bias: bool = True
    cross_entropy: bool = False
    optimizer: bool = True
    quantize: bool = False


class Overlap(Spec):
    """Share of each communication that may run beside compute."""

    dp: bool = True
    tp: bool = False


class StackSpec(CatalogSpec):
    """A software stack: few parameters, each a mechanism with a source.

    Attributes
    ----------
    matmul_derate, attention_derate : float
        Rate of this stack's kernels over the best known kernels for the
        device generation (1 = as good).
    """

    launch: LaunchPolicy = LaunchPolicy()
    fusion: Fusion = Fusion()
    overlap: Overlap = Overlap()
    matmul_derate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    attention_derate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    memory_reserve: Fraction = 0.08
