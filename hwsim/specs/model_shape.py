"""The shape of one Transformer: fields, kinds of layer, heads."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from hwsim.specs.base import CatalogSpec, Name
from hwsim.specs.model_parts import (
    PATTERN,
    FullAttentionSpec,
    HeadShape,
    LayerKind,
    MlaSpec,
    MoeSpec,
    NarrowSpec,
    Number,
    Rank,
    Role,
    SsmSpec,
    Wide,
    Width,
)

Layers = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000, strict=True)]
ModelYear = Annotated[int, Field(ge=2017, le=2035, strict=True)]

ModelKind = Literal["decoder", "encoder", "encoder_decoder"]
Activation = Literal["gelu", "relu", "silu", "relu2"]
Position = Literal["learned", "rotary", "relative", "alibi", "sinusoidal", "none"]


class ModelShape(CatalogSpec):
    """Fields of a model, and what follows from them layer by layer.

    Attributes
    ----------
    layers : int
        Decoder layers; encoder layers if ``kind`` is ``encoder``.
    encoder_layers : int
        Encoder layers of an encoder-decoder model, else 0.
    head_dim : int
        Width of one query/key head. ``heads`` and ``kv_heads`` default to
        equal, ``head_dim`` to hidden / heads; with ``mla`` it is the sum of
        its two query/key widths.
    ffn : int
        Inner width of the dense feed-forward block (one of two or, gated,
        three matrices). A model whose layers all have experts still gives
        one; ``moe.expert_ffn`` is what its experts use.
    vocab : int
        Rows of the embedding table as stored, padding included: the rows
        that count as parameters and that the output projection computes.
    embedding_size : int or None
        Width of the token table where it differs from ``hidden`` (a
        projection in and one out then count as well).
    max_context : int or None
        Longest sequence; None if positions set no limit.
    position_rows : int
        Rows of the learned position table (default ``max_context``; some
        models store a few more).
    qk_norm : str or None
        Norm on queries and keys: ``head`` (over each head), ``full`` (over
        all heads together), ``l2`` (without parameters).
    norms_per_layer : int
        Norms of a layer; cross attention adds one to a decoder layer.
    parallel_block : bool
        Attention and feed-forward read the same input and are summed.
    final_norm, embedding_norm : bool
        A norm after the last layer, after the embedding (of each stack).
    output_head : bool
        A projection to the vocabulary follows; its matrix is the embedding
        table if ``tied_embeddings``.
    token_types : int
        Rows of the token-type (segment) table.
    predicted_tokens : int
        Training: next tokens that every position predicts; each one after the
        first is a layer (``layers`` counts it) and one more pass of the head.
    pooler : bool
        A dense layer on the first token's output.
    rotary_scale : float
        Factor on rotated queries and keys (magnitude of YaRN).
    relative_buckets : int
        Rows of the learned relative-position table, one per stack.
    sliding_window : int or None
        Tokens that windowed layers look back over.
    full_attention_every : int
        Layer i ignores the window if (i + 1) is a multiple; 0: none does.
    full_attention_layers : tuple of int
        Layers that ignore the window where there is no such period.
    full_attention : FullAttentionSpec or None
        Heads of layers without a window, where they are others.
    attention_sinks : bool
        One learned sink logit per head.
    pattern : str
        One letter a layer, where layers differ in their branches. With one
        branch each: ``M`` a state space, ``*`` attention, ``-`` feed-forward,
        ``E`` experts; with two: ``m`` a state space, ``a`` attention, both
        before feed-forward or experts. Empty: all layers are ``a``.
    ssm : SsmSpec or None
        The state space of such layers.
    narrow : NarrowSpec or None
        What training in narrow dtypes leaves wider.
    """

    kind: ModelKind
    family: Name
    year: ModelYear | None = None
    layers: Layers
    encoder_layers: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0
    hidden: Width
    heads: Rank
    kv_heads: Rank
    head_dim: Rank
    ffn: Width
    gated_ffn: bool = False
    activation: Activation
    vocab: Width
    embedding_size: Width | None = None
    max_context: Tokens | None = None
    norm: Literal["layernorm", "rmsnorm"]
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    position: Position
    position_rows: Annotated[int, Field(ge=0, le=100_000_000, strict=True)] = 0
    rotary_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    rotary_scale: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    relative_buckets: Number = 0
    tied_embeddings: bool = False
    output_head: bool = True
    head_bias: bool = False
    parallel_block: bool = False
    norms_per_layer: Annotated[int, Field(ge=0, le=8, strict=True)] = 2
    final_norm: bool = True
    embedding_norm: bool = False
    qk_norm: Literal["head", "full", "l2"] | None = None
    token_types: Number = 0
    predicted_tokens: Annotated[int, Field(ge=1, le=16, strict=True)] = 1
    pooler: bool = False
    sliding_window: Tokens | None = None
    full_attention_every: Number = 0
    full_attention_layers: tuple[Number, ...] = ()
    full_attention: FullAttentionSpec | None = None
    attention_sinks: bool = False
    pattern: Annotated[str, Field(max_length=10_000)] = ""
    moe: MoeSpec | None = None
    mla: MlaSpec | None = None
    ssm: SsmSpec | None = None
    narrow: NarrowSpec | None = None

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward block has a gate matrix."""
        return self.gated_ffn

    @property
    def stacks(self) -> int:
        """Stacks of layers: two for an encoder-decoder model."""
        return 2 if self.kind == "encoder_decoder" else 1

    @property
    def embedding_width(self) -> int:
        """Width of the token table."""
        return self.embedding_size or self.hidden

    @cached_property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """Kind of each layer, encoder layers before decoder layers."""
        encoder = (LayerKind(role="encoder"),) * self.encoder_layers
        role: Role = "encoder" if self.kind == "encoder" else "decoder"
        return encoder + tuple(self._kind(i, role) for i in range(self.layers))

    def _kind(self, index: int, role: Role) -> LayerKind:
        mixer, block = PATTERN[self.pattern[index] if self.pattern else "a"]
        moe = block == "moe" or (block == "either" and self._is_moe(index))
        window = self._window(index) if mixer == "attention" else None
        after = self.layers - 1 - index
        wide: Wide = "" if self.narrow is None else self.narrow.width(after)
        return LayerKind(window, moe, role, mixer, bool(block), wide)

    def _window(self, index: int) -> int | None:
        every = self.full_attention_every
        if every and (index + 1) % every == 0:
            return None
        return None if index in self.full_attention_layers else self.sliding_window

    def _is_moe(self, index: int) -> bool:
        moe = self.moe
        if moe is None or index < moe.dense_layers:
            return False
        return (index + 1) % moe.every == 0

    def heads_at(self, kind: LayerKind) -> HeadShape:
        """Return the heads of a layer's attention."""
        wide = self.full_attention
        if wide is None or kind.window is not None or kind.role == "encoder":
            return HeadShape(
                self.heads, self.kv_heads, self.head_dim,
                rotary_fraction=self.rotary_fraction,
            )  # fmt: skip
        return HeadShape(
            self.heads, wide.kv_heads, wide.head_dim, wide.shared_kv,
            wide.rotary_fraction,
        )  # fmt: skip

    def norms_at(self, kind: LayerKind) -> int:
        """Return the norms of a layer, cross attention's apart."""
        norms = self.norms_per_layer
        return norms if kind.branches > 1 else (norms + 1) // 2

    @cached_property
    def _groups(self) -> tuple[tuple[LayerKind, int], ...]:
        return tuple(Counter(self.layer_kinds).items())

    def layer_groups(self) -> tuple[tuple[LayerKind, int], ...]:
        """Return each distinct kind of layer and how many layers are of it.

        Layers of one kind are identical and need not stand side by side;
        kinds come in the order of their first layer.
        """
        return self._groups

    def cached_values(self, kind: LayerKind) -> int:
        """Return the numbers that a layer caches of one token; encoders, none."""
        if kind.role == "encoder" or kind.mixer != "attention":
            return 0
        if self.mla is not None:
            return self.mla.kv_lora_rank + self.mla.qk_rope_head_dim
        return 2 * self.heads_at(kind).keys
