"""Parameters that are gathered while the first microbatches go through."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.schedule.pipeline.tasks import FloatArray


def exposed_gather(
    gather: ArrayLike,
    forward: ArrayLike,
    layers: ArrayLike,
    pp: ArrayLike,
    vpp: ArrayLike,
    rank: ArrayLike = 0,
) -> FloatArray:
    """Return how long a rank waits for updated parameters; arrays broadcast.

    A chunk's parameters come layer by layer, in order, behind those of the chunks
    before it. The first layer's are waited for; the rest of the first chunk comes
    while its first microbatch computes, and later chunks while ``pp`` of them go
    through each chunk before. Later ranks compute later.

    Parameters
    ----------
    gather : array
        Gather of all of the rank's parameters, alone. [s]
    forward : array
        Forward pass of one microbatch through one chunk. [s]
    layers : array
        Layers of the rank.
    pp, vpp, rank : array
        Pipeline ranks, chunks of each, and which rank it is.

    Examples
    --------
    >>> exposed_gather(8.0, 2.0, 8, 4, 2)
    array(3.)
    """
    whole, one = np.asarray(gather, float), np.asarray(forward, float)
    chunks, ranks = np.asarray(vpp, float), np.asarray(pp, float)
    waits = np.maximum(
        whole / chunks - one, whole - ((chunks - 1.0) * ranks + 1.0) * one
    )
    found = whole / np.maximum(layers, 1) + np.maximum(waits, 0.0)
    found = found - np.asarray(rank, float) * one
    exposed: FloatArray = np.clip(found, 0.0, whole)
    return exposed
