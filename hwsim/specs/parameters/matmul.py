"""Parameters of the matrix-product cost forms."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hwsim.specs.base import (
    Bytes,
    BytesPerClock,
    Count,
    Dtype,
    Flop,
    Fraction,
    Seconds,
    Spec,
)

Exponent = Annotated[float, Field(ge=1.0, le=100.0)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Efficiency = Annotated[float, Field(gt=0.0, le=1.0)]
Tile = tuple[Count, Count]


class TiledParameters(Spec):
    """How kernels cut a product into thread blocks (the GPU form).

    Attributes
    ----------
    tiles : tuple of (int, int)
        Output tiles (rows of m, columns of n) that the kernel library offers.
    splits : tuple of int
        Into how many parts it may cut the k loop.
    depth : float
        Bytes of one operand row that a step of the k loop covers. [B]
    operand_rate : float
        Rate at which one unit takes operands from the shared cache. [B/clk]
    wave_quantisation : float
        Cost of a last, partly filled wave of thread blocks: 1 costs a whole
        wave, 0 only its share (persistent kernels). [1]
    fill : float
        Time to start and drain one wave of thread blocks. [s]
    split_sync : float
        Time to join the parts of a split k loop, besides their traffic. [s]
    """

    tiles: Annotated[tuple[Tile, ...], Field(min_length=1)]
    splits: Annotated[tuple[Count, ...], Field(min_length=1)]
    depth: Bytes
    operand_rate: BytesPerClock
    wave_quantisation: Fraction
    fill: Seconds
    split_sync: Seconds


class SystolicParameters(Spec):
    """How a compiler drives systolic arrays (the TPU form).

    Attributes
    ----------
    row_multiple : int
        Streamed rows are padded to a multiple of this many (sublanes). [1]
    load_overlap : float
        Share of loading the next stationary tile that hides behind streaming
        the present one. [1]
    """

    row_multiple: Count
    load_overlap: Fraction


class BlockedParameters(Spec):
    """How a CPU library blocks a product for its caches.

    Attributes
    ----------
    register_rows, register_columns : int
        Output tile of the innermost kernel; m and n are padded to it. [1]
    cache_share : float
        Share of a cache level that blocks may fill. [1]
    cache_speedup : float
        Bandwidth of the shared cache over main memory, where the device spec
        quotes none. [1]
    work_per_thread : float
        Least work worth waking one more core for. [FLOP]
    thread_sync : float
        Time to start and join all cores of the device. [s]
    """

    register_rows: Count
    register_columns: Count
    cache_share: Efficiency
    cache_speedup: Annotated[float, Field(ge=1.0, le=1e3)]
    work_per_thread: Flop
    thread_sync: Seconds


class MatmulParameters(Spec):
    """What every matrix-product form needs, and the table of its own form.

    Attributes
    ----------
    compute_efficiency : dict of dtype to float
        Share of the dense peak that a long product on a cool device reaches;
        dtypes not listed take the entry of ``bf16``. [1]
    sustained_derate : float
        g of the clock under sustained power: peak / (1 + g ln(1 + flop /
        sustained_work)). [1]
    sustained_work : float
        Work of one product above which clocks begin to fall. [FLOP]
    memory_efficiency : float
        Share of main-memory bandwidth that a long product reaches. [1]
    memory_ramp : float
        Time the memory needs to reach that rate. [s]
    overlap : float
        p of (compute^p + memory^p)^(1/p): how far they hide each other. [1]
    overhead : float
        Floor of one kernel, as in graph replay; host launch is apart. [s]
    dequantise_flop : float
        Vector operations to widen one weight that is stored narrower than
        the dtype it is multiplied in. [FLOP]
    tiled, systolic, blocked : Spec or None
        Table of the GPU, systolic-array and CPU form.
    """

    compute_efficiency: dict[Dtype, Efficiency]
    sustained_derate: NonNegative
    sustained_work: Flop
    memory_efficiency: Efficiency
    memory_ramp: Seconds
    overlap: Exponent
    overhead: Seconds
    dequantise_flop: NonNegative
    tiled: TiledParameters | None = None
    systolic: SystolicParameters | None = None
    blocked: BlockedParameters | None = None

    @model_validator(mode="after")
    def _has_reference_dtype(self) -> MatmulParameters:
        if "bf16" not in self.compute_efficiency:
            raise ValueError(
                "compute_efficiency.bf16 is missing; other dtypes fall back to it"
            )
        if self.sustained_work <= 0:
            raise ValueError("sustained_work is 0; write a work above it")
        return self

    def efficiency(self, dtype: str) -> float:
        """Return the share of peak that a dtype reaches."""
        table: dict[str, float] = dict(self.compute_efficiency)  # type: ignore[arg-type]
        return table.get(dtype, table["bf16"])
