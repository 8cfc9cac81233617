"""What a service does when it is crowded, when replicas fail, and when load changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hwsim.errors import InputError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Operations:
    """Rules at the door and in the fleet; none by default.

    Attributes
    ----------
    timeout : float or None
        Clients give up when there is no last token by then. [s]
    max_queue : int or None
        Requests that wait at a replica; more are turned away.
    mtbf, repair : float or None, float
        Mean time between failures of a replica, exponential; how long one is
        away then. [s]
    max_retries : int
        How often a request whose replica fails begins anew.
    min_replicas : int or None
        Autoscaling between so many and all replicas.
    target : int
        Requests per replica that autoscaling aims at.
    startup : float
        From the decision to start a replica until it takes requests. [s]
    interval : float
        Between decisions. [s]
    """

    timeout: float | None = None
    max_queue: int | None = None
    mtbf: float | None = None
    repair: float = 300.0
    max_retries: int = 3
    min_replicas: int | None = None
    target: int = 32
    startup: float = 60.0
    interval: float = 15.0

    @property
    def any(self) -> bool:
        """Whether any rule holds."""
        rules = (self.timeout, self.max_queue, self.mtbf, self.min_replicas)
        return any(rule is not None for rule in rules)

    @property
    def availability(self) -> float:
        """Share of the time that a replica is up. [1]"""
        return 1.0 if self.mtbf is None else self.mtbf / (self.mtbf + self.repair)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_COUNTS = {"max_queue": 0, "max_retries": 0, "min_replicas": 1, "target": 1}


def operations_of(asked: Mapping[str, Any] | None) -> Operations:
    """Return checked rules from names and values.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown or a value cannot be.
    """
    known = {f.name for f in fields(Operations)}
    given = {name: v for name, v in (asked or {}).items() if v is not None}
    for name, value in given.items():
        if name not in known:
            raise UnknownNameError("operation", name, sorted(known))
        if name in _COUNTS:
            _check_count(name, value, _COUNTS[name])
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name} is {value!r}; give seconds")
        elif not 0.0 < value < math.inf and (name != "startup" or value):
            raise InputError(f"{name} is {value}; give seconds above 0")
    return Operations(**given)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number from {least} on")
