"""Memory of one device, part by part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one device, by what it holds. [B]

    A part that the run does not have is None; ``activations`` also holds
    what is there for a moment only (logits, gathered parameters), ``buffers``
    what is on its way to or from other devices.
    """

    weights: float
    activations: float
    kv_cache: float | None = None
    gradients: float | None = None
    optimizer_states: float | None = None
    buffers: float | None = None

    @property
    def total(self) -> float:
        """All parts together. [B]"""
        return sum(self._parts().values())

    def _parts(self) -> dict[str, float]:
        parts = {
            "weights": self.weights,
            "kv_cache": self.kv_cache,
            "gradients": self.gradients,
            "optimizer_states": self.optimizer_states,
            "activations": self.activations,
            "buffers": self.buffers,
        }
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def largest(self) -> str:
        """Name of the part that takes the most."""
        parts = self._parts()
        return max(parts, key=parts.__getitem__)

    def to_dict(self) -> dict[str, float]:
        """Return the parts that there are and their total."""
        return {**self._parts(), "total": self.total}
