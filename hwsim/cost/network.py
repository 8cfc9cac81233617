"""How a group of devices sees the nested networks of a system."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

from hwsim.errors import InputError
from hwsim.specs.network import Network
from hwsim.specs.system import SystemSpec


class Axis(NamedTuple):
    """The part of one torus axis that a group covers.

    Attributes
    ----------
    size : int
        Members along the axis.
    ring : bool
        Whether the ends of the covered part are joined.
    spacing : int
        Devices from one member to the next; sibling groups in between share
        the axis.
    """

    size: int
    ring: bool
    spacing: int

    @property
    def hops(self) -> int:
        """Links from a member to the farthest one."""
        farthest = self.size // 2 if self.ring else self.size - 1
        return farthest * self.spacing


class Span(NamedTuple):
    """One network level as the members of a group see it.

    Attributes
    ----------
    network : Network
        The level.
    size : int
        Child domains of this level that the group joins; for the innermost
        level the children are devices.
    inside : int
        Members of the group in each child domain.
    bandwidth : float
        Per member and direction, sibling groups active too, through up-links
        that may be fewer than down-links. [B/s]
    users : int
        Devices of one domain of this level that are active at once.
    axes : tuple of Axis
        Torus only.
    """

    network: Network
    size: int
    inside: int
    bandwidth: float
    users: int
    axes: tuple[Axis, ...] = ()

    @property
    def ring_bandwidth(self) -> float:
        """Bandwidth of rings through all members, per child domain. [B/s]"""
        if not self.axes:
            return self.bandwidth * self.inside
        link = self.bandwidth / (2 * len(self.network.dims))
        return sum(link * (2 if axis.ring else 1) / axis.spacing for axis in self.axes)

    @property
    def ring_hops(self) -> int:
        """Hops of one pass through this level's children."""
        return sum(a.hops for a in self.axes) if self.axes else self.size - 1

    @property
    def tree_hops(self) -> int:
        """Hops from the root of a balanced binary tree to its leaves."""
        if self.axes:
            return self.ring_hops
        return math.ceil(math.log2(self.size)) if self.size > 1 else 0


def spans(system: SystemSpec, group_size: int, stride: int = 1) -> tuple[Span, ...]:
    """Return the network levels that a group uses, innermost first.

    Parameters
    ----------
    system : SystemSpec
        The system; ranks number its devices node by node.
    group_size : int
        Members of the group.
    stride : int
        Ranks from one member to the next. The ``stride`` sibling groups in
        between are taken to be active at the same time.

    Raises
    ------
    InputError
        If the system has too few devices or sizes are not positive.
    """
    if group_size < 1 or stride < 1:
        raise InputError(
            f"group_size {group_size} and stride {stride} must be at least 1"
        )
    if group_size * stride > max(system.num_devices, 1) and group_size > 1:
        last = (group_size - 1) * stride + 1
        if last > system.num_devices:
            raise InputError(
                f"a group of {group_size} devices {stride} apart reaches over {last} "
                f"devices but system {system.id} has {system.num_devices}; "
                "name a larger system (hwsim systems lists them)"
            )
    found: list[Span] = []
    child, inside = 1, 1
    for network in system.networks:
        if inside >= group_size:
            break
        members = min(group_size, max(1, network.size // stride))
        size = math.ceil(members / inside)
        if size > 1:
            node = min(child, system.devices_per_node)
            found.append(_span(network, (child, node), size, inside, stride))
            inside = members
        child = network.size
    return tuple(found)


def _span(
    network: Network, domains: tuple[int, int], size: int, inside: int, stride: int
) -> Span:
    """Return one level; ``domains`` are the sizes of its children and of a node."""
    child, node = domains
    users = min(network.size, size * inside * stride)
    bandwidth, axes = network.bandwidth, cast("tuple[Axis, ...]", ())
    if network.kind == "mesh":
        peers = max(1, network.size // child - 1)
        bandwidth *= min(1.0, (size - 1) / peers)
    elif network.kind == "torus":
        axes = _axes(network, size, max(1, stride // child))
    elif network.nics_per_node is not None and child > 1:
        bandwidth = _nic_share(network, node, inside * min(stride, node))
    if network.oversubscription > 1.0:
        bandwidth = min(bandwidth, _uplink_share(network, child, inside, stride))
    return Span(network, size, inside, bandwidth, users, axes)


def _nic_share(network: Network, size: int, active: int) -> float:
    """Bandwidth of one device when ``active`` of its node use the NICs."""
    node = float(network.bandwidth * size)
    nic = node / (network.nics_per_node or 1)
    return min(nic, node / min(active, size))


def _uplink_share(network: Network, child: int, inside: int, stride: int) -> float:
    """Bandwidth of one device through the up-links of its child domain.

    They carry 1/oversubscription of what its devices can send; the members
    inside it, and their siblings in other groups, share that.
    """
    active = min(inside * min(stride, child), child)
    return float(network.bandwidth * child / (network.oversubscription * active))


def _axes(network: Network, members: int, stride: int) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for length, wraps in reversed(
        list(zip(network.dims, network.axis_wraparound, strict=True))
    ):
        if length == 1:
            continue
        spacing = math.gcd(stride, length) if stride > 1 else 1
        stride = max(1, stride // length) if stride >= length else 1
        if spacing == length:
            continue
        size = min(members, length // spacing)
        if size > 1:
            whole = size * spacing == length
            axes.append(Axis(size, whole and wraps, spacing))
        members = math.ceil(members / size)
        if members <= 1:
            break
    return tuple(axes)
