"""Optimizers: what they keep for each parameter, and what they do."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.errors import UnknownNameError
from hwsim.graph.precision import Precision
from hwsim.specs.base import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer keeps and does for each parameter.

    Attributes
    ----------
    state_bytes : float
        Of its own state, master weights not included. [B]
    flop : float
        Arithmetic of one update. [FLOP]
    factored : bool
        Keeps an fp32 value for each row and column of a matrix instead, and
        for each value of a vector.
    passes : tuple
        Where it is written as one kernel per operation on all tensors: for
        each, values read and written (parameter, gradient or state).
    """

    state_bytes: float
    flop: float
    passes: tuple[tuple[str, int, int], ...]
    factored: bool = False

    def states(self, numel: float, factored: float) -> float:
        """Return the bytes kept for so many parameters. [B]

        ``factored`` is what :class:`~hwsim.graph.parameters.Parameters` says.
        """
        return 4.0 * factored if self.factored else self.state_bytes * numel


_ADAM = (
    ("first_moment", 2, 1), ("second_moment_decay", 1, 1), ("second_moment", 2, 1),
    ("square_root", 1, 1), ("bias_correction", 1, 1), ("epsilon", 1, 1),
    ("update", 3, 1),
)  # fmt: skip
# Two moments in one byte each, with an fp32 scale for each block of 2048
# (Dettmers et al., 2021, arXiv:2110.02861, section 2).
_EIGHT_BIT_STATES = 2 * (1.0 + 4.0 / 2048)
# Row and column means of the squared gradient, its root's product, clipping
# by the update's mean square (Shazeer and Stern, 2018, arXiv:1804.04235).
_FACTORED = (
    ("square", 1, 1), ("row_mean", 1, 0), ("column_mean", 1, 0), ("scale", 1, 1),
    ("update_norm", 1, 0), ("clip_update", 1, 1), ("parameter_norm", 1, 0),
    ("update", 2, 1),
)  # fmt: skip
_DECAY = (("weight_decay", 1, 1),)
_MOMENTUM = (("momentum", 2, 1), ("update", 2, 1))
OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(8.0, 12.0, _ADAM),
    "adamw": Optimizer(8.0, 14.0, _DECAY + _ADAM),
    "adafactor": Optimizer(0.0, 16.0, _FACTORED, factored=True),
    # Written as one kernel for each tensor only.
    "adam8bit": Optimizer(_EIGHT_BIT_STATES, 24.0, ()),
    "sgd": Optimizer(0.0, 2.0, (("update", 2, 1),)),
    "momentum": Optimizer(4.0, 4.0, _MOMENTUM),
    "lion": Optimizer(4.0, 9.0, (*_DECAY, ("sign", 2, 1), *_MOMENTUM)),
    "lamb": Optimizer(8.0, 20.0, (*_ADAM, ("norms", 2, 0), ("scale", 2, 1))),
}


def optimizer_named(name: str) -> Optimizer:
    """Return the optimizer, or raise with the nearest known ones."""
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", str(name), OPTIMIZERS)
    return OPTIMIZERS[name]


def master_bytes(precision: Precision) -> float:
    """Bytes of a parameter's fp32 copy; none if it is that wide already. [B]"""
    return 4.0 if DTYPE_BYTES[precision.parameter] < 4 else 0.0
