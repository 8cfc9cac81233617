"""Serving engines: how they batch, cache keys and values, and what hosts cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.specs.base import CatalogSpec, Fraction, Identifier, Seconds
from hwsim.specs.load import Catalog, load_spec

Slots = Annotated[int, Field(ge=1, le=10**6, strict=True)]
Tokens = Annotated[int, Field(ge=1, le=10**7, strict=True)]


class EngineSpec(CatalogSpec):
    """A serving engine: few parameters, each a documented behaviour.

    Attributes
    ----------
    stack : str
        Software stack whose kernels it runs and whose ``launch.step_overhead``
        each step pays.
    policy : str
        Name of a batching policy: ``mixed``, ``prefill_first`` or ``static``.
    chunked_prefill : bool
        Long prompts are cut to the budget of a step; else a prompt that is
        longer than the budget takes a step alone.
    max_num_seqs : int
        Most requests that run at a time.
    max_num_batched_tokens : int
        Most tokens of a step, one for each running request that decodes.
    block_size : int
        Tokens whose keys and values are kept in one block.
    watermark : float
        Share of blocks that stays free when a request is admitted beside others.
    reserve : float
        Share of a request's output that its admission sets aside: 0 admits on
        the prompt alone and may preempt later; 1 never preempts.
    cache_share : float
        Share of the memory that weights and activations leave which blocks get.
    captured_batches : tuple of int
        Batch sizes for which decode steps are captured: smaller batches are
        padded to the next one, larger ones are not padded. Empty: no padding.
    captured_tokens : int or None
        Steps with prompts are captured up to so many tokens; None is what the stack
        says.
    preemption : str
        ``recompute``: a preempted request loses its blocks; ``swap``: they go
        to the host's memory, over each device's link, and come back.
    prefix_caching : bool
        Filled blocks stay known by what they begin with: prompts that begin with
        them skip them, and the least recently used go when memory is needed.
    sequence_overhead : float
        Host time of a step per request in it, that nothing hides. [s]
    step_overhead : float
        Host time of a step beside the stack's, that nothing hides: scheduling
        where it does not run ahead. [s]
    intake_interval : int
        Decode steps between two looks at arrivals; it also looks after every step
        with prompts, and whenever nothing runs.
    lookahead : bool
        The next step is put together while one runs (asynchronous or overlapped
        scheduling): a request joins the step after it. Without effect where
        ``intake_interval`` is more than 1.
    wait_steps : int
        Most steps that prompts wait beside running requests for more of them.
    wait_share : float
        Share of ``max_num_batched_tokens`` from which on they do not wait.
    balance_steps : int
        With attention of each device by itself: steps between looks at which prompts
        start before each device has one; 0: they start at once.
    request_overhead : float
        Time between a request's arrival and its entering the queue (transport,
        tokenising); the engine is not kept busy by it. [s]
    """

    stack: Identifier
    policy: Literal["mixed", "prefill_first", "static"]
    chunked_prefill: bool
    max_num_seqs: Slots
    max_num_batched_tokens: Tokens
    block_size: Annotated[int, Field(ge=1, le=4096, strict=True)]
    watermark: Fraction = 0.0
    reserve: Fraction = 0.0
    cache_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    captured_batches: tuple[Slots, ...] = ()
    captured_tokens: Annotated[int, Field(ge=0, le=10**7, strict=True)] | None = None
    preemption: Literal["recompute", "swap"] = "recompute"
    prefix_caching: bool = False
    sequence_overhead: Seconds = 0.0
    step_overhead: Seconds = 0.0
    intake_interval: Slots = 1
    lookahead: bool = False
    wait_steps: Annotated[int, Field(ge=0, le=10**6, strict=True)] = 0
    wait_share: Fraction = 1.0
    balance_steps: Annotated[int, Field(ge=0, le=10**6, strict=True)] = 0
    request_overhead: Seconds = 0.0

    @model_validator(mode="after")
    def _one_wait(self) -> EngineSpec:
        if self.wait_steps and self.balance_steps:
            raise ValueError(
                "wait_steps and balance_steps are both set: prompts wait for more of "
                "them or for those of other devices; set one to 0"
            )
        return self


ENGINES = Catalog("engine", EngineSpec, "workloads", "engines/*.toml")


def load_engine(name: str) -> EngineSpec:
    """Load a serving engine by id, alias or path."""
    return load_spec(ENGINES, EngineSpec, name)
