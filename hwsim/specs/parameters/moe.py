"""Parameters of the routed experts' feed-forward network."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from hwsim.specs.base import Count, Fraction, Hertz, Name, Seconds, Spec

Share = Annotated[float, Field(gt=0.0, le=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0, le=1e6)]
Rows = Annotated[float, Field(ge=0.0, le=1e6)]
WIDE, NARROW, TUNED = "wide", "narrow", "tuned"


class MoeKernel(Spec):
    """Two grouped products of many experts with few rows each, as one library does.

    Attributes
    ----------
    start_time : float
        Start and drain of all kernels of the layer: sorting of rows, quantising
        them, both products, activation, weighted sum. [s]
    block_time : float
        Prologue and epilogue of one wave of thread blocks. [s]
    tile_rows : tuple of int
        Rows of the tiles to choose from; each expert's rows are padded to a
        multiple.
    tile_columns : int
        Columns of a tile.
    tile_choice : str
        ``fastest`` of the tiles (a tuned library), or ``by_tokens``: the first
        while there are no more tokens than experts, else the last (a library's
        default where nobody has tuned).
    half_rate_rows : float
        Rows at which a tile reaches half of ``matrix_efficiency``.
    matrix_efficiency : float
        Sustained over peak matrix rate of very tall tiles. [1]
    unaligned_efficiency : float
        Rate left, of arithmetic and of weights, where an expert's width is no
        multiple of 16: loads are not vectorised. [1]
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
    reread_share : float
        Further tiles of one expert find its weights in the shared cache, but for
        this share of what lies beyond the cache's size. [1]
    overlap : float
        Exponent p of (compute^p + memory^p)^(1/p): 1 is none, large is full
        overlap. [1]
    row_copy_efficiency : float
        Sustained over quoted bandwidth of gathering, activating and summing
        rows. [1]
    foreign_pair_share : float
        Share of that traffic which is spent too on (token, expert) pairs that
        other ranks compute: 1 where the kernels keep a slot for every pair,
        0 where they work on own pairs only. [1]
    """

    start_time: Seconds
    block_time: Seconds
    tile_rows: tuple[Count, ...] = Field(min_length=1)
    tile_columns: Count
    tile_choice: Literal["fastest", "by_tokens"] = "fastest"
    half_rate_rows: Rows
    matrix_efficiency: Share
    unaligned_efficiency: Share
    wave_quantization: Fraction
    memory_efficiency: Share
    unit_bandwidth_ratio: Share | AtLeastOne
    cache_bandwidth_ratio: AtLeastOne
    reread_share: Fraction
    overlap: AtLeastOne
    row_copy_efficiency: Share
    foreign_pair_share: Fraction


class MoeParameters(Spec):
    """Kernels of routed experts.

    Narrow means weights of less than two bytes, whose activations are
    quantised on the way.

    Attributes
    ----------
    kernels : dict of name to MoeKernel
        ``wide`` and ``narrow``: what runs unless a row says otherwise.
        ``<library>_wide`` and ``<library>_narrow``: other libraries' kernels.
        ``tuned_<name>``: the same with tiles that somebody tuned.
    tuned : tuple of (int, int)
        Experts and width on one rank for which the library ships tuned tiles;
        without a kernel ``tuned_<name>`` they do not matter.
    reference_clock : float or None
        Clock that start times and block times are given at: starting and draining
        kernels takes as many clocks on each device. None: they hold for every
        clock. [Hz]
    """

    kernels: dict[Name, MoeKernel]
    tuned: tuple[tuple[Count, Count], ...] = ()
    reference_clock: Hertz | None = None

    @model_validator(mode="after")
    def _complete(self) -> MoeParameters:
        missing = sorted({WIDE, NARROW} - set(self.kernels))
        if missing:
            raise ValueError(f"kernels lacks {', '.join(missing)}; add each")
        return self

    def name(self, weight_bytes: float, library: str = "") -> str:
        """Return the name of the kernel that a library runs."""
        usual = NARROW if weight_bytes < 2 else WIDE
        own = f"{library}_{usual}"
        return own if own in self.kernels else usual

    def has_tuned(
        self, name: str, experts: ArrayLike, width: ArrayLike
    ) -> NDArray[np.bool_]:
        """Return where a kernel runs with tuned tiles.

        Parameters
        ----------
        name : str
            As :meth:`name` returns it.
        experts, width : array_like
            On one rank.
        """
        e, n = np.broadcast_arrays(np.asarray(experts), np.asarray(width))
        found = np.zeros(e.shape, dtype=bool)
        if f"{TUNED}_{name}" in self.kernels:
            for number, columns in self.tuned:
                found |= (np.rint(e) == number) & (np.rint(n) == columns)
        return found
