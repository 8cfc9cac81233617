"""Paged memory for keys and values: who holds how many blocks, in closed form.

Every running request grows by one token a step, so that the blocks in use
after any number of steps follow from counts of requests by position in their
last block: no request is looked at.
"""

from __future__ import annotations


class Pages:
    """Blocks of one replica.

    Requests that decode are known by ``base``: tokens in the cache when the
    step counter is zero, so that at counter ``D`` they hold ``base + D``.

    Parameters
    ----------
    total : int
        Blocks there are.
    block_size : int
        Tokens in one.
    """

    __slots__ = ("_at", "_whole", "block_size", "claims", "count", "held", "total")

    def __init__(self, total: int, block_size: int) -> None:
        self.total, self.block_size = total, block_size
        self.count = 0
        self.held = 0  # of prompts not yet through
        self.claims = 0  # promised to admitted requests, used or not
        self._whole = 0
        self._at = [0] * block_size

    def add(self, base: int, sign: int = 1) -> None:
        """Let a decoding request in (or out, with ``sign`` -1)."""
        whole, rest = divmod(base - 1, self.block_size)
        self._whole += sign * (whole + 1)
        self._at[rest] += sign
        self.count += sign

    def used(self, counter: int) -> int:
        """Return the blocks in use for the step at a counter."""
        size = self.block_size
        whole, rest = divmod(counter, size)
        crossed = sum(self._at[size - rest :]) if rest else 0
        return self._whole + self.count * whole + crossed + self.held

    def steps_that_fit(self, counter: int, most: int) -> int:
        """Return how many steps, up to ``most``, fit from a counter on."""
        bound = self.count * ((most - 1) // self.block_size + 1)
        if self.used(counter) + bound <= self.total:
            return most
        if self.used(counter + most - 1) <= self.total:
            return most
        low, high = 1, most  # the first step is known to fit
        while high - low > 1:
            middle = (low + high) // 2
            if self.used(counter + middle - 1) <= self.total:
                low = middle
            else:
                high = middle
        return low

    def blocks(self, tokens: float) -> int:
        """Return the blocks that so many tokens take."""
        return int(-(-tokens // self.block_size))

    def clear(self) -> None:
        """Let everybody out."""
        self._whole = self.count = self.held = self.claims = 0
        self._at = [0] * self.block_size
