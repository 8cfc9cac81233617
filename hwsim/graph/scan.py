"""The scan of a state space as a typed operator."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.graph.op import Op


@dataclass(frozen=True, slots=True, kw_only=True)
class StateScan(Op):
    """Scan of a state space over sequences, a chunk of tokens at a time.

    Attributes
    ----------
    tokens : float
        Of all sequences.
    heads, head_dim, groups, state : int
        On this device, as in :class:`~hwsim.specs.model_parts.SsmSpec`.
    chunk : float
        Tokens taken at once.

    References
    ----------
    .. [1] T. Dao and A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060,
       section 6.
    """

    tokens: float
    heads: int
    head_dim: int
    groups: int
    state: int
    chunk: float

    @property
    def flop(self) -> float:
        """Products of the chunked form; backward makes the states again. [FLOP]

        Within a chunk the scores of each group in full and, behind the causal
        mask, their products with the values; the state that each chunk leaves,
        and what it gives to the next.
        """
        inner = self.heads * self.head_dim
        scores = 2.0 * self.groups * self.chunk * self.state
        values = inner * (self.chunk + 1.0)
        states = 2.0 * inner * self.state
        forward = self.tokens * (scores + values + 2.0 * states)
        if self.phase != "backward":
            return forward
        return 2.0 * forward + self.tokens * (scores + states)

    def _recurrent(self, each: float) -> float:
        if self.phase == "recompute":
            return 0.0
        work = each * self.tokens * self.heads * self.head_dim * self.state
        return work * (2.0 if self.phase == "backward" else 1.0)

    @property
    def model_flop(self) -> float:
        """The recurrence: decay, outer product, sum and readout. [FLOP]"""
        return self._recurrent(5.0)

    @property
    def full_flop(self) -> float:
        """Seven for each value of the state, as Megatron counts. [FLOP]"""
        return self._recurrent(7.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveScan(Op):
    """Scan whose every channel has states and steps of its own (Mamba).

    One fused kernel: states stay on chip, a thread takes some tokens of one
    channel after the other.

    Attributes
    ----------
    tokens : float
        Of all sequences.
    channels, state : int
        On this device; states of each channel.

    References
    ----------
    .. [1] A. Gu and T. Dao, "Mamba", 2023, arXiv:2312.00752, section 3.3.
    """

    tokens: float
    channels: int
    state: int

    def _work(self, each: float, backward: float) -> float:
        found = each * self.tokens * self.channels * self.state
        return found * (backward if self.phase == "backward" else 1.0)

    @property
    def flop(self) -> float:
        """Slots of the vector units, two FLOP each; backward scans once more. [FLOP]

        For each state an exponential, which takes as long as eight
        multiply-adds, and eight of these: decay, input, readout, and two
        combinations of the scan over threads.
        """
        return self._work(32.0, 3.0)

    @property
    def model_flop(self) -> float:
        """The recurrence: decay, outer product, sum and readout. [FLOP]"""
        return 0.0 if self.phase == "recompute" else self._work(5.0, 2.0)

    @property
    def full_flop(self) -> float:
        """Nine for each value of the state, as the authors' code counts. [FLOP]"""
        return 0.0 if self.phase == "recompute" else self._work(9.0, 2.0)
