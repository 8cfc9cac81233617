from __future__ import annotations

import pytest

from hwsim.cost.footprint import (
    inference_footprint,
    stage_footprint,
    training_footprint,
)
from hwsim.errors import InputError
from hwsim.graph.lora import Lora
from hwsim.specs.catalogs import MODELS, load_model, load_stack
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from tests.strategies.models import SOURCE


def gpt(**changes) -> ModelSpec:
    fields = {
        "id": "gpt", "name": "gpt", "sources": (SOURCE,), "kind": "decoder",
        "family": "gpt", "layers": 10, "hidden": 1024, "heads": 16, "ffn": 4096,
        "activation": "gelu", "vocab": 51200, "max_context": 2048,
        "norm": "layernorm", "norm_bias": True, "qkv_bias": True, "out_bias": True,
        "ffn_bias": True, "position": "learned", "tied_embeddings": True,
    }  # fmt: skip
    return ModelSpec.model_validate(fields | changes)


def layer_bytes(**kwargs) -> float:
    """Activations of one layer: what ten layers more add, divided by ten."""
    few, many = (
        training_footprint(gpt(layers=n), micro_batch=4, seq=512, **kwargs).activations
        for n in (10, 20)
    )
    return (many - few) / 10


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("split", [False, True])
def test_activations_of_a_layer(tp: int, split: bool) -> None:
    """Korthikanti et al., 2022, arXiv:2205.05198, table 2."""
    s, b, h, a = 512, 4, 1024, 16
    whole = 10 / (tp if split else 1)
    scores = 5 * a * s / h / tp
    kwargs = {"tp": tp, "sequence_parallel": split, "flash": False}
    assert layer_bytes(**kwargs) == s * b * h * (whole + 24 / tp + scores)
    row_sums = 4.0 * b * s * a / tp
    for dropped in ({"recompute": "selective"}, {"flash": True}):
        found = layer_bytes(**(kwargs | dropped))
        assert found == s * b * h * (whole + 24 / tp) + row_sums
    kept = 2 * s * b * h / (tp if split else 1)
    assert layer_bytes(**kwargs, recompute="full") == kept


def test_states_of_mixed_precision_training() -> None:
    """ZeRO's 16 bytes per parameter (Rajbhandari et al., 2020, section 3.1)."""
    model = gpt()
    n = model.num_parameters
    kwargs = {"micro_batch": 1, "seq": 128, "dp": 8}
    shares = {0: (1, 1, 1), 1: (1, 1, 8), 2: (1, 8, 8), 3: (8, 8, 8)}
    for stage, (weights, gradients, states) in shares.items():
        found = training_footprint(model, zero_stage=stage, **kwargs)
        assert found.weights == 2 * n / weights
        assert found.gradients == 2 * n / gradients
        assert found.optimizer_states == 12 * n / states
    wide = training_footprint(model, grad_dtype="fp32", **kwargs)
    assert wide.gradients == 4 * n
    full = training_footprint(model, dtype="fp32", **kwargs)
    assert (full.weights, full.gradients, full.optimizer_states) == (
        4 * n, 4 * n, 8 * n,
    )  # fmt: skip
    plain = training_footprint(model, optimizer="sgd", **kwargs)
    assert plain.optimizer_states == 4 * n


def test_gathered_layers_take_room() -> None:
    kwargs = {"micro_batch": 1, "seq": 128, "dp": 8}
    two, three = (
        training_footprint(gpt(), zero_stage=stage, **kwargs) for stage in (2, 3)
    )
    table = 2.0 * (51200 + 2048) * 1024
    assert three.activations - two.activations == table


def test_serving_memory_is_exact() -> None:
    model = load_model("llama-2-70b")
    one = inference_footprint(model, batch=16, context=2048, prompt=1024)
    assert one.weights == 2 * 68_976_648_192
    assert one.kv_cache == 16 * 2048 * 80 * 2 * 8 * 128 * 2
    norms = 161 * 8192
    eight = inference_footprint(model, batch=16, context=2048, prompt=1024, tp=8)
    assert eight.weights == 2 * ((68_976_648_192 - norms) / 8 + norms)
    assert eight.kv_cache == one.kv_cache / 8
    sixteen = inference_footprint(model, batch=16, context=2048, prompt=1024, tp=16)
    assert sixteen.kv_cache == eight.kv_cache
    narrow = inference_footprint(
        model, batch=16, context=2048, prompt=1024, weight_dtype="int4", kv_dtype="fp8"
    )
    tables = 2 * 32000 * 8192
    assert narrow.weights == (68_976_648_192 - norms - tables) / 2 + 2 * (
        norms + tables
    )
    assert narrow.kv_cache == one.kv_cache / 2


def test_caches_of_other_kinds() -> None:
    latent = inference_footprint(
        load_model("deepseek-v3"), batch=1, context=1000, prompt=10, tp=8
    )
    assert latent.kv_cache == 1000 * 61 * 576 * 2
    windowed = inference_footprint(
        load_model("gpt-oss-20b"), batch=1, context=1000, prompt=10
    )
    assert windowed.kv_cache == 12 * (128 + 1000) * 2 * 8 * 64 * 2
    both = inference_footprint(load_model("t5-base"), batch=1, context=20, prompt=300)
    assert both.kv_cache == 12 * 320 * 2 * 768 * 2
    encoder = inference_footprint(
        load_model("bert-base"), batch=1, context=128, prompt=128
    )
    assert encoder.kv_cache == 0.0


def test_prompts_need_room_for_activations() -> None:
    model = load_model("llama-2-7b")
    short, long, scores = (
        inference_footprint(model, batch=1, context=4096, prompt=p, flash=f)
        for p, f in ((128, True), (4096, True), (4096, False))
    )
    assert short.activations < long.activations < scores.activations


def test_dictionary_has_the_parts_there_are() -> None:
    serving = inference_footprint(gpt(), batch=1, context=10, prompt=5).to_dict()
    assert list(serving) == ["weights", "kv_cache", "activations", "total"]
    training = training_footprint(gpt(), micro_batch=1, seq=10).to_dict()
    assert list(training) == [
        "weights", "gradients", "optimizer_states", "activations", "total",
    ]  # fmt: skip
    for parts in (serving, training):
        total = parts.pop("total")
        assert total == sum(parts.values())


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_of_the_catalog(model: str) -> None:
    spec = load_model(model)
    found = inference_footprint(spec, batch=1, context=10, prompt=5)
    assert found.weights == 2 * spec.num_parameters
    states = training_footprint(spec, micro_batch=1, seq=16)
    assert states.optimizer_states == 12 * spec.num_parameters


@pytest.mark.parametrize(
    "change", [{"batch": 0}, {"prompt": -1}, {"context": 1.5}, {"tp": 5}]
)
def test_bad_counts(change: dict) -> None:
    kwargs = {"batch": 1, "context": 10, "prompt": 5} | change
    with pytest.raises(InputError, match=next(iter(change))):
        inference_footprint(gpt(), **kwargs)


# Stages of a pipeline ---------------------------------------------------------


def stage(model: ModelSpec, layers: tuple[int, int], **kwargs):
    first, last = layers[0] == 0, layers[1] == len(model.layer_kinds)
    given = {"micro_batch": 4, "seq": 512, "first": first, "last": last} | kwargs
    return stage_footprint(model, layers=layers, **given)


@pytest.mark.parametrize("split", [False, True])
def test_first_stage_holds_all_microbatches(split: bool) -> None:
    """Korthikanti et al., 2022, section 4.2: L layers' worth, whatever pp is."""
    s, b, h, a, tp, pp, layers = 512, 4, 1024, 16, 4, 5, 10
    model = gpt(layers=layers)
    found = stage(
        model, (0, layers // pp), in_flight=pp, tp=tp, pp=pp, flash=False,
        sequence_parallel=split,
    )  # fmt: skip
    whole = 10 / (tp if split else 1)
    layer = s * b * h * (whole + 24 / tp + 5 * a * s / h / tp)
    # Dropout masks of the embedding, of each microbatch (section 4.3).
    masks = s * b * h * pp / (tp if split else 1)
    assert found.activations == layers * layer + masks
    last = stage(
        model, (8, 10), in_flight=1, tp=tp, pp=pp, flash=False,
        sequence_parallel=split,
    )  # fmt: skip
    ends = s * b * h * (4 / (tp if split else 1)) + 4 * s * b * 51200 / tp
    assert last.activations == 2 * layer + ends


def test_recomputed_stages_keep_inputs_and_one_layer() -> None:
    s, b, h = 512, 4, 1024
    full = stage(gpt(), (2, 6), in_flight=3, recompute="full", pp=3)
    whole = stage(gpt(), (2, 6), in_flight=3, pp=3)
    assert full.activations == 3 * 4 * 2 * s * b * h + whole.activations / 12
    half = stage(gpt(), (2, 6), in_flight=3, recompute="full", recompute_every=2, pp=3)
    kept = 2 * whole.activations / 12 + 2 * 2 * s * b * h
    assert half.activations == 3 * kept + whole.activations / 12
    scores = stage(gpt(), (2, 6), flash=False, pp=3).activations
    some, none = (
        stage(
            gpt(), (2, 6), flash=False, recompute="selective", recompute_every=k, pp=3
        ).activations
        for k in (2, 1)
    )
    assert some == (scores + none) / 2


def test_stages_hold_the_model_between_them() -> None:
    model = load_model("llama-2-7b")
    parts = [stage(model, layers, pp=2) for layers in ((0, 16), (16, 32))]
    assert sum(p.weights for p in parts) == 2 * model.num_parameters
    message = 2.0 * 4 * 512 * 4096
    assert all(p.buffers == 2 * message for p in parts)
    tied = gpt()
    parts = [stage(tied, layers, pp=2) for layers in ((0, 5), (5, 10))]
    copy = 51200 * 1024
    assert sum(p.weights for p in parts) == 2 * (tied.num_parameters + copy)


def test_context_parallel_ranks_hold_shares() -> None:
    model = load_model("llama-2-7b")
    kwargs = {"micro_batch": 1, "seq": 4096}
    one = training_footprint(model, **kwargs)
    four = training_footprint(model, cp=4, **kwargs)
    assert four.activations == one.activations / 4
    assert four.weights == one.weights
    keys = 1024 * 2 * 4096 * 2
    assert four.buffers == 4 * keys
    shared = training_footprint(model, cp=4, zero_stage=1, **kwargs)
    assert shared.optimizer_states == 12 * model.num_parameters / 4
    # Scores of one rank's queries by all keys.
    for mode in ("all_gather", "all_to_all"):
        plain = training_footprint(model, cp=4, cp_mode=mode, flash=False, **kwargs)
        scores = training_footprint(model, flash=False, **kwargs)
        rows = 4.0 * 4096 * 32 * 32
        extra = scores.activations - one.activations + rows
        assert plain.activations == four.activations + (extra - rows) / 4


def test_expert_ranks_hold_shares() -> None:
    model = load_model("mixtral-8x7b")
    kwargs = {"micro_batch": 1, "seq": 1024, "dp": 8}
    routed = 32 * 8 * 3 * 4096 * 14336
    spread = training_footprint(model, ep=8, **kwargs)
    assert spread.weights == 2 * (model.num_parameters - routed * 7 / 8)
    assert spread.buffers == 2 * 1024 * 2 * 4096 * 2
    shared = training_footprint(model, ep=8, zero_stage=3, **kwargs)
    assert shared.weights == 2 * model.num_parameters / 8
    padded = training_footprint(model, ep=8, capacity_factor=1.5, **kwargs)
    assert padded.buffers == 1.5 * spread.buffers


def test_states_of_other_optimizers() -> None:
    model = load_model("llama-2-7b")
    n = model.num_parameters
    kwargs = {"micro_batch": 1, "seq": 128}

    def states(optimizer: str, **more) -> float:
        found = training_footprint(model, optimizer=optimizer, **kwargs, **more)
        return found.optimizer_states - 4 * n

    assert states("lamb") == states("adam") == 8 * n
    assert states("momentum") == 4 * n
    assert states("sgd") == 0
    # Two bytes, and two fp32 scales for each block of 2048.
    assert states("adam8bit") == pytest.approx(n * (2 + 8 / 2048))
    layer = 4 * 2 * 4096 + 3 * (4096 + 11008) + 2 * 4096
    assert states("adafactor") == 4.0 * (32 * layer + 2 * (32000 + 4096) + 4096)


def test_offloaded_states_and_activations_leave_the_device() -> None:
    model = load_model("llama-2-7b")
    kwargs = {"micro_batch": 1, "seq": 4096}
    here = training_footprint(model, **kwargs)
    away = training_footprint(
        model, offload_optimizer=True, offload_activations=True, **kwargs
    )
    assert away.optimizer_states == here.optimizer_states * 3 / 16
    ends = 4096 * 4096 * 4 + 4 * 4096 * 32000
    assert away.activations - ends == (here.activations - ends) / 16


def test_adapters_are_all_that_is_trained() -> None:
    model = load_model("llama-2-7b")
    found = training_footprint(
        model, micro_batch=1, seq=128, lora=Lora(8, ("qkv", "out"))
    )
    adapters = 32 * 8 * (4096 + 3 * 4096 + 4096 + 4096)
    assert found.gradients == 2 * adapters
    assert found.optimizer_states == 12 * adapters
    assert found.weights == 2 * (model.num_parameters + adapters)


def test_what_dominates_is_named() -> None:
    found = training_footprint(gpt(), micro_batch=1, seq=16)
    assert found.largest == "optimizer_states"
    assert training_footprint(gpt(), micro_batch=64, seq=2048).largest == "activations"


def test_bad_flights() -> None:
    with pytest.raises(InputError, match="in_flight is 0"):
        stage(gpt(), (0, 5), in_flight=0)


def held(stack: str, **changes) -> StackSpec:
    spec = load_stack(stack)
    policy = spec.held.model_copy(update=changes)
    return spec.model_copy(update={"held": policy})


STEP = {"micro_batch": 2, "seq": 512, "dp": 8, "zero_stage": 3, "recompute": "full"}


def test_sharded_masters_are_not_copied() -> None:
    """FSDP: 4 bytes of parameter, 4 of gradient and 8 of Adam (arXiv:2304.11277)."""
    model = gpt()
    n = model.num_parameters
    found = training_footprint(model, stack=held("pytorch-fsdp"), **STEP)
    parts = (found.weights, found.gradients, found.optimizer_states)
    assert parts == (4 * n / 8, 4 * n / 8, 8 * n / 8)
    whole = training_footprint(
        model, stack=held("pytorch-fsdp"), **(STEP | {"zero_stage": 2})
    )
    assert (whole.weights, whole.optimizer_states) == (2 * n, 12 * n / 8)


@pytest.mark.parametrize(
    ("stack", "per_logit"),
    [
        ("pytorch-eager", 2 + 3 * 4), ("pytorch-compile", 2 + 2),
        ("pytorch-fsdp", 2 + 2), ("megatron-core", 2 + 4), ("maxtext", 2 + 2),
    ],
)  # fmt: skip
def test_what_a_loss_holds(stack: str, per_logit: int) -> None:
    few, many = (
        training_footprint(
            gpt(vocab=vocab, tied_embeddings=False, layers=1), micro_batch=8, seq=512,
            stack=load_stack(stack), recompute="full",
        ).activations
        for vocab in (100_000, 200_000)
    )  # fmt: skip
    assert many - few == 8 * 512 * 100_000 * per_logit


def test_logits_are_gone_before_a_layer_is_recomputed() -> None:
    """A step's fullest moment has the larger of both, not their sum."""
    small, large = (
        training_footprint(
            gpt(vocab=vocab, tied_embeddings=False), micro_batch=4, seq=512,
            recompute="full",
        ).activations
        for vocab in (64, 128)
    )  # fmt: skip
    assert small == large


def test_narrow_parameters_replace_wide_ones() -> None:
    model = gpt()
    step = {"micro_batch": 1, "seq": 128, "dtype": "fp8"}
    linear = 12 * 1024 * 1024 * 10
    both = training_footprint(model, stack=held("nemo", narrow=False), **step)
    alone = training_footprint(model, stack=held("nemo", narrow=True), **step)
    assert both.weights - alone.weights == 2 * linear
    wide = step | {"dtype": "bf16"}
    assert (
        training_footprint(model, stack=held("nemo", narrow=True), **wide).weights
        == 2 * model.num_parameters
    )


def test_a_product_is_gathered_at_a_time() -> None:
    model = gpt(layers=4, vocab=512, max_context=2048)
    found = {
        unit: training_footprint(
            model, stack=held("maxtext", gathered=unit), **STEP
        )
        for unit in ("layer", "product")
    }  # fmt: skip
    norms, biases = 4 * 1024, 9 * 1024 + 4096
    layer = 12 * 1024 * 1024 + norms + biases - 4096
    gathered = found["layer"].activations - found["product"].activations
    assert gathered == pytest.approx(2 * 2 * (layer - 4 * 1024 * 1024), rel=2e-3)
    assert found["layer"].buffers - found["product"].buffers == gathered


def test_weights_inside_experts_keep_less() -> None:
    model = load_model("mixtral-8x7b")
    step = {"micro_batch": 1, "seq": 1024}
    kept, not_kept = (
        training_footprint(model, stack=held("nemo", results=r), **step).activations
        for r in (True, False)
    )
    assert kept - not_kept == 1024 * model.layers * 2 * model.hidden * 2
