"""What layers lose where their own traffic meets that of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.cost.sharing import HOST, HOST_OUT


@dataclass(frozen=True)
class Flow:
    """Transfers one after the other, in each of n layouts.

    Attributes
    ----------
    time : ndarray, shape (n,)
        From the start of the first to the end of the last, alone. [s]
    load : ndarray, shape (n_level, n)
        For how long each network level is full. [s]
    """

    time: FloatArray
    load: FloatArray

    def __add__(self, other: Flow) -> Flow:
        """Return these transfers, then the others."""
        return Flow(self.time + other.time, self.load + other.load)

    def taken(self, at: Any) -> Flow:
        """Return the same of some layouts."""
        return Flow(self.time[at], self.load[:, at])

    @property
    def use(self) -> FloatArray:
        """Share of each level that they take, on average."""
        return self.load / np.where(self.time > 0.0, self.time, np.inf)


def no_flow(levels: int, layouts: int) -> Flow:
    """Return that nothing is sent."""
    return Flow(np.zeros(layouts), np.zeros((levels, layouts)))


def crowded(
    chain: FloatArray, exposed: FloatArray, own: Flow, one: Flow, other: Flow
) -> FloatArray:
    """Return the time that a layer loses because transfers share links. [s]

    The layer's own transfers are spread evenly over it. Two flows beside it
    start when it starts; at a time all that is sent shares the levels max-min
    fair, as :class:`~hwsim.sim.links.FairNetwork` has it.

    Parameters
    ----------
    chain : ndarray, shape (n,)
        Time of the layer alone. [s]
    exposed : ndarray, shape (n,)
        The part of it in which nothing but its own transfers runs. [s]
    own, one, other : Flow
        Its own transfers; the flows beside it.
    """
    short = one.time <= other.time
    first = np.where(short, one.time, other.time)
    longer = np.where(short, other.time, one.time)
    sent = exposed / np.where(chain > 0.0, chain, np.inf)
    beside = one.use + other.use
    both, every = _slowed(beside), _slowed(beside + own.use)
    pair = _slowed(np.where(short, other.use, one.use) + own.use)
    # What flows get sent, and the time that passes, while a second of the layer runs.
    progress, pace = (1.0 - sent) / both + sent, (1.0 - sent) + sent * every
    begun = np.minimum(chain, first / progress)
    then = np.minimum(chain - begun, np.maximum(longer - begun * progress, 0.0))
    left = np.maximum(first - begun * progress, 0.0)
    after = np.maximum(longer - begun * progress - then - left, 0.0)
    time = begun * pace + then * ((1.0 - sent) + sent * pair)
    time = time + (chain - begun - then) + left * both + after
    full = (own.load + one.load + other.load).max(axis=0, initial=0.0)
    found: FloatArray = np.maximum(time, full) - np.maximum(chain, longer)
    return np.maximum(found, 0.0)


def _slowed(use: FloatArray) -> FloatArray:
    """Return how much longer transfers take that together want so much."""
    found: FloatArray = use.max(axis=0, initial=1.0)
    return found


def shares(use: dict[object, float], levels: int) -> FloatArray:
    """Return a use of network levels as an array; the host's link is left out."""
    found = np.zeros(levels)
    for level, share in use.items():
        if level not in {HOST, HOST_OUT}:
            found[int(str(level))] = share
    return found
