"""Parameters of fused attention kernels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.specs.base import Count, Fraction, Seconds, Spec

Positive = Annotated[float, Field(gt=0.0, le=1e6)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0, le=64.0)]


class PrefillParameters(Spec):
    """Attention of many query tokens: blocks of queries against blocks of keys.

    Attributes
    ----------
    start_time : float
        Start and drain of the attention kernel. [s]
    write_start_time : float
        Start and drain of the kernel that writes keys and values to the
        cache, as far as the attention kernel does not hide it. [s]
    block_time : float
        Prologue and epilogue of one thread block. [s]
    tile_rows, tile_columns : int
        Query rows and key columns of one step of a thread block.
    matrix_efficiency : float
        Sustained over peak matrix rate inside a block. [1]
    matrix_efficiency_narrow : float
        The same for head dimensions up to half of ``tile_rows``, where
        loading operands and the softmax weigh more. [1]
    exponentials_per_clock : float
        Exponentials per clock and execution unit, with the scaling and
        maximum that go with each. [1/clock]
    overlap : float
        Exponent p of (matrix^p + exponentials^p)^(1/p): 1 is one after the
        other, large is full overlap. [1]
    wave_quantization : float
        1: blocks run in whole waves over the units; 0: perfectly balanced. [1]
    memory_efficiency : float
        Sustained over quoted main-memory bandwidth. [1]
    backward_flop_ratio : float
        Matrix work of the backward pass over that of the forward pass. [1]
    backward_efficiency : float
        Rate of the backward kernel over that of the forward kernel. [1]
    """

    start_time: Seconds
    write_start_time: Seconds
    block_time: Seconds
    tile_rows: Count
    tile_columns: Count
    matrix_efficiency: Share
    matrix_efficiency_narrow: Share
    exponentials_per_clock: Positive
    overlap: AtLeastOne
    wave_quantization: Fraction
    memory_efficiency: Share
    backward_flop_ratio: AtLeastOne
    backward_efficiency: Share


class DecodeParameters(Spec):
    """Attention of one query token per sequence over a long cache (split-KV).

    Attributes
    ----------
    start_time : float
        Start, combination of the splits and drain. [s]
    unit_time : float
        Time of one further (sequence, key-value head) on an execution unit
        beyond the first, not overlapped with streaming. [s]
    memory_efficiency : float
        Sustained over quoted main-memory bandwidth. [1]
    cache_bandwidth_ratio : float
        Rate at which keys and values that reside in the shared cache are
        read, over main-memory bandwidth. [1]
    row_padding : int
        Query heads of one key-value head are padded to a multiple of this.
    matrix_efficiency : float
        Sustained over peak matrix rate on the padded rows. [1]
    """

    start_time: Seconds
    unit_time: Seconds
    memory_efficiency: Share
    cache_bandwidth_ratio: AtLeastOne
    row_padding: Count
    matrix_efficiency: Share


class AttentionParameters(Spec):
    """Parameters of prefill and decode attention."""

    prefill: PrefillParameters
    decode: DecodeParameters
