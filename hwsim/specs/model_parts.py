"""Parts of a model spec: kinds of layer, experts, latent attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.specs.base import Spec

Width = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Number = Annotated[int, Field(ge=0, le=100_000, strict=True)]
Rank = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Role = Literal["decoder", "encoder"]


@dataclass(frozen=True)
class LayerKind:
    """What tells two layers of one model apart.

    Attributes
    ----------
    window : int or None
        Tokens that attention looks back over; None is all of them.
    moe : bool
        The feed-forward block is a mixture of experts.
    role : str
        ``decoder`` or ``encoder``; a decoder layer of an encoder-decoder
        model has cross attention as well.
    """

    window: int | None = None
    moe: bool = False
    role: Role = "decoder"


class MoeSpec(Spec):
    """Mixture of experts in place of the dense feed-forward block.

    Attributes
    ----------
    experts, experts_per_token : int
        Routed experts in a layer, and how many of them one token visits.
    expert_ffn, shared_ffn : int
        Inner width of one routed expert, of one shared expert.
    shared_experts : int
        Experts that every token visits besides the routed ones.
    dense_layers : int
        The first so many layers have the dense block (of width ``ffn``).
    every : int
        Of the others, layer i has experts if (i + 1) % every == 0.
    gated : bool
        Experts have a gate matrix (three matrices, not two).
    router_bias, expert_bias, shared_gate : bool
        Router and expert projections have biases; the shared expert is
        scaled by a learned gate of its own.
    """

    experts: Rank
    experts_per_token: Rank
    expert_ffn: Width
    shared_experts: Number = 0
    shared_ffn: Number = 0
    dense_layers: Number = 0
    every: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 1
    gated: bool = True
    router_bias: bool = False
    expert_bias: bool = False
    shared_gate: bool = False

    @model_validator(mode="after")
    def _check(self) -> MoeSpec:
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token} but there are "
                f"only {self.experts} experts"
            )
        if (self.shared_experts > 0) != (self.shared_ffn > 0):
            raise ValueError(
                f"shared_experts is {self.shared_experts} and shared_ffn is "
                f"{self.shared_ffn}; give both or neither"
            )
        if self.shared_gate and not self.shared_experts:
            raise ValueError("shared_gate is set but there is no shared expert")
        return self


class MlaSpec(Spec):
    """Multi-head latent attention: keys and values from a shared latent.

    Attributes
    ----------
    q_lora_rank : int or None
        Width of the query latent; None projects queries directly.
    kv_lora_rank : int
        Width of the latent that the cache holds.
    qk_nope_head_dim, qk_rope_head_dim, v_head_dim : int
        Per head: query/key width without and with rotation, value width.
    """

    q_lora_rank: Rank | None = None
    kv_lora_rank: Rank
    qk_nope_head_dim: Rank
    qk_rope_head_dim: Rank
    v_head_dim: Rank
