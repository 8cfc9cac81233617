"""What an engine asks of whoever prices its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

#: What one group does in a step: prompt chunks (tokens, tokens before),
#: sequences that decode, tokens of their contexts together.
Part = tuple[Sequence[tuple[int, int]], int, float]


class StepCost(Protocol):
    """Times of engine steps. [s]"""

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return a step's time, its growth per token of context, and up to where.

        ``contexts`` is the tokens of all sequences together; the growth holds
        up to and including the third figure.
        """

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks (tokens, tokens before)."""

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step with prompts of groups that run it together."""
