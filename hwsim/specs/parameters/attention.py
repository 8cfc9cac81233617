"""Parameters of fused attention kernels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.specs.base import Count, Fraction, Seconds, Spec

Positive = Annotated[float, Field(gt=0.0, le=1e6)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0, le=1e6)]
Exponent = Annotated[float, Field(ge=0.0, le=4.0)]
Padding = Annotated[int, Field(ge=0, le=4096, strict=True)]


class PrefillParameters(Spec):
    """Attention of many query tokens: blocks of queries against blocks of keys.

    Attributes
    ----------
    start_time : float
        Start and drain of the kernels. [s]
    token_time : float
        Time to write one token's keys and values to the cache on one
        execution unit. [s]
    block_time : float
        Prologue and epilogue of one thread block, for heads 128 wide. [s]
    block_width_exponent : float
        ``block_time`` grows as this power of the head width. [1]
    tile_rows, tile_columns : int
        Query rows and key columns of one step of a thread block.
    packs_groups : bool
        Whether query heads that share keys fill the rows of one block.
    matrix_efficiency : float
        Sustained over peak matrix rate inside a block. [1]
    narrow_matrix_efficiency : float
        The same where the cache is narrower than the arithmetic. [1]
    narrow_width_exponent : float
        That rate falls as this power of a head width above 128. [1]
    exponentials_per_clock : float
        Exponentials per clock and execution unit, with the scaling and
        maximum that go with each. [1/clock]
    overlap : float
        Exponent p of (matrix^p + exponentials^p)^(1/p): 1 is one after the
        other, large is full overlap. [1]
    wave_quantization : float
        1: blocks run in whole waves over the units; 0: perfectly balanced. [1]
    longest_block_ratio : float
        Time per key of a block that has its unit to itself, over that of
        blocks that share units. [1]
    balance : float
        Exponent p of (all blocks^p + longest block^p)^(1/p). [1]
    memory_efficiency : float
        Sustained over quoted main-memory bandwidth. [1]
    memory_overlap : float
        Exponent p of (busy^p + memory^p)^(1/p). [1]
    backward_flop_ratio : float
        Matrix work of the backward pass over that of the forward pass. [1]
    backward_efficiency : float
        Rate of the backward kernel over that of the forward kernel. [1]
    """

    start_time: Seconds
    token_time: Seconds
    block_time: Seconds
    block_width_exponent: Exponent
    tile_rows: Count
    tile_columns: Count
    packs_groups: bool
    matrix_efficiency: Share
    narrow_matrix_efficiency: Share
    narrow_width_exponent: Exponent
    exponentials_per_clock: Positive
    overlap: AtLeastOne
    wave_quantization: Fraction
    longest_block_ratio: Positive
    balance: AtLeastOne
    memory_efficiency: Share
    memory_overlap: AtLeastOne
    backward_flop_ratio: AtLeastOne
    backward_efficiency: Share


class DecodeParameters(Spec):
    """Attention of one query token per sequence over a long cache (split-KV).

    A work unit is one key-value head of one sequence, with the query heads
    that share it.

    Attributes
    ----------
    start_time : float
        Start and drain of the kernels, writing of the new token included. [s]
    fill_time : float
        Added when all execution units are busy; grows as the root of the
        busy share. [s]
    sequence_time : float
        Bookkeeping of one sequence: block tables, schedule. [s]
    unit_time : float
        Time of one further work unit on an execution unit beyond the first,
        for heads 128 wide. [s]
    unit_width_exponent : float
        ``unit_time`` grows as this power of the head width. [1]
    split_time : float
        Combination of partial results, per doubling of the splits. [s]
    split_tokens, max_splits : int
        Least tokens of one split; most splits of one work unit.
    splits_ungrouped : bool
        Whether work units with a single query head are split too.
    regroups_heads : bool
        Whether queries and outputs are copied to bring the query heads of
        one key-value head together.
    regroup_time : float
        Start and drain of those copies. [s]
    overlap : float
        Exponent p of (memory^p + matrix^p + work units^p)^(1/p). [1]
    memory_efficiency : float
        Sustained over quoted main-memory bandwidth. [1]
    unit_bandwidth_ratio : float
        Bandwidth that one execution unit can draw alone, over its equal share
        of the main memory's. [1]
    cache_bandwidth_ratio : float
        Rate at which keys and values that reside in the shared cache are
        read, over main-memory bandwidth. [1]
    row_padding : int
        Query heads of one key-value head are padded to a multiple of this.
    matrix_efficiency : float
        Sustained over peak matrix rate on the padded rows. [1]
    narrow_matrix_efficiency : float
        The same where the cache is narrower than the arithmetic and is
        converted on the way; falls with heads wider than 128. [1]
    window_padding : int
        Tokens read beyond a sliding window because it straddles blocks.
    """

    start_time: Seconds
    fill_time: Seconds
    sequence_time: Seconds
    unit_time: Seconds
    unit_width_exponent: Exponent
    split_time: Seconds
    split_tokens: Count
    max_splits: AtLeastOne
    splits_ungrouped: bool
    regroups_heads: bool
    regroup_time: Seconds
    overlap: AtLeastOne
    memory_efficiency: Share
    unit_bandwidth_ratio: AtLeastOne
    cache_bandwidth_ratio: AtLeastOne
    row_padding: Count
    matrix_efficiency: Share
    narrow_matrix_efficiency: Share
    window_padding: Padding


class AttentionParameters(Spec):
    """Parameters of prefill and decode attention."""

    prefill: PrefillParameters
    decode: DecodeParameters
