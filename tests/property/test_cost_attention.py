"""Properties of attention and expert costs that hold on any device."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.cost.attention import decode_attention_cost, prefill_attention_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.specs.base import iter_figures
from hwsim.specs.calibration import GENERATIONS, Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec

NAMES = ("gpu", "hopper", "ampere", "blackwell", "tpu", "cpu")
CALIBRATIONS = {name: load_spec(GENERATIONS, Calibration, name) for name in NAMES}
TIMES = {
    (name, path)
    for name in ("attention", "moe")
    for path, _, dimension in iter_figures(getattr(CALIBRATIONS["gpu"], name))
    if dimension is not None and dimension.name == "time"
}


def build(figures):
    peak, bandwidth, clock, units = figures
    return DeviceSpec(
        id="toy",
        name="Toy",
        sources=[{"kind": "assumed", "title": "test", "date": "2025-01-01"}],
        kind="gpu",
        vendor="x",
        architecture="gpu",
        year=2024,
        compute={
            "units": units,
            "unit_kind": "SM",
            "clock": clock,
            "matrix": {"bf16": peak, "fp8": 2 * peak},
        },
        memory={"hbm": {"size": 80e9, "bandwidth": bandwidth}},
    )


devices = st.tuples(
    st.floats(1e12, 5e15),
    st.floats(1e11, 1e13),
    st.floats(5e8, 2e9),
    st.integers(8, 300),
)
shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 256),
        "kv_heads": st.integers(1, 16),
        "group": st.integers(1, 16),
        "head_dim": st.sampled_from([64, 80, 128, 192, 256]),
        "seq_q": st.integers(1, 5000),
        "history": st.sampled_from([0, 0, 1, 1000, 30000]),
        "window": st.sampled_from([0, 0, 128, 4096]),
    }
)


def sped_up(calibration, k):
    update = {}
    for name in ("attention", "moe"):
        table = getattr(calibration, name).model_dump()
        for owner, path in TIMES:
            *folders, last = path.split(".")
            place = table if owner == name else None
            for folder in folders if place is not None else ():
                place = place[folder]
            if place is not None:
                place[last] /= k
        if table.get("reference_clock") is not None:
            table["reference_clock"] *= k  # the clock at which these times hold
        update[name] = type(getattr(calibration, name))(**table)
    return calibration.model_copy(update=update)


def prefill(shape, figures, calibration, **more):
    s = shape
    return prefill_attention_cost(
        s["batch"],
        s["kv_heads"] * s["group"],
        s["kv_heads"],
        s["head_dim"],
        s["seq_q"],
        s["seq_q"] + s["history"],
        window=s["window"],
        device=build(figures),
        calibration=calibration,
        dtype="bf16",
        **more,
    )


def decode(shape, figures, calibration, **more):
    s = shape
    return decode_attention_cost(
        s["batch"],
        s["kv_heads"] * s["group"],
        s["kv_heads"],
        s["head_dim"],
        s["seq_q"] + s["history"],
        window=s["window"],
        device=build(figures),
        calibration=calibration,
        dtype="bf16",
        **more,
    )


def experts(shape, figures, calibration, **more):
    return moe_ffn_cost(
        shape["batch"] * shape["seq_q"],
        128 * shape["group"],
        2048,
        experts=64,
        topk=4,
        ep=shape["kv_heads"] if shape["kv_heads"] in (1, 2, 4, 8, 16) else 1,
        device=build(figures),
        calibration=calibration,
        dtype="bf16",
        **more,
    )


costs = st.sampled_from([prefill, decode, experts])
names = st.sampled_from(NAMES)


@settings(max_examples=60, deadline=None)
@given(costs, names, shapes, devices, st.floats(0.2, 5.0))
def test_faster_by_k_is_faster_by_k(cost, name, shape, figures, k):
    peak, bandwidth, clock, units = figures
    before = cost(shape, figures, CALIBRATIONS[name])
    faster = (peak * k, bandwidth * k, clock * k, units)
    after = cost(shape, faster, sped_up(CALIBRATIONS[name], k))
    np.testing.assert_allclose(after.time * k, before.time, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(costs, names, shapes, devices, st.integers(0, 2), st.floats(1.0, 5.0))
def test_better_hardware_is_never_slower(cost, name, shape, figures, which, k):
    better = list(figures)
    better[which] *= k
    slow = cost(shape, figures, CALIBRATIONS[name]).time
    fast = cost(shape, tuple(better), CALIBRATIONS[name]).time
    assert fast <= slow * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(costs, names, shapes, devices)
def test_parts_add_up(cost, name, shape, figures):
    found = cost(shape, figures, CALIBRATIONS[name])
    total = found.compute + found.memory + found.interconnect + found.overhead
    np.testing.assert_allclose(total, found.time, rtol=1e-9)
    assert np.isfinite(found.time).all()
    assert (found.time > 0).all()


@settings(max_examples=60, deadline=None)
@given(names, shapes, devices, st.booleans())
def test_prefill_never_beats_the_roofline(name, shape, figures, backward):
    s, (peak, bandwidth, *_) = shape, figures
    time = prefill(s, figures, CALIBRATIONS[name], backward=backward).time
    heads, tokens = s["kv_heads"] * s["group"], s["seq_q"]
    keys = tokens * s["history"] + tokens * (tokens + 1) / 2
    if s["window"]:
        keys = min(keys, tokens * min(s["window"], tokens + s["history"]))
        ramp = min(tokens, max(0, s["window"] - s["history"]))
        keys -= ramp * (ramp - 1) / 2 if tokens > 1 else 0
    flop = 4 * s["batch"] * heads * s["head_dim"] * max(keys, 0)
    nbytes = 2 * 2 * s["batch"] * heads * s["head_dim"] * tokens
    assert time >= flop * (2.5 if backward else 1) / peak * (1 - 1e-9)
    assert time >= nbytes / bandwidth


@settings(max_examples=60, deadline=None)
@given(names, shapes, devices)
def test_decode_never_beats_the_roofline(name, shape, figures):
    s, (peak, bandwidth, *_) = shape, figures
    time = decode(s, figures, CALIBRATIONS[name]).time
    seen = s["seq_q"] + s["history"]
    seen = min(seen, s["window"]) if s["window"] else seen
    elements = 2 * s["batch"] * s["kv_heads"] * s["head_dim"] * seen
    assert time >= 2 * elements / bandwidth
    assert time >= 2 * elements * s["group"] / peak


@settings(max_examples=40, deadline=None)
@given(names, shapes, devices, st.integers(1, 4))
def test_more_work_takes_no_less_time(name, shape, figures, k):
    calibration = CALIBRATIONS[name]
    larger = {**shape, "batch": shape["batch"] * (k + 1)}
    for cost in (prefill, decode, experts):
        small = cost(shape, figures, calibration).time
        assert cost(larger, figures, calibration).time >= small * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_scaling_covers_every_time(name):
    assert ("attention", "prefill.start_time") in TIMES
    assert ("attention", "decode.unit_time") in TIMES
    assert ("moe", "kernels.wide.block_time") in TIMES
    halved = sped_up(CALIBRATIONS[name], 2.0).attention.decode.start_time
    assert halved == CALIBRATIONS[name].attention.decode.start_time / 2
