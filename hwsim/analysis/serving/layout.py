"""How the devices of one serving replica share a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwsim.analysis.check import positive_int
from hwsim.errors import InputError
from hwsim.graph.inference import Part
from hwsim.graph.layout import Layout, joint_layout
from hwsim.graph.partition import layers_per_stage
from hwsim.specs.model import ModelSpec
from hwsim.specs.system import SystemSpec


@dataclass(frozen=True, slots=True)
class ReplicaLayout:
    """Degrees of parallelism inside a replica.

    Attributes
    ----------
    tp, pp : int
        Tensor-parallel devices of a group; pipeline stages, each of them
        ``tp * attention_dp`` devices.
    attention_dp : int
        Groups with requests, and keys and values, of their own; they run
        their steps together.
    ep : int
        Ranks that experts are shared out among, of the stage's devices; the
        others split each expert.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return self.tp * self.pp * self.attention_dp

    @property
    def spread(self) -> dict[str, int]:
        """Arguments of graphs beyond ``tp``; none where devices only split."""
        if self.ep == 1 and self.attention_dp == 1:
            return {}
        return {"dp": self.attention_dp, "ep": self.ep}

    def joint(self, model: ModelSpec) -> Layout:
        """Return the layout that graphs and footprints have."""
        return joint_layout(
            model, tp=self.tp, dp=self.attention_dp, ep=self.ep, pp=self.pp
        )

    def parts(self, model: ModelSpec) -> list[Part]:
        """Return the layers of each pipeline stage."""
        ranges = layers_per_stage(model, self.pp)
        last = len(ranges) - 1
        return [
            Part((r.start, r.stop), first=i == 0, last=i == last)
            for i, r in enumerate(ranges)
        ]

    def __str__(self) -> str:
        degrees = {"tp": self.tp, "pp": self.pp, "ep": self.ep,
                   "attention_dp": self.attention_dp}  # fmt: skip
        named = [f"{k} {v}" for k, v in degrees.items() if v > 1 or k == "tp"]
        return ", ".join(named)


def checked_layout(
    model: ModelSpec, system: SystemSpec, tp: Any, pp: Any, ep: Any, attention_dp: Any
) -> ReplicaLayout:
    """Return a layout that model and system allow.

    Raises
    ------
    InputError
        If it does not fit; the message names what does.
    """
    layout = ReplicaLayout(
        positive_int("tp", tp), positive_int("pp", pp), positive_int("ep", ep),
        positive_int("attention_dp", attention_dp),
    )  # fmt: skip
    if layout.devices > system.num_devices:
        raise InputError(
            f"{layout} needs {layout.devices} devices, but {system.id} has "
            f"{system.num_devices}; name a larger system"
        )
    layout.joint(model)
    layout.parts(model)
    return layout


def slowest_stage(model: ModelSpec, layout: ReplicaLayout) -> tuple[int, int]:
    """Return the layers (start, stop) of the stage with the most of them.

    Of equals the last counts: first layers may be dense where others are not.
    """
    ranges = layers_per_stage(model, layout.pp)
    longest = max(reversed(ranges), key=len)
    return longest.start, longest.stop
