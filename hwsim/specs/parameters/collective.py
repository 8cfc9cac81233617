"""Parameters of collective communication (NCCL class libraries)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from hwsim.specs.base import Bytes, Hertz, Name, Seconds, Spec
from hwsim.specs.network import NetworkKind

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Exponent = Annotated[float, Field(ge=0.0, le=4.0)]
CollectiveName = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"
]


class Protocol(Spec):
    """One way to move a message between neighbours.

    Attributes
    ----------
    step_time : dict of network kind to float
        Software's part of one hop, on top of the link's latency. [s]
    bandwidth_ratio : float
        Share of the sustained bandwidth that carries payload: flags beside
        the data cost the rest. [1]
    ramp_size : dict of network kind to float
        Bytes in flight before channels and pipeline are full, with a message of
        ``ramp_bytes``; they grow as the message's power ``ramp_exponent``, and
        take their time at the rate of one member's links; none where a kind is
        not named. [B]
    """

    step_time: dict[NetworkKind, Seconds]
    bandwidth_ratio: Share
    ramp_size: dict[NetworkKind, Bytes] = {}


class DirectParameters(Spec):
    """All-reduces of serving frameworks, whose kernels read the memory of peers.

    Attributes
    ----------
    start_time : float
        Floor of one call: start, and the barriers of two members. [s]
    peer_time : float
        What each further member adds to the barriers. [s]
    exchange_time : float
        One more barrier, where members first add up a share each and then
        gather the shares, rather than read everything. [s]
    efficiency : float
        Sustained over quoted link bandwidth. [1]
    host_time : float
        Time from one call to the next where the host launches each. [s]
    limit : float
        Buffers from this size on go to the library. [B]
    """

    start_time: Seconds
    peer_time: Seconds
    exchange_time: Seconds
    efficiency: Share
    host_time: Seconds
    limit: Bytes


class CollectiveParameters(Spec):
    """What software adds to links: start, hops, protocols, efficiencies.

    Attributes
    ----------
    start_time : dict of op to float
        Floor of one call, whatever the group. [s]
    peer_time : float
        Cost of each further peer that an all-to-all addresses. [s]
    protocols : dict of name to Protocol
        The library takes the fastest for the size at hand.
    efficiency : dict of network kind to float
        Sustained over quoted link bandwidth for large messages. [1]
    reduce_ratio : dict of network kind to float
        Rate at which members add up what passes them, over that of passing it on;
        1 where a kind is not named. An all-reduce does one, then the other. [1]
    in_network_efficiency : float
        The same where switches add up the data; a member moves (1 + 1/n)
        times its buffer each way. [1]
    in_network_step_time : float
        Software's part of one pass through reducing switches. [s]
    copy_efficiency : float
        Rate of copying a member's own share from input to output, over twice
        the bytes, relative to main-memory bandwidth. [1]
    ramp_bytes : float
        Reference message of ``Protocol.ramp_size``. [B]
    ramp_exponent : float
        Between 0 and 1. [1]
    bus_contention : float
        On a shared bus, bandwidth falls as (active devices / 2) to minus
        this. [1]
    host_bounce_efficiency : float
        Share of the bus bandwidth left where data bounces through host
        memory for want of peer-to-peer access. [1]
    host_bounce_contention : float
        As ``bus_contention``, where data bounces through the host. [1]
    reference_clock : float or None
        Clock that times of software on the devices are given at: start, peers,
        steps within a node, barriers. A device of another clock takes that much
        less or more; None: they hold for every clock. [Hz]
    direct : Spec or None
        All-reduces that bypass the library; None: there are none.
    """

    start_time: dict[CollectiveName, Seconds]
    peer_time: Seconds
    protocols: dict[Name, Protocol]
    efficiency: dict[NetworkKind, Share]
    reduce_ratio: dict[NetworkKind, Share] = {}
    in_network_efficiency: Share
    in_network_step_time: Seconds
    copy_efficiency: Share
    ramp_bytes: Bytes
    ramp_exponent: Share
    bus_contention: Exponent
    host_bounce_efficiency: Share
    host_bounce_contention: Exponent
    reference_clock: Hertz | None = None
    direct: DirectParameters | None = None

    def slower(self, op: CollectiveName, kind: NetworkKind) -> float:
        """Return how much longer an operation takes than if data only passed by."""
        adding = 1.0 / self.reduce_ratio.get(kind, 1.0)
        return {"reduce_scatter": adding, "all_reduce": (1.0 + adding) / 2.0}.get(op, 1)

    @model_validator(mode="after")
    def _complete(self) -> CollectiveParameters:
        tables: dict[str, tuple[Iterable[str], Iterable[str]]] = {
            "start_time": (self.start_time, get_args(CollectiveName)),
            "efficiency": (self.efficiency, get_args(NetworkKind)),
        }
        for name, protocol in self.protocols.items():
            where = f"protocols.{name}.step_time"
            tables[where] = (protocol.step_time, get_args(NetworkKind))
        for where, (given, needed) in tables.items():
            missing = sorted(set(needed) - set(given))
            if missing:
                raise ValueError(f"{where} lacks {', '.join(missing)}; add each")
        if not self.protocols:
            raise ValueError("protocols has none; add at least one")
        return self
