"""Systems that no catalog entry joins, and nodes that grow."""

from __future__ import annotations

import pytest

from hwsim.errors import InputError
from hwsim.specs.catalogs import load_device, load_system
from hwsim.specs.given_names import given_system
from hwsim.specs.usual_system import OUTER_BANDWIDTH, assumed_system, joined


def test_links_between_chips_join_an_assumed_node() -> None:
    system = assumed_system(load_device("ascend-910b"), 16)
    inner, outer = system.networks
    assert (system.devices_per_node, system.nodes) == (8, 2)
    assert inner.kind == "mesh"
    assert inner.bandwidth == pytest.approx(196e9)
    assert (outer.kind, outer.bandwidth) == ("fat_tree", OUTER_BANDWIDTH)
    assert {source.kind for source in system.sources} == {"assumed"}


def test_without_links_the_host_is_a_shared_bus() -> None:
    system = assumed_system(load_device("rx-7900-xtx"), 4)
    (bus,) = system.networks
    assert (bus.kind, bus.size, bus.peer_to_peer) == ("bus", 4, False)
    assert bus.bandwidth == pytest.approx(31.5e9)


def test_devices_must_fill_assumed_nodes() -> None:
    assert assumed_system(load_device("inferentia2"), 12).devices_per_node == 12
    with pytest.raises(InputError, match="do not fill nodes of 8 to 16"):
        assumed_system(load_device("ascend-910b"), 19)


def test_nodes_that_nothing_joins_stand_on_ethernet() -> None:
    node = load_system("a40-pcie-8")
    system = joined(node, 4)
    assert (system.num_devices, system.nodes) == (32, 4)
    # One port for the eight cards of a PCIe host.
    assert system.networks[-1].bandwidth == pytest.approx(OUTER_BANDWIDTH / 8)
    assert joined(node, 1) is node
    dgx = load_system("dgx-a100-80gb-hdr-4")
    assert joined(dgx, 8) == dgx.with_nodes(8)


def test_a_given_device_always_has_a_system() -> None:
    for name, devices in (("ascend-910b", 4), ("gaudi3", 64), ("v100-pcie", 16)):
        assert given_system(load_device(name), devices).num_devices >= devices


def test_a_torus_too_short_for_the_box_is_left_out():
    """Four chips are no box of a ring of six, but of one of twelve."""
    assert given_system(load_device("inferentia2"), 4).id == "inf2-48xlarge"
    assert given_system(load_device("inferentia2"), 6).id == "inf2-24xlarge"
