"""Which layers each pipeline stage holds, and what stages send each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from hwsim.errors import InputError
from hwsim.graph.precision import resolve
from hwsim.graph.shard import check_count, check_positive
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.parameter_count import layer_parameters

Balance = Literal["even", "flop"]


def layers_per_stage(
    model: ModelSpec,
    pp: int,
    vpp: int = 1,
    *,
    counts: Sequence[int] | None = None,
    balance: Balance = "even",
    seq: int = 0,
) -> list[range]:
    """Return the layers of each of ``pp * vpp`` parts, in pipeline order.

    Part i runs on device i % pp. Encoder layers come before decoder layers.
    The embedding and the head count as layers where there are more parts than
    layers: they then stand alone, the head first.

    Parameters
    ----------
    pp, vpp : int
        Pipeline stages, and parts that each one holds.
    counts : sequence of int or None
        Layers of each part, if they are given; the first and the last may
        have none.
    balance : str
        ``even``: as many layers in each part; where that does not come out
        even, work decides. ``flop``: work always decides. The embedding is
        then no work, the head (and its loss) as much as its product.
    seq : int
        Tokens of a sequence, which attention's share of the work grows with.

    Raises
    ------
    InputError
        If there are more parts than layers (embedding and head counted), or
        ``counts`` do not add up.
    """
    check_positive(pp=pp, vpp=vpp)
    layers, parts = len(model.layer_kinds), pp * vpp
    if counts is not None:
        return _ranges(_checked_counts(model, counts, pp, vpp))
    if parts > layers + 2:
        raise InputError(_too_many(model, pp, vpp, layers + 2))
    if parts > layers:
        empty_first = parts - layers - 1
        return _ranges([0] * empty_first + [1] * layers + [0])
    if balance not in {"even", "flop"}:
        raise InputError(f"balance is {balance!r}; use even or flop")
    if balance == "even" and layers % parts == 0:
        return _ranges([layers // parts] * parts)
    return _ranges(_balanced(_work(model, seq), _head_work(model), parts))


def even_parts(layers: int, pp: int, vpp: int) -> bool:
    """Whether interleaved parts are alike, the embedding and the head counted or not.

    A pipeline of one part each may be uneven.
    """
    parts = pp * vpp
    return 1 in {pp, vpp} or any((layers + more) % parts == 0 for more in (0, 1, 2))


def check_interleaving(model: ModelSpec, pp: int, vpp: int) -> None:
    """Refuse interleaved parts that cannot be alike.

    Raises
    ------
    InputError
        If they cannot; the message has the nearest ``vpp`` that can.
    """
    layers = len(model.layer_kinds)
    if pp * vpp > layers + 2 or even_parts(layers, pp, vpp):
        return
    valid = [v for v in range(2, layers // pp + 1) if even_parts(layers, pp, v)]
    near = min(valid or [1], key=lambda v: (abs(v - vpp), v))
    raise InputError(
        f"pp {pp} x vpp {vpp} = {pp * vpp} parts do not divide the {layers} layers of "
        f"{model.id}, nor these with the embedding and the head; use vpp {near}, or "
        "say the layers of each part (stage_layers)"
    )


def _too_many(model: ModelSpec, pp: int, vpp: int, layers: int) -> str:
    if vpp == 1:
        return (
            f"pp {pp} is more than the {layers} layers of {model.id}, embedding and "
            f"head counted; use at most pp {layers}"
        )
    nearest = f"vpp {layers // pp}" if pp <= layers else f"pp {layers} and vpp 1"
    return (
        f"pp {pp} x vpp {vpp} = {pp * vpp} parts are more than the {layers} "
        f"layers of {model.id}, embedding and head counted; use at most {nearest}"
    )


def _checked_counts(
    model: ModelSpec, counts: Sequence[int], pp: int, vpp: int
) -> Sequence[int]:
    layers = len(model.layer_kinds)
    if len(counts) != pp * vpp:
        raise InputError(
            f"{len(counts)} layer counts are given for {pp * vpp} parts; "
            "give one for each"
        )
    for index, count in enumerate(counts):
        least = 0 if index in {0, len(counts) - 1} and len(counts) > 1 else 1
        check_count(f"layers of part {index + 1}", count, least)
    if sum(counts) != layers:
        raise InputError(
            f"the layers of all parts are {sum(counts)}, but {model.id} has "
            f"{layers}; make the last part {counts[-1] + layers - sum(counts)}"
            if counts[-1] + layers - sum(counts) > 0
            else f"the layers of all parts are {sum(counts)}, but {model.id} has "
            f"{layers}; give fewer to each"
        )
    return counts


def _ranges(counts: Sequence[int]) -> list[range]:
    ends = list(accumulate(counts))
    return [range(end - n, end) for end, n in zip(ends, counts, strict=True)]


def _work(model: ModelSpec, seq: int) -> list[float]:
    """Return work of one token in each layer, in multiply-adds."""
    of_kind = {kind: layer_work(model, kind, seq) for kind, _ in model.layer_groups()}
    return [of_kind[kind] for kind in model.layer_kinds]


def layer_work(model: ModelSpec, kind: LayerKind, seq: int) -> float:
    """Return the multiply-adds of one token in a layer, forward.

    Parameters
    ----------
    seq : int
        Tokens of a sequence, which attention's share grows with.
    """
    work = float(layer_parameters(model, kind, active=True))
    if kind.mixer == "ssm" and model.ssm is not None:
        return work + 2.0 * model.ssm.inner * model.ssm.state
    if kind.mixer == "none":
        return work
    seen = seq / 2 if model.kind == "decoder" else float(seq)
    keys = min(seen, kind.window) if kind.window else seen
    return work + 2.0 * model.heads_at(kind).queries * keys


def _head_work(model: ModelSpec) -> float:
    return float(model.vocab * model.embedding_width * model.output_head)


def _balanced(work: list[float], head: float, parts: int) -> list[int]:
    """Return counts whose heaviest part is lightest; late parts get fewer.

    Dynamic programming over (parts, layers): ``best[n]`` is the least weight
    of the heaviest of the parts so far, which hold the first n layers.
    """
    layers = len(work)
    before = [0.0, *accumulate(work)]
    best: list[float] = [0.0] + [float("inf")] * layers
    cuts: list[list[int]] = []
    for part in range(parts):
        after, cut = [float("inf")] * (layers + 1), [0] * (layers + 1)
        extra = head if part == parts - 1 else 0.0
        left = parts - part - 1
        for end in range(part + 1, layers - left + 1):
            for start in range(part, end):
                weight = max(best[start], before[end] - before[start] + extra)
                if weight < after[end]:
                    after[end], cut[end] = weight, start
        best = after
        cuts.append(cut)
    counts, end = [], layers
    for cut in reversed(cuts):
        counts.append(end - cut[end])
        end = cut[end]
    return counts[::-1]


def activation_message(
    model: ModelSpec,
    micro_batch: int,
    seq: int,
    tp: int = 1,
    sequence_parallel: bool = False,
    dtype: str = "bf16",
    *,
    cp: int = 1,
    autocast: bool = False,
    boundary: int | None = None,
    decoder_seq: int | None = None,
) -> float:
    """Return the bytes that one device sends to the next stage. [B]

    Its gradient, sent back, has as many.

    Parameters
    ----------
    autocast : bool
        The stack keeps the residual stream in fp32.
    boundary : int or None
        Encoder-decoder models: the first layer of the next stage. Within the
        decoder the encoder's output goes along.
    """
    check_positive(micro_batch=micro_batch, seq=seq, tp=tp, cp=cp)
    nbytes = DTYPE_BYTES[resolve(dtype, autocast=autocast).stream]
    tokens = float(seq)
    if model.kind == "encoder_decoder" and boundary is not None:
        target = seq if decoder_seq is None else decoder_seq
        inside = boundary > model.encoder_layers
        tokens = float(seq + target if inside else seq)
    shared = cp * (tp if sequence_parallel else 1)
    return micro_batch * tokens * model.hidden * nbytes / shared
