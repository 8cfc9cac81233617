"""Relations that hold for any model, hardware and layout of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import hwsim
from hwsim.analysis.training.memory import held_microbatches, rank_memory
from hwsim.analysis.training.train import TrainResult
from hwsim.errors import HwsimError
from hwsim.specs.catalogs import MODELS, SYSTEMS, load_model, load_system

# What is fitted to measurements need not be smooth.
FITTED = 1.002
# The same cases in every run: the space is the whole catalog.
FEW = settings(
    max_examples=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
LARGE = 2e11
SMALLER = [m for m in sorted(MODELS) if load_model(m).num_parameters < LARGE]
SHARED = [s for s in sorted(SYSTEMS) if load_system(s).num_devices >= 4]
STACKS = (
    "default-training", "megatron-2021", "megatron-core", "nemo-graphs", "deepspeed",
    "pytorch-fsdp", "torchtitan", "maxtext",
)  # fmt: skip


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """Draw a model, a system and a layout that may or may not be possible."""
    model, system = draw(st.sampled_from(SMALLER)), draw(st.sampled_from(SHARED))
    power = [1, 2, 4]
    tp, pp, dp = (draw(st.sampled_from(power)) for _ in range(3))
    cp = draw(st.sampled_from([1, 1, 2]))
    micro, count = draw(st.sampled_from([1, 2])), draw(st.sampled_from([4, 8]))
    options: dict[str, Any] = {
        "tp": tp, "pp": pp, "cp": cp, "dp": dp, "devices": tp * pp * cp * dp,
        "micro_batch": micro, "global_batch": micro * dp * count,
        "seq": draw(st.sampled_from([256, 1024])),
        "recompute": draw(st.sampled_from(["none", "selective", "operators", "full"])),
        "zero_stage": draw(st.integers(0, 3)),
        "sequence_parallel": draw(st.booleans()),
        "stack": draw(st.sampled_from(STACKS)),
        "optimizer": draw(st.sampled_from(["adamw", "sgd", "adafactor", "adam8bit"])),
        "offload_optimizer": draw(st.booleans()),
    }  # fmt: skip
    if load_model(model).moe is not None:
        options["ep"] = draw(st.sampled_from([1, 2, 4]))
    return model, system, options


def run(
    model: str, system: str, options: dict[str, Any], **changed: Any
) -> TrainResult:
    """Return the step; skip what is refused, which must be told in one line."""
    try:
        return hwsim.train(
            model, system, **({"engine": "closed_form"} | options | changed)
        )
    except HwsimError as error:
        one_line = "\n" not in str(error)
    assert one_line
    assume(False)
    raise AssertionError


@FEW
@given(asked())
def test_every_part_is_there_and_none_is_negative(case):
    result = run(*case)
    parts = result.footprint.to_dict()
    assert all(math.isfinite(v) and v >= 0 for v in parts.values())
    breakdown = result.to_dict()["breakdown"]
    assert all(v >= 0 for v in breakdown.values())
    assert sum(breakdown.values()) == pytest.approx(result.step_s)
    assert 0 < result.mfu <= 1
    assert result.hfu <= 1.05
    assert result.fits is (parts["total"] <= result.memory.usable)


@FEW
@given(asked(), st.sampled_from(["bandwidth=x2", "latency=x0.5"]))
def test_a_better_network_is_never_slower(case, better):
    plain = run(*case)
    names = [network.name for network in load_system(case[1]).networks]
    for name in names:
        found = run(*case, overrides=[f"system.networks.{name}.{better}"])
        assert found.step_s <= plain.step_s * FITTED
        assert found.footprint == plain.footprint


@FEW
@given(asked())
def test_faster_memory_is_never_slower(case):
    plain, device = run(*case), load_system(case[1]).device
    names = [n for n, one in device.memory.items() if one is device.main_memory]
    better = run(*case, overrides=[f"device.memory.{names[0]}.bandwidth=x2"])
    assert better.step_s <= plain.step_s * FITTED


def ranks(result):
    """Return the footprint of each pipeline rank."""
    config = result.config
    if config.pp == 1:
        return [result.footprint]
    parts, held = config.parts(result.model), held_microbatches(config)
    return [
        rank_memory(result.model, result.stack, config, rank, parts, held[rank])
        for rank in range(config.pp)
    ]


@FEW
@given(asked())
def test_more_devices_compute_less_and_hold_no_more(case):
    plain, options = run(*case), case[2]
    twice = {"dp": 2 * options["dp"], "devices": 2 * options["devices"]}
    found = run(*case, **twice)
    compute = [r.to_dict()["breakdown"]["compute"] for r in (plain, found)]
    assert compute[1] <= compute[0] * FITTED
    # Rank by rank: with fewer microbatches, another one may be the fullest.
    for before, after in zip(ranks(plain), ranks(found), strict=True):
        kept = [f.weights + f.optimizer_states for f in (before, after)]
        assert kept[1] <= kept[0] * (1 + 1e-9)


@FEW
@given(asked())
def test_what_saves_memory_does(case):
    plain, options = run(*case), case[2]
    if options["zero_stage"] < 3:
        shared = run(*case, zero_stage=options["zero_stage"] + 1).footprint
        held = [
            f.weights + (f.gradients or 0.0) + (f.optimizer_states or 0.0)
            for f in (plain.footprint, shared)
        ]
        assert held[1] <= held[0] * (1 + 1e-9)
    full = run(*case, recompute="full").footprint
    assert full.activations <= plain.footprint.activations * (1 + 1e-9)
    away = run(*case, offload_optimizer=True).footprint
    assert away.total <= plain.footprint.total * (1 + 1e-9)


@FEW
@given(asked())
def test_larger_microbatches_hold_more(case):
    plain, options = run(*case), case[2]
    twice = {name: 2 * options[name] for name in ("micro_batch", "global_batch")}
    assert run(*case, **twice).footprint.total > plain.footprint.total


@FEW
@given(asked())
def test_closed_form_equals_the_simulator_where_nothing_contends(case):
    model, system, options = case
    alone = options | {"tp": 1, "cp": 1, "pp": 1, "ep": 1, "zero_stage": 0}
    alone["devices"] = options["dp"]
    alone["sequence_parallel"] = False
    if load_model(model).moe is None:
        alone.pop("ep")
    closed = run(model, system, alone)
    played = run(model, system, alone, engine="simulate")
    assert played.step_s == pytest.approx(closed.step_s, rel=1e-6)
