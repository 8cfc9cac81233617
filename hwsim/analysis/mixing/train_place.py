"""Pipeline stages of a training step on one kind of device, and links between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hwsim.analysis.mixing.mixed import Hop
from hwsim.analysis.training.pipelined import next_stage_time
from hwsim.analysis.training.step import StepMaker
from hwsim.graph.partition import activation_message
from hwsim.sim.links import Use
from hwsim.specs.network import Network
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

PORT = 50e9  # B/s of a node, one 400 Gbit/s port: where no network leaves it
_OUTER = ("fat_tree", "dcn")
BETWEEN = "between kinds"


@dataclass(frozen=True)
class TrainPlace:
    """Neighbouring pipeline stages on devices of one kind.

    Attributes
    ----------
    system : SystemSpec
        Where the devices are taken from.
    tp, dp : int
        Tensor- and data-parallel degrees of each stage.
    stages : int
        Pipeline stages here.
    layers : int or None
        Of all stages here; None: shared out.
    price : float or None
        Of one device, in place of the reference. [USD/h]
    """

    system: SystemSpec
    stack: StackSpec
    tp: int = 1
    dp: int = 1
    stages: int = 1
    layers: int | None = None
    price: float | None = None

    def devices(self, cp: int) -> int:
        """Devices of all stages here."""
        return self.tp * self.dp * cp * self.stages


@dataclass(frozen=True)
class StageLink:
    """What carries activations from one place to the next.

    Attributes
    ----------
    fixed, transfer : float
        Of one microbatch, all devices of a stage at once. [s]
    nbytes : float
        Sent by all devices of a stage. [B]
    basis : str
        ``given``, ``assumed``, or the network that it is.
    use : mapping of level to float
        What it takes of the ports of its ends; nothing where it is a link of
        its own.
    """

    fixed: float
    transfer: float
    nbytes: float
    basis: str
    use: Use = field(default_factory=dict, repr=False, compare=False)

    @property
    def bandwidth(self) -> float:
        """Of all devices of a stage together. [B/s]"""
        return self.nbytes / self.transfer if self.transfer > 0 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return it with keys in SI."""
        return {
            "fixed_s": self.fixed, "transfer_s": self.transfer,
            "message_bytes": self.nbytes, "basis": self.basis,
        }  # fmt: skip


def one_system(places: Sequence[TrainPlace], cp: int, hop: Hop | None) -> bool:
    """Whether places are parts of one system, joined by its own networks.

    A system that is too small to hold all of them is there several times.
    """
    first, wanted = places[0].system, sum(place.devices(cp) for place in places)
    alike = all(place.system == first for place in places)
    return hop is None and alike and first.num_devices >= wanted


def place_system(
    places: Sequence[TrainPlace], index: int, cp: int, hop: Hop | None
) -> SystemSpec:
    """Return a place's devices with the network to all other stages around them.

    Every stage is seen as one of the place's own kind, for what all of them
    take part in: the norm of the gradients and a shared table.
    """
    place = places[index]
    mine = place.system.subsystem(place.devices(cp))
    stage = mine.num_devices // place.stages
    everything = stage * sum(p.stages for p in places)
    if everything == mine.num_devices:
        return mine
    if one_system(places, cp, hop):
        return place.system.subsystem(everything)
    domains = -(-everything // mine.num_devices)
    level = Network(
        name=BETWEEN, kind="dcn", size=mine.num_devices * domains,
        bandwidth=_outward(place, cp, hop) / stage,
        latency=(hop or Hop(PORT)).latency,
    )  # fmt: skip
    # A node that is partly used ends where its devices do: further out are others.
    within = (
        n.model_copy(update={"size": min(n.size, mine.num_devices)})
        for n in mine.networks
    )
    return SystemSpec(
        **{
            **dict(mine),
            "nodes": mine.nodes * domains,
            "networks": (*within, level),
        }
    )


def _outward(place: TrainPlace, cp: int, hop: Hop | None) -> float:
    """Bandwidth that leaves one stage. [B/s]"""
    if hop is not None:
        return hop.bandwidth
    stage = place.tp * place.dp * cp
    outer = _outer(place.system)
    if outer is not None:
        return float(outer.bandwidth * stage)
    return PORT * max(1.0, stage / place.system.devices_per_node)


def _outer(system: SystemSpec) -> Network | None:
    """Return the network that leaves a system's nodes, if its spec has one."""
    last = system.networks[-1] if system.networks else None
    return last if last is not None and last.kind in _OUTER else None


def link_between(
    a: tuple[TrainPlace, StepMaker],
    b: tuple[TrainPlace, StepMaker],
    hop: Hop | None,
    *,
    same: bool,
) -> StageLink:
    """Return the link between two places: the slower of what leaves either."""
    nbytes = max(_message(maker) for _, maker in (a, b))
    if hop is not None:
        basis = "given" if not hop.assumed else "assumed"
        return StageLink(hop.latency, nbytes / hop.bandwidth, nbytes, basis)
    if same:
        send = next_stage_time(a[1])
        name = _network_name(a[0].system)
        return StageLink(send.fixed, send.transfer, nbytes, name, send.use)
    sides = [_side(place, maker, nbytes) for place, maker in (a, b)]
    return max(sides, key=lambda link: link.fixed + link.transfer)


def _side(place: TrainPlace, maker: StepMaker, nbytes: float) -> StageLink:
    system, config = place.system, maker.config
    stage = config.tp * config.cp * config.dp
    outer = _outer(system)
    if outer is None:
        hop = Hop(_outward(place, config.cp, None))
        return StageLink(hop.latency, nbytes / hop.bandwidth, nbytes, "assumed")
    inside = system.networks[-2].size if len(system.networks) > 1 else 1
    apart = max(min(stage, system.num_devices // 2), inside)
    send = next_stage_time(maker, system, apart)
    time = send.transfer * nbytes / _message(maker)
    return StageLink(send.fixed, time, nbytes, _network_name(system), send.use)


def _network_name(system: SystemSpec) -> str:
    return f"{system.networks[-1].name} of {system.id}" if system.networks else ""


def _message(maker: StepMaker) -> float:
    """Return the bytes that all devices of a stage send on. [B]"""
    c = maker.config
    each = activation_message(
        maker.model, c.micro_batch, c.seq, c.tp, c.sequence_parallel, c.dtype,
        cp=c.cp, autocast=maker.stack.autocast,
    )  # fmt: skip
    return each * c.tp * c.cp * c.dp
