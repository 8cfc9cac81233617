"""Parameters of memory-bound kernels: elementwise, norms, copies, optimizer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.specs.base import BytesPerClock, Seconds, Spec

Efficiency = Annotated[float, Field(gt=0.0, le=1.0)]


class ElementwiseParameters(Spec):
    """How memory-bound kernels reach the memory and the vector units.

    Attributes
    ----------
    compute_efficiency : float
        Share of the vector peak that they reach. [1]
    memory_efficiency : float
        Share of main-memory bandwidth that a long kernel reaches. [1]
    cache_speedup : float
        Rate of traffic that stays in the last shared cache over the rate of
        main memory, where the device spec quotes no cache bandwidth. [1]
    cache_efficiency : float
        Share of the quoted cache bandwidth that they reach. Quoted is what
        streams of reads alone reach. [1]
    memory_ramp : float
        Time that memory needs to come to speed; short kernels see little of
        it, long ones all. [s]
    overlap : float
        p of (compute^p + memory^p)^(1/p). [1]
    overhead : float
        Floor of one kernel, as in graph replay; host launch is apart. [s]
    row_time : float
        Least time of one row on an execution unit, in kernels that give each
        row to a thread block (norms, softmax, quantisation by token). [s]
    row_rate : float or None
        Bytes that the thread block of one row takes in and puts out per clock;
        None is no limit. [B/clk]
    singly_rate : float or None
        Values per clock and execution unit of a framework's kernels where an operand
        is strided or broadcast: threads then take values one by one and work out
        where each stands. None is no limit. [1/clk]
    host_copy_efficiency : float
        Share of the quoted bandwidth of the link to the host that copies reach.
        [1]
    """

    compute_efficiency: Efficiency
    memory_efficiency: Efficiency
    cache_speedup: Annotated[float, Field(ge=1.0, le=1e3)]
    cache_efficiency: Efficiency
    memory_ramp: Seconds
    overlap: Annotated[float, Field(ge=1.0, le=100.0)]
    overhead: Seconds
    row_time: Seconds = 0.0
    row_rate: BytesPerClock | None = None
    singly_rate: Annotated[float, Field(gt=0.0, le=1e4)] | None = None
    host_copy_efficiency: Efficiency = 1.0
