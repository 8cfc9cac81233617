"""The shipped devices: complete, consistent, and equal to known figures."""

from __future__ import annotations

import datetime as dt
import json
import math
from itertools import pairwise
from urllib.parse import urlparse

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.base import iter_figures
from hwsim.specs.catalogs import DEVICES, load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import dump_json, fold, validate

IDS = sorted(path.parent.name for path in DEVICES.paths().values())
ARCHITECTURES = {
    "pascal", "volta", "turing", "ampere", "ampere-ga10x", "ada", "hopper",
    "blackwell", "blackwell-ultra", "blackwell-ultra-1400w", "blackwell-rtx", "cdna1",
    "cdna2", "cdna3", "cdna4", "apple-gpu",
    "tpu-v2", "tpu-v3", "tpu-v4", "tpu-v5", "tpu-v5p", "tpu-v6", "tpu-v7", "gaudi",
    "trainium", "groq", "cerebras", "fpga-dsp", "x86-avx2", "x86-avx512", "x86-amx",
    "arm-neon",
    "arm-sve", "ada-geforce", "ampere-geforce", "blackwell-geforce", "hopper-cut",
    "turing-geforce", "rdna", "gcn5", "xe", "ascend",
}  # fmt: skip
MAIN_MEMORY = {
    "cpu": {"ddr"}, "gpu": {"hbm", "gddr", "ddr"}, "tpu": {"hbm"},
    "asic": {"hbm", "sram"}, "fpga": {"hbm"},
}  # fmt: skip

# Names under which published and measured figures are filed, and common short
# names, with the device each must mean.
NAMES = {
    "Xeon-Platinum-8380": "xeon-platinum-8380",
    "Xeon-Platinum-8480+": "xeon-platinum-8480+",
    "EPYC-7763": "epyc-7763",
    "EPYC-9654": "epyc-9654",
    "Graviton3": "graviton3",
    "Grace-CPU": "grace-cpu",
    "P100-SXM2-16GB": "p100-sxm2-16gb",
    "V100-SXM2-32GB": "v100-sxm2-32gb",
    "T4": "t4",
    "A100-40GB-SXM": "a100-40gb-sxm",
    "A100-80GB-SXM": "a100-80gb-sxm",
    "A100-80GB-PCIe": "a100-80gb-pcie",
    "A10G": "a10g",
    "L4": "l4",
    "L40S": "l40s",
    "H100-80GB-SXM": "h100-80gb-sxm",
    "H100-80GB-PCIe": "h100-80gb-pcie",
    "H200-SXM": "h200-sxm",
    "GH200-96GB": "gh200-96gb",
    "B200-SXM": "b200-sxm",
    "GB200": "gb200",
    "B300-SXM": "b300-sxm",
    "RTX-3090": "rtx-3090",
    "RTX-4090": "rtx-4090",
    "MI100": "mi100",
    "MI210": "mi210",
    "MI250X": "mi250x",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "TPU-v2": "tpu-v2",
    "TPU-v3": "tpu-v3",
    "TPU-v4": "tpu-v4",
    "TPU-v5e": "tpu-v5e",
    "TPU-v5p": "tpu-v5p",
    "TPU-v6e": "tpu-v6e",
    "TPU-v7x": "tpu-v7x",
    "Gaudi2": "gaudi2",
    "Gaudi3": "gaudi3",
    "Trainium2": "trainium2",
    "Groq-LPU-v1": "groq-lpu-v1",
    "Cerebras-WSE-2": "cerebras-wse-2",
    "Cerebras-WSE-3": "cerebras-wse-3",
    "Alveo-U280": "alveo-u280",
    "Alveo-U55C": "alveo-u55c",
    "A10": "a10",
    "A40": "a40",
    "L40": "l40",
    "GB300": "gb300",
    "MI355X": "mi355x",
    "A100-SXM": "a100-80gb-sxm",
    "NVIDIA A100-SXM-64GB": "a100-64gb-sxm",
    "A100-PCIe": "a100-80gb-pcie",
    "H100-SXM": "h100-80gb-sxm",
    "H100-PCIe": "h100-80gb-pcie",
    "H800-80GB-SXM": "h800-80gb-sxm",
    "GH200-SXM": "gh200-144gb",
    "V100-16GB-SXM2": "v100-sxm2-16gb",
    "V100-32GB-SXM2": "v100-sxm2-32gb",
    "V100-PCIe-16GB": "v100-pcie-16gb",
    "RTX-3070": "rtx-3070",
    "RTX-3080-10GB": "rtx-3080-10gb",
    "RTX-3080-Ti": "rtx-3080-ti",
    "RTX-4070-Ti": "rtx-4070-ti",
    "RTX-4080": "rtx-4080",
    "Xeon-8375C (AWS m6i.16xlarge)": "xeon-8375c",
    "Xeon-8488C (AWS m7i.16xlarge)": "xeon-8488c-m7i.16xlarge",
    "TPU-v7x (one of two cores)": "tpu-v7x-core",
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-80gb-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "P4": "p4",
    "P100-PCIe": "p100-pcie-16gb",
    "A30": "a30",
    "A100-40GB-PCIe": "a100-40gb-pcie",
    "RTX A6000": "rtx-a6000",
    "RTX PRO 6000 Blackwell": "rtx-pro-6000-blackwell-workstation",
    "RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-blackwell-server",
    "MI250": "mi250",
    "L20": "l20",
    "H20": "h20",
    "a100": "a100-80gb-sxm",
    "h100": "h100-80gb-sxm",
    "H200": "h200-sxm",
    "b200": "b200-sxm",
    "v100": "v100-sxm2-32gb",
    "4090": "rtx-4090",
    "5090": "rtx-5090",
    "v5e": "tpu-v5e",
    "v5p": "tpu-v5p",
    "trillium": "tpu-v6e",
    "ironwood": "tpu-v7x",
}

# Rates capped below what units and clock would give.
CUT_SHORT = {"h20", "h20-141gb"}
# Dense matrix peak [TFLOP/s], bandwidth of the main memory [GB/s], its size [GiB].
ANCHORS = {
    "a100-80gb-sxm": ("bf16", 312, 2039, 80),
    "a30": ("bf16", 165, 933, 24),
    "a40": ("bf16", 149.7, 696, 44.7),
    "h100-80gb-sxm": ("bf16", 989.4, 3350, 80),
    "h100-80gb-pcie": ("fp8", 1513, 2039, 80),
    "h200-sxm": ("fp8", 1978.9, 4800, 141),
    "h20": ("bf16", 148, 4000, 96),
    "b200-sxm": ("fp4", 9000, 8000, 180),
    "l4": ("bf16", 121, 300, 22.35),
    "l20": ("bf16", 119.5, 864, 44.7),
    "l40s": ("fp8", 733, 864, 44.7),
    "rtx-3090": ("fp16", 71, 936, 24),
    "rtx-4090": ("fp16", 165.2, 1008, 24),
    "t4": ("fp16", 65, 320, 14.9),
    "v100-sxm2-32gb": ("fp16", 125, 900, 32),
    "mi250x": ("fp16", 383, 3277, 128),
    "mi300x": ("bf16", 1307.4, 5300, 192),
    "tpu-v4": ("bf16", 275, 1228, 32),
    "tpu-v5e": ("int8", 394, 819, 16),
    "tpu-v6e": ("bf16", 918, 1640, 32),
    "gaudi2": ("fp8", 865, 2460, 96),
    "xeon-platinum-8480+": ("bf16", 114.7, 307.2, 256),
}


@pytest.fixture(scope="module")
def devices() -> dict[str, DeviceSpec]:
    return {name: load_device(name) for name in IDS}


@pytest.mark.parametrize("name", IDS)
def test_loads_under_its_folder_name(name: str) -> None:
    device = load_device(name)
    assert device.id == name
    assert DEVICES.find(name).parent.parent.name == device.kind


def test_the_catalog_is_as_large_as_promised() -> None:
    assert len(IDS) >= 80
    assert set(NAMES.values()) <= set(IDS)


@pytest.mark.parametrize(("name", "wanted"), NAMES.items())
def test_known_names_resolve(name: str, wanted: str) -> None:
    assert load_device(name).id == wanted
    assert load_device(name.swapcase().replace("-", "_")).id == wanted


def test_no_name_belongs_to_two_devices(devices: dict[str, DeviceSpec]) -> None:
    owner: dict[str, str] = {}
    for device in devices.values():
        names = [fold(n) for n in (device.id, *device.aliases)]
        assert len(names) == len(set(names)), device.id
        for name in names:
            assert owner.setdefault(name, device.id) == device.id, name


def test_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="h100-80gb-sxm"):
        load_device("h1000-80gb-sxm")


@pytest.mark.parametrize("name", IDS)
def test_json_round_trip_is_the_identity(name: str) -> None:
    device = load_device(name)
    table = json.loads(dump_json(device))
    assert validate(DeviceSpec, table, name, units_required=False) == device


@pytest.mark.parametrize("name", IDS)
def test_sources_are_complete_and_used(name: str) -> None:
    device = load_device(name)
    paths = [path for path, _, _ in iter_figures(device)]
    used = [device.source_of(path) for path in paths]
    assert None not in used
    for source in device.sources:
        assert source.url is not None, source.title
        assert urlparse(source.url).scheme == "https", source.url
        assert source.date >= dt.date(2010, 1, 1)
        assert source in used, f"{source.title} stands for no figure"
        for prefix in source.covers:
            assert prefix == "*" or any(
                path == prefix or path.startswith(prefix + ".") for path in paths
            ), f"{prefix} names no figure"


@pytest.mark.parametrize("name", IDS)
def test_figures_every_device_has(name: str) -> None:
    device = load_device(name)
    assert device.architecture in ARCHITECTURES
    assert device.main_memory_name in MAIN_MEMORY[device.kind]
    assert device.main_memory.scope == "device"
    assert device.launch is not None
    assert device.launch.graph <= device.launch.eager
    assert "fp32" in device.compute.vector
    clocks = device.compute.clock, device.compute.max_clock
    if all(clocks):
        assert clocks[0] <= clocks[1]  # type: ignore[operator]


@pytest.mark.parametrize("name", IDS)
def test_narrower_types_are_not_slower(name: str) -> None:
    matrix = load_device(name).compute.matrix
    for ladder in (
        ("fp32", "tf32", "bf16", "fp8", "fp6", "fp4"),
        ("bf16", "int8", "int4"),
    ):
        peaks = [matrix[d] for d in ladder if d in matrix]  # type: ignore[index]
        assert all(narrow >= wide for wide, narrow in pairwise(peaks)), ladder


@pytest.mark.parametrize("name", IDS)
def test_memory_slows_and_grows_outward(name: str) -> None:
    device = load_device(name)
    rates = [m.bandwidth for m in device.memory.values() if m.bandwidth is not None]
    assert all(inner >= outer for inner, outer in pairwise(rates))
    assert rates[0] > rates[-1] or len(rates) == 1
    delays = [m.latency for m in device.memory.values() if m.latency is not None]
    assert all(inner < outer for inner, outer in pairwise(delays))
    assert all(
        m.size * (device.compute.units if m.scope == "unit" else 1)
        < device.main_memory.size
        for m in list(device.memory.values())[:-1]
    )


@pytest.mark.parametrize("name", IDS)
def test_tensor_cores_do_a_power_of_two_per_clock(name: str) -> None:
    device = load_device(name)
    peak = device.compute.matrix.get("fp16")
    if device.vendor != "NVIDIA" or peak is None or device.id in CUT_SHORT:
        return
    assert device.compute.clock is not None
    per_clock = peak / (device.compute.units * device.compute.clock)
    assert per_clock == pytest.approx(2 ** round(math.log2(per_clock)), rel=0.025)


@pytest.mark.parametrize("name", IDS)
def test_systolic_arrays_make_up_the_peak(name: str) -> None:
    compute = load_device(name).compute
    array = compute.systolic
    if array is None or compute.clock is None or "bf16" not in compute.matrix:
        return
    built = 2 * array.rows * array.columns * array.arrays * compute.clock
    assert compute.matrix["bf16"] == pytest.approx(built, rel=0.015)


@pytest.mark.parametrize("name", IDS)
def test_cpu_peaks_follow_from_the_cores(name: str) -> None:
    device = load_device(name)
    cpu, clock = device.compute.cpu, device.compute.clock
    assert (cpu is not None) == (device.kind == "cpu")
    if cpu is None:
        return
    assert clock is not None
    assert set(cpu.matrix_flop_per_clock) == set(device.compute.matrix)
    for dtype, per_clock in cpu.matrix_flop_per_clock.items():
        built = cpu.cores * per_clock * clock
        assert device.compute.matrix[dtype] == pytest.approx(built, rel=0.01)
    fp32 = cpu.cores * cpu.simd_bits / 32 * 2 * cpu.fma_ports * clock
    assert device.compute.vector["fp32"] == pytest.approx(fp32, rel=0.02)


@pytest.mark.parametrize("name", ANCHORS)
def test_known_figures(name: str) -> None:
    device = load_device(name)
    dtype, peak, bandwidth, size = ANCHORS[name]
    assert device.compute.matrix[dtype] == pytest.approx(peak * 1e12)  # type: ignore[index]
    assert device.bandwidth == pytest.approx(bandwidth * 1e9)
    assert device.main_memory.size == pytest.approx(size * 2**30, rel=2e-3)


def test_balance_is_plausible(devices: dict[str, DeviceSpec]) -> None:
    for device in devices.values():
        if device.main_memory_name == "sram":
            continue
        rates = {**device.compute.vector, **device.compute.matrix}
        peak = max(rates[d] for d in ("fp32", "fp16", "bf16") if d in rates)
        assert 2 < peak / device.bandwidth < 700, device.id


def test_packages_of_two_dies_are_twice_one(devices: dict[str, DeviceSpec]) -> None:
    for whole, half in (
        ("mi250", "mi250-gcd"),
        ("mi250x", "mi250x-gcd"),
        ("tpu-v7x", "tpu-v7x-core"),
        ("trainium1", "trainium1-neuroncore"),
    ):
        one, two = devices[half], devices[whole]
        assert two.peak("bf16") == pytest.approx(2 * one.peak("bf16"))
        assert two.bandwidth == pytest.approx(2 * one.bandwidth, rel=1e-3)
        assert two.main_memory.size == 2 * one.main_memory.size
        assert two.compute.units == 2 * one.compute.units


def test_variants_differ_where_they_should(devices: dict[str, DeviceSpec]) -> None:
    h100, h800 = devices["h100-80gb-sxm"], devices["h800-80gb-sxm"]
    assert h800.peak("bf16") == h100.peak("bf16")
    assert h800.links["nvlink"].bandwidth < h100.links["nvlink"].bandwidth
    work = devices["rtx-pro-6000-blackwell-workstation"]
    server = devices["rtx-pro-6000-blackwell-server"]
    assert server.bandwidth < work.bandwidth
    assert devices["a10g"].peak("fp16") < devices["a10"].peak("fp16")


def test_a_type_the_hardware_lacks_is_refused(devices: dict[str, DeviceSpec]) -> None:
    with pytest.raises(InputError, match="v100-sxm2-32gb has no bf16 rate"):
        devices["v100-sxm2-32gb"].peak("bf16")
    with pytest.raises(InputError, match="a100-80gb-sxm has no fp8 rate"):
        devices["a100-80gb-sxm"].peak("fp8")


def test_derived_peaks_say_so(devices: dict[str, DeviceSpec]) -> None:
    for name in ("cerebras-wse-2", "cerebras-wse-3"):
        source = devices[name].source_of("compute.matrix.fp16")
        assert source is not None
        assert source.kind == "derived"
    measured = devices["h100-80gb-pcie"].source_of("memory.l2.bandwidth")
    assert measured is not None
    assert measured.kind == "measured"
