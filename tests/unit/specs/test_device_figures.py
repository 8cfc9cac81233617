"""Figures of the shipped devices against each other and against board data."""

from __future__ import annotations

import re

import pytest

from hwsim.specs.catalogs import DEVICES, load_device

IDS = sorted(path.parent.name for path in DEVICES.paths().values())

# Bus width [bit], data rate of a pin [Gbit/s], lanes of the host link, board power
# [W]: TechPowerUp GPU database and vendors' sheets, 2026-11-22.
BOARDS = {
    "a10": (384, 12.5, 16, 150),
    "a100-40gb-pcie": (5120, 2.43, 16, 250),
    "a100-40gb-sxm": (5120, 2.43, 16, 400),
    "a100-64gb-sxm": (4096, 3.2, 16, 440),
    "a100-80gb-pcie": (5120, 3.024, 16, 300),
    "a100-80gb-sxm": (5120, 3.186, 16, 400),
    "a10g": (384, 12.5, 16, 300),
    "a2": (128, 12.5, 8, 60),
    "a30": (3072, 2.43, 16, 165),
    "a40": (384, 14.5, 16, 300),
    "a800-80gb-sxm": (5120, 3.186, 16, 400),
    "arc-a770": (256, 17.5, 16, 225),
    "arc-b580": (192, 19, 8, 190),
    "gtx-1080-ti": (352, 11, 16, 250),
    "h100-80gb-pcie": (5120, 3.186, 16, 350),
    "h100-80gb-sxm": (5120, 5.23, 16, 700),
    "h100-nvl": (6016, 5.24, 16, 400),
    "h800-80gb-sxm": (5120, 5.23, 16, 700),
    "l20": (384, 18, 16, 275),
    "l4": (192, 12.5, 16, 72),
    "l40": (384, 18, 16, 300),
    "l40s": (384, 18, 16, 350),
    "max-1100": (8192, 1.2, 16, 300),
    "max-1550": (8192, 3.2, 16, 600),
    "mi100": (4096, 2.4, 16, 300),
    "mi210": (4096, 3.2, 16, 300),
    "mi250x": (8192, 3.2, 16, 560),
    "mi300a": (8192, 5.2, 16, 550),
    "mi300x": (8192, 5.2, 16, 750),
    "mi325x": (8192, 5.86, 16, 1000),
    "mi355x": (8192, 7.8, 16, 1400),
    "mi50": (4096, 2, 16, 300),
    "mi60": (4096, 2, 16, 300),
    "p100-pcie-16gb": (4096, 1.43, 16, 250),
    "p100-sxm2-16gb": (4096, 1.43, 16, 300),
    "p4": (256, 6, 16, 75),
    "p40": (384, 7.23, 16, 250),
    "quadro-rtx-6000": (384, 14, 16, 260),
    "quadro-rtx-8000": (384, 14, 16, 260),
    "radeon-pro-w7900": (384, 18, 16, 295),
    "rtx-2080": (256, 14, 16, 215),
    "rtx-2080-ti": (352, 14, 16, 250),
    "rtx-3060": (192, 15, 16, 170),
    "rtx-3060-ti": (256, 14, 16, 200),
    "rtx-3070": (256, 14, 16, 220),
    "rtx-3070-ti": (256, 19, 16, 290),
    "rtx-3080-10gb": (320, 19, 16, 320),
    "rtx-3080-ti": (384, 19, 16, 350),
    "rtx-3090": (384, 19.5, 16, 350),
    "rtx-3090-ti": (384, 21, 16, 450),
    "rtx-4000-ada": (160, 18, 16, 130),
    "rtx-4060": (128, 17, 8, 115),
    "rtx-4060-ti": (128, 18, 8, 165),
    "rtx-4070": (192, 21, 16, 200),
    "rtx-4070-super": (192, 21, 16, 220),
    "rtx-4070-ti": (192, 21, 16, 285),
    "rtx-4070-ti-super": (256, 21, 16, 285),
    "rtx-4080": (256, 22.4, 16, 320),
    "rtx-4080-super": (256, 23, 16, 320),
    "rtx-4090": (384, 21, 16, 450),
    "rtx-5000-ada": (256, 18, 16, 250),
    "rtx-5070": (192, 28, 16, 250),
    "rtx-5070-ti": (256, 28, 16, 300),
    "rtx-5080": (256, 30, 16, 360),
    "rtx-5090": (512, 28, 16, 575),
    "rtx-6000-ada": (384, 20, 16, 300),
    "rtx-a4000": (256, 14, 16, 140),
    "rtx-a4500": (320, 16, 16, 200),
    "rtx-a5000": (384, 16, 16, 230),
    "rtx-a6000": (384, 16, 16, 300),
    "rtx-pro-6000-blackwell-workstation": (512, 28, 16, 600),
    "rx-6800-xt": (256, 16, 16, 300),
    "rx-6900-xt": (256, 16, 16, 300),
    "rx-7900-xt": (320, 20, 16, 315),
    "rx-7900-xtx": (384, 20, 16, 355),
    "rx-9070-xt": (256, 20, 16, 304),
    "t4": (256, 10, 16, 70),
    "titan-rtx": (384, 14, 16, 280),
    "v100-pcie-16gb": (4096, 1.75, 16, 250),
    "v100-pcie-32gb": (4096, 1.75, 16, 250),
    "v100-sxm2-16gb": (4096, 1.75, 16, 300),
    "v100-sxm2-32gb": (4096, 1.75, 16, 300),
    "a800-80gb-pcie": (5120, 3.024, 16, 300),
    "arc-a750": (256, 16, 16, 225),
    "arc-b570": (160, 19, 8, 150),
    "arc-pro-b60": (192, 19, 8, 200),
    "gtx-1070": (256, 8, 16, 150),
    "gtx-1080": (256, 10, 16, 180),
    "h100-64gb-sxm": (3072, 5.25, 16, 700),
    "h200-nvl": (6144, 6.25, 16, 600),
    "h200-sxm": (6144, 6.25, 16, 700),
    "h20-141gb": (6144, 6.25, 16, 500),
    "h800-80gb-pcie": (5120, 3.186, 16, 350),
    "mi350x": (8192, 7.8, 16, 1000),
    "quadro-rtx-4000": (256, 13, 16, 160),
    "quadro-rtx-5000": (256, 14, 16, 230),
    "radeon-ai-pro-r9700": (256, 20, 16, 300),
    "radeon-pro-w7800": (256, 18, 16, 260),
    "radeon-vii": (4096, 2, 16, 300),
    "rtx-2000-ada": (128, 16, 8, 70),
    "rtx-2060": (192, 14, 16, 160),
    "rtx-2070": (256, 14, 16, 175),
    "rtx-2070-super": (256, 14, 16, 215),
    "rtx-2080-super": (256, 15.5, 16, 250),
    "rtx-3050": (128, 14, 8, 130),
    "rtx-3080-12gb": (384, 19, 16, 350),
    "rtx-4000-sff-ada": (160, 14, 16, 70),
    "rtx-4060-ti-8gb": (128, 18, 8, 160),
    "rtx-4090-d": (384, 21, 16, 425),
    "rtx-4500-ada": (192, 18, 16, 210),
    "rtx-5060": (128, 28, 8, 145),
    "rtx-5060-ti": (128, 28, 8, 180),
    "rtx-5880-ada": (384, 18, 16, 285),
    "rtx-a2000-12gb": (192, 12, 16, 70),
    "rtx-a5500": (384, 16, 16, 230),
    "rtx-pro-4000-blackwell": (192, 28, 16, 140),
    "rtx-pro-4500-blackwell": (256, 28, 16, 200),
    "rtx-pro-5000-blackwell": (384, 28, 16, 300),
    "rtx-pro-6000-blackwell-max-q": (512, 28, 16, 300),
    "rtx-pro-6000-blackwell-server": (512, 25, 16, 600),
    "rx-6800": (256, 16, 16, 250),
    "rx-6950-xt": (256, 18, 16, 335),
    "rx-7800-xt": (256, 19.5, 16, 263),
    "rx-7900-gre": (256, 18, 16, 260),
    "rx-9060-xt-16gb": (128, 20, 16, 160),
    "rx-9070": (256, 20, 16, 220),
    "titan-v": (3072, 1.7, 16, 250),
    "titan-xp": (384, 11.4, 16, 250),
    "v100-sxm3-32gb": (4096, 1.916, 16, 350),
    "v100s-pcie-32gb": (4096, 2.214, 16, 250),
}
# 32-bit lanes of a unit, as the vendor counts them (dual issue where it does).
LANES = {
    "pascal": (64, 128), "volta": (64,), "turing": (64,), "turing-geforce": (64,),
    "ampere": (64,), "ampere-ga10x": (128,), "ampere-geforce": (128,),
    "ada": (128,), "ada-geforce": (128,), "hopper": (128,), "hopper-cut": (128,),
    "blackwell": (128,), "blackwell-ultra": (128,), "blackwell-ultra-1400w": (128,),
    "blackwell-rtx": (128,), "blackwell-geforce": (128,), "gcn5": (64,),
    "cdna1": (64,), "cdna2": (64,), "cdna3": (128,), "cdna4": (128,),
    "rdna": (64, 128), "xe": (64, 128), "apple-gpu": (128,),
}  # fmt: skip
# Dense 16-bit matrix operations of a unit and clock, accumulated in fp32.
MATRIX = {
    "volta": (1024,), "turing": (1024,), "turing-geforce": (512, 1024),
    "ampere": (2048,), "ampere-ga10x": (512, 1024, 2048), "ampere-geforce": (512,),
    "ada": (512, 1024), "ada-geforce": (512,), "hopper": (4096,),
    "blackwell": (8192,), "blackwell-ultra": (8192,), "blackwell-ultra-1400w": (8192,),
    "blackwell-rtx": (1024,), "blackwell-geforce": (512,), "cdna1": (1024,),
    "cdna2": (1024,), "cdna3": (2048,), "cdna4": (4096,), "rdna": (512, 1024),
    "xe": (2048, 4096),
}  # fmt: skip
# Rates capped below what units and clock would give.
CUT_SHORT = {"h20", "h20-141gb"}
# One direction of a PCIe lane [GB/s], by generation.
LANE = {3: 0.984, 4: 1.969, 5: 3.938, 6: 7.563}


@pytest.mark.parametrize("name", BOARDS)
def test_memory_bandwidth_is_bus_times_data_rate(name: str) -> None:
    bits, rate, _, _ = BOARDS[name]
    assert load_device(name).bandwidth == pytest.approx(bits / 8 * rate * 1e9, rel=0.02)


@pytest.mark.parametrize("name", BOARDS)
def test_power_and_lanes_are_the_boards(name: str) -> None:
    device = load_device(name)
    _, _, lanes, watts = BOARDS[name]
    assert device.power.tdp == watts
    assert device.host_link is not None
    technology = device.host_link.technology
    if technology.startswith("PCIe"):
        assert technology.endswith(f"x{lanes}")


@pytest.mark.parametrize("name", IDS)
def test_host_links_run_at_their_generations_rate(name: str) -> None:
    device = load_device(name)
    link = device.host_link
    found = re.match(r"PCIe (\d)\.0(?: x|, )(\d+)", link.technology) if link else None
    if link is None or found is None or device.kind == "tpu":
        return  # a TPU's host link is shared between chips
    wanted = LANE[int(found[1])] * int(found[2]) * 1e9
    assert link.bandwidth == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("name", IDS)
def test_vector_peaks_follow_from_lanes_and_clock(name: str) -> None:
    device = load_device(name)
    if device.kind != "gpu" or device.id in CUT_SHORT:
        return
    compute = device.compute
    assert compute.clock is not None
    lanes = compute.vector["fp32"] / (2 * compute.units)
    wanted = [
        n * clock
        for n in LANES[device.architecture]
        for clock in (compute.clock, compute.max_clock)
        if clock is not None
    ]
    assert any(lanes == pytest.approx(n, rel=0.04) for n in wanted), lanes


@pytest.mark.parametrize("name", IDS)
def test_matrix_peaks_follow_from_units_and_clock(name: str) -> None:
    device = load_device(name)
    compute = device.compute
    peak = compute.matrix.get("fp16")
    if device.kind != "gpu" or peak is None or device.id in CUT_SHORT:
        return
    assert compute.clock is not None
    per_clock = peak / (compute.units * compute.clock)
    wanted = MATRIX[device.architecture]
    assert any(per_clock == pytest.approx(n, rel=0.025) for n in wanted), per_clock


@pytest.mark.parametrize("name", IDS)
def test_halving_the_width_keeps_or_doubles_the_rate(name: str) -> None:
    """One step down in width is 1, 2 or, past halved fp32 accumulation, 4 times."""
    device = load_device(name)
    if device.vendor != "NVIDIA":
        return
    for wide, narrow in (("tf32", "bf16"), ("bf16", "fp8"), ("bf16", "int8")):
        matrix: dict[str, float] = dict(device.compute.matrix)  # type: ignore[arg-type]
        if wide in matrix and narrow in matrix:
            ratio = matrix[narrow] / matrix[wide]
            assert any(ratio == pytest.approx(n, rel=0.03) for n in (2, 4)), narrow


@pytest.mark.parametrize("name", IDS)
def test_links_are_whole_multiples_of_one_lane(name: str) -> None:
    device = load_device(name)
    rates = {"NVLink 1": 20, "NVLink 2": 25, "NVLink 4": 25, "NVLink 5": 50}
    for link in device.links.values():
        rate = rates.get(link.technology.removesuffix(" bridge"))
        if rate is not None and link.count is not None:
            assert link.bandwidth == pytest.approx(link.count * rate * 1e9)
        if link.technology == "NVLink 3" and link.count is not None:
            assert link.bandwidth == pytest.approx(link.count * 25e9)
