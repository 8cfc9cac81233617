"""What holds for a whole graph, and what one pass through it sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hwsim.graph.layout import ONE_DEVICE, Layout
from hwsim.graph.lora import Lora
from hwsim.graph.precision import Precision, widened
from hwsim.graph.shard import Shard
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.stack import Fusion, StackSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for a whole graph: model, shard, dtypes, stack, layout.

    Attributes
    ----------
    layout : Layout
        Context and expert parallelism; sizes in ``shard`` and in a
        :class:`Pass` are those of one rank already.
    lora : Lora or None
        Adapters that are trained instead of the model.
    """

    model: ModelSpec
    shard: Shard
    precision: Precision
    stack: StackSpec
    training: bool = False
    sequence_parallel: bool = False
    dropout: bool = False
    accumulate: bool = False
    layout: Layout = ONE_DEVICE
    lora: Lora | None = None

    @property
    def added_apart(self) -> str | None:
        """Dtype of fresh gradients that kernels of their own add to earlier ones."""
        if self.fusion.accumulate:
            return None
        return self.precision.grad if self.precision.autocast else self.precision.act

    def of(self, kind: LayerKind | None) -> Setting:
        """Return what holds in a layer, whose products may be wider in training."""
        if kind is None or not kind.wide or not self.training:
            return self
        return replace(self, precision=widened(self.precision, kind.wide))

    @property
    def fusion(self) -> Fusion:
        """What the stack runs as one kernel."""
        return self.stack.fusion

    @property
    def two_passes(self) -> bool:
        """Whether what is quantised is read twice, first for its largest value.

        Training in fp4 scales blocks and, by that value, the whole tensor [1]_:
        no kernel before can write it quantised.

        References
        ----------
        .. [1] NVIDIA, "Pretraining Large Language Models with NVFP4", 2025,
           arXiv:2509.25149, section 2: a second level of scaling, per tensor.
        """
        return self.training and self.precision.math == "fp4"

    @property
    def rings(self) -> bool:
        """Whether tensor-parallel gathers go round beside products."""
        overlap = self.stack.overlap
        beside = overlap.tp and overlap.ring and not overlap.windows
        return beside and self.sequence_parallel and self.training

    def gathers_ahead(self, zero_stage: int) -> bool:
        """Whether updated parameters are gathered beside the next forward pass."""
        overlap = self.stack.overlap
        return overlap.dp and overlap.parameters and zero_stage in {1, 2}

    def outer(self, tokens: float) -> float:
        """Tokens that one device holds outside the tensor-parallel regions."""
        return tokens / self.shard.tp if self.sequence_parallel else tokens


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass through a stack of layers sees of each sequence.

    Attributes
    ----------
    batch, seq_q, seq_kv : int
        Sequences; new tokens of each, and all tokens that they attend to. They
        may be arrays of points that are alike in ``several`` and ``earlier``.
    cached : bool
        Keys and values are kept (inference of a decoder).
    memory : int
        Encoder tokens that cross attention sees; 0 is none.
    """

    batch: int
    seq_q: int
    seq_kv: int
    mode: Literal["prefill", "decode"] = "prefill"
    causal: bool = True
    cached: bool = False
    memory: int = 0

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return self.batch * self.seq_q

    @property
    def several(self) -> bool:
        """Whether a sequence has more than one new token."""
        return _holds(self.seq_q > 1)

    @property
    def earlier(self) -> bool:
        """Whether new tokens attend to earlier ones."""
        return _holds(self.seq_kv > self.seq_q)


def _holds(known: Any) -> bool:
    return known if isinstance(known, bool) else bool(np.all(known))


def least(a: Any, b: Any) -> Any:
    """Return the smaller of two sizes, which may be arrays."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return min(a, b)
