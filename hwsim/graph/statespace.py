"""State-space mixer (Mamba-2): projections, convolution, scan, gated norm."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.graph.op import Elementwise, Operand
from hwsim.graph.scan import SelectiveScan, StateScan
from hwsim.graph.setting import Pass, least
from hwsim.graph.shard import Shard
from hwsim.graph.writer import Writer
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import ModelSpec, SsmSpec

STATE_DTYPE = "fp32"  # what the state is kept in, between chunks and in the cache


@dataclass(frozen=True, slots=True)
class Widths:
    """Sizes of a state-space layer on one device.

    Attributes
    ----------
    shared : int
        What is written to and read from the state of one token.
    """

    heads: int
    head_dim: int
    groups: int
    state: int
    rank: int = 0  # of the steps of a selective scan

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def shared(self) -> int:
        """Values of one token that its groups' heads share."""
        return 2 * self.groups * self.state

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return self.inner if self.rank else self.inner + self.shared

    @property
    def entering(self) -> int:
        """Columns of the projection in: gate, channels, steps."""
        steps = 0 if self.rank else self.heads
        return self.inner + self.channels + steps

    @property
    def small(self) -> int:
        """What a second projection makes of one token: steps, in and out."""
        return self.rank + self.shared if self.rank else 0

    @property
    def values(self) -> int:
        """Values of one sequence's state."""
        return self.inner * self.state


def widths(model: ModelSpec, local: Shard, cp: int = 1) -> Widths:
    """Return the sizes on one device, of ``cp`` that share a device's heads."""
    ssm = _spec(model)
    groups = max(local.ssm_groups // cp, 1)
    return Widths(local.ssm_heads // cp, ssm.head_dim, groups, ssm.state, ssm.step_rank)


def state_bytes(model: ModelSpec, local: Shard, act: str) -> float:
    """Return what one sequence keeps for a layer between steps. [B]

    The state, and the last inputs of the convolution in the activations' dtype.
    """
    ssm, w = _spec(model), widths(model, local)
    held = w.values * DTYPE_BYTES[STATE_DTYPE]
    return held + w.channels * (ssm.conv - 1) * DTYPE_BYTES[act]


def _spec(model: ModelSpec) -> SsmSpec:
    if model.ssm is None:
        raise TypeError(f"model {model.id} has no state space")
    return model.ssm


def state_space(w: Writer, x: int, p: Pass) -> int:
    """Append a state-space mixer up to the output projection's partial sums.

    Context-parallel ranks exchange tokens for heads before the convolution
    and back after the scan, which needs whole sequences.

    References
    ----------
    .. [1] T. Dao and A. Gu, "Transformers are SSMs", 2024, arXiv:2405.21060,
       sections 6 and 7.
    """
    model, ssm, setting = w.setting.model, _spec(w.setting.model), w.setting
    whole = widths(model, setting.shard)
    if ssm.step_rank:
        return _selective(w, x, p, ssm, whole)
    x = w.enter(x, "ssm_gather", p.tokens)
    y = w.linear(
        "ssm_in", x, p.tokens, whole.entering, model.hidden, bias=ssm.proj_bias,
        sliced=True,
    )  # fmt: skip
    cp = setting.layout.cp if setting.training else 1
    seen = p
    if cp > 1:
        y = _exchange(w, "ssm_scatter", y, 1.0 * p.tokens * whole.entering)
        seen = Pass(p.batch, p.seq_q * cp, p.seq_kv * cp, p.mode)
    mine = widths(model, setting.shard, cp)
    y = _reordered(w, "ssm_order", y, seen, mine.entering)
    c = _convolution(w, y, seen, ssm, mine)
    scanned = _scan(w, c, seen, ssm, mine)
    scanned = _reordered(w, "ssm_reorder", scanned, seen, mine.inner)
    if cp > 1:
        scanned = _exchange(w, "ssm_return", scanned, 1.0 * p.tokens * whole.inner)
    numel = 1.0 * p.tokens * whole.inner
    out = w.elementwise(
        "ssm_gated_norm", "gated_norm", (scanned, y), numel=numel, reads=2 * numel,
        writes=numel, weights=whole.inner, flop_per_value=10.0, to_linear=True,
    )  # fmt: skip
    return w.linear(
        "ssm_out", out, p.tokens, model.hidden, whole.inner, bias=ssm.proj_bias
    )


def _selective(w: Writer, x: int, p: Pass, ssm: SsmSpec, mine: Widths) -> int:
    """Append a mixer with a selective scan.

    Steps and what goes in and out of the states come from a projection of the
    convolution's result; tensor-parallel devices sum up their parts of it.
    """
    hidden, tokens = w.setting.model.hidden, p.tokens
    x = w.enter(x, "ssm_gather", tokens)
    y = w.linear(
        "ssm_in", x, tokens, mine.entering, hidden, bias=ssm.proj_bias, sliced=True
    )
    c = _convolution(w, y, p, ssm, mine)
    small = w.linear("ssm_select", c, tokens, mine.small, mine.inner)
    if w.setting.shard.tp > 1:
        numel = 1.0 * tokens * mine.small
        nbytes = numel * w.act_bytes
        small = w.collective(
            "ssm_select_reduce", "all_reduce", (small,), nbytes, "enter", numel
        )
    steps = w.linear("ssm_steps", small, tokens, mine.inner, mine.rank, bias=True)
    scanned = _selective_scan(w, (c, y, steps), p, mine)
    return w.linear("ssm_out", scanned, tokens, hidden, mine.inner, bias=ssm.proj_bias)


def _selective_scan(w: Writer, inputs: tuple[int, ...], p: Pass, mine: Widths) -> int:
    """Append the scan with its gate, or one step of the recurrence."""
    numel = 1.0 * p.tokens * mine.inner
    kept = Operand(
        "kv_cache", 1.0 * p.batch * mine.values * DTYPE_BYTES[STATE_DTYPE], STATE_DTYPE
    )
    weights = float((mine.state + 2) * mine.inner)
    reads = (w.act(3.0 * numel), w.act(1.0 * p.tokens * mine.shared),
             w.parameters(weights), *_from_cache(p, kept))  # fmt: skip
    writes = (w.act(numel), *((kept,) if p.cached else ()))
    if p.mode == "decode":
        step = Elementwise(
            name="ssm_step", dtype=w.setting.precision.vector,
            numel=1.0 * p.batch * mine.values, function="state_step",
            flop_per_value=9.0, reads=reads, writes=writes,
        )  # fmt: skip
        return w.put(step, inputs, "none", numel=numel)
    op = SelectiveScan(
        name="ssm_scan", dtype=w.setting.precision.vector, tokens=1.0 * p.tokens,
        channels=mine.inner, state=mine.state, reads=reads, writes=writes,
    )  # fmt: skip
    return w.put(op, inputs, "scan", numel=numel, extra={"weights": weights})


def _reordered(w: Writer, name: str, x: int, p: Pass, width: int) -> int:
    """Append the copy of values from tokens first to sequences first, or back."""
    if not (w.setting.training and w.setting.fusion.tokens_first and p.batch > 1):
        return x
    numel = 1.0 * p.tokens * width
    op = Elementwise(
        name=name, dtype=w.setting.precision.vector, numel=numel, function="copy",
        flop_per_value=0.0, reads=(w.act(numel),), writes=(w.act(numel),),
        singly=numel,
    )  # fmt: skip
    return w.put(op, (x,), "scale", numel=numel)


def _exchange(w: Writer, name: str, x: int, numel: float) -> int:
    nbytes = numel * w.act_bytes
    return w.among("cp", name, "all_to_all", (x,), nbytes, "exchange", numel)


def _convolution(w: Writer, x: int, p: Pass, ssm: SsmSpec, mine: Widths) -> int:
    """Append the depthwise convolution with its activation.

    Between steps the last inputs are kept.
    """
    numel = 1.0 * p.tokens * mine.channels
    weights = mine.channels * (ssm.conv + ssm.conv_bias)
    flop = 2.0 * ssm.conv + 5.0
    kept = Operand(
        "kv_cache", p.batch * mine.channels * (ssm.conv - 1) * w.act_bytes,
        w.setting.precision.act,
    )  # fmt: skip
    op = Elementwise(
        name="ssm_conv", dtype=w.setting.precision.vector, numel=numel,
        function="conv", flop_per_value=flop,
        reads=(w.act(numel), w.parameters(weights), *_from_cache(p, kept)),
        writes=(w.act(numel), *((kept,) if p.cached else ())),
    )  # fmt: skip
    extra = {"reads": numel, "weights": float(weights)}
    return w.put(op, (x,), "function", numel=numel, extra=extra)


def _from_cache(p: Pass, kept: Operand) -> tuple[Operand, ...]:
    """Return what a pass that goes on from earlier tokens reads."""
    return (kept,) if p.cached and p.earlier else ()


def _scan(w: Writer, x: int, p: Pass, ssm: SsmSpec, mine: Widths) -> int:
    """Append the scan over a sequence, or one step of the recurrence."""
    numel = 1.0 * p.tokens * mine.inner
    entering = w.act(p.tokens * (mine.channels + mine.heads))
    state = w.held(1.0 * p.batch * mine.values, STATE_DTYPE)
    kept = Operand("kv_cache", state.nbytes, STATE_DTYPE)
    small = w.parameters(3 * mine.heads)
    if p.mode == "decode":
        step = Elementwise(
            name="ssm_step", dtype=w.setting.precision.vector,
            numel=1.0 * p.batch * mine.values, function="state_step",
            flop_per_value=7.0, reads=(entering, small, *_from_cache(p, kept)),
            writes=(w.act(numel), kept),
        )  # fmt: skip
        return w.put(step, (x,), "none", numel=numel)
    chunk = 1.0 * least(ssm.chunk, p.seq_q)
    reads, writes = _scan_traffic(w, p, mine, chunk, (small, kept))
    op = StateScan(
        name="ssm_scan", dtype=w.plain_math, tokens=1.0 * p.tokens,
        heads=mine.heads, head_dim=mine.head_dim, groups=mine.groups,
        state=mine.state, chunk=chunk,
        reads=reads, writes=writes, kernels=5,
    )  # fmt: skip
    return w.put(op, (x,), "scan", numel=numel, extra={"weights": 3.0 * mine.heads})


def _scan_traffic(
    w: Writer, p: Pass, mine: Widths, chunk: float, ends: tuple[Operand, Operand]
) -> tuple[tuple[Operand, ...], tuple[Operand, ...]]:
    """Return what the five kernels of a scan read and write.

    Steps summed up; the state of each chunk made (fp32), passed on and stored
    (narrow); scores of each group (fp32); the result from values, scores and
    states. Values are read twice, as is what goes into the state.
    """
    small, kept = ends
    tokens, act = 1.0 * p.tokens, w.act
    states = tokens / chunk * mine.values
    scores = w.held(tokens * mine.groups * chunk, STATE_DTYPE)
    steps = w.held(2 * tokens * mine.heads, STATE_DTYPE)
    reads = [
        act(tokens * (2 * mine.channels + mine.heads)), steps,
        w.held(states, STATE_DTYPE), act(states), scores, small,
    ]  # fmt: skip
    writes = [
        act(tokens * mine.inner), steps, w.held(states, STATE_DTYPE), act(states),
        scores,
    ]  # fmt: skip
    reads += _from_cache(p, kept)
    writes += [kept] if p.cached else []
    return tuple(reads), tuple(writes)
