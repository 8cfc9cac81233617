"""The shipped systems: complete, sourced, consistent with their devices."""

from __future__ import annotations

from collections import Counter

import pytest

from hwsim.specs.base import iter_figures
from hwsim.specs.catalogs import DEVICES, SYSTEMS, load_system
from hwsim.specs.load import fold, load_spec
from hwsim.specs.system import SystemFile, SystemSpec


@pytest.fixture(scope="module")
def systems() -> dict[str, SystemSpec]:
    return {name: load_system(name) for name in SYSTEMS}


@pytest.fixture(scope="module")
def files() -> dict[str, SystemFile]:
    return {name: load_spec(SYSTEMS, SystemFile, name) for name in SYSTEMS}


def test_ids_are_their_folders(files: dict[str, SystemFile]) -> None:
    assert {name: file.id for name, file in files.items()} == {n: n for n in files}
    assert len(files) >= 150


def test_no_two_systems_go_by_one_name(files: dict[str, SystemFile]) -> None:
    names = Counter(files.keys())
    for file in files.values():
        names.update({fold(alias) for alias in file.aliases} - {file.id})
    assert {name for name, count in names.items() if count > 1} == set()
    # an alias that is a device's id would never be reached
    assert set(names) & set(DEVICES) == set()


def test_every_figure_has_a_source(systems: dict[str, SystemSpec]) -> None:
    bare = [
        f"{name}: {path}"
        for name, system in systems.items()
        for path, _, _ in iter_figures(system)
        if system.source_of(path) is None
    ]
    assert bare == []


def test_hosts_are_in_the_catalog(systems: dict[str, SystemSpec]) -> None:
    hosts = {s.host.device for s in systems.values() if s.host}
    assert hosts <= set(DEVICES)
    assert hosts


def test_devices_are_served_by_the_levels(systems: dict[str, SystemSpec]) -> None:
    for name, system in systems.items():
        assert system.networks[-1].size == system.num_devices, name
        names = [n.name for n in system.networks]
        assert len(set(names)) == len(names), name


def test_figures_are_physical(systems: dict[str, SystemSpec]) -> None:
    for name, system in systems.items():
        rates = [n.bandwidth for n in system.networks]
        delays = [n.latency for n in system.networks]
        assert rates == sorted(rates, reverse=True), f"{name}: outer links are slower"
        assert delays == sorted(delays), f"{name}: outer links take longer"
        assert delays[0] >= 0.1e-6, name
        assert delays[-1] <= 50e-6, name
        assert rates[0] < system.device.bandwidth, f"{name}: faster than memory"


def test_scale_up_links_agree_with_the_device(systems: dict[str, SystemSpec]) -> None:
    off = {}
    for name, system in systems.items():
        level = system.networks[0]
        known = {
            fold(link).split("-")[0]: spec.bandwidth
            for link, spec in system.device.links.items()
        }
        own = known.get(level.name.split("-")[0])
        whole = level.kind in {"switch", "mesh", "torus"} and level.size > 2
        if whole and own and not 0.85 <= level.bandwidth / own <= 1.15:
            off[name] = (level.bandwidth, own)
    assert off == {}


def test_tori_wrap_only_where_the_hardware_does(
    systems: dict[str, SystemSpec],
) -> None:
    seen = 0
    for name, system in systems.items():
        torus = system.networks[0]
        if torus.kind != "torus" or not system.device.id.startswith("tpu"):
            continue
        seen += 1
        if len(torus.dims) == 3:
            assert torus.block == 4, name
            assert torus.wraparound == all(d % 4 == 0 for d in torus.dims), name
        else:
            full = {"tpu-v2": 16, "tpu-v3": 32}.get(system.device.id, 16)
            assert torus.axis_wraparound == tuple(d == full for d in torus.dims), name
    assert seen >= 50


def test_tpu_names_count_what_the_vendor_counts(
    systems: dict[str, SystemSpec],
) -> None:
    for name, system in systems.items():
        parts = name.split("-")
        if parts[0] != "tpu" or len(parts) != 3:
            continue
        cores = 2 if parts[1] in {"v2", "v3", "v4", "v5p"} else 1
        assert int(parts[2]) == cores * system.num_devices, name
    assert load_system("v4-128").num_devices == 64
    assert load_system("tpu-v4-64-chips").num_devices == 64
    assert load_system("v5e-256").num_devices == 256
    assert load_system("v3-8").num_devices == 4


def test_nics_carry_what_the_devices_share(systems: dict[str, SystemSpec]) -> None:
    port = {1, 3.125, 6.25, 12.5, 25, 50, 100}  # GB/s: 8 (half of 16) to 800 Gbit/s
    for name, system in systems.items():
        for level in system.networks:
            if level.kind != "fat_tree":
                continue
            assert level.nics_per_node, name
            node = level.bandwidth * system.devices_per_node
            assert round(node / level.nics_per_node / 1e9, 6) in port, name


@pytest.mark.parametrize(
    ("name", "device", "count", "level", "bandwidth"),
    [
        ("a100_dgx", "a100-80gb-sxm", 8, "switch", 300e9),
        ("h100_dgx", "h100-80gb-sxm", 8, "switch", 450e9),
        ("a40_pairwise_nvlink", "a40", 8, "mesh", 56.25e9),
        ("a100_pairwise_nvlink", "a100-80gb-pcie", 4, "mesh", 300e9),
        ("h100_pairwise_nvlink", "h100-80gb-pcie", 4, "mesh", 300e9),
        ("a100_p4d", "a100-40gb-sxm", 512, "switch", 300e9),
        ("dgx-2", "v100-sxm2-32gb", 16, "switch", 150e9),
        ("dgx-b200", "b200-sxm", 8, "switch", 900e9),
        ("gb200-nvl72", "gb200", 72, "switch", 900e9),
        ("mi300x-platform", "mi300x", 8, "mesh", 448e9),
        ("gaudi3-node", "gaudi3", 8, "mesh", 525e9),
        ("trn2.48xlarge", "trainium2", 16, "torus", 512e9),
        ("perlmutter-node", "a100-40gb-sxm", 4, "mesh", 300e9),
        ("rtx-4090-pcie-8", "rtx-4090", 8, "bus", 31.5e9),
        ("m7i.48xlarge", "xeon-8488c", 2, "bus", 128e9),
        ("tpu-v7x-9216", "tpu-v7x", 9216, "torus", 600e9),
        ("leonardo", "a100-64gb-sxm", 13824, "mesh", 300e9),
        ("selene", "a100-80gb-sxm", 3072, "switch", 300e9),
    ],
)
def test_well_known_systems(
    name: str, device: str, count: int, level: str, bandwidth: float
) -> None:
    system = load_system(name)
    assert (system.device.id, system.num_devices) == (device, count)
    assert system.networks[0].kind == level
    assert system.networks[0].bandwidth == bandwidth


@pytest.mark.parametrize(
    ("name", "gbit_per_node"),
    [
        ("selene", 1600),
        ("a100-80gb-roce-1600", 1600),
        ("aws-p4d", 400),
        ("neox-20b-cluster", 800),
        ("jean-zay-v100", 400),
        ("jean-zay-a100", 400),
        ("dgx-h100-ndr-256", 3200),
        ("meta-24k-roce", 3200),
        ("gb200-nvl72-x8", 1600),
        ("gb300-nvl72-x8", 3200),
        ("dgx-b300-xdr-32", 6400),
        ("l40s-100gbe-16", 100),
        ("tpu-v5e-256-x2", 200),
    ],
)
def test_well_known_cluster_rates(name: str, gbit_per_node: float) -> None:
    system = load_system(name)
    node = system.networks[-1].bandwidth * system.devices_per_node * 8 / 1e9
    assert node == pytest.approx(gbit_per_node)


def test_in_switch_reduction_is_where_the_switch_has_it() -> None:
    for name, has in (("dgx-a100-80gb", False), ("dgx-2", False), ("dgx-h100", True)):
        assert load_system(name).networks[0].in_network_reduction is has


def test_consumer_cards_bounce_through_the_host() -> None:
    assert not load_system("rtx-4090-pcie-4").networks[0].peer_to_peer
    assert load_system("l40s-pcie-4").networks[0].peer_to_peer
    assert not load_system("l40s-pcie-8-no-p2p").networks[0].peer_to_peer


def test_the_llama_3_cluster_is_oversubscribed_at_the_top() -> None:
    levels = load_system("meta-24k-roce").networks
    assert [n.oversubscription for n in levels] == [1.0, 1.0, 7.0]
    assert [n.size for n in levels] == [8, 3072, 24576]


def test_the_largest_published_runs_fit() -> None:
    for name, count in (
        ("selene", 2520),
        ("dgx-h100-ndr-768", 6144),
        ("tpu-v5e-256-x32", 8192),
        ("palm-tpu-v4", 6144),
        ("deepseek-h800", 2048),
        ("gb200-nvl72-x4", 256),
        ("dgx-2-edr-64", 512),
    ):
        assert load_system(name).subsystem(count).num_devices == count
