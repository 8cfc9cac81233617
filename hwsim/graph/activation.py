"""Bytes that layers keep from their forward to their backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwsim.graph.setting import Pass, Setting
from hwsim.graph.shard import local_heads
from hwsim.graph.statespace import widths
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind


@dataclass(frozen=True, slots=True)
class Kept:
    """What one microbatch of a setting keeps.

    Sequences are those of one context-parallel rank.

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large
       Transformer Models", 2022, arXiv:2205.05198, section 4.
    """

    setting: Setting
    batch: int
    seq: int
    decoder_seq: int
    flash: bool
    selective: bool

    @classmethod
    def of(
        cls, setting: Setting, passes: Sequence[Pass], *, flash: bool, selective: bool
    ) -> Kept:
        """Return what the passes of a microbatch keep."""
        first, last = passes[0], passes[-1]
        return cls(setting, first.batch, first.seq_q, last.seq_q, flash, selective)

    @property
    def scores_dropped(self) -> bool:
        """Whether scores are made again in backward."""
        return self.flash or self.selective

    @property
    def act(self) -> float:
        """Bytes of one stored activation."""
        return DTYPE_BYTES[self.setting.precision.act]

    @property
    def stream(self) -> float:
        """Bytes of one value of the residual stream."""
        return DTYPE_BYTES[self.setting.precision.stream]

    @property
    def feed(self) -> float:
        """Bytes of one value kept for a linear layer's weight gradient."""
        return DTYPE_BYTES[self.setting.precision.math]

    def layer(
        self, kind: LayerKind, *, full: bool = False, again: bool = True,
        operators: bool = False, modules: frozenset[str] = frozenset(),
    ) -> float:  # fmt: skip
        """Return what one layer keeps; recomputed in full, its input. [B]

        ``again``: recomputation as chosen reaches this layer. ``operators``: only
        its input and the results of products and attention are kept; ``modules``:
        what lies within those is not.
        """
        if kind.wide:
            here = replace(self, setting=self.setting.of(kind))
            plain = replace(kind, wide="")
            return here.layer(
                plain, full=full, again=again, operators=operators, modules=modules
            )
        if self.selective and not again:
            return replace(self, selective=False).layer(kind)
        setting, seq = self.setting, self._seq(kind)
        hidden = setting.model.hidden
        if full:
            return setting.outer(self.stream * self.batch * seq * hidden)
        if operators:
            return self._products(kind, seq)
        dropped = self._inside(kind, seq, modules) if again and modules else 0.0
        return self._whole(kind, seq) - dropped

    def _inside(self, kind: LayerKind, seq: int, modules: frozenset[str]) -> float:
        """Return what a layer need not keep where modules are run again. [B]"""
        setting, model, tokens = self.setting, self.setting.model, self.batch * seq
        total, mla, moe = 0.0, model.mla, model.moe
        if "layernorm" in modules:
            norms = min(model.norms_at(kind), kind.branches)
            total += setting.outer(self.feed * tokens * model.hidden * norms)
        if "mla_up_proj" in modules and mla is not None and kind.mixer == "attention":
            heads = setting.shard.heads
            total += self.act * tokens * heads * (2 * model.head_dim + mla.v_head_dim)
        if not kind.feed:
            return total
        if ("moe" if kind.moe else "mlp") in modules:
            return total + tokens * self._feed_forward(kind)
        if kind.moe and moe is not None:
            pairs = moe.experts_per_token * setting.layout.load
            if "moe_act" in modules:
                width = pairs * moe.expert_ffn / setting.shard.tp
                total += self.feed * tokens * width
            if "shared_experts" in modules:
                entering = 2 if moe.gated else 1
                wide = entering * self.act + self.feed
                total += tokens * setting.shard.shared_ffn * wide
        return total

    def _products(self, kind: LayerKind, seq: int) -> float:
        """Return the layer's input, and what its products and attention give. [B]"""
        setting, model = self.setting, self.setting.model
        tokens = float(self.batch * seq)
        cross = kind.role == "decoder" and model.kind == "encoder_decoder"
        results = self.act * (kind.branches + cross)
        total = setting.outer(tokens * model.hidden * (self.stream + results))
        if kind.mixer == "attention":
            total += self._attention(kind, seq, seq)
        elif kind.mixer == "ssm":
            w = widths(model, setting.shard)
            # Steps of a selective scan come from a product of their own.
            own = w.entering + w.small + w.inner * (2 if w.rank else 1)
            total += tokens * self.act * own
        if kind.feed:
            total += tokens * self._feed_forward(kind, inner=False)
        if cross:
            total += self._attention(kind, seq, self.seq)
        return total

    def _seq(self, kind: LayerKind) -> int:
        both = self.setting.model.kind == "encoder_decoder"
        return self.decoder_seq if both and kind.role == "decoder" else self.seq

    def _whole(self, kind: LayerKind, seq: int) -> float:
        """Return what one layer keeps: per token, then the scores. [B]"""
        setting, model = self.setting, self.setting.model
        tokens = float(self.batch * seq)
        cross = kind.role == "decoder" and model.kind == "encoder_decoder"
        branches = kind.branches + cross
        norms = model.norms_at(kind) + cross
        inputs = 1 if model.parallel_block and model.norms_per_layer < 2 else branches
        outside = self.stream * norms + self.feed * inputs
        outside += setting.dropout * branches
        total = setting.outer(tokens * model.hidden * outside)
        if kind.mixer == "attention":
            total += self._attention(kind, seq, seq)
        elif kind.mixer == "ssm":
            total += tokens * self._state_space()
        if kind.feed:
            total += tokens * self._feed_forward(kind)
        if cross:
            total += self._attention(kind, seq, self.seq)
        return total

    def _state_space(self) -> float:
        """Return what a state-space mixer keeps of one token. [B]

        The projection, the convolution's result, the scan's, and what enters
        the output projection; states are made again.
        """
        w = widths(self.setting.model, self.setting.shard)
        kept = w.entering + w.channels + w.inner + w.small
        steps = 0.0 if w.rank else 4.0 * 2 * w.heads
        return self.act * kept + self.feed * w.inner + steps

    def _attention(self, kind: LayerKind, seq: int, seen: int) -> float:
        """Return queries, keys, values, output and scores. [B]"""
        setting, model = self.setting, self.setting.model
        local, layout = setting.shard, setting.layout
        shape = local_heads(model, local, kind)
        queries, keys = shape.queries, shape.keys
        values = keys
        out, extra = queries, 0.0
        if model.mla is not None:
            values = out = local.heads * model.mla.v_head_dim
            latent = model.mla.kv_lora_rank + (model.mla.q_lora_rank or 0)
            extra = self.act * (latent + model.mla.qk_rope_head_dim)
            extra += self.feed * latent
        total = self.batch * seq * (self.act * queries + self.feed * out + extra)
        total += self.batch * seen * self.act * (keys + values)
        # Each rank's share of the scores is its tokens by all tokens.
        scores = float(self.batch * local.heads * seq * seen) * layout.cp
        if self.scores_dropped:
            return total + 4.0 * self.batch * seq * local.heads
        # Softmax; with dropout also its result and the mask.
        wide = self.stream if setting.precision.autocast else self.act
        return total + scores * (wide + setting.dropout * (self.act + 1.0))

    def _feed_forward(self, kind: LayerKind, *, inner: bool = True) -> float:
        """Return what a feed-forward block keeps of one token. [B]

        ``inner``: what enters the last product too.
        """
        feed = self.feed if inner else 0.0
        setting, model, moe = self.setting, self.setting.model, self.setting.model.moe
        local, layout = setting.shard, setting.layout
        if not kind.moe or moe is None:
            entering = 2 if model.gated_ffn else 1
            if model.gated_ffn and inner and not setting.fusion.activation:
                entering += setting.stack.held.activations
            return local.ffn * (entering * self.act + feed)
        entering = 2 if moe.gated else 1
        pairs = moe.experts_per_token * (1.0 if layout.whole_experts else layout.load)
        # Experts of their own share of the tokens, or all tokens' own share.
        width = pairs * moe.expert_ffn / local.tp + local.shared_ffn
        given = self.act if setting.stack.held.results else 0.0
        rows = pairs * (moe.latent or model.hidden) * (given + self.feed)
        if not layout.whole_experts and (layout.etp == 1 or setting.sequence_parallel):
            rows = setting.outer(rows) if layout.etp > 1 else rows / local.tp
        return rows + width * (entering * self.act + feed) + 4.0 * moe.experts
