"""Which values the parts of a layout may take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hwsim.errors import InputError
from hwsim.schedule.pipeline.schedules import pipeline_schedule

RECOMPUTE = ("none", "selective", "operators", "full")
# What is tried unless asked for: few frameworks recompute by operator.
USUAL_RECOMPUTE = ("none", "selective", "full")
DEGREES = ("tp", "cp", "pp", "vpp", "ep", "dp", "micro_batch")


@dataclass(frozen=True)
class Choices:
    """Values that each part of a layout may take; None is every valid one."""

    tp: tuple[int, ...] | None = None
    cp: tuple[int, ...] | None = None
    pp: tuple[int, ...] | None = None
    vpp: tuple[int, ...] | None = None
    ep: tuple[int, ...] | None = None
    dp: tuple[int, ...] | None = None
    micro_batch: tuple[int, ...] | None = None
    zero_stage: tuple[int, ...] | None = None
    dp_shard: tuple[int, ...] | None = None
    recompute: tuple[str, ...] | None = None
    schedule: tuple[str, ...] | None = None
    offload_optimizer: tuple[bool, ...] | None = None
    offload_activations: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, **asked: Any) -> Choices:
        """Return the choices that a caller asked for: values or lists of them."""
        known = {f.name for f in fields(cls)}
        for name in asked:
            if name not in known:
                raise InputError(
                    f"{name} is no part of a layout; choose {', '.join(sorted(known))}"
                )
        return cls(**{k: _several(k, v) for k, v in asked.items()})


def _several(name: str, value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    found = (value,) if isinstance(value, str | int) else tuple(value)
    if not found:
        raise InputError(f"{name} has no values; leave it out to try every valid one")
    for one in found:
        if name in (*DEGREES, "dp_shard") and (
            isinstance(one, bool) or not isinstance(one, int) or one < 1
        ):
            raise InputError(f"{name} is {one!r}; give integers of at least 1")
        if name == "zero_stage" and one not in range(4):
            raise InputError(f"zero_stage is {one!r}; choose 0, 1, 2 or 3")
        if name == "recompute" and one not in RECOMPUTE:
            raise InputError(
                f"recompute {one!r} is unknown; choose {', '.join(RECOMPUTE)}"
            )
        if name == "schedule":
            pipeline_schedule(one)
    return tuple(sorted(set(found)))
