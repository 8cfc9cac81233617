"""Typed operators with exact FLOP and bytes; a multiply-add counts as two.

Shapes are those of one device: sharding has been applied by the builders. A
shape may also be an array: the operator then stands for one of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Role = Literal[
    "weight", "activation", "kv_cache", "gradient", "optimizer_state", "index"
]
Phase = Literal["forward", "recompute", "backward", "optimizer"]
CollectiveName = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"
]


@dataclass(frozen=True, slots=True)
class Operand:
    """What an operator reads or writes: a role, exact bytes and a dtype."""

    role: Role
    nbytes: float
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operator on one device.

    Attributes
    ----------
    name : str
        Name inside its block, for example ``"qkv"``.
    dtype : str
        Dtype of the arithmetic.
    reads, writes : tuple of Operand
        Traffic of the operator when every operand moves once. [B]
    phase : str
        ``recompute`` is hardware work that model FLOP leave out.
    kernels : int
        Kernels that the host launches for it.
    """

    name: str
    dtype: str
    reads: tuple[Operand, ...] = ()
    writes: tuple[Operand, ...] = ()
    phase: Phase = "forward"
    kernels: int = 1

    @property
    def kind(self) -> str:
        """Name of the operator type, as tables show it."""
        return type(self).__name__.lower()

    @property
    def flop(self) -> float:
        """Arithmetic that the kernel performs. [FLOP]"""
        return 0.0

    @property
    def model_flop(self) -> float:
        """Arithmetic that the model needs, which MFU counts. [FLOP]

        Recomputation, norms and activations count nothing; causal attention
        counts what its mask lets through, so that no MFU exceeds 1.
        """
        return 0.0

    @property
    def full_flop(self) -> float:
        """As ``model_flop``, attention in full, causal or not. [FLOP]

        The convention of PaLM (appendix B) and Megatron.
        """
        return self.model_flop

    @property
    def nbytes_read(self) -> float:
        """Bytes read when every operand moves once. [B]"""
        return sum(o.nbytes for o in self.reads)

    @property
    def nbytes_written(self) -> float:
        """Bytes written. [B]"""
        return sum(o.nbytes for o in self.writes)

    @property
    def nbytes(self) -> float:
        """Bytes read and written. [B]"""
        return self.nbytes_read + self.nbytes_written


@dataclass(frozen=True, slots=True, kw_only=True)
class Matmul(Op):
    """``batch`` products out[m, n] = a[m, k] · b[k, n].

    ``a_bytes``, ``b_bytes`` and ``c_bytes`` are bytes per element;
    ``counts`` says whether model FLOP include it. ``parts`` is how many launches
    share out the rows, one after the other. ``alignment`` is where rows of its
    matrices begin: at multiples of so many bytes, 16 or more being all alike.
    """

    m: float
    n: float
    k: float
    batch: float = 1
    a_bytes: float
    b_bytes: float
    c_bytes: float
    counts: bool = True
    parts: int = 1
    alignment: float = 16.0

    @property
    def flop(self) -> float:
        """2 · batch · m · n · k. [FLOP]"""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def model_flop(self) -> float:
        """As ``flop``, without recomputation. [FLOP]"""
        return 0.0 if self.phase == "recompute" or not self.counts else self.flop


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Op):
    """Fused attention of ``seq_q`` new tokens over ``seq_kv`` (new included).

    Attributes
    ----------
    mode : str
        ``prefill`` (many queries per sequence; training too) or ``decode``.
    heads, kv_heads : int
        On this device.
    v_head_dim : int
        Width of a value row; equals ``head_dim`` but for latent attention.
    window : int
        Sliding window; 0 is none.
    shared_kv : bool
        Keys and values are the same rows (latent attention, absorbed form).
    full_pairs : float
        Query-key pairs of one head and sequence that model FLOP count, where
        an operator stands for a part of the mask; 0: all that it could see.
    """

    mode: Literal["prefill", "decode"]
    batch: float
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    seq_q: float
    seq_kv: float
    causal: bool = True
    window: int = 0
    shared_kv: bool = False
    kv_dtype: str = "bf16"
    full_pairs: float = 0.0

    @property
    def pairs(self) -> float:
        """Query-key pairs of one head and sequence that the mask lets through."""
        q, kv = self.seq_q, self.seq_kv
        if not self.causal:
            return q * kv
        w = self.window
        if not w:
            return q * kv - q * (q - 1) / 2
        # Query i (0-based) sees min(w, kv - q + i + 1) keys.
        growing: float = np.clip(w - (kv - q), 0.0, q)
        return growing * (kv - q) + growing * (growing + 1) / 2 + (q - growing) * w

    def _flop(self, pairs: float) -> float:
        forward = 2.0 * self.batch * self.heads * pairs
        forward *= float(self.head_dim + self.v_head_dim)
        # Backward: five products where forward has two (FlashAttention-2).
        return forward * (2.5 if self.phase == "backward" else 1.0)

    @property
    def flop(self) -> float:
        """Work of the masked kernel; backward recomputes the scores. [FLOP]"""
        return self._flop(self.pairs)

    @property
    def model_flop(self) -> float:
        """Masked attention, backward twice forward, no recomputation. [FLOP]"""
        if self.phase == "recompute":
            return 0.0
        return self.flop * (0.8 if self.phase == "backward" else 1.0)

    @property
    def full_flop(self) -> float:
        """As ``model_flop``, as if there were no causal mask. [FLOP]"""
        if self.phase == "recompute":
            return 0.0
        seen = self.seq_kv if not self.window else np.minimum(self.seq_kv, self.window)
        full = self._flop(self.full_pairs or self.seq_q * seen)
        return full * (0.8 if self.phase == "backward" else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Op):
    """Layer or RMS norm of ``rows`` rows of ``columns`` values."""

    rows: float
    columns: float
    function: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    fused_add: bool = False

    @property
    def flop(self) -> float:
        """Mean, variance, scale and shift, about five per value. [FLOP]"""
        return (6.0 if self.fused_add else 5.0) * self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Op):
    """A function of ``numel`` values, ``flop_per_value`` each."""

    numel: float
    function: str
    flop_per_value: float = 1.0
    singly: float = 0.0  # values that threads take one by one

    @property
    def flop(self) -> float:
        """Values times ``flop_per_value``. [FLOP]"""
        return self.numel * self.flop_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Op):
    """Softmax over ``columns`` of each of ``rows`` rows."""

    rows: float
    columns: float

    @property
    def flop(self) -> float:
        """Maximum, subtract, exponential, sum, divide. [FLOP]"""
        return 5.0 * self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Op):
    """Rows of ``columns`` values looked up for ``tokens`` tokens."""

    tokens: float
    columns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary(Op):
    """Rotation of ``numel`` query and key values."""

    numel: float
    singly: float = 0.0

    @property
    def flop(self) -> float:
        """Three per value. [FLOP]"""
        return 3.0 * self.numel


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeDispatch(Op):
    """Sorting ``tokens`` tokens to the experts they go to."""

    tokens: float
    columns: float
    topk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeExperts(Op):
    """The routed experts' feed-forward on one rank.

    Attributes
    ----------
    tokens, hidden : float, int
        Tokens before dispatch, of all ranks that share the experts; columns.
    ffn : int
        Width of an expert before dividing by ``tp``.
    load : float
        Rows of this rank over the mean; ``tokens`` has it in already.
    passes : float
        Products of each weight matrix: 2 in a whole backward pass.
    exchanged : bool
        With ``ep``: rows of other ranks' experts do not come through here.
    """

    tokens: float
    hidden: int
    ffn: int
    experts: int
    topk: int
    tp: int = 1
    ep: int = 1
    gated: bool = True
    weight_dtype: str = "bf16"
    load: float = 1.0
    passes: float = 1.0
    exchanged: bool = True

    @property
    def matrices(self) -> int:
        """Weight matrices of one expert."""
        return 3 if self.gated else 2

    @property
    def flop(self) -> float:
        """Work of the rank's share of tokens · topk pairs. [FLOP]"""
        pairs = self.tokens * self.topk / self.ep
        work = 2.0 * pairs * self.hidden * self.ffn / self.tp * self.matrices
        return work * self.passes

    @property
    def model_flop(self) -> float:
        """As ``flop``, with even loads and no recomputation. [FLOP]"""
        return 0.0 if self.phase == "recompute" else self.flop / self.load


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeCombine(Op):
    """Weighted sum of the experts' outputs back into token order."""

    tokens: float
    columns: float
    topk: int

    @property
    def flop(self) -> float:
        """One multiply-add per routed value. [FLOP]"""
        return 2.0 * self.tokens * self.columns * self.topk


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Op):
    """A collective among ``group_size`` devices, ``stride`` apart in rank order.

    ``message`` is the whole buffer as nccl-tests counts it. [B] ``fanout`` is
    the number of destinations that an all-to-all draws for each row, where rows
    go once to each rank or node; 0: every copy is sent. ``beside``: another
    microbatch computes meanwhile, and nothing of this one waits.
    ``direct``: an engine's own kernel sums where that is faster. ``within``: the
    products beside it make its sums.
    """

    collective: CollectiveName
    message: float
    group_size: int
    stride: int = 1
    axis: str = "tp"
    fanout: int = 0
    beside: bool = False
    direct: bool = False
    within: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerUpdate(Op):
    """One optimizer step over ``numel`` parameters."""

    numel: float
    optimizer: str
    flop_per_value: float = 12.0

    @property
    def flop(self) -> float:
        """Values times ``flop_per_value``. [FLOP]"""
        return self.numel * self.flop_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(Op):
    """Loss over ``rows`` tokens of ``columns`` logits."""

    rows: float
    columns: float

    @property
    def flop(self) -> float:
        """Softmax and the gathered logarithm. [FLOP]"""
        return 6.0 * self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Op):
    """Bytes moved inside the device or over the host link."""

    path: Literal["device", "host_to_device", "device_to_host"] = "device"
