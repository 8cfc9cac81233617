"""How tensor parallelism divides a model among devices."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwsim.errors import InputError
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.model_parts import HeadShape


@dataclass(frozen=True, slots=True)
class Shard:
    """Sizes that one of ``tp`` devices holds.

    ``ssm_heads`` and ``ssm_groups`` are of state-space layers; a group that
    several devices need is on each of them.
    """

    tp: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    shared_ffn: int
    ssm_heads: int = 0
    ssm_groups: int = 0


def local_heads(model: ModelSpec, local: Shard, kind: LayerKind) -> HeadShape:
    """Return the heads of a layer's attention that one device holds."""
    whole = model.heads_at(kind)
    return HeadShape(
        local.heads, max(whole.kv_heads // local.tp, 1), whole.head_dim,
        whole.shared_kv, whole.rotary_fraction,
    )  # fmt: skip


def check_positive(**values: int) -> None:
    """Raise InputError unless every value is an integer of at least 1."""
    for name, value in values.items():
        check_count(name, value, 1)


def check_count(name: str, value: int, least: int) -> None:
    """Raise InputError unless the value is an integer of at least ``least``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(f"{name} is {value!r}; give an integer of at least {least}")


def _fault(model: ModelSpec, tp: int, etp: int) -> str:
    if model.heads % tp:
        return f"the {model.heads} heads"
    for kind, _ in model.layer_groups():
        keys = model.heads_at(kind).kv_heads
        if keys % tp and tp % keys:
            return f"the {keys} kv_heads (nor is it a multiple of them)"
    if model.ssm is not None and model.ssm.heads % tp:
        return f"the {model.ssm.heads} ssm.heads"
    if model.ssm is not None and model.ssm.groups % tp and tp % model.ssm.groups:
        return f"the {model.ssm.groups} ssm.groups (nor is it a multiple of them)"
    dense = any(kind.feed and not kind.moe for kind, _ in model.layer_groups())
    widths = {"ffn": model.ffn} if dense else {}
    if model.moe is not None:
        if etp == tp:
            widths["moe.expert_ffn"] = model.moe.expert_ffn
        widths["moe.shared_ffn"] = model.moe.shared_ffn * model.moe.shared_experts
    for name, width in widths.items():
        if width % tp:
            return f"{name} {width}"
    return ""


def _nearest_degrees(model: ModelSpec, tp: int, etp: int) -> list[int]:
    valid = [t for t in range(1, model.heads + 1) if not _fault(model, t, etp)]
    return sorted(sorted(valid, key=lambda t: (abs(t - tp), t))[:4])


def shard(model: ModelSpec, tp: int, etp: int | None = None) -> Shard:
    """Return what each of ``tp`` devices holds; ``etp`` of them split experts.

    Raises
    ------
    InputError
        If the model cannot be divided so; the nearest degrees that can be
        used are named.
    """
    check_positive(tp=tp)
    etp = tp if etp is None else etp
    fault = _fault(model, tp, etp)
    if fault:
        choices = ", ".join(map(str, _nearest_degrees(model, tp, etp)))
        raise InputError(
            f"tp {tp} does not divide {fault} of {model.id}; use tp {choices}"
        )
    moe, ssm = model.moe, model.ssm
    return Shard(
        tp=tp,
        heads=model.heads // tp,
        kv_heads=max(model.kv_heads // tp, 1),
        ffn=model.ffn // tp,
        vocab=ceil(model.vocab / tp),
        shared_ffn=moe.shared_ffn * moe.shared_experts // tp if moe else 0,
        ssm_heads=ssm.heads // tp if ssm else 0,
        ssm_groups=max(ssm.groups // tp, 1) if ssm else 0,
    )
