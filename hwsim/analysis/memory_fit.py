"""Whether work fits in memory, by how much, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hwsim.errors import HwsimError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.stack import StackSpec
from hwsim.units import format_quantity


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """Memory of one device: needed against usable. [B]

    Attributes
    ----------
    needed : float
        All of the footprint. [B]
    usable : float
        Capacity less what the stack reserves (context, workspace, pool). [B]
    remedies : tuple of str
        Changes that would make it fit; empty when it fits.
    """

    needed: float
    capacity: float
    usable: float
    remedies: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the footprint is within the usable memory."""
        return self.needed <= self.usable

    @property
    def missing(self) -> float:
        """By how much it does not fit. [B]"""
        return max(0.0, self.needed - self.usable)

    def sentence(self) -> str:
        """Say whether it fits, by how much, and what would help."""
        need = format_quantity(self.needed, "B")
        usable = format_quantity(self.usable, "B")
        if self.fits:
            spare = format_quantity(self.usable - self.needed, "B")
            return f"fits: needs {need} of {usable} usable per device, {spare} spare"
        text = (
            f"does not fit: needs {need} per device, {usable} are usable, "
            f"{format_quantity(self.missing, 'B')} too much"
        )
        if self.remedies:
            return f"{text}; would fit with {' or '.join(self.remedies)}"
        return f"{text}; no change that was tried makes it fit"


def memory_fit(
    needed: float,
    device: DeviceSpec,
    stack: StackSpec,
    changes: Iterable[tuple[str, Callable[[], float]]],
    together: Iterable[tuple[str, Callable[[], float]]] = (),
) -> MemoryFit:
    """Compare a footprint with a device's memory, trying changes if too large.

    Parameters
    ----------
    needed : float
        Footprint on one device. [B]
    changes : iterable of (str, callable)
        What could be changed, and the footprint after it, tried in order; a
        change that is not possible raises :class:`HwsimError`.
    together : iterable of (str, callable)
        Several changes at once, tried where no single one is enough; the
        first that fits is told.
    """
    capacity = device.main_memory.size
    usable = capacity * (1.0 - stack.memory_reserve)
    if needed <= usable:
        return MemoryFit(needed, capacity, usable)
    remedies = list(_fitting(changes, usable))
    if not remedies:
        remedies = list(_fitting(together, usable))[:1]
    return MemoryFit(needed, capacity, usable, tuple(remedies))


def _fitting(
    changes: Iterable[tuple[str, Callable[[], float]]], usable: float
) -> Iterator[str]:
    """Yield the first change of each sort that fits."""
    seen: set[str] = set()
    for label, footprint in changes:
        sort = label.split()[0]
        if sort in seen:
            continue
        try:
            smaller = footprint()
        except HwsimError:
            continue
        if smaller <= usable:
            seen.add(sort)
            yield label
