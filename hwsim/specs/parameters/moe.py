"""Parameters of the routed experts' feed-forward network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.specs.base import Count, Fraction, Seconds, Spec

Share = Annotated[float, Field(gt=0.0, le=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0, le=1e6)]
Rows = Annotated[float, Field(ge=0.0, le=1e6)]


class MoeParameters(Spec):
    """Two grouped products of many experts with few rows each.

    Narrow means weights of less than two bytes, whose activations are
    quantised on the way.

    Attributes
    ----------
    start_time : float
        Start and drain of all kernels of the layer: sorting of rows, both
        products, activation, weighted sum. [s]
    narrow_start_time : float
        Added with narrow weights: kernels that quantise activations. [s]
    block_time : float
        Prologue and epilogue of one wave of thread blocks. [s]
    tile_rows : tuple of int
        Rows of the tiles to choose from; each expert's rows are padded to a
        multiple.
    tile_columns : int
        Columns of a tile.
    half_rate_rows : float
        Rows at which a tile reaches half of ``matrix_efficiency``.
    matrix_efficiency, narrow_matrix_efficiency : float
        Sustained over peak matrix rate of very tall tiles. [1]
    wave_quantization : float
        1: tiles run in whole waves over the units; 0: perfectly balanced. [1]
    memory_efficiency : float
        Sustained over quoted bandwidth while streaming weights. [1]
    unit_bandwidth_ratio : float
        Bandwidth that one execution unit can draw alone, over its equal share
        of the main memory's. [1]
    cache_bandwidth_ratio : float
        Rate at which weights that reside in the shared cache are read, over
        main-memory bandwidth. [1]
    overlap : float
        Exponent p of (compute^p + memory^p)^(1/p): 1 is none, large is full
        overlap. [1]
    row_copy_efficiency, narrow_row_copy_efficiency : float
        Sustained over quoted bandwidth of gathering, activating and summing
        rows. [1]
    foreign_pair_share, narrow_foreign_pair_share : float
        Share of that traffic which is spent too on (token, expert) pairs that
        other ranks compute: 1 where the kernels keep a slot for every pair,
        0 where they work on own pairs only. [1]
    """

    start_time: Seconds
    narrow_start_time: Seconds
    block_time: Seconds
    tile_rows: tuple[Count, ...] = Field(min_length=1)
    tile_columns: Count
    half_rate_rows: Rows
    matrix_efficiency: Share
    narrow_matrix_efficiency: Share
    wave_quantization: Fraction
    memory_efficiency: Share
    unit_bandwidth_ratio: Share | AtLeastOne
    cache_bandwidth_ratio: AtLeastOne
    overlap: AtLeastOne
    row_copy_efficiency: Share
    narrow_row_copy_efficiency: Share
    foreign_pair_share: Fraction
    narrow_foreign_pair_share: Fraction
