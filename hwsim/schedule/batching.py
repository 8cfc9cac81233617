"""Batching policies: which requests share an engine step. Order only, no clock.

An engine repeats: make room, choose prompts, run one step. A policy answers
three questions of each step; everything else (budget of tokens, slots, memory,
first come first served) is common to all and lives in the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class BatchingPolicy:
    """How prompts and running requests share steps.

    Attributes
    ----------
    name : str
        Name in engine specs.
    mixed : bool
        Prompt tokens go in the same step as the next tokens of running
        requests, which come first in its budget; else a step with prompts has
        nothing else in it, and running requests wait.
    holds : bool
        A finished request keeps its slot and its cost until all that began
        with it are done.
    """

    name: str
    mixed: bool
    holds: bool

    def opens(self, running: int) -> bool:
        """Whether requests may join while ``running`` others are served."""
        return not self.holds or running == 0

    def budget(self, max_num_batched_tokens: int, decoding: int) -> int:
        """Return the prompt tokens that may go in a step."""
        if self.mixed:
            return max_num_batched_tokens - decoding
        return max_num_batched_tokens


#: vLLM V1, TensorRT-LLM in-flight batching, llama.cpp's server: one budget of
#: tokens per step, running requests first, prompts in what is left.
MIXED = BatchingPolicy("mixed", mixed=True, holds=False)
#: vLLM V0, SGLang without mixed chunks: whenever a waiting prompt can be
#: admitted a step of prompts runs, and running requests stall.
PREFILL_FIRST = BatchingPolicy("prefill_first", mixed=False, holds=False)
#: Request-level batching of early servers: all start and end together.
STATIC = BatchingPolicy("static", mixed=False, holds=True)

POLICIES = {p.name: p for p in (MIXED, PREFILL_FIRST, STATIC)}


def policy_named(name: str) -> BatchingPolicy:
    """Return a policy by name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in POLICIES:
        raise UnknownNameError("batching policy", name, POLICIES)
    return POLICIES[name]
