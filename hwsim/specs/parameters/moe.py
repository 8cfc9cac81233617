"""Parameters of the routed experts' feed-forward network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hwsim.specs.base import Count, Seconds, Spec

Share = Annotated[float, Field(gt=0.0, le=1.0)]
AtLeastOne = Annotated[float, Field(ge=1.0, le=64.0)]


class MoeParameters(Spec):
    """Grouped products of many experts with few rows each.

    Attributes
    ----------
    start_time : float
        Start and drain of all kernels of the layer (sorting of rows, both
        products, activation, weighted sum). [s]
    expert_time : float
        Fixed time of one touched expert on one execution unit. [s]
    tile_rows : int
        Rows of each expert are padded to a multiple of this.
    matrix_efficiency : float
        Sustained over peak matrix rate on padded rows. [1]
    memory_efficiency : float
        Sustained over quoted bandwidth while streaming weights. [1]
    overlap : float
        Exponent p of (compute^p + memory^p)^(1/p): 1 is none, large is full
        overlap. [1]
    """

    start_time: Seconds
    expert_time: Seconds
    tile_rows: Count
    matrix_efficiency: Share
    memory_efficiency: Share
    overlap: AtLeastOne
