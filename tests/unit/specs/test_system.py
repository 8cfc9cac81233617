"""Systems: levels, sub-systems, growth."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.specs.catalogs import load_device, load_system
from hwsim.specs.network import Network
from hwsim.specs.system import SystemSpec, single_device_system


def network(kind: str = "switch", size: int = 8, **more: Any) -> Network:
    figures = {"name": kind, "bandwidth": 100e9, "latency": 1e-6, **more}
    return Network(kind=kind, size=size, **figures)  # type: ignore[arg-type]


def system(*networks: Network, per_node: int = 8, nodes: int = 1) -> SystemSpec:
    return SystemSpec(
        id="test",
        name="test",
        device=load_device("h100-80gb-sxm"),
        devices_per_node=per_node,
        nodes=nodes,
        networks=networks,
    )


def shape(part: SystemSpec) -> tuple[int, int, list[tuple[str, int]]]:
    levels = [(n.name, n.size) for n in part.networks]
    return part.devices_per_node, part.nodes, levels


class TestNetwork:
    @pytest.mark.parametrize(
        ("kind", "more", "fault"),
        [
            ("torus", {}, r"dims \[\] multiply to 1, not to size 8"),
            ("torus", {"dims": (2, 3)}, r"dims \[2, 3\] multiply to 6, not to size 8"),
            ("switch", {"dims": (8,)}, "belong to a torus, not to a switch"),
            ("mesh", {"block": 4}, "belong to a torus, not to a mesh"),
            ("fat_tree", {"oversubscription": 0.5}, "oversubscription 0.5 is below 1"),
            ("fat_tree", {"oversubscription": math.inf}, "finite number"),
            ("switch", {"oversubscription": 2.0}, "belongs to a fat_tree or dcn, not"),
            ("fat_tree", {"nics_per_node": 0}, "greater than or equal to 1"),
            ("switch", {"bandwidth": -1.0}, "is negative"),
            ("switch", {"latency": math.nan}, "is not finite"),
            ("ring", {}, "Input should be 'switch', 'mesh'"),
            (
                "torus",
                {"dims": (2, 4), "wraparound_axes": (False, True)},
                "give one value per axis, and wraparound = true only where all are",
            ),
            (
                "torus",
                {"dims": (2, 4), "wraparound_axes": (True,)},
                "give one value per axis",
            ),
        ],
    )
    def test_nonsense_is_refused(
        self, kind: str, more: dict[str, Any], fault: str
    ) -> None:
        with pytest.raises(ValidationError, match=fault):
            network(kind, **more)

    def test_axes_wrap_together_or_each_by_itself(self) -> None:
        assert network("torus", dims=(2, 4)).axis_wraparound == (True, True)
        flat = network("torus", dims=(2, 4), wraparound=False)
        assert flat.axis_wraparound == (False, False)
        mixed = network(
            "torus", dims=(2, 4), wraparound=False, wraparound_axes=(False, True)
        )
        assert mixed.axis_wraparound == (False, True)
        assert network("switch").axis_wraparound == ()


class TestSystem:
    def test_levels_that_do_not_nest_are_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"\[8, 12\] do not nest"):
            system(network(size=8), network("fat_tree", 12))
        with pytest.raises(ValidationError, match="do not nest"):
            system(network("fat_tree", 16), network(size=8))

    def test_devices_that_no_network_joins_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="16 devices but the outermost netw"):
            system(network(size=8), nodes=2)
        with pytest.raises(ValidationError, match="network joins 1"):
            system(per_node=2)

    def test_a_group_spans_the_levels_it_needs(self) -> None:
        pair = network("mesh", 2)
        both = system(pair, network("bus", 8), network("fat_tree", 32), nodes=4)
        spans = [len(both.networks_for(n)) for n in (0, 1, 2, 3, 8, 9, 32)]
        assert spans == [0, 0, 1, 2, 2, 3, 3]

    def test_one_device_is_a_system(self) -> None:
        one = single_device_system(load_device("t4"))
        assert (one.num_devices, one.networks, one.id) == (1, (), "t4")
        assert one.subsystem(1) is one

    def test_sources_of_figures(self) -> None:
        cluster = load_system("dgx-a100-80gb-hdr-32")
        node = load_system("dgx-a100-80gb")
        titles = {
            path: found.title
            for path in (
                "nodes",
                "networks.nvlink.size",
                "networks.nvlink.bandwidth",
                "networks.infiniband.bandwidth",
                "networks.infiniband.latency",
            )
            if (found := cluster.source_of(path))
        }
        assert "SuperPOD" in titles["nodes"]
        assert "A100 topology" in titles["networks.nvlink.size"]
        assert "NVLink 1 to 5" in titles["networks.nvlink.bandwidth"]
        assert "InfiniBand" in titles["networks.infiniband.bandwidth"]
        assert "NCCL" in titles["networks.infiniband.latency"]
        own = node.source_of("networks.nvlink.latency")
        inherited = cluster.source_of("networks.nvlink.latency")
        assert own is not None
        assert inherited is not None
        assert own.title == inherited.title
        device = cluster.source_of("device.memory.hbm.size")
        assert device == cluster.device.source_of("memory.hbm.size")


class TestSubsystem:
    @pytest.mark.parametrize(
        ("name", "count", "expected"),
        [
            ("dgx-h100", 1, (1, 1, [])),
            ("dgx-h100", 3, (3, 1, [("nvlink", 8)])),
            ("selene", 8, (8, 1, [("nvlink", 8)])),
            ("selene", 16, (8, 2, [("nvlink", 8), ("infiniband", 3072)])),
            ("selene", 2520, (8, 315, [("nvlink", 8), ("infiniband", 3072)])),
            ("a40-pairwise-nvlink", 2, (2, 1, [("nvlink-pair", 2)])),
            ("a40-pairwise-nvlink", 6, (6, 1, [("nvlink-pair", 2), ("pcie", 8)])),
            ("a40-pairwise-nvlink", 5, (5, 1, [("pcie", 8)])),
            ("gb200-nvl72-x4", 72, (4, 18, [("nvlink", 72)])),
            ("gb200-nvl72-x4", 256, (4, 64, [("nvlink", 64), ("infiniband", 256)])),
            (
                "meta-24k-roce",
                16384,
                (8, 2048, [("nvlink", 8), ("roce-pod", 2048), ("roce-spine", 24576)]),
            ),
            ("meta-24k-roce", 3072, (8, 384, [("nvlink", 8), ("roce-pod", 3072)])),
            ("tpu-v5e-256-x32", 1024, (8, 128, [("ici", 256), ("dcn", 8192)])),
            ("tpu-v5e-256-x32", 256, (8, 32, [("ici", 256)])),
        ],
    )
    def test_nodes_fill_first_and_levels_stay_that_are_spanned(
        self, name: str, count: int, expected: tuple[int, int, list[tuple[str, int]]]
    ) -> None:
        whole = load_system(name)
        part = whole.subsystem(count)
        assert shape(part) == expected
        assert part.device == whole.device
        assert part.sources == whole.sources
        assert part.notes[-1] == f"{count} of its {whole.num_devices} devices"

    def test_all_of_it_is_itself(self) -> None:
        whole = load_system("dgx-h100")
        assert whole.subsystem(8) is whole

    @pytest.mark.parametrize(
        ("name", "count", "dims", "wraps"),
        [
            ("tpu-v4-8192", 1, (), ()),
            ("tpu-v4-8192", 4, (1, 2, 2), (False, False, False)),
            ("tpu-v4-8192", 16, (2, 2, 4), (False, False, False)),
            ("tpu-v4-8192", 32, (2, 4, 4), (False, False, False)),
            ("tpu-v4-8192", 64, (4, 4, 4), (True, True, True)),
            ("tpu-v4-8192", 192, (4, 4, 12), (True, True, True)),
            ("tpu-v4-8192", 384, (4, 8, 12), (True, True, True)),
            ("tpu-v4-8192", 3072, (12, 16, 16), (True, True, True)),
            ("tpu-v5e-256", 8, (2, 4), (False, False)),
            ("tpu-v5e-256", 32, (4, 8), (False, False)),
            ("tpu-v5e-256", 128, (8, 16), (False, True)),
            ("tpu-v3-2048", 128, (8, 16), (False, False)),
            ("trn2-48xlarge", 8, (2, 4), (False, True)),
        ],
    )
    def test_a_torus_is_cut_into_the_box_nearest_to_a_cube(
        self, name: str, count: int, dims: tuple[int, ...], wraps: tuple[bool, ...]
    ) -> None:
        part = load_system(name).subsystem(count)
        if not dims:
            assert part.networks == ()
            return
        (torus,) = part.networks
        assert (torus.dims, torus.axis_wraparound) == (dims, wraps)
        assert torus.size == count
        assert torus.wraparound is all(wraps)

    def test_a_slice_keeps_the_shapes_that_the_catalog_ships(self) -> None:
        for pod, kept in (("tpu-v4-8192", "tpu-v4-"), ("tpu-v5p-17920", "tpu-v5p-")):
            whole = load_system(pod)
            for cores in (64, 128, 256, 512, 1024, 2048):
                shipped = load_system(f"{kept}{cores}").networks
                assert whole.subsystem(cores // 2).networks == shipped

    def test_a_pair_of_a_mesh_keeps_its_links(self) -> None:
        mesh = network("mesh", 4, bandwidth=300e9)
        racks = system(mesh, network("fat_tree", 64), per_node=2, nodes=32)
        part = racks.subsystem(6)  # three nodes: not whole meshes of four
        assert shape(part) == (2, 3, [("mesh", 2), ("fat_tree", 64)])
        assert part.networks[0].bandwidth == pytest.approx(100e9)

    def test_a_level_that_joins_nothing_is_dropped(self) -> None:
        racks = system(network(size=8), network("fat_tree", 64), per_node=1, nodes=64)
        assert shape(racks.subsystem(11)) == (1, 11, [("fat_tree", 64)])

    @pytest.mark.parametrize(
        ("name", "count", "fault"),
        [
            ("selene", 4000, "system selene has 3072; ask for at most 3072 or name a"),
            ("selene", 12, "do not fill whole nodes of 8 on system selene; ask for 8"),
            ("selene", 0, "0 devices; give a whole number from 1 to 3072"),
            ("selene", -8, "-8 devices; give a whole number"),
            ("selene", 8.0, "8.0 devices; give a whole number"),
            ("selene", True, "True devices; give a whole number"),
            ("selene", "8", "'8' devices; give a whole number"),
            ("tpu-v5e-256", 24, "of system tpu-v5e-256; ask for 16 or 32"),
            ("tpu-v5e-256-x32", 384, "do not fill whole slices of 256"),
            ("tpu-v4-8192", 6, "do not fill whole nodes of 4"),
            ("tpu-v4-8192", 28, "ask for 24 or 32"),
        ],
    )  # fmt: skip
    def test_impossible_numbers_say_what_is_possible(
        self, name: str, count: Any, fault: str
    ) -> None:
        with pytest.raises(InputError) as raised:
            load_system(name).subsystem(count)
        assert fault in str(raised.value)


class TestWithNodes:
    def test_a_cluster_grows_and_shrinks(self) -> None:
        cluster = load_system("dgx-h100-ndr-16")
        bigger = cluster.with_nodes(40)
        assert (bigger.num_devices, bigger.networks[-1].size) == (320, 320)
        assert bigger.networks[-1].bandwidth == cluster.networks[-1].bandwidth
        assert shape(cluster.with_nodes(2))[1] == 2
        assert cluster.with_nodes(1).networks == load_system("dgx-h100").networks
        assert cluster.with_nodes(16) is cluster

    @pytest.mark.parametrize(
        ("name", "nodes", "fault"),
        [
            (
                "dgx-h100",
                2,
                "no fat_tree or dcn joins its nodes; write a cluster of it",
            ),
            ("t4", 2, "cannot grow from 1 to 2 nodes"),
            ("tpu-v5e-256-x2", 65, "do not fill whole domains of 256"),
            ("selene", 0, "0 nodes; give a whole number of at least 1"),
            ("selene", 1.5, "1.5 nodes; give"),
            ("selene", True, "True nodes; give"),
        ],
    )
    def test_impossible_numbers_are_refused(
        self, name: str, nodes: Any, fault: str
    ) -> None:
        with pytest.raises(InputError) as raised:
            load_system(name).with_nodes(nodes)
        assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("system", "devices", "sharers"),
    [
        ("dgx-a100-80gb", 8, 2), ("dgx-a100-80gb", 4, 2), ("dgx-a100-80gb", 1, 1),
        ("dgx-2", 16, 4), ("gb200-nvl72", 72, 1), ("h100-80gb-sxm", 1, 1),
    ],
)  # fmt: skip
def test_devices_of_a_node_share_the_ports_of_its_host(system, devices, sharers):
    assert load_system(system).subsystem(devices).host_sharers == sharers


def test_a_system_may_say_how_many_share_a_port_of_the_host():
    node = load_system("dgx-a100-80gb")
    own = node.model_copy(update={"devices_per_host_port": 1})
    assert own.host_sharers == 1
    assert own.subsystem(4).host_sharers == 1


def test_slices_are_equal_parts_on_the_data_centre_network():
    whole = load_system("tpu-v5e-256-x32")
    found = whole.in_slices(4, 256)
    assert found.num_devices == 256
    assert [(n.kind, n.size) for n in found.networks] == [("torus", 64), ("dcn", 256)]
    # A part of an axis has no ends to join; a whole one has.
    assert not found.networks[0].wraparound
    assert whole.in_slices(2, 512).networks[0].wraparound
    assert whole.in_slices(2, 512).subsystem(512).num_devices == 512


@pytest.mark.parametrize(
    ("name", "slices", "devices"),
    [("tpu-v5e-256", 2, 128), ("tpu-v5e-256-x32", 3, 256), ("dgx-h100", 2, 8)],
)
def test_slices_that_nothing_joins_are_refused(name, slices, devices):
    with pytest.raises(InputError, match=f"no {slices} equal slices of {devices}"):
        load_system(name).in_slices(slices, devices)
