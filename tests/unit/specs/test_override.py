"""What-if overrides: values, factors, percents, and their provenance."""

from __future__ import annotations

import datetime as dt

import pytest

from hwsim.errors import InputError, SpecError
from hwsim.specs.catalogs import load_device, load_stack, load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.override import Override, apply_overrides, parse_override
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

TARGETS = ("device", "stack", "system")


@pytest.fixture(scope="module")
def device() -> DeviceSpec:
    return load_device("h100-80gb-sxm")


@pytest.fixture(scope="module")
def system() -> SystemSpec:
    return load_system("dgx-h100-ndr-16")


def sets(*texts: str) -> list[Override]:
    return [parse_override(text, TARGETS) for text in texts]


def test_parsing() -> None:
    override = parse_override(" device.memory.hbm.bandwidth = 4.8TB/s ", TARGETS)
    assert override == Override("device", ("memory", "hbm", "bandwidth"), "4.8TB/s")
    assert override.label == "device.memory.hbm.bandwidth=4.8TB/s"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("device.memory", "is not key=value; write for example"),
        ("device=5", "is not key=value"),
        ("device.a=", "is not key=value"),
        ("device..a=5", "is not key=value"),
        ("=5", "is not key=value"),
        ("model.layers=5", "'model' is not one of device, stack, system"),
    ],
)
def test_malformed_text_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_override(text, TARGETS)
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.8TB/s", 4.8e12),
        ("4.8 TB/s", 4.8e12),
        ("38.4 Tbit/s", 4.8e12),
        ("x2", 6.7e12),
        ("X0.5", 1.675e12),
        ("x1e1", 33.5e12),
        ("+10%", 3.685e12),
        ("-20%", 2.68e12),
    ],
)
def test_absolute_and_relative(device: DeviceSpec, text: str, value: float) -> None:
    changed = apply_overrides(device, sets(f"device.memory.hbm.bandwidth={text}"))
    assert changed.bandwidth == pytest.approx(value, rel=1e-12)
    assert device.bandwidth == 3.35e12  # the original is untouched


def test_main_and_dram_mean_the_outermost_memory(device: DeviceSpec) -> None:
    for key in ("main", "dram"):
        changed = apply_overrides(device, sets(f"device.memory.{key}.bandwidth=x2"))
        assert changed.bandwidth == 6.7e12
        found = changed.source_of("memory.hbm.bandwidth")
        assert found is not None
        assert found.kind == "assumed"


def test_an_override_is_labelled_assumed_with_todays_date(device: DeviceSpec) -> None:
    changed = apply_overrides(device, sets("device.memory.hbm.bandwidth=x2"))
    found = changed.source_of("memory.hbm.bandwidth")
    assert found is not None
    assert found.kind == "assumed"
    assert found.title == "override device.memory.hbm.bandwidth=x2"
    assert abs((found.date - dt.datetime.now(tz=dt.UTC).date()).days) <= 1
    assert changed.source_of("memory.hbm.size") == device.source_of("memory.hbm.size")


def test_no_override_is_the_same_spec(device: DeviceSpec) -> None:
    assert apply_overrides(device, []) is device


def test_overrides_apply_in_order(device: DeviceSpec) -> None:
    key = "device.memory.hbm.bandwidth"
    twice = apply_overrides(device, sets(f"{key}=1TB/s", f"{key}=x3", f"{key}=+100%"))
    assert twice.bandwidth == 6e12


def test_counts_stay_whole(device: DeviceSpec) -> None:
    assert apply_overrides(device, sets("device.compute.units=x2")).compute.units == 264
    changed = apply_overrides(device, sets("device.compute.units=100"))
    assert changed.compute.units == 100


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("memory.hbm.bandwidth=3350", "'3350' has no unit; write it with one"),
        ("memory.hbm.bandwidth=3.35e12", "'3.35e12' has no unit"),
        ("memory.hbm.bandwidth=3 TB", "has unit 'B', expected B/s"),
        ("memory.hbm.bandwidth=-3 TB/s", "is negative"),
        ("memory.hbm.bandwidth=x0", "outside the plausible"),
        ("memory.hbm.bandwidth=-100%", "outside the plausible"),
        ("memory.hbm.bandwidth=x1e300", "is not finite"),
        ("memory.hbm.bandwidth=10%", "'10%' has no unit"),
        ("memory.hbm.bandwith=x2", "no key 'memory.hbm.bandwith'; there is bandwidth"),
        ("memory.hmb.size=x2", "no key 'memory.hmb'; there is hbm"),
        ("memroy.hbm.size=x2", "no key 'memroy'; there is memory"),
        ("memory.hbm.size.deeper=x2", "it has no keys"),
        ("compute.matrix.fp99=x2", "no key 'compute.matrix.fp99'; there is fp"),
        ("memory=x2", "is a table, not a figure; name a key inside it"),
        ("memory.hbm=80 GB", "is a table, not a figure"),
        ("compute.units=x1.001", "input should be a valid integer"),
        ("compute.units=many", "input should be a valid integer"),
        ("compute.units=0", "input should be greater than or equal to 1"),
        ("kind=toaster", "input should be 'cpu', 'gpu'"),
        ("vendor=x2", "'NVIDIA' is not a number to scale; give a value"),
        ("id=other", "'id' is not a figure"),
        ("sources.0.kind=measured", "'sources' is not a figure"),
        ("schema_version=2", "'schema_version' is not a figure"),
    ],
)
def test_bad_overrides_name_themselves(
    device: DeviceSpec, text: str, fault: str
) -> None:
    with pytest.raises(SpecError) as raised:
        apply_overrides(device, sets(f"device.{text}"))
    assert str(raised.value).startswith(f"--set device.{text}")
    assert fault in str(raised.value)


def test_an_unset_figure_may_be_set_with_its_unit(device: DeviceSpec) -> None:
    assert device.host_link is not None
    assert device.host_link.latency is None
    changed = apply_overrides(
        device, sets("device.host_link.latency=1.5us", "device.host_link.count=3")
    )
    assert changed.host_link is not None
    assert (changed.host_link.latency, changed.host_link.count) == (1.5e-6, 3)
    with pytest.raises(SpecError, match="'1' has no unit"):
        apply_overrides(device, sets("device.host_link.latency=1"))


def test_figures_that_must_agree_change_together() -> None:
    cpu = load_device("xeon-platinum-8380")
    with pytest.raises(
        SpecError, match=r"--set device.compute.clock=x2: .*correct one"
    ):
        apply_overrides(cpu, sets("device.compute.clock=x2"))
    faster = apply_overrides(
        cpu, sets("device.compute.clock=x2", "device.compute.vector.fp32=x2")
    )
    assert faster.peak("fp32", "vector") == 2 * cpu.peak("fp32", "vector")


def test_the_blame_falls_on_the_guilty_override(device: DeviceSpec) -> None:
    with pytest.raises(SpecError) as raised:
        apply_overrides(
            device, sets("device.memory.hbm.size=x2", "device.compute.units=none")
        )
    assert str(raised.value).startswith("--set device.compute.units=none: ")


def test_settings_of_a_stack() -> None:
    stack = load_stack("default-inference")
    changed = apply_overrides(
        stack,
        sets(
            "stack.launch.mode=eager",
            "stack.launch.host_time=4us",
            "stack.fusion.qkv=false",
            "stack.fusion.cross_entropy=TRUE",
            "stack.memory_reserve=0.2",
        ),
    )
    assert isinstance(changed, StackSpec)
    assert (changed.launch.mode, changed.launch.host_time) == ("eager", 4e-6)
    assert (changed.fusion.qkv, changed.fusion.cross_entropy) == (False, True)
    assert changed.memory_reserve == 0.2
    with pytest.raises(SpecError, match="True is not a number to scale"):
        apply_overrides(stack, sets("stack.fusion.qkv=x2"))
    with pytest.raises(SpecError, match="input should be less than or equal to 1"):
        apply_overrides(stack, sets("stack.memory_reserve=1.2"))


@pytest.mark.parametrize("key", ["1", "infiniband"])
def test_networks_go_by_name_or_place(system: SystemSpec, key: str) -> None:
    text = f"system.networks.{key}.bandwidth=x2"
    changed = apply_overrides(system, sets(text))
    assert changed.networks[1].bandwidth == 100e9
    assert changed.networks[0] == system.networks[0]
    found = changed.source_of("networks.infiniband.bandwidth")
    assert found is not None
    assert found.title == f"override {text}"
    assert changed.source_of("networks.infiniband.latency") == system.source_of(
        "networks.infiniband.latency"
    )


def test_a_systems_device_keeps_its_own_provenance(system: SystemSpec) -> None:
    changed = apply_overrides(system, sets("system.device.memory.main.bandwidth=x2"))
    assert changed.device.bandwidth == 6.7e12
    assert changed.sources == system.sources
    found = changed.source_of("device.memory.hbm.bandwidth")
    assert found is not None
    assert found.kind == "assumed"


def test_an_unset_count_takes_a_whole_number(system: SystemSpec) -> None:
    changed = apply_overrides(system, sets("system.networks.nvlink.nics_per_node=4"))
    assert changed.networks[0].nics_per_node == 4


def test_a_torus_changes_shape_at_once() -> None:
    torus = load_system("tpu-v5e-256")
    with pytest.raises(SpecError, match=r"dims .* multiply to 512"):
        apply_overrides(torus, sets("system.networks.ici.dims.0=32"))
    changed = apply_overrides(
        torus,
        sets(
            "system.networks.ici.dims.0=x2",
            "system.networks.ici.size=512",
            "system.nodes=x2",
        ),
    )
    assert changed.networks[0].dims == (32, 16)
    assert changed.num_devices == 512


def test_more_nodes_than_the_network_joins_are_refused(system: SystemSpec) -> None:
    with pytest.raises(SpecError, match="add a network that joins them all"):
        apply_overrides(system, sets("system.nodes=x2"))
