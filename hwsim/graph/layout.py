"""How devices share a run: degrees of each kind of parallelism, and groups.

Devices are numbered tensor-parallel first, then context, data and pipeline
parallel: ``tp`` ranks are adjacent. Expert parallelism re-uses the ranks of
the others: ``ep`` ranks among ``cp * dp`` (or, with ``etp`` 1, among all
``tp * cp * dp``) share out the experts of each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Literal, get_args

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.shard import check_count, check_positive
from hwsim.specs.model import ModelSpec

ContextMode = Literal["ring", "all_to_all", "all_gather"]
ExpertMode = Literal["all_to_all", "gather"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism and how experts and contexts are shared.

    Attributes
    ----------
    tp, cp, dp, pp, ep : int
        Tensor, context, data, pipeline and expert parallel ranks.
    etp : int
        Ranks that split each expert: ``tp`` or 1.
    cp_mode : str
        ``ring`` passes keys and values round; ``all_to_all`` exchanges heads
        for tokens; ``all_gather`` gathers keys and values.
    imbalance : float
        Rows of the busiest expert rank over the mean of all.
    capacity_factor : float or None
        Rows that each expert is padded (or cut) to, over the mean; None:
        every row is processed and nothing is padded.
    expert_mode : str
        ``all_to_all``: rows go to the ranks of their experts and come back;
        ``gather``: every rank sees all tokens, works on the rows of its own
        experts, and partial sums are reduced.
    shards : int
        Ranks of ``cp * dp`` that share states out between them, adjacent ones;
        the rest hold copies (hybrid sharding). 0: all of them share.
    """

    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    cp_mode: ContextMode = "ring"
    imbalance: float = 1.0
    capacity_factor: float | None = None
    expert_mode: ExpertMode = "all_to_all"
    shards: int = 0

    @property
    def sharers(self) -> int:
        """Ranks that share out what ZeRO or FSDP divides, experts apart."""
        return self.shards or self.replicas

    @property
    def expert_sharers(self) -> int:
        """Ranks that share out the same experts' states."""
        if not self.shards:
            return self.expert_replicas
        return max(self.tp * self.shards // (self.etp * self.ep), 1)

    @property
    def replicas(self) -> int:
        """Ranks that hold the same parameters, experts apart."""
        return self.cp * self.dp

    @property
    def whole_experts(self) -> bool:
        """Whether ranks split experts only as they split all else."""
        return self.ep == 1 and self.etp == self.tp

    @property
    def expert_replicas(self) -> int:
        """Ranks that hold the same experts."""
        return self.tp * self.replicas // (self.etp * self.ep)

    @property
    def expert_stride(self) -> int:
        """Distance in rank order between ranks with different experts."""
        return self.etp

    @property
    def stage_stride(self) -> int:
        """Distance in rank order between pipeline stages."""
        return self.tp * self.replicas

    @property
    def load(self) -> float:
        """Rows of the rank that is modelled over the mean."""
        return self.capacity_factor or self.imbalance


ONE_DEVICE = Layout()


def layout_of(
    model: ModelSpec,
    *,
    tp: int = 1,
    cp: int = 1,
    dp: int = 1,
    pp: int = 1,
    ep: int = 1,
    etp: int | None = None,
    cp_mode: str = "ring",
    imbalance: float = 1.0,
    capacity_factor: float | None = None,
    dp_shard: int | None = None,
) -> Layout:
    """Return the checked layout.

    Parameters
    ----------
    dp_shard : int or None
        Data-parallel ranks that share states out between them; the others
        hold copies. None: all share.

    Raises
    ------
    InputError
        If degrees do not fit the model or each other; the nearest that do
        are named.
    UnknownNameError
        If ``cp_mode`` is not known.
    """
    check_positive(tp=tp, cp=cp, dp=dp, pp=pp, ep=ep)
    if cp_mode not in get_args(ContextMode):
        raise UnknownNameError("cp_mode", str(cp_mode), get_args(ContextMode))
    etp = tp if etp is None else etp
    if etp not in {1, tp}:
        raise InputError(f"etp is {etp!r}; use tp, which is {tp}, or 1")
    _check_load("imbalance", imbalance, 1.0)
    if capacity_factor is not None:
        _check_load("capacity_factor", capacity_factor, 0.0)
    found = Layout(
        tp, cp, dp, pp, ep, etp, cp_mode,  # type: ignore[arg-type]
        float(imbalance), capacity_factor, shards=_shards(dp, cp, dp_shard),
    )  # fmt: skip
    _check_experts(model, found)
    _check_heads(model, found)
    return found


def joint_layout(
    model: ModelSpec, *, tp: int = 1, dp: int = 1, ep: int = 1, pp: int = 1
) -> Layout:
    """Return the layout of a serving replica: all its devices hold the experts.

    ``dp`` groups of ``tp`` devices serve requests of their own; their
    ``tp * dp`` devices share the experts out among ``ep``, and the others
    split each expert. Whole experts of several groups are reached by
    all-to-all exchange, in all other layouts every device sees all tokens.

    Raises
    ------
    InputError
        If degrees do not fit the model or each other.
    """
    check_positive(tp=tp, dp=dp, ep=ep, pp=pp)
    moe, ranks = model.moe, tp * dp
    if moe is None and (ep > 1 or dp > 1):
        name, value = ("attention_dp", dp) if dp > 1 else ("ep", ep)
        raise InputError(
            f"{name} is {value} but {model.id} has no experts that ranks could "
            "share; use replicas instead"
        )
    if moe is not None:
        fits = [e for e in range(1, ranks + 1) if not ranks % e]
        fits = [
            e for e in fits
            if not moe.experts % e and not moe.expert_ffn % (ranks // e)
        ]  # fmt: skip
        if ep not in fits:
            near = _closest(fits, ep) or "another tp"
            raise InputError(
                f"ep {ep} does not share the {moe.experts} experts (width "
                f"{moe.expert_ffn}) of {model.id} among tp x attention_dp = {ranks} "
                f"devices; use ep {near}"
            )
    etp = ranks // ep
    mode: ExpertMode = "all_to_all" if dp > 1 and etp == 1 else "gather"
    return Layout(tp=tp, dp=dp, pp=pp, ep=ep, etp=etp, expert_mode=mode)


def _shards(dp: int, cp: int, asked: int | None) -> int:
    if asked is None:
        return 0
    check_positive(dp_shard=asked)
    if dp % asked:
        valid = [n for n in range(1, dp + 1) if not dp % n]
        raise InputError(
            f"dp_shard {asked} does not divide dp {dp}; use dp_shard "
            f"{_closest(valid, asked)}"
        )
    return 0 if asked == dp else asked * cp


def _check_load(name: str, value: float, least: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value < float("inf") or value <= 0.0:
        limit = f"at least {least:g}" if least else "above 0"
        raise InputError(f"{name} is {value!r}; give a number {limit}")


def _check_experts(model: ModelSpec, layout: Layout) -> None:
    ep, moe = layout.ep, model.moe
    if ep == 1:
        return
    if moe is None:
        raise InputError(f"ep is {ep} but {model.id} has no experts; use ep 1")
    ranks = layout.replicas * (layout.tp if layout.etp == 1 else 1)
    valid = [e for e in range(1, moe.experts + 1) if not moe.experts % e]
    valid = [e for e in valid if not ranks % e]
    if ep not in valid:
        why = (
            f"does not divide the {moe.experts} experts of {model.id}"
            if moe.experts % ep
            else f"does not divide the {ranks} ranks that may share experts out"
        )
        raise InputError(f"ep {ep} {why}; use ep {_closest(valid, ep)}")
    inner, spread = layout.tp * layout.shards, layout.etp * ep
    if inner % spread and spread % inner:
        raise InputError(
            f"ep {ep} and the {layout.shards} ranks that share states out "
            "(dp_shard x cp) do not divide each other; use dp_shard that is a "
            "multiple of ep, or divides it"
        )


def _check_heads(model: ModelSpec, layout: Layout) -> None:
    """Exchanging heads for tokens needs heads for every rank."""
    cp, heads = layout.cp, model.heads // layout.tp
    if cp > 1 and model.ssm is not None and model.ssm.step_rank:
        raise InputError(
            f"cp {cp} shares sequences out, which a selective scan (Mamba) takes "
            "whole; use cp 1"
        )
    states = model.ssm.heads // layout.tp if model.ssm else 0
    if states % cp:
        valid = [c for c in range(1, states + 1) if not states % c]
        raise InputError(
            f"cp {cp} does not divide the {states} ssm.heads of each device; "
            f"use cp {_closest(valid, cp)}"
        )
    if cp == 1 or layout.cp_mode != "all_to_all":
        return
    whole = {model.heads_at(kind).kv_heads for kind, _ in model.layer_groups()}
    keys = sorted(max(count // layout.tp, 1) for count in whole)
    kv_heads = keys[0]

    def fits(degree: int) -> bool:
        shared = any(count % degree and degree % count for count in keys)
        return not heads % degree and not shared

    if not fits(cp):
        valid = [c for c in range(1, heads + 1) if fits(c)]
        raise InputError(
            f"cp {cp} with cp_mode all_to_all does not divide the {heads} heads "
            f"({kv_heads} kv_heads) of each device; use cp {_closest(valid, cp)} "
            "or cp_mode ring"
        )


def local_sequence(seq: int, layout: Layout, split: bool) -> int:
    """Return the tokens of a sequence that one context-parallel rank holds.

    Raises
    ------
    InputError
        If the sequence cannot be divided so; the nearest that can is named.
    """
    check_count("seq", seq, 1)
    cp, tp = layout.cp, layout.tp
    unit, why = cp, f"cp {cp}"
    if cp > 1 and layout.cp_mode != "all_to_all":
        # Causal work is level when each rank has an early and a late piece.
        unit, why = 2 * cp, f"2 x cp = {2 * cp}"
    if seq % unit:
        near = max((seq + unit // 2) // unit, 1) * unit
        raise InputError(f"seq {seq} is not a multiple of {why}; use {near}")
    if split and seq // cp % tp:
        whole = lcm(unit, cp * tp)
        part = f"seq {seq}" if cp == 1 else f"seq / cp = {seq // cp}"
        raise InputError(
            f"{part} is not a multiple of tp {tp}, which sequence_parallel needs; "
            f"use seq {max(seq // whole, 1) * whole}"
        )
    return seq // cp


def _closest(valid: list[int], asked: int) -> str:
    return ", ".join(
        map(str, sorted(sorted(valid, key=lambda v: (abs(v - asked), v))[:4]))
    )
