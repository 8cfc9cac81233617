"""Device specs: one accelerator or CPU socket, as software sees it."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.errors import InputError
from hwsim.specs.base import (
    Bytes,
    BytesPerSecond,
    CatalogSpec,
    Count,
    Dtype,
    FlopPerSecond,
    Hertz,
    Identifier,
    Name,
    Seconds,
    Spec,
    Watts,
)

Year = Annotated[int, Field(ge=1990, le=2035, strict=True)]
DeviceKind = Literal["cpu", "gpu", "tpu", "asic", "fpga"]


class SystolicArray(Spec):
    """Matrix units that are systolic arrays: a product is padded to them."""

    rows: Count
    columns: Count
    arrays: Count


class CpuCores(Spec):
    """How a CPU socket reaches its peaks.

    Attributes
    ----------
    simd_bits, fma_ports : int
        Vector width and fused multiply-add pipes of one core; vector peak in
        fp32 is cores · (simd_bits / 32) · 2 · fma_ports · clock.
    matrix_flop_per_clock : dict of dtype to int
        Matrix-engine (AMX, matrix-multiply instructions) FLOP per clock and
        core.
    """

    cores: Count
    threads_per_core: Count = 1
    simd_bits: Count
    fma_ports: Count
    matrix_flop_per_clock: dict[Dtype, Count] = {}
    memory_channels: Count | None = None
    max_sockets: Count = 1


class Compute(Spec):
    """Execution units and their dense peaks.

    Attributes
    ----------
    units : int
        SMs, CUs, cores or matrix units.
    clock : float
        Clock behind the quoted peaks. [Hz]
    matrix, vector : dict of dtype to float
        Dense peak of the whole device, accumulating in fp32 where the
        hardware offers it. [FLOP/s]
    """

    units: Count
    unit_kind: Name
    clock: Hertz | None = None
    max_clock: Hertz | None = None
    matrix: dict[Dtype, FlopPerSecond] = {}
    vector: dict[Dtype, FlopPerSecond] = {}
    systolic: SystolicArray | None = None
    cpu: CpuCores | None = None

    def pace(self, reference_clock: float | None) -> float:
        """Return the time of as many clocks here, over that at another clock.

        Parameters
        ----------
        reference_clock : float or None
            None, as an unknown clock of the device, gives 1. [Hz]
        """
        clock = self.max_clock or self.clock
        if reference_clock is None or clock is None:
            return 1.0
        return float(reference_clock / clock)


class MemoryLevel(Spec):
    """One level of the memory hierarchy.

    Attributes
    ----------
    size : float
        Capacity; of one unit where ``scope`` is ``unit``. [B]
    bandwidth : float or None
        Read bandwidth of the whole device (all units together). [B/s]
    latency : float or None
        Load-to-use latency. [s]
    scope : str
        ``unit``: private to each execution unit; ``device``: shared.
    """

    size: Bytes
    bandwidth: BytesPerSecond | None = None
    latency: Seconds | None = None
    scope: Literal["unit", "device"] = "device"
    technology: Name | None = None


class Link(Spec):
    """A link off the device; bandwidth is per direction, over all its lanes."""

    technology: Name
    bandwidth: BytesPerSecond
    count: Count | None = None
    latency: Seconds | None = None
    topology: Name | None = None


class Power(Spec):
    """Board power limits. [W]"""

    tdp: Watts | None = None
    idle: Watts | None = None


class Launch(Spec):
    """Cost of starting one kernel on this device, before any software stack.

    Attributes
    ----------
    eager : float
        Host time to issue one kernel. [s]
    graph : float
        Device-side gap between two kernels of a captured graph. [s]
    latency : float or None
        Issue to start on an idle device. [s]
    """

    eager: Seconds
    graph: Seconds
    latency: Seconds | None = None


class DeviceSpec(CatalogSpec):
    """One device: peaks, memories, links, power, launch costs, with sources.

    ``memory`` lists levels from the innermost to the outermost; the last one
    is the main memory, which holds weights and caches. ``calibrated_as`` names
    a device with the same chip, whose calibration is borrowed while there is
    none of this one.
    """

    kind: DeviceKind
    vendor: Name
    architecture: Name
    year: Year
    process: Name | None = None
    compute: Compute
    memory: dict[Name, MemoryLevel]
    links: dict[Name, Link] = {}
    host_link: Link | None = None
    power: Power = Power()
    launch: Launch | None = None
    calibrated_as: Identifier | None = None

    @model_validator(mode="after")
    def _check(self) -> DeviceSpec:
        if not self.memory:
            raise ValueError("memory has no level; add at least the main memory")
        if self.main_memory.bandwidth is None:
            raise ValueError(
                f"memory.{self.main_memory_name}.bandwidth is missing; the "
                "outermost memory needs one"
            )
        if not self.compute.matrix and not self.compute.vector:
            raise ValueError(
                "compute has no peak; give at least one of compute.matrix.<dtype>, "
                "compute.vector.<dtype>"
            )
        _check_cpu_peaks(self)
        return self

    @property
    def main_memory_name(self) -> str:
        """Name of the outermost memory level."""
        return next(reversed(self.memory))

    @property
    def main_memory(self) -> MemoryLevel:
        """The outermost memory level."""
        return self.memory[self.main_memory_name]

    @property
    def bandwidth(self) -> float:
        """Bandwidth of the main memory. [B/s]"""
        return float(self.main_memory.bandwidth or 0.0)

    @cached_property
    def cache(self) -> MemoryLevel | None:
        """The outermost on-chip level shared by the device, if any."""
        shared = [m for m in list(self.memory.values())[:-1] if m.scope == "device"]
        return shared[-1] if shared else None

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes with a peak on the matrix or vector units."""
        return tuple(dict.fromkeys([*self.compute.matrix, *self.compute.vector]))

    def peak(self, dtype: str, unit: Literal["matrix", "vector"] = "matrix") -> float:
        """Return the dense peak for a dtype. [FLOP/s]

        Matrix work falls back to the vector units where there is no matrix
        unit for the dtype; vector work in a narrow type runs at the fp32 rate
        where no own rate is quoted.

        Raises
        ------
        InputError
            If the device has no rate for the dtype.
        """
        matrix, vector = self.compute.matrix, self.compute.vector
        found = matrix.get(dtype) if unit == "matrix" else None  # type: ignore[call-overload]
        if found is None:
            found = vector.get(dtype)  # type: ignore[call-overload]
        if found is None and unit == "vector":
            found = vector.get("fp32") or max(matrix.values(), default=None)
        if found is None:
            raise InputError(
                f"device {self.id} has no {dtype} rate; it has {', '.join(self.dtypes)}"
            )
        return float(found)


def _check_cpu_peaks(device: DeviceSpec) -> None:
    cpu, clock = device.compute.cpu, device.compute.clock
    if cpu is None or clock is None:
        return
    if cpu.cores != device.compute.units:
        raise ValueError(
            f"compute.cpu.cores is {cpu.cores} but compute.units is "
            f"{device.compute.units}; a CPU's units are its cores"
        )
    quoted = device.compute.vector.get("fp32")
    built = cpu.cores * cpu.simd_bits / 32 * 2 * cpu.fma_ports * clock
    if quoted is not None and abs(quoted - built) > 0.02 * built:
        raise ValueError(
            f"compute.vector.fp32 is {quoted / 1e12:.4g} TFLOP/s but cores x SIMD x "
            f"FMA ports x clock give {built / 1e12:.4g} TFLOP/s; correct one of them"
        )
