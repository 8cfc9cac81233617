"""Plans: the space is complete, the closed form is the simulator's, limits hold."""

import itertools
import random

import numpy as np
import pytest
from scipy.stats import spearmanr

from hwsim.analysis.economy import front
from hwsim.analysis.plan_train import planner
from hwsim.analysis.plan_train import search as plan_search
from hwsim.analysis.plan_train.choices import Choices
from hwsim.analysis.plan_train.memory import MemoryModel
from hwsim.analysis.plan_train.space import Enumerator
from hwsim.analysis.plan_train.stages import StageMaker
from hwsim.analysis.plan_train.time import TimeModel
from hwsim.analysis.plan_train.units import Question
from hwsim.analysis.resolve import resolve
from hwsim.analysis.training.config import checked_config
from hwsim.analysis.training.make import make_step
from hwsim.analysis.training.memory import step_memory
from hwsim.analysis.training.step import StepMaker
from hwsim.analysis.training.train import run_training
from hwsim.api.plan import plan_train
from hwsim.errors import HwsimError, InputError
from hwsim.graph.partition import check_interleaving
from hwsim.units import format_quantity

NO_OFFLOAD = {"offload_optimizer": False, "offload_activations": False}


class Case:
    """One model on one system: its layouts, and what each is simulated with."""

    def __init__(self, model, system, devices, batch, seq, stack="default-training"):
        self.model, whole, self.stack = resolve(model, system, stack, [])
        self.system = whole.subsystem(devices)
        self.devices, self.batch, self.seq = devices, batch, seq
        self.question = Question(
            self.model, self.system, self.stack, "bf16", "adamw", seq, "auto"
        )
        self.stages = StageMaker(self.model, seq)
        self.memory = MemoryModel(self.question, self.stages)

    def space(self, **choices):
        return Enumerator(
            self.model, self.system, self.stack, Choices.of(**choices), self.batch,
            self.seq,
        ).space(self.devices)  # fmt: skip

    def asked(self, row):
        split = self.question.splits(row["tp"], row["cp"])
        return {
            **row, "devices": self.devices, "global_batch": self.batch,
            "seq": self.seq, "dtype": "bf16", "sequence_parallel": split,
        }  # fmt: skip

    def times(self, space):
        model = TimeModel(self.question, self.stages, self.memory, split=True)
        return model.times(space).step

    def simulated(self, row):
        return run_training(
            self.model, self.system, self.stack, **self.asked(row)
        ).step_s


@pytest.fixture(scope="module")
def dense():
    return Case("llama-2-13b", "dgx-h100-ndr-16", 32, 64, 4096)


@pytest.fixture(scope="module")
def experts():
    return Case("mixtral-8x7b", "dgx-h100-ndr-16", 32, 64, 2048)


@pytest.fixture(scope="module")
def uneven():
    """Its first layer is of another kind, and stages do not come out even."""
    return Case("deepseek-v2-lite", "dgx-h100-ndr-16", 64, 128, 2048)


def test_space_holds_every_layout_that_a_step_accepts():
    case = Case("gpt-3-350m", "dgx-a100-80gb", 8, 16, 1024)
    space = case.space(vpp=(1, 2, 3), recompute="none", **NO_OFFLOAD)
    found = {
        (
            *(row[k] for k in ("tp", "cp", "pp", "dp", "vpp", "micro_batch")),
            row["schedule"] if row["pp"] > 1 else "-",
            row["zero_stage"],
        )
        for row in map(space.row, range(len(space)))
    }
    sizes = (1, 2, 4, 8)
    wanted = set()
    schedules = ("1f1b", "dualpipe", "gpipe", "interleaved", "zero_bubble")
    for tp, cp, pp, vpp, micro, zero, schedule in itertools.product(
        sizes, (1, 2), sizes, (1, 2, 3), (1, 2, 4, 8, 16), range(4), schedules
    ):
        row = {
            "tp": tp, "cp": cp, "pp": pp, "vpp": vpp, "micro_batch": micro,
            "zero_stage": zero, "schedule": schedule,
        }  # fmt: skip
        try:
            check_interleaving(case.model, pp, vpp)
            config = checked_config(case.model, case.system, **case.asked(row))
        except HwsimError:
            continue
        if (pp == 1 and (vpp > 1 or schedule != "1f1b")) or pp * vpp > 24:
            continue
        if config.dp * cp == 1 and zero:
            continue  # nothing to share out: the same as stage 0
        name = schedule if pp > 1 else "-"
        wanted.add((tp, cp, pp, config.dp, vpp, micro, name, zero))
    assert found == wanted
    assert len(found) == len(space)


@pytest.mark.parametrize(
    ("model", "stack"),
    [
        ("t5-3b", "default-training"), ("t5-large", "megatron-2021"),
        ("transformer-big", "nanogpt-eager"), ("whisper-small", "pytorch-fsdp"),
        ("bert-large", "nvidia-bert"), ("deepseek-v2-lite", "torchtitan"),
    ],
)  # fmt: skip
def test_memory_is_that_of_the_step_of_any_kind_and_stack(model, stack):
    """A decoder behind an encoder has an embedding of its own, wherever it starts."""
    case = Case(model, "dgx-a100-80gb", 8, 32, 256, stack)
    space = case.space(micro_batch=(1, 2))
    needed = case.memory.needed(space)
    for index in random.Random(9).sample(range(len(space)), 40):
        row = space.row(index)
        config = checked_config(case.model, case.system, **case.asked(row))
        exact = step_memory(case.model, case.stack, config).footprint.total
        assert needed[index] == pytest.approx(exact, rel=1e-9), row


@pytest.mark.parametrize("name", ["dense", "experts", "uneven"])
def test_memory_is_that_of_the_step(name, request):
    case = request.getfixturevalue(name)
    space = case.space(**NO_OFFLOAD) if name == "uneven" else case.space()
    needed = case.memory.needed(space)
    for index in random.Random(5).sample(range(len(space)), 40):
        row = space.row(index)
        config = checked_config(case.model, case.system, **case.asked(row))
        exact = step_memory(case.model, case.stack, config).footprint.total
        assert needed[index] == pytest.approx(exact, rel=1e-9), row


@pytest.mark.parametrize(
    ("model", "system", "devices", "batch", "seq", "stack"),
    [
        ("llama-2-13b", "dgx-h100-ndr-16", 32, 64, 4096, "default-training"),
        # Parameters gathered beside forward passes; tensor-parallel overlap.
        ("llama-2-13b", "dgx-h100-ndr-16", 32, 64, 4096, "megatron-core"),
        ("mixtral-8x7b", "dgx-h100-ndr-16", 32, 64, 2048, "default-training"),
        ("llama-3.1-8b", "rtx-4090-pcie-8", 8, 32, 2048, "default-training"),
        ("qwen3-30b-a3b", "mi300x-roce-4", 32, 64, 4096, "default-training"),
        ("deepseek-v2-lite", "h100-roce-128", 16, 32, 4096, "default-training"),
        ("t5-3b", "tpu-v5p-64", 16, 64, 512, "default-training"),
        ("bert-large", "trn2-48xlarge", 4, 64, 512, "default-training"),
        ("gpt-2-1.5b", "dgx-h100", 2, 16, 1024, "default-training"),
    ],
)
def test_closed_form_ranks_as_the_simulator(model, system, devices, batch, seq, stack):
    case = Case(model, system, devices, batch, seq, stack)
    space = case.space()
    needed = case.memory.needed(space)
    usable = case.system.device.main_memory.size * (1 - case.stack.memory_reserve)
    small = space["pp"] * space["vpp"] * space.num_microbatches <= 128
    space = space.taken(np.flatnonzero((needed <= usable) & small))
    times = case.times(space)
    places = random.Random(3).sample(range(len(space)), 30)
    exact = [case.simulated(space.row(i)) for i in places]
    assert spearmanr(times[places], exact)[0] >= 0.98
    assert np.median(np.abs(times[places] / exact - 1.0)) <= 0.03


@pytest.mark.parametrize("stage", [2, 3])
def test_layers_lose_what_their_own_traffic_takes_from_that_of_parameters(stage):
    """One link carries rings of attention, gathers and reductions: PCIe."""
    case = Case("llama-3.1-8b", "rtx-4090-pcie-8", 8, 16, 2048)
    space = case.space(
        zero_stage=stage, tp=(1, 2), cp=(2, 4), pp=(1, 2), vpp=1, micro_batch=1,
        recompute="full", schedule="1f1b", **NO_OFFLOAD,
    )  # fmt: skip
    exact = [case.simulated(space.row(i)) for i in range(len(space))]
    assert np.abs(case.times(space) / exact - 1.0).max() <= 0.06


def test_recomputation_by_operator_is_a_choice_that_has_to_be_asked_for(dense):
    usual = dense.space(tp=2, **NO_OFFLOAD)
    assert {usual.row(i)["recompute"] for i in range(len(usual))} == {"none", "full"}
    space = dense.space(tp=(1, 2), cp=1, vpp=1, recompute="operators", **NO_OFFLOAD)
    needed, times = dense.memory.needed(space), dense.times(space)
    places = random.Random(11).sample(range(len(space)), 12)
    for index in places:
        row = space.row(index)
        config = checked_config(dense.model, dense.system, **dense.asked(row))
        exact = step_memory(dense.model, dense.stack, config).footprint.total
        assert needed[index] == pytest.approx(exact, rel=1e-9), row
    exact = [dense.simulated(space.row(i)) for i in places]
    assert np.median(np.abs(times[places] / exact - 1.0)) <= 0.03


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_hybrid_sharding_is_a_choice(name, request):
    """Closed forms of memory and time are those of the step, copies and all."""
    case = request.getfixturevalue(name)
    space = case.space(
        dp_shard=(2, 4, 8), zero_stage=(1, 2, 3), cp=(1, 2), pp=(1, 2), vpp=1,
        micro_batch=1, recompute="none", **NO_OFFLOAD,
    )  # fmt: skip
    hybrid = np.flatnonzero(space["dp_shard"])
    assert set(space["dp_shard"][hybrid].tolist()) == {2, 4, 8}
    needed, times = case.memory.needed(space), case.times(space)
    places = random.Random(7).sample(hybrid.tolist(), 15)
    for index in places:
        row = space.row(index)
        config = checked_config(case.model, case.system, **case.asked(row))
        exact = step_memory(case.model, case.stack, config).footprint.total
        assert needed[index] == pytest.approx(exact, rel=1e-9), row
    exact = [case.simulated(space.row(i)) for i in places]
    assert spearmanr(times[places], exact)[0] >= 0.98
    assert np.median(np.abs(times[places] / exact - 1.0)) <= 0.05


def test_hybrid_sharding_by_default_fills_a_domain(dense):
    space = dense.space(tp=2, cp=1, pp=1, micro_batch=1, **NO_OFFLOAD)
    found = set(
        zip(space["zero_stage"].tolist(), space["dp_shard"].tolist(), strict=True)
    )
    assert found == {(0, 0), (1, 0), (2, 0), (3, 0), (3, 4)}


def test_a_share_that_divides_nothing_is_said(dense):
    space = dense.space(dp_shard=3, zero_stage=3, tp=2, cp=1, pp=1, micro_batch=1)
    assert len(space) == 0
    assert "dp_shard 3 does not divide dp 16; use" in space.why[0]


def test_units_cost_what_their_graphs_do(dense):
    row = {"tp": 2, "pp": 4, "micro_batch": 1}
    space = dense.space(
        tp=2, cp=1, pp=4, micro_batch=1, zero_stage=0, recompute="none",
        schedule="gpipe", **NO_OFFLOAD,
    )  # fmt: skip
    config = checked_config(
        dense.model, dense.system, **dense.asked({**row, "cp": 1, "schedule": "gpipe"})
    )
    maker = StepMaker(
        dense.model, dense.system, dense.stack, config, "auto", "closed_form"
    )
    step = make_step(maker)
    assert len(space) == 1
    assert dense.times(space)[0] == pytest.approx(step.step_s, rel=0.02)


def plan(**changes):
    asked = {
        "devices": 8, "global_batch": 16, "seq": 1024, "simulate": 3, "pp": (1, 2),
        "vpp": 1, "micro_batch": (1, 2), **changes,
    }  # fmt: skip
    return plan_train("gpt-3-1.3b", "dgx-a100-80gb", **asked)


@pytest.fixture(scope="module")
def planned():
    return plan()


def test_counts_add_up(planned):
    tally = planned.tally
    assert planned.layouts == tally.timed + tally.no_memory > 500
    assert len(planned.table) == tally.timed - sum(tally.outside.values())
    answer = planned.to_dict()
    assert answer["layouts"] == planned.layouts
    assert answer["search_s"] > 0.0


def test_best_is_least_and_simulated(planned):
    steps = [r.step_s for r in planned.played]
    assert steps == sorted(steps)
    assert len(steps) == 3
    assert planned.best.fits
    table = planned.table["step_s"]
    assert table.is_monotonic_increasing
    assert planned.best.step_s == pytest.approx(table.iloc[0], rel=0.05)


def test_reasons_name_the_mechanism_and_the_difference(planned):
    why, lacks = planned.reasons.why, planned.reasons.lacks
    assert f"{planned.best.step_s:.4g} s" in why[0]
    assert "runner-up has" in lacks[0]
    assert "instead of" in lacks[0]
    changes = planned.reasons.changes
    assert {c["choice"] for c in changes} >= {"tp", "pp", "zero_stage", "recompute"}
    assert all(c["costs"] >= 0.0 for c in changes)


def test_what_hosts_must_hold_is_said():
    """Adam keeps master weights and two moments in fp32: 12 bytes a parameter."""
    found = plan(
        devices=1, pp=1, tp=1, micro_batch=1, recompute="none", zero_stage=0,
        offload_optimizer=True, offload_activations=False, simulate=1,
    )  # fmt: skip
    told = next(line for line in found.reasons.why if line.startswith("hosts must"))
    held = 12 * found.model.num_parameters
    assert format_quantity(held, "B") in told
    assert not any("hosts must" in line for line in plan(**NO_OFFLOAD).reasons.why)


def test_pareto_front_has_all_that_nothing_beats():
    rng = np.random.default_rng(7)
    table = np.exp(rng.normal(size=(300, 3)))
    found = set(front(list(table.T)).tolist())
    wanted = {
        i for i, one in enumerate(table)
        if not np.any(np.all(table <= one, axis=1) & np.any(table < one, axis=1))
    }  # fmt: skip
    # Within half a percent two layouts are equal: few places may differ.
    assert len(found ^ wanted) <= 2
    assert 0 in found or 0 not in wanted


def test_unknown_prices_do_not_empty_the_front():
    columns = [np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.full(2, np.nan)]
    assert sorted(front(columns).tolist()) == [0, 1]


def test_limits_hold(planned):
    fastest = planned.best.step_s
    limited = plan(memory=20e9, step_time=1.2 * fastest, price=2.0)
    assert limited.table["memory_bytes"].max() <= 20e9
    assert limited.table["step_s"].max() <= 1.2 * fastest
    tally = limited.tally
    assert 0 < tally.outside["step_time"] == tally.broken
    assert tally.timed - tally.broken == len(limited.table)
    cost = limited.table["cost_usd"]
    np.testing.assert_allclose(cost, limited.table["step_s"] * 8 * 2.0 / 3600)


def test_objective_decides_the_order():
    least = plan(objective="memory")
    assert least.table["memory_bytes"].is_monotonic_increasing
    thrifty = plan(objective="energy")
    assert thrifty.table["energy_j"].is_monotonic_increasing


def test_several_sizes_and_systems_are_one_search():
    found = plan_train(
        "gpt-3-1.3b", ["dgx-a100-80gb", "dgx-h100"], devices=[4, 8], global_batch=16,
        seq=1024, pp=1, micro_batch=1, recompute="none", simulate=2, **NO_OFFLOAD,
    )  # fmt: skip
    assert set(found.table["devices"]) == {4, 8}
    assert found.table["system"].nunique() == 2
    assert found.best.system.device.id.startswith("h100")
    assert {r["devices"] for r in found.to_dict()["pareto"]} == {4, 8}


def test_the_first_batches_are_small_and_all_are_looked_at(dense):
    listed = Enumerator(
        dense.model, dense.system, dense.stack, Choices.of(tp=2), 64, 4096
    ).listed(32)
    sizes = [len(space) for space in listed.batches(4000, 100)]
    assert sizes[:4] == [100, 400, 1600, 4000]
    assert max(sizes) == 4000
    assert sum(sizes) == len(listed)


def test_an_interrupt_of_the_simulations_answers_with_what_was_played(monkeypatch):
    real, calls = planner.run_training, []

    def stop(*args, **asked):
        calls.append(asked)
        if len(calls) in {1, 4}:
            raise KeyboardInterrupt
        return real(*args, **asked)

    monkeypatch.setattr(planner, "run_training", stop)
    at_once = plan()
    assert at_once.tally.interrupted
    assert len(at_once.played) == 1
    assert len(calls) == 2
    calls[:] = [{}]
    later = plan(simulate=5)
    assert later.tally.interrupted
    assert len(later.played) == 2


def test_interrupt_answers_with_the_best_so_far(monkeypatch):
    monkeypatch.setattr(plan_search, "AT_ONCE", 100)
    seen = []

    def stop(done, whole, best):
        seen.append((done, whole, best))
        if len(seen) == 2:
            raise KeyboardInterrupt

    found = plan(progress=stop)
    assert found.tally.interrupted
    assert found.layouts == 200 < seen[0][1]
    assert found.best.step_s > 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 16}, "at most 8"),
        ({"devices": []}, "at least one"),
        ({"devices": 3, "pp": 1}, "use 15"),
        ({"tp": 3, "devices": 8, "pp": 1}, "does not divide 8 devices; use tp 2"),
        ({"pp": 64, "devices": 8}, "does not divide 8 devices; use pp 8"),
        (
            {"tp": 4, "pp": 8},
            "the 1 of 8 devices that pp 8 leaves; use tp 1",
        ),
        ({"dp": 8, "tp": 4, "pp": 1}, "leave dp 2, not 8; use dp 2"),
        ({"ep": 2}, "has no experts; use ep 1"),
        ({"micro_batch": 5}, "does not divide global_batch / dp"),
        ({"vpp": 99, "pp": 2}, "use vpp 12"),
        ({"schedule": "interleaved", "pp": 2, "vpp": 1}, "vpp"),
        ({"schedule": "1f1bb"}, "1f1b"),
        ({"zero_stage": 4}, "0, 1, 2 or 3"),
        ({"tpp": 2}, "no part of a layout"),
        ({"memory": 1e6}, "the least needs"),
        ({"memory": -1.0}, "above 0"),
        ({"step_time": 1e-6}, "the fastest step is"),
        ({"deadline": 1.0}, "give tokens"),
        ({"deadline": 1.0, "tokens": 1e12}, "the fastest run takes"),
        ({"budget": 1.0, "tokens": 1e12, "price": 2.0}, "the cheapest run is"),
        ({"power": 1.0}, "the least power is"),
        ({"price": -1.0}, "0 or more"),
        ({"pue": 0.5}, "1 to 5"),
        ({"objective": "beauty"}, "time, energy"),
        ({"optimizer": "adamm"}, "adam"),
        ({"seq": 10**6}, "context"),
        ({"simulate": 0}, "at least 1"),
        ({"dtype": "int4"}, "int4"),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_choice(changes, message):
    with pytest.raises(HwsimError) as caught:
        plan(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_system_is_an_error():
    with pytest.raises(InputError, match="name at least one"):
        plan_train("gpt-3-1.3b", [], global_batch=8, seq=1024)


def test_notebooks_get_a_table(planned):
    page = planned._repr_html_()
    assert "<table" in page
    assert "gpt-3-1.3b" in page
