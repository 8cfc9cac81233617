"""Parameters of the matrix-product cost forms."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hwsim.specs.base import (
    Bytes,
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
Speedup = Annotated[float, Field(ge=1.0, le=1e3)]
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
    operand_ratio : float
        Bytes of operands that a unit can take in per FLOP of its 16-bit
        matrix peak: vendors widen the operand path with the matrix units, so
        this holds across generations where bytes per clock do not. Units
        never take in less than their share of the shared cache's bandwidth.
        [B/FLOP]
    wave_quantisation : float
        Cost of a last, partly filled wave of thread blocks: 1 costs a whole
        wave, 0 only its share (persistent kernels). [1]
    fill : float
        Time to start and drain one wave of thread blocks, whatever the tile. [s]
    epilogue : float
        How often the fp32 sums of a tile cross the operand path before the
        next tile may start. [1]
    step_latency : float
        Least time of one step of the k loop. [s]
    supply_overlap : float
        p of (arithmetic^p + operand supply^p)^(1/p) in one step. [1]
    split_sync : float
        Time to join the parts of a split k loop, besides their traffic. [s]
    efficiency : float or None
        Share of the dense peak that these kernels reach, where it is not the
        dtype's. [1]
    start_time : float
        Kernels that go before or after, such as those that lay out scales. [s]
    """

    tiles: Annotated[tuple[Tile, ...], Field(min_length=1)]
    splits: Annotated[tuple[Count, ...], Field(min_length=1)]
    depth: Bytes
    operand_ratio: Annotated[float, Field(gt=0.0, le=100.0)]
    wave_quantisation: Fraction
    fill: Seconds
    epilogue: NonNegative
    step_latency: Seconds
    supply_overlap: Exponent
    split_sync: Seconds
    efficiency: Efficiency | None = None
    start_time: Seconds = 0.0


class SystolicParameters(Spec):
    """How a compiler drives systolic arrays (the TPU form).

    Attributes
    ----------
    row_multiple : int
        Streamed rows are padded to a multiple of this many (sublanes). [1]
    load_ratio : float
        Cycles to load one stationary tile, over the rows of the array: 1
        loads a row per cycle. [1]
    load_overlap : float
        Share of loading the next stationary tile that hides behind streaming
        the present one. [1]
    """

    row_multiple: Count
    load_ratio: Efficiency
    load_overlap: Fraction


class BlockedParameters(Spec):
    """How a CPU library blocks a product for its caches.

    Attributes
    ----------
    register_rows, register_columns : int
        Output tile of the innermost kernel; m and n are padded to it. [1]
    edge_loss : float
        Share of an unfilled part of a register tile that is paid for; smaller
        kernels save the rest. [1]
    cache_share : float
        Share of a cache level that blocks may fill. [1]
    work_per_thread : float
        Least work worth waking one more core for. [FLOP]
    thread_sync : float
        Time to start and join all cores of the device. [s]
    pack_time : float
        Time one core takes to copy one element of an operand into the order
        that the inner kernel reads. [s]
    store_time : float
        Time one core takes to add one sum of the inner kernel to the output. [s]
    batch_time : float
        Time from one product of a batch to the next. [s]
    """

    register_rows: Count
    register_columns: Count
    edge_loss: Fraction
    cache_share: Efficiency
    work_per_thread: Flop
    thread_sync: Seconds
    pack_time: Seconds
    store_time: Seconds
    batch_time: Seconds


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
    sustained_window : float
        Length of one product whose benchmark (warm-up and repeats) lasts as
        long as the power controller averages: work that goes on without a
        pause runs at the clocks of such a product. [s]
    memory_efficiency : float
        Share of main-memory bandwidth that a long product reaches. [1]
    memory_mixing : float
        Loss of that rate in products of many rows, whose reads of several
        tiles interleave, against those that stream weights past few rows: the
        rate falls by 1 + memory_mixing m / (m + mixing_rows). [1]
    mixing_rows : int
        Rows at which half of that loss is reached.
    memory_ramp : float
        Time the memory needs to reach its rate. [s]
    cache_speedup : float
        Rate of operands found in the last shared cache over that of main
        memory, where the device spec quotes no cache bandwidth. [1]
    overlap : float
        p of (compute^p + memory^p)^(1/p): how far they hide each other. [1]
    overhead : float
        Floor of one kernel, as in graph replay; host launch is apart. [s]
    half_sums : float
        Rate of fp16 products that are summed in fp16 over those summed in fp32. [1]
    dequantise_flop : float
        Vector operations to widen one weight that is stored narrower than
        the dtype it is multiplied in. [FLOP]
    widen_rows : int or None
        Rows that share a widened weight where the units that multiply widen too,
        which takes their time; None: other units do it, beside the products.
    unaligned : tuple of (float, float)
        Rate of products on matrix units whose rows begin at multiples of so many
        bytes only, over those that begin at multiples of 16: copies between
        memories take 16 bytes a thread, or as many as are aligned. [B, 1]
    tiled, systolic, blocked : Spec or None
        Table of the GPU, systolic-array and CPU form.
    tiled_narrow : Spec or None
        The GPU form's table for dtypes of one byte and less, whose kernels
        come from other libraries; ``tiled`` where there is none.
    tiled_block : Spec or None
        The same where operands have a scale per block; ``tiled_narrow`` where
        there is none.
    """

    compute_efficiency: dict[Dtype, Efficiency]
    sustained_derate: NonNegative
    sustained_work: Flop
    sustained_window: Seconds
    memory_efficiency: Efficiency
    memory_mixing: NonNegative
    mixing_rows: Count
    memory_ramp: Seconds
    cache_speedup: Speedup
    overlap: Exponent
    overhead: Seconds
    half_sums: Annotated[float, Field(ge=1.0, le=2.0)] = 1.0
    dequantise_flop: NonNegative
    widen_rows: Annotated[int, Field(ge=1, le=1024)] | None = None
    unaligned: tuple[tuple[Bytes, Efficiency], ...] = ()
    tiled: TiledParameters | None = None
    tiled_narrow: TiledParameters | None = None
    tiled_block: TiledParameters | None = None
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

    def tiles(
        self, wide_bytes: float, block_scales: bool = False
    ) -> TiledParameters | None:
        """Return the table of the GPU form for a dtype of so many bytes."""
        if wide_bytes > 1.0:
            return self.tiled
        tables = (self.tiled_narrow, self.tiled)
        if block_scales:
            tables = (self.tiled_block, *tables)  # type: ignore[assignment]
        return next((table for table in tables if table is not None), None)

    def efficiency(self, dtype: str) -> float:
        """Return the share of peak that a dtype reaches."""
        table: dict[str, float] = dict(self.compute_efficiency)  # type: ignore[arg-type]
        return table.get(dtype, table["bf16"])
