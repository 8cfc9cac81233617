"""What a simulation leaves behind: a timeline of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Record(NamedTuple):
    """One operator on one rank's stream, from start to end. [s]"""

    rank: int
    stream: str
    block: str
    instance: int
    name: str
    kind: str
    phase: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class PlayedGraph:
    """A played graph.

    Attributes
    ----------
    records : tuple of Record
        The timeline, rank by rank in program order.
    makespan : float
        End of the last record. [s]
    compute_busy, exposed_comm_time, idle : float
        How rank 0's compute stream spent the time up to its end. [s]
    ranks : int
        Devices played; one stands for all where they are alike.
    contended : bool
        Whether any two transfers shared a link.
    """

    records: tuple[Record, ...]
    makespan: float
    compute_busy: float
    exposed_comm_time: float
    idle: float
    ranks: int
    contended: bool
