"""The model spec: counts by hand, layer kinds, validators, round trips."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.specs.catalogs import load_model
from hwsim.specs.load import dump_json
from hwsim.specs.model import LayerKind, ModelSpec
from hwsim.specs.parameter_count import layer_parameters, moe_parameters
from tests.strategies.models import SOURCE, model_specs

TINY: dict[str, Any] = {
    "id": "tiny",
    "name": "Tiny",
    "kind": "decoder",
    "family": "test",
    "layers": 4,
    "hidden": 8,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 3,
    "ffn": 10,
    "activation": "silu",
    "vocab": 50,
    "norm": "rmsnorm",
    "position": "rotary",
    "sources": [SOURCE],
}
MOE = {"experts": 5, "experts_per_token": 2, "expert_ffn": 6}
MLA = {
    "q_lora_rank": 7,
    "kv_lora_rank": 9,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 3,
}
LEARNED = {"position": "learned", "max_context": 16}
RELATIVE = {"position": "relative", "relative_buckets": 5}
NORM, QKVO, FFN = 8, 8 * 12 * 2 + 8 * 6 * 2, 2 * 8 * 10
LAYER = QKVO + FFN + 2 * NORM
OUTER = 2 * 50 * 8 + NORM


def cached_values(model: ModelSpec) -> int:
    return model.cached_values(model.layer_kinds[-1])


def tiny(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(TINY | changes)


def test_plain_decoder_by_hand() -> None:
    model = tiny()
    assert model.parameters_per_layer(0) == LAYER
    assert model.num_parameters == 4 * LAYER + OUTER
    assert model.num_active_parameters == model.num_parameters
    assert model.num_embedding_parameters == 400
    assert cached_values(model) == 12
    assert not model.is_gated


# What each feature adds to the plain model, counted by hand.
@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"gated_ffn": True}, 4 * 80),
        ({"norm_bias": True}, 4 * 16 + 8),
        ({"qkv_bias": True}, 4 * (12 + 6 + 6)),
        ({"out_bias": True}, 4 * 8),
        ({"ffn_bias": True}, 4 * 18),
        ({"ffn_bias": True, "gated_ffn": True}, 4 * (80 + 28)),
        ({"tied_embeddings": True}, -400),
        ({"output_head": False}, -400),
        ({"head_bias": True}, 50),
        ({"norms_per_layer": 1, "parallel_block": True}, -4 * 8),
        ({"norms_per_layer": 4}, 4 * 16),
        ({"final_norm": False}, -8),
        ({"embedding_norm": True}, 8),
        ({"qk_norm": "head"}, 4 * 6),
        ({"qk_norm": "full"}, 4 * 18),
        ({"qk_norm": "l2"}, 0),
        ({"attention_sinks": True}, 4 * 4),
        ({"token_types": 3}, 24),
        ({"pooler": True}, 72),
        (LEARNED, 128),
        (LEARNED | {"position_rows": 18}, 144),
        (RELATIVE, 20),
        ({"position": "alibi"}, 0),
        ({"embedding_size": 5}, -2 * 50 * 3 + 2 * 5 * 8),
        ({"sliding_window": 4, "full_attention_every": 2}, 0),
        ({"moe": MOE}, 4 * (8 * 5 + 5 * 3 * 8 * 6 - FFN)),
        ({"moe": MOE | {"gated": False}}, 4 * (8 * 5 + 5 * 2 * 8 * 6 - FFN)),
        ({"moe": MOE | {"router_bias": True}}, 4 * (45 + 720 - FFN)),
        ({"moe": MOE | {"expert_bias": True}}, 4 * (40 + 5 * (144 + 20) - FFN)),
        ({"moe": MOE | {"dense_layers": 3}}, 40 + 720 - FFN),
        ({"moe": MOE | {"every": 2}}, 2 * (40 + 720 - FFN)),
        (
            {"moe": MOE | {"shared_experts": 2, "shared_ffn": 3, "shared_gate": True}},
            4 * (40 + 720 + 2 * 3 * 8 * 3 + 8 - FFN),
        ),
    ],
)
def test_each_feature_adds_its_parameters(changes: dict[str, Any], added: int) -> None:
    assert tiny(**changes).num_parameters - tiny().num_parameters == added


def test_latent_attention_by_hand() -> None:
    shape = {k: v for k, v in TINY.items() if k not in {"kv_heads", "head_dim"}}
    model = ModelSpec.model_validate(shape | {"mla": MLA})
    query = 8 * 7 + 7 + 7 * 4 * 6
    latent = 8 * 11 + 9 + 9 * 4 * 7
    assert model.head_dim == 6
    assert model.kv_heads == 4
    assert model.parameters_per_layer(0) == query + latent + 12 * 8 + FFN + 2 * NORM
    assert cached_values(model) == 11
    direct = ModelSpec.model_validate(shape | {"mla": MLA | {"q_lora_rank": None}})
    difference = direct.parameters_per_layer(0) - model.parameters_per_layer(0)
    assert difference == 8 * 24 - query


def test_encoder_decoder_has_cross_attention_and_two_of_each_stack_part() -> None:
    model = tiny(kind="encoder_decoder", encoder_layers=3, **RELATIVE)
    decoder = LAYER + QKVO + NORM
    assert [model.parameters_per_layer(i) for i in range(7)] == [LAYER] * 3 + [
        decoder
    ] * 4
    outer = 2 * 50 * 8 + 2 * NORM + 2 * 5 * 4
    assert model.num_parameters == 3 * LAYER + 4 * decoder + outer
    assert model.layer_groups() == (
        (LayerKind(role="encoder"), 3),
        (LayerKind(role="decoder"), 4),
    )


def test_active_parameters_leave_out_the_other_experts() -> None:
    model = tiny(moe=MOE | {"dense_layers": 1})
    idle = 3 * (3 * 3 * 8 * 6)
    assert model.num_parameters - model.num_active_parameters == idle
    assert moe_parameters(tiny()) == 0


def test_layer_groups_fold_interleaved_layers() -> None:
    model = tiny(layers=7, sliding_window=4, full_attention_every=3)
    assert model.layer_groups() == ((LayerKind(window=4), 5), (LayerKind(), 2))
    assert [k.window for k in model.layer_kinds] == [4, 4, None, 4, 4, None, 4]
    named = tiny(sliding_window=4, full_attention_layers=[0, 3])
    assert [k.window for k in named.layer_kinds] == [None, 4, 4, None]
    mixed = tiny(moe=MOE | {"dense_layers": 1, "every": 2})
    assert [k.moe for k in mixed.layer_kinds] == [False, True, False, True]
    encoder = tiny(kind="encoder")
    assert encoder.layer_groups() == ((LayerKind(role="encoder"), 4),)
    assert cached_values(encoder) == 0


@pytest.mark.parametrize("index", [-1, 4])
def test_no_such_layer(index: int) -> None:
    with pytest.raises(InputError, match=r"no layer .*layers are 0 to 3"):
        tiny().parameters_per_layer(index)


def test_context_of_another_length() -> None:
    model = tiny(**LEARNED, position_rows=18)
    longer = model.with_context(64)
    assert (longer.max_context, longer.position_rows) == (64, 66)
    assert longer.num_parameters - model.num_parameters == 48 * 8
    assert tiny().with_context(64).num_parameters == tiny().num_parameters
    with pytest.raises(InputError, match="tiny: max_context 0"):
        model.with_context(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "heads (4) is not a multiple of kv_heads (3)"),
        ({"moe": MOE | {"experts_per_token": 6}}, "there are only 5 experts"),
        ({"moe": MOE | {"shared_experts": 1}}, "give both or neither"),
        ({"moe": MOE | {"shared_gate": True}}, "no shared expert"),
        ({"moe": MOE | {"dense_layers": 5}}, "only 4 layers"),
        ({"kind": "encoder_decoder"}, "encoder_layers is 0"),
        ({"encoder_layers": 2}, "encoder_layers is 2"),
        (
            {"kind": "encoder_decoder", "encoder_layers": 2, "moe": MOE},
            "moe in an encoder_decoder model is not supported",
        ),
        ({"position": "learned"}, "a learned table needs max_context"),
        ({"position_rows": 5}, "others have none"),
        (LEARNED | {"position_rows": 9}, "only 9 position_rows"),
        ({"position": "relative"}, "relative positions need buckets"),
        ({"full_attention_every": 2}, "no sliding_window"),
        ({"sliding_window": 4, "full_attention_layers": [4]}, "names layer 4"),
        ({"output_head": False, "head_bias": True}, "output_head is false"),
        ({"mla": MLA, "kv_heads": 4}, "head_dim must be 6"),
        ({"layers": 0}, "greater than or equal to 1"),
        ({"layers": 10_001}, "less than or equal to 10000"),
        ({"hidden": 8.0}, "valid integer"),
        ({"heads": True}, "valid integer"),
        ({"rotary_fraction": float("nan")}, "finite number"),
        ({"rotary_fraction": 0.0}, "greater than 0"),
        ({"activation": "tanh"}, "'gelu', 'relu', 'silu' or 'relu2'"),
        ({"sources": []}, "has no source"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_faults_are_refused_and_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tiny(**changes)
    assert message in str(caught.value)


def test_defaults_of_heads() -> None:
    shape = {k: v for k, v in TINY.items() if k not in {"kv_heads", "head_dim"}}
    model = ModelSpec.model_validate(shape)
    assert (model.kv_heads, model.head_dim) == (4, 2)
    with pytest.raises(ValidationError, match=r"hidden \(9\) is not a multiple"):
        ModelSpec.model_validate(shape | {"hidden": 9})


@given(model_specs())
@settings(max_examples=60, deadline=None)
def test_json_round_trip(model: ModelSpec) -> None:
    assert ModelSpec.model_validate(json.loads(dump_json(model))) == model


@given(model_specs())
@settings(max_examples=60, deadline=None)
def test_groups_and_layers_add_up(model: ModelSpec) -> None:
    kinds = model.layer_kinds
    assert len(kinds) == model.layers + model.encoder_layers
    assert sum(count for _, count in model.layer_groups()) == len(kinds)
    by_layer = sum(model.parameters_per_layer(i) for i in range(len(kinds)))
    by_group = sum(n * layer_parameters(model, k) for k, n in model.layer_groups())
    assert by_layer == by_group
    assert by_layer + model.num_embedding_parameters <= model.num_parameters
    assert model.num_active_parameters <= model.num_parameters


def test_full_layers_may_have_other_heads() -> None:
    """Gemma 4: wider heads, fewer keys, values from the keys' matrix."""
    model = load_model("gemma-4-31b")
    local, full = (kind for kind, _ in model.layer_groups())
    assert model.heads_at(local).projected == 32 * 256 + 2 * 16 * 256
    assert model.heads_at(full).projected == 32 * 512 + 4 * 512
    assert model.cached_values(full) == 2 * 4 * 512
    assert model.num_parameters == pytest.approx(30.7e9, rel=1e-3)


def test_other_heads_need_windows() -> None:
    fields = load_model("gemma-4-31b").model_dump()
    with pytest.raises(ValueError, match="sliding_window"):
        ModelSpec.model_validate(
            fields | {"sliding_window": None, "full_attention_every": 0}
        )
    with pytest.raises(ValueError, match=r"full_attention\.kv_heads"):
        ModelSpec.model_validate(
            fields | {"full_attention": {"kv_heads": 5, "head_dim": 512}}
        )
