"""Clusters behind published training runs."""

import pytest

from hwsim.analysis.published.cluster import run_system, with_ports
from hwsim.specs.catalogs import load_system
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import load_mappings, mapped


@pytest.mark.parametrize(
    ("words", "rate", "ports"),
    [
        ("4 x 100 Gb RoCE", 6.25e9, 4),
        ("nodes of 8x400Gbps", 50e9, 8),
        ("8 x 200 Gbit/s HDR", 25e9, 8),
    ],
)
def test_ports_of_a_node_are_shared_by_its_devices(words, rate, ports):
    outer = with_ports(load_system("dgx-a100-80gb-hdr-128"), words).networks[-1]
    assert (outer.bandwidth, outer.nics_per_node) == (rate, ports)


@pytest.mark.parametrize("words", ["8 x 80 GB", "8x A100", "", "1600 Gbps"])
def test_other_words_change_nothing(words):
    system = load_system("dgx-a100-80gb-hdr-128")
    assert with_ports(system, words) is system


def test_only_sources_of_no_mapping_are_read_so():
    def rate(source: str) -> float:
        row = PublishedRun(
            "runs.csv", 1, source=source, device="A100-80GB", num_devices=64,
            notes="4 x 100 Gb RoCE",
        )  # fmt: skip
        found = mapped(row, load_mappings())
        return run_system(found, found.run).networks[-1].bandwidth

    assert rate("a lab") == 6.25e9
    assert rate("github mosaicml/llm-foundry") != 6.25e9
