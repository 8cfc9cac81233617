"""System files of one's own: nodes, clusters, and their faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsim.errors import SpecError
from hwsim.specs.catalogs import load_system, resolve_system
from hwsim.specs.system import SystemFile, SystemSpec

NODE = """
schema_version = 1
id = "my-node"
name = "My node"
device = "h100-80gb-sxm"
devices_per_node = 4
[[networks]]
name = "nvlink"
kind = "mesh"
size = 4
bandwidth = "450 GB/s"
latency = "0.5 us"
[[sources]]
kind = "assumed"
title = "a test"
date = 2026-01-01
"""
CLUSTER = """
schema_version = 1
id = "my-cluster"
name = "My cluster"
node = "my-node"
nodes = 3
[[networks]]
name = "ethernet"
kind = "fat_tree"
size = 12
bandwidth = "12.5 GB/s"
latency = "5 us"
nics_per_node = 4
[[sources]]
kind = "assumed"
title = "another test"
date = 2026-01-01
"""


@pytest.fixture
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("my-node", NODE), ("my-cluster", CLUSTER)):
        folder = tmp_path / "devices" / "systems" / name
        folder.mkdir(parents=True)
        (folder / "spec.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    return tmp_path / "devices" / "systems"


def shape(part: SystemSpec) -> tuple[int, int, list[tuple[str, int]]]:
    levels = [(n.name, n.size) for n in part.networks]
    return part.devices_per_node, part.nodes, levels


def test_a_cluster_of_ones_own_node(user_data: Path) -> None:
    cluster = load_system("my-cluster")
    assert shape(cluster) == (4, 3, [("nvlink", 4), ("ethernet", 12)])
    found = cluster.source_of("networks.nvlink.size")
    assert found is not None
    assert found.title == "a test"
    by_path = load_system(str(user_data / "my-cluster" / "spec.toml"))
    assert by_path == cluster


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('node = "my-node"', "", "give exactly one of device (a node) and node"),
        ("nodes = 3", 'nodes = 3\ndevice = "t4"', "give exactly one of device"),
        ('"my-node"', '"my-nod"', "my-cluster: node: unknown system 'my-nod': did"),
        ('"my-node"', '"my-cluster"', "goes round in a circle (my-cluster -> my-"),
        ("nodes = 3", "nodes = 4", "16 devices but the outermost network joins 12"),
        ("size = 12", "size = 15", "networks of sizes [4, 15] do not nest"),
        ("size = 12", "", "networks.0.size: is missing"),
        (
            '"12.5 GB/s"',
            "12.5e9",
            "networks.0.bandwidth: 12500000000.0 has no unit",
        ),
        ('"5 us"', '"5 GB"', "networks.0.latency: '5 GB' has unit 'B', expected s"),
        (
            '"fat_tree"',
            '"tree"',
            "networks.0.kind: 'tree': input should be 'switch'",
        ),
        (
            "[[sources]]",
            '[[sources]]\ncovers=["nodes"]',
            "networks.ethernet.size has",
        ),
        ("nics_per_node", "nics", "networks.0.nics: unknown key (value 4)"),
    ],
)
def test_a_wrong_cluster_says_where(
    user_data: Path, old: str, new: str, fault: str
) -> None:
    assert old in CLUSTER
    path = user_data / "my-cluster" / "spec.toml"
    path.write_text(CLUSTER.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load_system("my-cluster")
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_node_says_its_devices(user_data: Path) -> None:
    path = user_data / "my-node" / "spec.toml"
    for old, new, fault in (
        ("devices_per_node = 4", "", "devices_per_node is missing; say how many"),
        ('"h100-80gb-sxm"', '"h100-80gb-q"', "my-node: device: unknown device"),
    ):
        path.write_text(NODE.replace(old, new), encoding="utf-8")
        with pytest.raises(SpecError) as raised:
            load_system("my-node")
        assert fault in str(raised.value)


def test_a_circle_of_two_is_refused(user_data: Path) -> None:
    text = CLUSTER.replace('"my-cluster"', '"my-node"').replace(
        'node = "my-node"', 'node = "my-cluster"'
    )
    (user_data / "my-node" / "spec.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="goes round in a circle"):
        load_system("my-cluster")


def test_a_cluster_may_override_host_and_power() -> None:
    file = SystemFile.model_validate(
        {
            "id": "x",
            "name": "x",
            "node": "dgx-h100",
            "nodes": 2,
            "power_overhead": 0.3,
            "host": {"device": "grace-cpu"},
            "networks": [
                {
                    "name": "ib",
                    "kind": "fat_tree",
                    "size": 16,
                    "bandwidth": 50e9,
                    "latency": 3e-6,
                }
            ],
            "sources": [{"kind": "assumed", "title": "t", "date": "2026-01-01"}],
        }
    )
    cluster = resolve_system(file)
    assert cluster.power_overhead == 0.3
    assert cluster.host is not None
    assert cluster.host.device == "grace-cpu"


def test_files_based_on_each_other_end_in_one_line(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(f'id = "one"\nbased_on = "{two}"\n', encoding="utf-8")
    two.write_text(f'id = "two"\nbased_on = "{one}"\n', encoding="utf-8")
    with pytest.raises(SpecError, match="goes round in a circle"):
        load_system(str(one))
