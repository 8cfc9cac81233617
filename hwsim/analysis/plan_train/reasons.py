"""Why the best layout wins, by mechanism, and what the runner-up lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.listed import FIELDS
from hwsim.analysis.plan_train.search import Batch, Candidate
from hwsim.analysis.training.memory import host_bytes
from hwsim.analysis.training.train import TrainResult
from hwsim.cost.cost import FloatArray
from hwsim.units import format_quantity

MECHANISMS = {
    "compute": "arithmetic (what is recomputed included)",
    "memory": "memory traffic",
    "interconnect": "communication that nothing hides",
    "overhead": "kernel and step overheads",
    "idle": "waiting (pipeline bubble, host)",
}
_COLUMNS = {"time": "step_s", "energy": "energy_j", "money": "cost_usd",
            "memory": "memory_bytes"}  # fmt: skip


@dataclass(frozen=True)
class Reasons:
    """Reasons in words, and figures of layouts that differ in one choice.

    Attributes
    ----------
    why : tuple of str
        Where the winner's step goes and what it does better than the runner-up.
    lacks : tuple of str
        What the runner-up loses, largest first, and what it is better at.
    changes : list of dict
        For each choice the best layout that makes another one: what it costs.
    """

    why: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    changes: list[dict[str, Any]] = field(default_factory=list)


def reasons(
    played: Sequence[TrainResult],
    candidates: Sequence[Candidate],
    batches: Sequence[Batch],
    objective: str,
) -> Reasons:
    """Return why the first of the simulated layouts wins."""
    best = played[0]
    other = next((r for r in played[1:] if _job(r) != _job(best)), None)
    why = [_spends(best), *_away(best)]
    lacks: list[str] = []
    if other is not None:
        why += _better(best, other)
        lacks = _lacks(best, other)
    changes = one_change(best, candidates, batches, objective)
    why += [_costs(change) for change in _dearest(changes)]
    return Reasons(tuple(why), tuple(lacks), changes)


def _spends(best: TrainResult) -> str:
    total = best.step_s
    parts = sorted(best.parts.items(), key=lambda p: -p[1])
    told = ", ".join(f"{v / total:.1%} {k}" for k, v in parts if v / total >= 0.005)
    return (
        f"the best step takes {best.step_s:.4g} s at {best.mfu:.1%} MFU: {told}; "
        f"{best.memory.sentence()}"
    )


def _away(best: TrainResult) -> list[str]:
    """Say what hosts hold: their memory is not in the specs of all systems."""
    each = host_bytes(best.model, best.stack, best.config)
    if not each:
        return []
    node = each * min(best.system.devices_per_node, best.config.devices)
    where = "hosts" if best.system.offload_to == "host" else "drives"
    return [
        f"{where} must hold {format_quantity(each, 'B')} for each device, "
        f"{format_quantity(node, 'B')} a node: that they can is not checked"
    ]


def _choices(result: TrainResult) -> dict[str, Any]:
    return {name: getattr(result.config, name) for name in FIELDS}


def _job(result: TrainResult) -> Any:
    return result.system.id, result.config.devices, _choices(result)


def _differs(best: TrainResult, other: TrainResult) -> str:
    mine, theirs = _choices(best), _choices(other)
    found = [
        f"{name} {theirs[name]} instead of {mine[name]}"
        for name in FIELDS if mine[name] != theirs[name]
    ]  # fmt: skip
    if best.config.devices != other.config.devices:
        found.insert(0, f"{other.config.devices} devices")
    if best.system.id != other.system.id:
        found.insert(0, other.system.id)
    return ", ".join(found)


def _gaps(best: TrainResult, other: TrainResult) -> list[tuple[str, float]]:
    """Return how much longer the runner-up spends on each part, largest first."""
    gaps = [(name, other.parts[name] - best.parts[name]) for name in MECHANISMS]
    return sorted(gaps, key=lambda gap: -abs(gap[1]))


def _better(best: TrainResult, other: TrainResult) -> list[str]:
    gap = other.step_s - best.step_s
    text = f"{abs(gap) / best.step_s:.2%}"
    if gap < 0:
        return [f"the runner-up is {text} faster but worse in what is asked for"]
    most = next((g for g in _gaps(best, other) if g[1] > 0), None)
    if most is None:
        return [f"it is {text} ahead of the runner-up"]
    return [
        f"it is {text} ahead of the runner-up, mostly by {most[1]:.3g} s less "
        f"{MECHANISMS[most[0]]}"
    ]


def _lacks(best: TrainResult, other: TrainResult) -> list[str]:
    found = [f"the runner-up has {_differs(best, other)}"]
    floor = 1e-4 * best.step_s
    for name, gap in _gaps(best, other):
        if abs(gap) >= floor:
            more = "more" if gap > 0 else "less"
            found.append(f"{abs(gap):.3g} s {more} {MECHANISMS[name]}")
    bubbles = other.bubble_fraction - best.bubble_fraction
    if abs(bubbles) >= 1e-3:
        found.append(
            f"a bubble of {other.bubble_fraction:.1%} where the best has "
            f"{best.bubble_fraction:.1%}"
        )
    memory = other.footprint.total - best.footprint.total
    if abs(memory) >= 1e6:
        more = "more" if memory > 0 else "less"
        found.append(f"{format_quantity(abs(memory), 'B')} {more} memory per device")
    return found


def one_change(
    best: TrainResult,
    candidates: Sequence[Candidate],
    batches: Sequence[Batch],
    objective: str,
) -> list[dict[str, Any]]:
    """Return the best of the layouts that make another choice, for each choice."""
    values = np.concatenate([b.figures[_COLUMNS[objective]] for b in batches])
    least = float(np.nanmin(values))
    found = []
    for name in FIELDS:
        column = np.concatenate([b.space[name] for b in batches])
        for value in np.unique(column).tolist():
            told = _told(name, value, batches)
            if told == getattr(best.config, name):
                continue
            other = float(np.nanmin(values[column == value]))
            found.append(
                {"choice": name, "value": told, "costs": other / least - 1.0}
            )  # fmt: skip
    return found + _elsewhere(best, candidates, batches, values / least)


def _elsewhere(
    best: TrainResult,
    candidates: Sequence[Candidate],
    batches: Sequence[Batch],
    worse: FloatArray,
) -> list[dict[str, Any]]:
    """Return the best on other systems, and of other sizes."""
    which = np.concatenate([np.full(len(b.space), b.candidate) for b in batches])
    found = []
    for name, mine in (("system", best.system.id), ("devices", best.config.devices)):
        of = np.array([_of(candidates[b.candidate], name) for b in batches])
        for value in np.unique(of).tolist():
            if value == mine:
                continue
            at = [i for i, c in enumerate(candidates) if _of(c, name) == value]
            other = float(np.nanmin(worse[np.isin(which, at)]))
            found.append({"choice": name, "value": value, "costs": other - 1.0})
    return found


def _of(candidate: Candidate, name: str) -> Any:
    return candidate.system.id if name == "system" else candidate.devices


def _told(name: str, value: int, batches: Sequence[Batch]) -> Any:
    if name == "schedule":
        return batches[0].space.schedules[value]
    if name == "recompute":
        return RECOMPUTE[value]
    if name == "dp_shard":
        return value or None
    return bool(value) if name.startswith("offload") else value


def _dearest(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each choice, its cheapest alternative; the dearest three."""
    cheapest: dict[str, dict[str, Any]] = {}
    for change in changes:
        had = cheapest.get(change["choice"])
        if had is None or change["costs"] < had["costs"]:
            cheapest[change["choice"]] = change
    told = [c for c in cheapest.values() if c["costs"] > 0.0005]
    return sorted(told, key=lambda c: -c["costs"])[:3]


def _costs(change: dict[str, Any]) -> str:
    return (
        f"any other {change['choice']} costs at least {change['costs']:.1%} "
        f"(with {change['value']})"
    )
