"""How many tokens each expert of one rank gets."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import FloatArray
from hwsim.errors import InputError

Routing = Literal["random", "balanced", "power_law"]
Leftovers = Literal["largest", "first"]

# Experts of uneven popularity are dealt with in this many groups.
_GROUPS = 16
# A power law is sampled: the mean over as many routings, always the same ones.
_DRAWS = 6
_SEED = 7


class ExpertLoad(NamedTuple):
    """Rows of the touched experts of one rank.

    The last axis runs over groups of equally popular experts.

    Attributes
    ----------
    rows, counts : ndarray of float64
        ``counts`` experts have ``rows`` tokens each.
    """

    rows: FloatArray
    counts: FloatArray

    @property
    def touched(self) -> FloatArray:
        """Experts with at least one token."""
        return np.asarray(self.counts.sum(axis=-1))

    @property
    def total(self) -> FloatArray:
        """Pairs of a token and an expert of this rank."""
        return np.asarray(np.sum(self.rows * self.counts, axis=-1))


def expert_load(
    tokens: ArrayLike,
    experts: ArrayLike,
    topk: ArrayLike,
    ep: ArrayLike = 1,
    *,
    routing: Routing = "random",
    exponent: float = 0.0,
    imbalance: ArrayLike = 1.0,
    leftovers: Leftovers = "largest",
) -> ExpertLoad:
    """Return how many tokens the experts of one rank get.

    Parameters
    ----------
    tokens, experts, topk, ep : array_like
        Tokens of all ranks that share the experts; experts in all, and per
        token; ranks that share the experts out.
    routing : str
        ``random``: every token picks experts at random. ``balanced``: tokens go
        round the experts in turn. ``power_law``: the popularity of experts
        follows a power law, and this rank is the most loaded one.
    exponent : float
        Of the power law. [1]
    imbalance : array_like
        Rows of this rank over the mean of all ranks, where routing is random.
        [1]
    leftovers : str
        Who gets what rounding to whole tokens of a power law leaves over: the
        experts with the ``largest`` remainders, or the ``first`` of those that
        have most, by number.

    Raises
    ------
    InputError
        If the routing is unknown.
    """
    if routing not in get_args(Routing):
        raise InputError(
            f"routing {routing!r} is not one of {', '.join(get_args(Routing))}"
        )
    m, number, tk, ranks, skew = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64)
          for v in (tokens, experts, topk, ep, imbalance))
    )  # fmt: skip
    local = number / ranks
    if routing == "power_law":
        return _uneven(m, number, tk, ranks, exponent, leftovers)
    own = np.minimum(m * tk / ranks * skew, m * np.minimum(tk, local))
    if routing == "balanced":
        return _balanced(own, local)
    # The experts of one token differ: each is its with this chance.
    chance = np.minimum(own / np.maximum(local * m, 1e-30), 1 - 1e-12)
    touched = local * -np.expm1(np.log1p(-chance) * m)
    rows = own / np.maximum(touched, 1e-30)
    return ExpertLoad(rows[..., np.newaxis], touched[..., np.newaxis])


def _balanced(own: FloatArray, local: FloatArray) -> ExpertLoad:
    """Deal rows out in turn; the first token always meets the first rank."""
    own = np.maximum(own, 1.0)
    touched = np.minimum(local, own)
    mean = own / touched
    fewer = np.floor(mean + 1e-9)
    more = touched * (mean - fewer)
    rows = np.stack([fewer, fewer + 1.0], axis=-1)
    return ExpertLoad(rows, np.stack([touched - more, more], axis=-1))


def _uneven(
    m: FloatArray,
    experts: FloatArray,
    topk: FloatArray,
    ep: FloatArray,
    power: float,
    leftovers: Leftovers,
) -> ExpertLoad:
    keys = np.stack([m.ravel(), experts.ravel(), topk.ravel(), ep.ravel()], axis=1)
    found, where = np.unique(keys, axis=0, return_inverse=True)
    loads = [_sampled(*(float(v) for v in key), power, leftovers) for key in found]
    shape = (*m.shape, _GROUPS)
    rows = np.array([load[0] for load in loads])[where.ravel()].reshape(shape)
    counts = np.array([load[1] for load in loads])[where.ravel()].reshape(shape)
    return ExpertLoad(rows, counts)


@functools.lru_cache(maxsize=65536)
def _sampled(
    m: float,
    experts: float,
    topk: float,
    ep: float,
    power: float,
    leftovers: Leftovers,
) -> tuple[FloatArray, FloatArray]:
    """Return (rows, counts) of the most loaded rank, groups of its experts."""
    number, ranks = round(experts), max(round(ep), 1)
    chance = _chances(number)
    # Where few tokens meet many experts, most experts get none or one.
    low, high = (1.0, 0.8 * m) if m * topk > number else (0.01, 2.0)
    if abs(power - 1.0) < 1e-6:
        popular = low * (high / low) ** chance
    else:
        inverse = 1.0 - power
        span = high**inverse - low**inverse
        popular = (low**inverse + chance * span) ** (1.0 / inverse)
    wanted = popular * (m * topk / popular.sum(axis=1, keepdims=True))
    round_ = _rounded if leftovers == "largest" else _rounded_first
    rows = round_(_capped(wanted, m))
    per_rank = number // ranks
    shared = rows[:, : per_rank * ranks].reshape(_DRAWS, ranks, per_rank)
    busiest = shared.sum(axis=2).argmax(axis=1)
    own = np.sort(shared[np.arange(_DRAWS), busiest].ravel())
    own = own[own > 0]
    parts = np.array_split(own, _GROUPS)
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    mean = np.array([part.mean() if len(part) else 1.0 for part in parts])
    return mean, sizes / _DRAWS


def _capped(wanted: FloatArray, most: float) -> FloatArray:
    """Pass on what an expert has beyond every token once, sums kept."""
    for _ in range(30):
        beyond = np.maximum(wanted - most, 0.0).sum(axis=1, keepdims=True)
        if np.all(beyond <= 1e-9 * most):
            break
        free = wanted < most
        rest = np.where(free, wanted, 0.0)
        share = beyond / np.maximum(rest.sum(axis=1, keepdims=True), 1e-30)
        wanted = np.where(free, wanted * (1.0 + share), most)
    return np.minimum(wanted, most)


def _rounded(wanted: FloatArray) -> FloatArray:
    """Round rows to whole tokens, largest remainders up, sums kept."""
    rows = np.floor(wanted)
    rest = np.argsort(rows - wanted, axis=1, kind="stable")
    missing = np.rint(wanted.sum(axis=1) - rows.sum(axis=1))
    rank = np.argsort(rest, axis=1, kind="stable")
    return np.asarray(rows + (rank < missing[:, np.newaxis]))


def _rounded_first(wanted: FloatArray) -> FloatArray:
    """Round each expert's rows; what is missing goes to the first that have most."""
    rows = np.rint(wanted)
    order = np.argsort(-rows, axis=1, kind="stable")
    missing = np.rint(wanted.sum(axis=1) - rows.sum(axis=1))
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(rows + (rank < missing[:, np.newaxis]))


@functools.lru_cache(maxsize=64)
def _chances(number: int) -> FloatArray:
    """Return numbers between 0 and 1 for each draw and expert, always the same."""
    return np.random.default_rng(_SEED).random((_DRAWS, number))
