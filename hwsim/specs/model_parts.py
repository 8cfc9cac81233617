"""Parts of a model spec: kinds of layer, experts, latent attention, state space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.specs.base import Name, Spec

Width = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Number = Annotated[int, Field(ge=0, le=100_000, strict=True)]
Rank = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Role = Literal["decoder", "encoder"]
Mixer = Literal["attention", "ssm", "none"]
Wide = Literal["", "fp4", "narrow"]


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
    mixer : str
        What mixes tokens: ``attention``, a state space (``ssm``), or
        ``none``.
    feed : bool
        A feed-forward block (or a mixture of experts) is there.
    wide : str
        Training where its products stay in 16 bits: in ``fp4``, or in any
        ``narrow`` dtype.
    """

    window: int | None = None
    moe: bool = False
    role: Role = "decoder"
    mixer: Mixer = "attention"
    feed: bool = True
    wide: Wide = ""

    @property
    def branches(self) -> int:
        """Branches of the residual stream, cross attention apart."""
        return (self.mixer != "none") + self.feed


# What a letter of ``pattern`` stands for: mixer, and the block behind it.
# Capitals and signs are those of Megatron's hybrid layer patterns; small
# letters are layers with both branches.
PATTERN: dict[str, tuple[Mixer, str]] = {
    "M": ("ssm", ""),
    "*": ("attention", ""),
    "-": ("none", "dense"),
    "E": ("none", "moe"),
    "m": ("ssm", "either"),
    "a": ("attention", "either"),
}


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Heads of one layer's attention.

    Attributes
    ----------
    shared_kv : bool
        Values are projected by the keys' matrix.
    rotary_fraction : float
        Share of a head that positions rotate.
    """

    heads: int
    kv_heads: int
    head_dim: int
    shared_kv: bool = False
    rotary_fraction: float = 1.0

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys together."""
        return self.kv_heads * self.head_dim

    @property
    def projected(self) -> int:
        """Columns that queries, keys and values are projected to."""
        return self.queries + (1 if self.shared_kv else 2) * self.keys


class FullAttentionSpec(Spec):
    """Heads of layers without a window, where they differ from the others'.

    Attributes
    ----------
    kv_heads, head_dim : int
        As in the model itself.
    shared_kv : bool
        Values are projected by the keys' matrix.
    rotary_fraction : float
        Share of a head that positions rotate.
    """

    kv_heads: Rank
    head_dim: Rank
    shared_kv: bool = False
    rotary_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class SsmSpec(Spec):
    """State-space mixer (Mamba-2, or Mamba with ``step_rank``) in place of attention.

    Attributes
    ----------
    heads, head_dim : int
        Heads and the width of each; their product is the inner width.
    state : int
        Values of the state beside each value of a head.
    groups : int
        Heads of one group share what is written to and read from the state.
    conv : int
        Tokens that the depthwise convolution before the scan sees.
    chunk : int
        Tokens that the scan takes at once.
    conv_bias, proj_bias : bool
        Convolution and projections have biases.
    step_rank : int
        Mamba's selective scan: every channel is a head of width 1 with states of
        its own, and its step comes from a projection of this rank. 0: Mamba-2.

    References
    ----------
    .. [1] T. Dao and A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060,
       sections 6 and 7.
    .. [2] A. Gu and T. Dao, "Mamba", 2023, arXiv:2312.00752, section 3.
    """

    heads: Rank
    head_dim: Rank
    state: Rank
    groups: Rank = 1
    conv: Rank = 4
    chunk: Rank = 256
    conv_bias: bool = True
    proj_bias: bool = False
    step_rank: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    @model_validator(mode="after")
    def _check(self) -> SsmSpec:
        if self.step_rank and (self.head_dim, self.groups) != (1, 1):
            raise ValueError(
                f"step_rank {self.step_rank} is of a selective scan, whose head_dim "
                f"and groups are 1, not {self.head_dim} and {self.groups}"
            )
        if self.heads % self.groups:
            raise ValueError(
                f"heads ({self.heads}) is not a multiple of groups ({self.groups})"
            )
        return self

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim


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
    latent : int or None
        Width that routed experts work in, where tokens are projected to one
        before they are sent, and back after.
    router_bias, expert_bias, shared_gate : bool
        Router and expert projections have biases; the shared expert is
        scaled by a learned gate of its own.
    clamped : bool
        Experts clamp gate and up before the activation.
    """

    experts: Rank
    experts_per_token: Rank
    expert_ffn: Width
    shared_experts: Number = 0
    shared_ffn: Number = 0
    dense_layers: Number = 0
    every: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 1
    gated: bool = True
    latent: Width | None = None
    router_bias: bool = False
    expert_bias: bool = False
    shared_gate: bool = False
    clamped: bool = False

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


class NarrowSpec(Spec):
    """What training in fp8 or fp4 leaves wider, as a model's own recipe has it.

    Attributes
    ----------
    wide_layers, fp4_wide_layers : int
        Last layers whose products stay in 16 bits in any narrow dtype; in fp4
        (the first count among them).
    fp4_wide, fp4_fp8 : tuple of str
        Products, by the name of their operator, in 16 bits or in fp8 where the
        others are in fp4.
    """

    wide_layers: Number = 0
    fp4_wide_layers: Number = 0
    fp4_wide: tuple[Name, ...] = ()
    fp4_fp8: tuple[Name, ...] = ()

    def width(self, after: int) -> Wide:
        """Return how wide a layer stays that ``after`` others follow."""
        if after < self.wide_layers:
            return "narrow"
        return "fp4" if after < self.fp4_wide_layers else ""

    def dtype(self, name: str, math: str, plain: str) -> str:
        """Return the dtype of a product where the others' is ``math``."""
        if math != "fp4":
            return math
        return (
            plain if name in self.fp4_wide else "fp8" if name in self.fp4_fp8 else math
        )
