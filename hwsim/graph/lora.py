"""Low-rank adapters beside frozen projections."""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.errors import UnknownNameError
from hwsim.graph.shard import check_count

# Projections that can have an adapter, and the products that compute them:
# one adapter serves a fused product, as one does each of its parts.
TARGETS: dict[str, frozenset[str]] = {
    "qkv": frozenset({"qkv", "q", "k", "v", "q_a", "q_b", "qkv_a", "kv_a", "kv_b"}),
    "out": frozenset({"out"}),
    "up": frozenset({"up", "gate", "gate_up"}),
    "down": frozenset({"down"}),
    "head": frozenset({"head"}),
}
LORA_TARGETS = ("qkv", "out")  # those of the paper, the attention's
# Their input is divided among tensor-parallel devices; the others' output is.
ROW_PARALLEL = frozenset({"out", "down"})


@dataclass(frozen=True, slots=True)
class Lora:
    """Rank of the adapters, and the projections that have one.

    Parameters
    ----------
    rank : int
        Width between the two products of an adapter.
    targets : tuple of str
        Of ``qkv``, ``out``, ``up`` (with the gate), ``down`` and ``head``;
        cross attention, routed and shared experts have none.

    References
    ----------
    .. [1] E. Hu et al., "LoRA", 2021, arXiv:2106.09685, section 4.
    """

    rank: int
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self) -> None:
        check_count("lora rank", self.rank, 1)
        for name in self.targets:
            if name not in TARGETS:
                raise UnknownNameError("lora target", str(name), TARGETS)

    def adapts(self, name: str) -> bool:
        """Whether the product of this name has an adapter."""
        return any(name in TARGETS[target] for target in self.targets)
