"""Layouts of a training step: experts over tensor ranks, hybrid sharding, adapters."""

from __future__ import annotations

from typing import Any

import pytest

import hwsim
from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.op import Collective
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack

SYSTEM = "dgx-h100-ndr-128"
STACK = load_stack("pytorch-fsdp")


def train(model: str = "llama-3.1-8b", **kwargs: Any) -> Any:
    given = {"devices": 16, "seq": 2048, "engine": "closed_form", "global_batch": 64}
    return hwsim.train(model, SYSTEM, **(given | kwargs))


def collectives(**kwargs: Any) -> dict[str, Collective]:
    graph = training_graph(
        load_model("llama-3.1-8b"), micro_batch=1, seq=2048, dp=16, stack=STACK,
        **kwargs,
    )  # fmt: skip
    return {
        n.op.name: n.op
        for _, _, n, _ in graph.distinct()
        if isinstance(n.op, Collective)
    }


def test_hybrid_sharding_gathers_near_and_sums_copies_far() -> None:
    """A group of 8 gathers and scatters; only its shard crosses to the copies."""
    found = collectives(zero_stage=3, dp_shard=8)
    whole = collectives(zero_stage=3)
    gather, reduce = found["parameter_gather"], found["gradient_reduce"]
    copies = found["copies_gradient_reduce"]
    assert (gather.group_size, gather.stride) == (8, 1)
    assert (reduce.collective, reduce.group_size) == ("reduce_scatter", 8)
    assert (copies.collective, copies.group_size) == ("all_reduce", 2)
    assert copies.stride == 8
    assert copies.message == reduce.message / 8
    assert whole["parameter_gather"].group_size == 16
    assert "copies_gradient_reduce" not in whole


def test_hybrid_sharding_of_all_ranks_is_plain_sharding() -> None:
    assert collectives(zero_stage=3, dp_shard=16) == collectives(zero_stage=3)


def test_hybrid_sharding_holds_more_and_sends_less_far() -> None:
    hybrid, full = train(zero_stage=3, dp_shard=8), train(zero_stage=3)
    for part in ("weights", "gradients", "optimizer_states"):
        ours, theirs = getattr(hybrid.footprint, part), getattr(full.footprint, part)
        assert ours == pytest.approx(2 * theirs)
    assert hybrid.config.to_dict()["dp_shard"] == 8


def test_hybrid_sharding_with_experts() -> None:
    """Experts of 8 ranks, states shared by 8: every expert has its two copies."""
    graph = training_graph(
        load_model("qwen3-30b-a3b"), micro_batch=1, seq=2048, dp=16, ep=8, dp_shard=8,
        zero_stage=3, stack=STACK,
    )  # fmt: skip
    names = [n.op.name for _, _, n, _ in graph.distinct()]
    assert "expert_copies_gradient_reduce" in names
    assert "expert_gradient_reduce" not in names
    assert "expert_parameter_gather" not in names


def test_experts_may_take_tensor_ranks() -> None:
    result = train("qwen3-30b-a3b", tp=4, ep=16, etp=1, zero_stage=1)
    assert result.config.to_dict()["etp"] == 1
    with pytest.raises(InputError, match="ep 16 does not divide the 4 ranks"):
        train("qwen3-30b-a3b", tp=4, ep=16, zero_stage=1)


def test_uneven_experts_take_longer() -> None:
    even, uneven = (
        train("qwen3-30b-a3b", ep=8, zero_stage=1, imbalance=i) for i in (1.0, 1.5)
    )
    assert uneven.step_s > even.step_s


def test_adapters_train_with_a_fraction_of_the_memory() -> None:
    whole, lora = train(tp=8), train(tp=8, lora_rank=16)
    assert lora.footprint.optimizer_states < 0.01 * whole.footprint.optimizer_states
    assert lora.step_s < whole.step_s
    assert lora.work("model_flop") < 0.75 * whole.work("model_flop")
    more = train(tp=8, lora_rank=16, lora_targets=("qkv", "out", "up", "down"))
    assert more.footprint.optimizer_states > lora.footprint.optimizer_states


def test_adapters_in_a_pipeline() -> None:
    result = train(pp=4, tp=4, vpp=2, lora_rank=8, global_batch=16)
    assert result.step_s < train(pp=4, tp=4, vpp=2, global_batch=16).step_s


def test_stages_as_they_are_given() -> None:
    """A stage with twice the layers sets the pace; ends may have none."""
    even = train(pp=4, tp=4)
    given = train(pp=4, tp=4, stage_layers=(8, 8, 8, 8))
    uneven = train(pp=4, tp=4, stage_layers=(4, 16, 8, 4))
    assert given.step_s == even.step_s
    assert uneven.step_s > 1.3 * even.step_s
    assert train(pp=4, tp=4, stage_layers=(0, 16, 16, 0)).step_s > even.step_s


def test_embedding_and_head_may_stand_alone() -> None:
    """A 126-layer model in 128 parts: 16 ranks of 8 chunks."""
    result = hwsim.train(
        "llama-3.1-405b", SYSTEM, devices=128, tp=8, pp=16, vpp=8, global_batch=64,
        seq=8192, engine="closed_form",
    )  # fmt: skip
    assert result.mfu > 0.2


@pytest.mark.parametrize("schedule", ["zero_bubble", "gpipe"])
def test_schedules_with_an_embedding_alone(schedule: str) -> None:
    result = train(
        "gpt-2-124m", seq=1024, devices=8, pp=8, schedule=schedule, global_batch=16,
        stage_layers=(0, 2, 2, 2, 2, 2, 2, 0),
    )  # fmt: skip
    assert 0 < result.bubble_fraction < 1


def test_two_way_pipelines_hold_a_stage_from_either_end() -> None:
    """Two copies of all parameters: four layers of each end on the first rank."""
    given = {"devices": 8, "pp": 8, "micro_batch": 1, "global_batch": 32}
    two = train(schedule="dualpipe", **given)
    model = two.model
    layer, table = model.parameters_per_layer(0), model.vocab * model.hidden
    ends = 2 * 4 * layer + 2 * table + model.hidden
    assert two.memory_rank == 0
    assert two.footprint.weights == 2 * ends
    assert two.footprint.gradients == 2 * ends
    one = train(schedule="zero_bubble", **given)
    assert two.work("full_flop") == pytest.approx(one.work("full_flop"), rel=1e-9)
    assert two.footprint.weights > 1.5 * one.footprint.weights
    names = [n.op.name for _, _, n, _ in two.graphs[-1].graph.distinct()]
    assert "mirror_gradients" in names


def test_two_way_stages_of_other_sizes_take_their_own_time() -> None:
    """A rank's second chunk is the stage that mirrors its own."""
    given = {"devices": 4, "pp": 4, "global_batch": 16, "schedule": "dualpipe"}
    even = train(stage_layers=(8, 8, 8, 8), **given)
    mirrored = train(stage_layers=(4, 12, 4, 12), **given)
    assert mirrored.step_s < 1.6 * even.step_s
    assert mirrored.work("full_flop") == pytest.approx(even.work("full_flop"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dp_shard": 3, "zero_stage": 3}, InputError, "dp_shard 3 does not divide"),
        ({"dp_shard": 8}, InputError, "zero_stage 0 shares nothing"),
        ({"dp_shard": 0, "zero_stage": 1}, InputError, "dp_shard is 0"),
        ({"etp": 2, "tp": 4}, InputError, "etp is 2"),
        ({"cp_mode": "spiral"}, UnknownNameError, "spiral"),
        ({"imbalance": 0.5}, InputError, "imbalance"),
        ({"capacity_factor": 0.0}, InputError, "capacity_factor"),
        ({"lora_rank": -1}, InputError, "lora_rank"),
        ({"lora_rank": 4, "lora_targets": ()}, InputError, "lora_targets is empty"),
        ({"lora_rank": 4, "lora_targets": ("q",)}, UnknownNameError, "lora target"),
        ({"pp": 4, "stage_layers": (8, 8, 8)}, InputError, "3 layer counts"),
        ({"pp": 4, "stage_layers": (8, 0, 16, 8)}, InputError, "layers of part 2"),
        ({"pp": 4, "stage_layers": (8, 8, 8, 9)}, InputError, "make the last part 8"),
        ({"stage_layers": (16, 16)}, InputError, "2 layer counts"),
        ({"imbalance": 1.5}, InputError, "imbalance is 1.5 but"),
        ({"capacity_factor": 1.5}, InputError, "capacity_factor is 1.5 but"),
        ({"etp": 1, "tp": 4}, InputError, "etp is 1 but"),
    ],
)  # fmt: skip
def test_impossible_layouts_are_refused(change, error, message) -> None:
    with pytest.raises(error, match=message):
        train(**change)


def test_experts_and_shares_that_do_not_divide() -> None:
    with pytest.raises(InputError, match="do not divide each other"):
        train(
            "qwen3-30b-a3b", devices=96, ep=4, dp_shard=6, zero_stage=3,
            global_batch=96,
        )  # fmt: skip


@pytest.mark.parametrize(("early", "stream"), [(True, "gather"), (False, "dp")])
def test_a_late_gather_queues_behind_the_reduction(early: bool, stream: str) -> None:
    overlap = STACK.overlap.model_copy(update={"backward_prefetch": early})
    graph = training_graph(
        load_model("llama-3.1-8b"), micro_batch=1, seq=2048, dp=16, zero_stage=3,
        stack=STACK.model_copy(update={"overlap": overlap}),
    )  # fmt: skip
    streams = {
        (n.op.phase, n.stream)
        for _, _, n, _ in graph.distinct()
        if n.op.name == "parameter_gather"
    }
    assert streams == {("forward", "gather"), ("backward", stream)}


@pytest.mark.parametrize("what", ["offload_activations", "offload_optimizer"])
def test_copies_to_the_host_share_its_ports(what):
    def copied(system):
        found = hwsim.train("llama-2-7b", system, tp=8, seq=512, **{what: True})
        rows = [r for g in found.graphs for r in g.op_rows() if r["kind"] == "copy"]
        assert rows
        return sum(r["total_s"] for r in rows), found.step_s

    shared, step = copied("dgx-a100-80gb")
    node = hwsim.load_system("dgx-a100-80gb")
    alone, faster = copied(node.model_copy(update={"devices_per_host_port": 1}))
    assert shared == pytest.approx(2 * alone, rel=1e-3)
    assert faster < step


@pytest.mark.parametrize("what", ["offload_activations", "offload_optimizer"])
def test_drives_that_devices_of_a_node_share_take_what_is_offloaded(what):
    def copied(*overrides):
        asked = {"tp": 16, "seq": 512, "overrides": overrides, what: True}
        found = hwsim.train("llama-2-7b", "dgx-2", **asked)
        rows = [r for g in found.graphs for r in g.op_rows() if r["kind"] == "copy"]
        return sum(r["total_s"] for r in rows)

    drives = "system.offload_to=drives"
    there = copied(drives)
    assert there > copied()
    halved = copied(drives, "system.drives_bandwidth=12.8 GB/s")
    assert halved == pytest.approx(2 * there, rel=1e-3)
    # Beyond the host's ports, faster drives change nothing.
    fast = copied(drives, "system.drives_bandwidth=1 TB/s")
    assert fast == pytest.approx(copied(), rel=1e-9)


def test_a_plan_offloads_to_drives_as_a_step_does():
    asked = {"global_batch": 16, "seq": 512, "overrides": ["system.offload_to=drives"]}
    plan = hwsim.plan_train(
        "llama-2-7b", "dgx-2", offload_activations=(True,), simulate=1, **asked
    )
    assert plan.predicted[0] == pytest.approx(plan.best.step_s, rel=0.2)
    assert any(line.startswith("drives must hold") for line in plan.reasons.why)


def test_drives_that_a_system_does_not_name_are_asked_for():
    with pytest.raises(hwsim.SpecError, match="set drives_bandwidth too"):
        hwsim.train("gpt2", "dgx-h100", overrides=["system.offload_to=drives"])


def test_oversubscription_slows_a_step_whose_replicas_are_far_apart():
    def step(over):
        return hwsim.train(
            "gpt3-6.7b", "h100-ndr-oversubscribed-128", tp=8, pp=4, devices=1024,
            overrides=[f"system.networks.rail-spine.oversubscription={over}"],
        ).step_s  # fmt: skip

    assert step(1) <= step(2) < step(64)
