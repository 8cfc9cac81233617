"""What a software stack changes in the cost of a kernel."""

from __future__ import annotations

from hwsim.cost.cost import Cost
from hwsim.specs.device import DeviceSpec
from hwsim.specs.stack import StackSpec

# Products of these read operands with scales; see ``StackSpec.tensor_scales``.
SCALED = frozenset({"fp8", "fp4"})


def inner_dtype(device: DeviceSpec, dtype: str) -> str:
    """Return the dtype that attention inside a narrower run is computed in.

    Activations of int8 or int4 products are bf16; a device without it keeps them
    in fp16, else in fp32. Runs in bf16 as such are refused there before.
    """
    if dtype != "bf16" or dtype in device.dtypes:
        return dtype
    return "fp16" if "fp16" in device.dtypes else "fp32"


def derated(cost: Cost, derate: float) -> Cost:
    """Slow a stack's kernels down; start-up time is left as it is."""
    if derate == 1.0:
        return cost
    slow = 1.0 / derate
    return Cost(
        time=(cost.time - cost.overhead) * slow + cost.overhead,
        compute=cost.compute * slow,
        levels={name: part * slow for name, part in cost.levels.items()},
        interconnect=cost.interconnect * slow,
        overhead=cost.overhead,
    )


def attention_rate(stack: StackSpec, device: DeviceSpec) -> float:
    """Return the rate of a stack's attention kernels over the best ones there."""
    rates = {r.architecture: r.rate for r in stack.attention_derates}
    return stack.attention_derate * rates.get(device.architecture, 1.0)


def product_by(cost: Cost, stack: StackSpec, dtype: str) -> Cost:
    """Return the cost of a matrix product by the kernels of a stack."""
    rate = stack.tensor_scales if dtype in SCALED else 1.0
    if rate != 1.0:
        compute = cost.compute / rate
        cost = Cost(
            time=cost.time - cost.compute + compute,
            compute=compute,
            levels=cost.levels,
            interconnect=cost.interconnect,
            overhead=cost.overhead,
        )
    return derated(cost, stack.matmul_derate)


def collective_by(cost: Cost, stack: StackSpec) -> Cost:
    """Return the cost of a collective by the library of a stack."""
    late = stack.launch.collective
    if not late:
        return cost
    return Cost(
        time=cost.time + late,
        compute=cost.compute,
        levels=cost.levels,
        interconnect=cost.interconnect,
        overhead=cost.overhead + late,
    )
