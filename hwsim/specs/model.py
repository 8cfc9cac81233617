"""Model specs: the exact architecture of one Transformer, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from hwsim.errors import InputError
from hwsim.specs import parameter_count
from hwsim.specs.base import CatalogSpec, Name
from hwsim.specs.model_parts import (
    LayerKind,
    MlaSpec,
    MoeSpec,
    Number,
    Rank,
    Role,
    Width,
)

__all__ = ["LayerKind", "MlaSpec", "ModelSpec", "MoeSpec"]

Layers = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000, strict=True)]
ModelYear = Annotated[int, Field(ge=2017, le=2035, strict=True)]

ModelKind = Literal["decoder", "encoder", "encoder_decoder"]
Activation = Literal["gelu", "relu", "silu", "relu2"]
Position = Literal["learned", "rotary", "relative", "alibi", "sinusoidal", "none"]


class ModelSpec(CatalogSpec):
    """One Transformer: its shape, and from it the exact parameter count.

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
    pooler : bool
        A dense layer on the first token's output.
    relative_buckets : int
        Rows of the learned relative-position table, one per stack.
    sliding_window : int or None
        Tokens that windowed layers look back over.
    full_attention_every : int
        Layer i ignores the window if (i + 1) is a multiple; 0: none does.
    full_attention_layers : tuple of int
        Layers that ignore the window where there is no such period.
    attention_sinks : bool
        One learned sink logit per head.
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
    pooler: bool = False
    sliding_window: Tokens | None = None
    full_attention_every: Number = 0
    full_attention_layers: tuple[Number, ...] = ()
    attention_sinks: bool = False
    moe: MoeSpec | None = None
    mla: MlaSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        heads, hidden = filled.get("heads"), filled.get("hidden")
        if isinstance(heads, int):
            filled.setdefault("kv_heads", heads)
        if "head_dim" not in filled:
            width = _default_head_dim(hidden, heads, filled.get("mla"))
            if width is not None:
                filled["head_dim"] = width
        if filled.get("position") == "learned" and filled.get("max_context"):
            filled.setdefault("position_rows", filled["max_context"])
        return filled

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        _check_stacks(self)
        _check_attention(self)
        _check_positions(self)
        _check_windows(self)
        return self

    def with_context(self, max_context: int) -> ModelSpec:
        """Return the same architecture built for another longest sequence.

        A table of learned positions gets that many rows (and the rows it
        stores beyond ``max_context``), so the parameter count follows.
        """
        changes = self.model_dump() | {"max_context": max_context}
        if self.position == "learned":
            extra = self.position_rows - (self.max_context or self.position_rows)
            changes["position_rows"] = max_context + extra
        try:
            return ModelSpec.model_validate(changes)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InputError(
                f"model {self.id}: max_context {max_context!r}: {fault['msg']}"
            ) from None

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
        return encoder + tuple(
            LayerKind(self._window(index), self._is_moe(index), role)
            for index in range(self.layers)
        )

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

    @cached_property
    def _groups(self) -> tuple[tuple[LayerKind, int], ...]:
        return tuple(Counter(self.layer_kinds).items())

    def layer_groups(self) -> tuple[tuple[LayerKind, int], ...]:
        """Return each distinct kind of layer and how many layers are of it.

        Layers of one kind are identical and need not stand side by side;
        kinds come in the order of their first layer.
        """
        return self._groups

    @cached_property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return parameter_count.total_parameters(self)

    @cached_property
    def num_active_parameters(self) -> int:
        """Parameters that one token visits: experts not chosen are left out."""
        return parameter_count.total_parameters(self, active=True)

    @cached_property
    def num_embedding_parameters(self) -> int:
        """Rows of the lookup tables (tokens, positions, token types)."""
        return parameter_count.embedding_parameters(self)

    def parameters_per_layer(self, layer_index: int) -> int:
        """Return the parameters of one layer, encoder layers counted first.

        Raises
        ------
        InputError
            If there is no such layer.
        """
        kinds = self.layer_kinds
        if not 0 <= layer_index < len(kinds):
            raise InputError(
                f"model {self.id} has no layer {layer_index}; "
                f"layers are 0 to {len(kinds) - 1}"
            )
        return parameter_count.layer_parameters(self, kinds[layer_index])

    @property
    def kv_cache_values_per_token_per_layer(self) -> int:
        """Numbers that one decoder layer caches per token; encoders, none."""
        if self.kind == "encoder":
            return 0
        if self.mla is not None:
            return self.mla.kv_lora_rank + self.mla.qk_rope_head_dim
        return 2 * self.kv_heads * self.head_dim


def _default_head_dim(hidden: object, heads: object, mla: object) -> int | None:
    if isinstance(mla, MlaSpec):
        mla = mla.model_dump()
    if isinstance(mla, Mapping):
        widths = (mla.get("qk_nope_head_dim"), mla.get("qk_rope_head_dim"))
        return sum(w for w in widths if isinstance(w, int)) or None
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return None
    if hidden % heads:
        raise ValueError(
            f"hidden ({hidden}) is not a multiple of heads ({heads}); give head_dim"
        )
    return hidden // heads


def _check_stacks(model: ModelSpec) -> None:
    both = model.kind == "encoder_decoder"
    if both != (model.encoder_layers > 0):
        raise ValueError(
            f"encoder_layers is {model.encoder_layers} in a model of kind "
            f"{model.kind}; only (and every) encoder_decoder has encoder layers "
            "beside its layers"
        )
    if both and model.moe is not None:
        raise ValueError("moe in an encoder_decoder model is not supported")
    if model.moe is not None and model.moe.dense_layers > model.layers:
        raise ValueError(
            f"moe.dense_layers is {model.moe.dense_layers} but there are only "
            f"{model.layers} layers"
        )
    if model.head_bias and not model.output_head:
        raise ValueError("head_bias is set but output_head is false")


def _check_attention(model: ModelSpec) -> None:
    if model.heads % model.kv_heads:
        raise ValueError(
            f"heads ({model.heads}) is not a multiple of kv_heads "
            f"({model.kv_heads}); each key/value head serves the same number of heads"
        )
    mla = model.mla
    if mla is None:
        return
    width = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    if model.head_dim != width or model.kv_heads != model.heads:
        raise ValueError(
            f"with mla, head_dim must be {width} (qk_nope_head_dim + "
            f"qk_rope_head_dim) and kv_heads {model.heads} (heads); they are "
            f"{model.head_dim} and {model.kv_heads}"
        )
    if model.attention_sinks or model.qk_norm is not None:
        raise ValueError("mla with attention_sinks or qk_norm is not supported")


def _check_positions(model: ModelSpec) -> None:
    learned = model.position == "learned"
    if learned != (model.position_rows > 0):
        raise ValueError(
            f"position is {model.position!r} and position_rows is "
            f"{model.position_rows}; a learned table needs max_context or "
            "position_rows, others have none"
        )
    if learned and (model.max_context or 0) > model.position_rows:
        raise ValueError(
            f"max_context is {model.max_context} but the learned table has only "
            f"{model.position_rows} position_rows"
        )
    if (model.position == "relative") != (model.relative_buckets > 0):
        raise ValueError(
            f"position is {model.position!r} and relative_buckets is "
            f"{model.relative_buckets}; relative positions need buckets, "
            "others have none"
        )


def _check_windows(model: ModelSpec) -> None:
    patterned = model.full_attention_every or model.full_attention_layers
    if patterned and model.sliding_window is None:
        raise ValueError("a full-attention pattern is given but no sliding_window")
    if any(index >= model.layers for index in model.full_attention_layers):
        raise ValueError(
            f"full_attention_layers names layer {max(model.full_attention_layers)} "
            f"but there are only {model.layers} layers"
        )
