"""Jobs larger than a system of the catalog."""

import pytest

import hwsim
from hwsim.errors import HwsimError
from hwsim.specs.catalogs import load_device
from hwsim.specs.given_names import given_system


def asked(system, devices, *overrides):
    return hwsim.train(
        "gpt2", system, devices=devices, seq=1024, engine="closed_form",
        overrides=overrides,
    )  # fmt: skip


def test_more_nodes_are_joined_by_the_network_that_joins_them():
    grown = asked("dgx-a100-80gb-hdr-128", 2048, "system.nodes=256")
    assert grown.system.num_devices == 2048
    assert grown.system.networks[-1].size == 2048
    twice = asked("dgx-a100-80gb-hdr-128", 2048, "system.nodes=x2")
    assert twice.step_s == pytest.approx(grown.step_s)


@pytest.mark.parametrize("system", ["tpu-v5e-256", "dgx-h100"])
def test_networks_of_a_fixed_shape_do_not_grow(system):
    with pytest.raises(HwsimError, match="add a network that joins them all"):
        asked(system, 2, "system.nodes=x2")


@pytest.mark.parametrize(
    ("system", "devices", "remedy"),
    [
        ("dgx-h100", 16, "dgx-h100-ndr-128 has 1024"),
        ("dgx-h100", 9999, "dgx-h100-ndr-128 with --set system.nodes=1250"),
        ("dgx-a100-80gb-hdr-128", 2048, "--set system.nodes=256"),
        ("tpu-v5e-256", 512, "hwsim systems"),
    ],
)
def test_a_larger_system_is_named(system, devices, remedy):
    with pytest.raises(HwsimError, match=remedy):
        asked(system, devices)


def test_pods_are_repeated_whole():
    system = given_system(load_device("tpu-v5e"), 300)
    assert system.num_devices == 512
    assert system.networks[-1].size == 512
