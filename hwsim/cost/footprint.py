"""Bytes that a run keeps in the memory of each device."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwsim.graph.optimizer import master_bytes, optimizer_named
from hwsim.graph.parameters import (
    Parameters,
    device_parameters,
    embedding_parameters,
    layer_parameters,
)
from hwsim.graph.precision import Precision, resolve
from hwsim.graph.shard import Shard, check_count, check_positive, shard
from hwsim.graph.training import (
    MASKED_SHARE,
    check_recompute,
    check_split,
    check_stage,
    uses_dropout,
)
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind, ModelSpec


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one device, by what it holds. [B]

    A part that the run does not have is None; ``activations`` also holds
    what is there for a moment only (logits, gathered parameters).
    """

    weights: float
    activations: float
    kv_cache: float | None = None
    gradients: float | None = None
    optimizer_states: float | None = None

    @property
    def total(self) -> float:
        """All parts together. [B]"""
        return sum(self._parts().values())

    def _parts(self) -> dict[str, float]:
        parts = {
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "gradients": self.gradients,
            "optimizer_states": self.optimizer_states,
            "activations": self.activations,
        }
        return {name: value for name, value in parts.items() if value is not None}

    def to_dict(self) -> dict[str, float]:
        """Return the parts that there are and their total."""
        return {**self._parts(), "total": self.total}


# Inference ------------------------------------------------------------------


def inference_footprint(
    model: ModelSpec,
    *,
    batch: int,
    context: int,
    prompt: int,
    tp: int = 1,
    dtype: str = "bf16",
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    flash: bool = True,
) -> Footprint:
    """Return what serving ``batch`` sequences takes on each device.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    batch, context : int
        Sequences, and the most tokens each has (of the decoder).
    prompt : int
        Tokens of each that are processed at once; in an encoder-decoder
        model those of the encoder. Of a decode step alone, 0.
    tp : int
        Tensor-parallel devices.
    dtype, kv_dtype, weight_dtype : str
        As for ``hwsim.graph.inference.prefill_graph``.
    flash : bool
        Attention is one kernel: scores are never stored.
    """
    check_positive(batch=batch, context=context)
    check_count("prompt", prompt, 0)
    local, precision = shard(model, tp), resolve(dtype, kv_dtype, weight_dtype)
    held = device_parameters(model, local)
    kv = kv_cache_values(model, local, context=context, encoder_context=prompt)
    return Footprint(
        weights=weight_bytes(held, precision),
        kv_cache=batch * kv * DTYPE_BYTES[precision.kv],
        activations=_serving_activations(
            model, local, precision, batch, prompt, flash=flash
        ),
    )


def weight_bytes(held: Parameters, precision: Precision) -> float:
    """Return the bytes of parameters as inference stores them. [B]"""
    return (
        held.linear * DTYPE_BYTES[precision.weight]
        + held.plain * DTYPE_BYTES[precision.table]
    )


def kv_cache_values(
    model: ModelSpec, local: Shard, *, context: int, encoder_context: int = 0
) -> float:
    """Return the numbers that one device caches for one sequence.

    Windowed layers keep their window; latent attention keeps one latent on
    every device; key-value heads fewer than devices are on several.
    """
    if model.kind == "encoder":
        return 0.0
    row = 2.0 * local.kv_heads * model.head_dim
    if model.mla is not None:
        row = float(model.mla.kv_lora_rank + model.mla.qk_rope_head_dim)
    tokens = sum(
        count * (min(context, kind.window) if kind.window else context)
        for kind, count in model.layer_groups()
        if kind.role == "decoder"
    )
    if model.kind == "encoder_decoder":
        tokens += model.layers * encoder_context
    return row * tokens


def _serving_activations(
    model: ModelSpec,
    local: Shard,
    precision: Precision,
    batch: int,
    prompt: int,
    *,
    flash: bool,
) -> float:
    """Return the most that is live at once: the widest operator of a layer."""
    act, tokens = DTYPE_BYTES[precision.act], float(batch * max(prompt, 1))
    heads = local.heads * model.head_dim
    keys = local.kv_heads * model.head_dim
    attention = act * tokens * (2 * heads + 2 * keys)
    if not flash:
        attention += act * tokens * prompt * local.heads * 2
    inner = max(_ffn_values(model, local, kind) for kind, _ in model.layer_groups())
    stream = act * tokens * 2 * model.hidden
    rows = tokens if model.kind == "encoder" else batch
    logits = 4.0 * rows * local.vocab * local.tp if model.output_head else 0.0
    return stream + max(attention, act * tokens * inner, logits)


def _ffn_values(model: ModelSpec, local: Shard, kind: LayerKind) -> float:
    """Return the values per token between a feed-forward block's products."""
    moe = model.moe
    if not kind.moe or moe is None:
        return local.ffn * (3.0 if model.gated_ffn else 2.0)
    entering = 3.0 if moe.gated else 2.0
    routed = moe.experts_per_token * moe.expert_ffn / local.tp
    return entering * (routed + local.shared_ffn)


# Training -------------------------------------------------------------------


def training_footprint(
    model: ModelSpec,
    *,
    micro_batch: int,
    seq: int,
    tp: int = 1,
    dp: int = 1,
    dtype: str = "bf16",
    recompute: str = "none",
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    flash: bool = True,
    grad_dtype: str | None = None,
    decoder_seq: int | None = None,
    dropout: bool | None = None,
) -> Footprint:
    """Return what one training microbatch takes on each device.

    Parameters
    ----------
    model, micro_batch, seq, tp, dp, dtype, recompute, optimizer, zero_stage
        As for ``hwsim.graph.training.training_graph``.
    sequence_parallel : bool
        What lies between tensor-parallel regions is divided as well.
    flash : bool
        Attention is one kernel: scores are never stored.
    grad_dtype, decoder_seq, dropout
        As for ``hwsim.graph.training.training_graph``.

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large
       Transformer Models", 2022, arXiv:2205.05198, section 4.
    .. [2] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 5.
    """
    check_positive(micro_batch=micro_batch, seq=seq, dp=dp)
    check_stage(zero_stage)
    check_recompute(recompute)
    check_split(seq, tp, sequence_parallel)
    if decoder_seq is not None:
        check_count("decoder_seq", decoder_seq, 1)
    local, precision = shard(model, tp), resolve(dtype, grad_dtype=grad_dtype)
    held = device_parameters(model, local)
    run = _Run(
        model, local, precision, micro_batch, seq,
        seq if decoder_seq is None else decoder_seq,
        sequence_parallel and tp > 1, flash or recompute == "selective",
        uses_dropout(model) if dropout is None else dropout,
    )  # fmt: skip
    act, grad = DTYPE_BYTES[precision.act], DTYPE_BYTES[precision.grad]
    state = master_bytes(precision) + optimizer_named(optimizer).state_bytes
    weights = held.total * act
    if precision.quantised:
        weights += held.linear * DTYPE_BYTES[precision.math] * 2
    activations = run.activations(full=recompute == "full")
    if zero_stage == 3 and dp > 1:
        activations += _gathered(model, local) * act
    return Footprint(
        weights=weights / (dp if zero_stage == 3 else 1),
        gradients=held.total * grad / (dp if zero_stage >= 2 else 1),
        optimizer_states=held.total * state / (dp if zero_stage >= 1 else 1),
        activations=activations,
    )


def _gathered(model: ModelSpec, local: Shard) -> float:
    """Return the parameters gathered at one time: a layer and the next."""
    sizes = [layer_parameters(model, local, k).total for k, _ in model.layer_groups()]
    return max(2 * max(sizes), embedding_parameters(model, local).total)


@dataclass(frozen=True, slots=True)
class _Run:
    """What the activations of one microbatch depend on."""

    model: ModelSpec
    local: Shard
    precision: Precision
    batch: int
    seq: int
    decoder_seq: int
    split: bool
    scores_dropped: bool
    dropout: bool

    @property
    def act(self) -> float:
        """Bytes of one stored activation."""
        return DTYPE_BYTES[self.precision.act]

    @property
    def feed(self) -> float:
        """Bytes of one value kept for a linear layer's weight gradient."""
        return DTYPE_BYTES[self.precision.math]

    def outer(self, nbytes: float) -> float:
        """Return one device's share of what lies between parallel regions."""
        return nbytes / self.local.tp if self.split else nbytes

    def activations(self, *, full: bool) -> float:
        """Return all that is kept from forward to backward. [B]"""
        total = widest = 0.0
        for kind, count in self.model.layer_groups():
            seq = self._seq(kind)
            whole = self.layer(kind, seq)
            kept = self.outer(self.act * self.batch * seq * self.model.hidden)
            total += count * (kept if full else whole)
            # Recomputed, one layer's activations live during its backward.
            widest = max(widest, whole if full else 0.0)
        return total + widest + self._ends()

    def _seq(self, kind: LayerKind) -> int:
        both = self.model.kind == "encoder_decoder"
        return self.decoder_seq if both and kind.role == "decoder" else self.seq

    def layer(self, kind: LayerKind, seq: int) -> float:
        """Return what one layer keeps: per token, then the scores. [B]"""
        model, hidden = self.model, self.model.hidden
        tokens = float(self.batch * seq)
        cross = kind.role == "decoder" and model.kind == "encoder_decoder"
        branches = 3 if cross else 2
        norms = model.norms_per_layer + cross
        inputs = 1 if model.parallel_block and model.norms_per_layer < 2 else branches
        outside = self.act * norms + self.feed * inputs + self.dropout * branches
        total = self.outer(tokens * hidden * outside)
        total += self._attention(seq, seq)
        total += tokens * self._feed_forward(kind)
        if cross:
            total += self._attention(seq, self.seq)
        return total

    def _attention(self, seq: int, seen: int) -> float:
        """Return queries, keys, values, output and scores. [B]"""
        model, local = self.model, self.local
        queries = local.heads * model.head_dim
        keys = values = local.kv_heads * model.head_dim
        out, extra = queries, 0.0
        if model.mla is not None:
            values = out = local.heads * model.mla.v_head_dim
            latent = model.mla.kv_lora_rank + (model.mla.q_lora_rank or 0)
            extra = self.act * (latent + model.mla.qk_rope_head_dim)
            extra += self.feed * latent
        total = self.batch * seq * (self.act * queries + self.feed * out + extra)
        total += self.batch * seen * self.act * (keys + values)
        scores = float(self.batch * local.heads * seq * seen)
        if self.scores_dropped:
            return total + 4.0 * self.batch * seq * local.heads
        # Softmax; with dropout also its result and the mask.
        return total + scores * (self.act + self.dropout * (self.act + 1.0))

    def _feed_forward(self, kind: LayerKind) -> float:
        """Return what a feed-forward block keeps of one token. [B]"""
        model, moe = self.model, self.model.moe
        if not kind.moe or moe is None:
            entering = 2 if model.gated_ffn else 1
            return self.local.ffn * (entering * self.act + self.feed)
        entering = 2 if moe.gated else 1
        inner = moe.experts_per_token * moe.expert_ffn / self.local.tp
        inner += self.local.shared_ffn
        rows = moe.experts_per_token * model.hidden * (self.act + self.feed)
        return rows + inner * (entering * self.act + self.feed) + 4.0 * moe.experts

    def _ends(self) -> float:
        """Return embedding, last norm, head input and fp32 logits. [B]"""
        model = self.model
        both = model.kind == "encoder_decoder"
        tokens = float(self.batch * (self.decoder_seq if both else self.seq))
        inputs = tokens + (self.batch * self.seq if both else 0.0)
        total = self.outer(inputs * model.hidden * self.dropout)
        total += self.outer(tokens * model.hidden * self.act * 2)
        rows = tokens
        if model.kind == "encoder":
            rows = float(self.batch * ceil(self.seq * MASKED_SHARE))
        return total + 4.0 * rows * self.local.vocab
