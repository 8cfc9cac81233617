"""Relations that hold on any hardware, on devices and systems of the whole catalog."""

import random

import pytest

import hwsim
from hwsim.cost.energy import mean_power
from hwsim.specs.catalogs import DEVICES, SYSTEMS, load_device, load_system
from hwsim.specs.economics import load_economics

ROUNDING = 1.0005
# What is fitted to measurements need not be smooth.
FITTED = 1.01


def some(names, count):
    return random.Random(13).sample(sorted(names), count)


# A device alone has nothing to share out; a limit that is not published bounds nothing.
SHARED = [name for name in SYSTEMS if load_system(name).num_devices > 1]
LIMITED = [name for name in DEVICES if load_device(name).power.tdp is not None]


@pytest.fixture(scope="module", params=some(DEVICES, 48))
def device(request):
    return load_device(request.param)


@pytest.fixture(scope="module", params=some(SHARED, 32))
def system(request):
    return load_system(request.param)


def infer(device, **asked):
    given = {"prompt": 512, "output": 16, "engine": "closed_form"} | asked
    return hwsim.infer("llama-3.2-1b", device, **given)


def step(system, **asked):
    given = {"engine": "closed_form", "seq": 1024, "micro_batch": 2} | asked
    return hwsim.train("llama-3.2-1b", system, **given)


def test_more_work_takes_longer_and_batches_pay(device):
    alone, together = infer(device), infer(device, batch=8)
    longer = infer(device, prompt=2048)
    assert 0 < alone.ttft_s <= longer.ttft_s * ROUNDING
    assert 0 < alone.tpot_s <= together.tpot_s * ROUNDING
    assert together.tpot_s <= 8 * alone.tpot_s * FITTED
    assert together.tokens_per_s * ROUNDING >= alone.tokens_per_s
    assert together.footprint.total > alone.footprint.total
    assert all(0 < r.mfu <= 1 for r in (alone, together, longer))


def test_no_prediction_beats_the_speed_of_light(device):
    found, light = infer(device), infer(device, fidelity="roofline")
    assert light.ttft_s <= found.ttft_s * ROUNDING
    assert light.tpot_s <= found.tpot_s * ROUNDING
    size = 8192
    for dtype in device.dtypes:
        product = hwsim.op("matmul", device=device, m=size, n=size, k=size, dtype=dtype)
        assert product.time_s * ROUNDING >= 2 * size**3 / device.peak(dtype)


def test_twice_the_bandwidth_is_no_slower(device):
    usual = infer(device)
    faster = infer(device, overrides=["device.memory.main.bandwidth=x2"])
    assert faster.ttft_s <= usual.ttft_s * ROUNDING
    assert faster.tpot_s <= usual.tpot_s * ROUNDING


@pytest.mark.parametrize(("narrow", "wide"), [("fp8", "bf16"), ("fp4", "fp8")])
def test_narrow_products_are_no_slower_where_their_peak_is_higher(narrow, wide):
    shape = {"m": 8192, "n": 8192, "k": 8192}
    devices = [load_device(name) for name in DEVICES]
    able = [
        d for d in devices
        if {narrow, wide} <= set(d.dtypes) and d.peak(narrow) > 1.5 * d.peak(wide)
    ]  # fmt: skip
    assert len(able) > 5
    for one in able:
        quick, slow = (
            hwsim.op("matmul", device=one, dtype=dtype, **shape).time_s
            for dtype in (narrow, wide)
        )
        assert quick < slow, one.id


def test_larger_batches_train_no_slower(device):
    small, large = (
        hwsim.train("gpt-2-124m", device, engine="closed_form", seq=512,
                    micro_batch=batch, global_batch=batch)
        for batch in (2, 8)
    )  # fmt: skip
    low, high = small.tokens_per_s_per_device, large.tokens_per_s_per_device
    assert low <= high * FITTED
    assert 0 < large.mfu <= 1


@pytest.mark.parametrize("name", some(LIMITED, 48))
def test_power_is_between_nothing_and_the_limit(name):
    device = load_device(name)
    found = step(device, global_batch=2)
    drawn = mean_power(device, found.parts, load_economics().power)
    assert 0 < drawn <= device.power.tdp * ROUNDING


def test_sharing_states_out_saves_memory(system):
    devices = min(system.num_devices, 4)
    needed = [
        step(system, devices=devices, global_batch=2 * devices, zero_stage=stage)
        .footprint.total
        for stage in range(4)
    ]  # fmt: skip
    assert needed[0] > needed[1] >= needed[2] > needed[3]


def test_more_devices_take_no_less_time_for_as_much_each(system):
    devices = min(system.num_devices, 8)
    alone = step(system, devices=1, global_batch=4)
    together = step(system, devices=devices, global_batch=4 * devices)
    assert alone.step_s <= together.step_s * ROUNDING


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_faster_links_are_no_slower(system, zero_stage):
    devices = min(system.num_devices, 8)
    asked = {
        "devices": devices, "global_batch": 2 * devices, "zero_stage": zero_stage,
    }  # fmt: skip
    faster = [f"system.networks.{n.name}.bandwidth=x2" for n in system.networks]
    assert (
        step(system, overrides=faster, **asked).step_s
        <= step(system, **asked).step_s * ROUNDING
    )


@pytest.mark.parametrize("name", ["a100-80gb-sxm", "h100-80gb-sxm", "l40s", "mi300x"])
def test_first_tokens_wait_longer_at_higher_rates_and_none_is_lost(name):
    asked = {
        "requests": 400, "input_len": "fixed:500", "output_len": "fixed:50",
        "seed": 3,
    }  # fmt: skip
    most = hwsim.serve("llama-3.2-1b", name, rate=1e6, **asked).stable_rate
    found = [
        hwsim.serve("llama-3.2-1b", name, rate=share * most, **asked)
        for share in (0.1, 0.6, 3.0)
    ]
    waits = [result.ttft_s["mean"] for result in found]
    assert waits == sorted(waits)
    for result in found:
        assert result.run.outputs.sum() == 400 * 50
        assert result.energy_j_per_token > 0
