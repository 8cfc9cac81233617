"""Random inputs of the graph builders."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from hwsim.errors import InputError
from hwsim.graph.layout import layout_of, local_sequence
from hwsim.graph.lora import TARGETS, Lora
from hwsim.graph.shard import shard
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import Fusion, Overlap, StackSpec
from tests.strategies.models import SOURCE, model_specs

DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")


def stack_with(
    *,
    dp: bool = True,
    tp: bool = False,
    autocast: bool = False,
    windows: bool = False,
    ring: bool = False,
    recompute: str = "whole",
    **fusion: Any,
) -> StackSpec:
    """A stack with the given fusion flags; the rest as they are by default."""
    return StackSpec.model_validate(
        {
            "id": "drawn",
            "name": "drawn",
            "sources": (SOURCE,),
            "fusion": Fusion(**fusion),
            "overlap": Overlap(dp=dp, tp=tp, windows=windows, ring=ring),
            "autocast": autocast,
            "recompute": recompute,
        }
    )


FUSED = stack_with(cross_entropy=True)
SEPARATE = stack_with(
    dp=False, attention="unfused", qkv=False, gate_up=False, residual_norm=False,
    activation=False, rotary=False, bias=False, optimizer=False,
)  # fmt: skip

stacks = st.builds(
    stack_with,
    dp=st.booleans(),
    tp=st.booleans(),
    ring=st.booleans(),
    autocast=st.booleans(),
    windows=st.booleans(),
    recompute=st.sampled_from(["whole", "needed"]),
    attention=st.sampled_from(["fused", "unfused"]),
    experts=st.sampled_from(get_args(Fusion.model_fields["experts"].annotation)),
    **{
        name: st.booleans()
        for name, field in Fusion.model_fields.items()
        if field.annotation is bool
    },
)  # fmt: skip


def degrees(model: ModelSpec) -> list[int]:
    """Tensor-parallel degrees up to 8 that divide the model."""
    found = []
    for tp in range(1, 9):
        try:
            shard(model, tp)
        except InputError:
            continue
        found.append(tp)
    return found


@st.composite
def inference_inputs(draw: st.DrawFn) -> tuple[ModelSpec, dict[str, Any]]:
    """A model, and keywords that prefill and decode share."""
    model = draw(model_specs())
    return model, {
        "batch": draw(st.integers(1, 64)),
        "tp": draw(st.sampled_from(degrees(model))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "kv_dtype": draw(st.sampled_from([None, "fp8", "int8"])),
        "weight_dtype": draw(st.sampled_from([None, "int4", "fp8"])),
        "stack": draw(stacks),
    }


@st.composite
def training_inputs(draw: st.DrawFn) -> tuple[ModelSpec, dict[str, Any]]:
    """A model, and keywords of the training builder."""
    model = draw(model_specs())
    tp = draw(st.sampled_from(degrees(model)))
    split = draw(st.booleans())
    longest = model.max_context or 4096
    seq = draw(st.integers(1, min(longest, 4096)))
    split = split and seq >= tp
    return model, {
        "micro_batch": draw(st.integers(1, 8)),
        "seq": seq - seq % tp if split else seq,
        "tp": tp,
        "dp": draw(st.sampled_from([1, 2, 8])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "optimizer": draw(st.sampled_from(["sgd", "momentum", "adam", "adamw"])),
        "zero_stage": draw(st.integers(0, 3)),
        "sequence_parallel": split,
        "last": draw(st.booleans()),
        "grad_dtype": draw(st.sampled_from([None, "fp32"])),
        "dropout": draw(st.sampled_from([None, False, True])),
        "stack": draw(stacks),
    }


@st.composite
def divisible_models(draw: st.DrawFn, tp: int) -> ModelSpec:
    """A model every sharded width of which is a multiple of ``tp``."""
    fields = draw(model_specs()).model_dump()
    for name in ("heads", "kv_heads", "ffn", "vocab"):
        fields[name] *= tp
    if fields["moe"] is not None:
        fields["moe"]["expert_ffn"] *= tp
        fields["moe"]["shared_ffn"] *= tp
        fields["moe"]["latent"] = None
    if fields["ssm"] is not None:
        fields["ssm"]["heads"] *= tp
        fields["ssm"]["groups"] *= tp
    if fields["full_attention"] is not None:
        fields["full_attention"]["kv_heads"] *= tp
    # Latents and the low-rank embedding are on every device.
    if fields["mla"] is not None:
        fields |= {"mla": None, "head_dim": 16}
    return ModelSpec.model_validate(fields | {"embedding_size": None, "pooler": False})


@st.composite
def dense_decoders(draw: st.DrawFn) -> ModelSpec:
    """A decoder without experts."""
    fields = draw(model_specs()).model_dump()
    only = {
        "kind": "decoder", "encoder_layers": 0, "moe": None,
        "pattern": fields["pattern"].replace("E", "-"),
    }  # fmt: skip
    return ModelSpec.model_validate(fields | only)


@st.composite
def layouts(draw: st.DrawFn, model: ModelSpec, *, fused: bool) -> dict[str, Any]:
    """Degrees of every kind of parallelism that fit a model, and a sequence."""
    tp = draw(st.sampled_from(degrees(model)))
    found = {
        "tp": tp,
        "cp": draw(st.sampled_from([1, 2, 4])),
        "dp": draw(st.sampled_from([1, 2, 6])),
        "ep": draw(st.sampled_from([1, 2, 3, 4])),
        "etp": draw(st.sampled_from([tp, 1])),
        "cp_mode": draw(st.sampled_from(["ring", "all_to_all", "all_gather"])),
        "imbalance": draw(st.floats(1.0, 3.0)),
        "capacity_factor": draw(st.none() | st.floats(0.5, 2.0)),
    }
    if not fused and found["cp_mode"] == "ring":
        found["cp_mode"] = "all_gather"
    try:
        layout_of(model, **found)
    except InputError:
        found |= {"ep": 1, "cp": 1}
    return found


@st.composite
def stage_inputs(draw: st.DrawFn) -> tuple[ModelSpec, dict[str, Any]]:
    """A model, and keywords of the stage builder."""
    model = draw(model_specs())
    stack = draw(stacks)
    layout = draw(layouts(model, fused=stack.fusion.attention == "fused"))
    count = len(model.layer_kinds)
    start = draw(st.integers(0, count - 1))
    stop = draw(st.integers(start + 1, count))
    split = draw(st.booleans())
    unit = 2 * layout["cp"] * layout["tp"]
    longest = min(model.max_context or 4096, 4096)
    seq = unit * max(longest // unit, 1)
    try:
        local_sequence(seq, layout_of(model, **layout), split)
    except InputError:
        layout["cp"], split = 1, False
    if seq > longest:
        layout |= {"cp": 1, "ep": 1}
        seq, split = longest, False
    targets = draw(st.lists(st.sampled_from(list(TARGETS)), unique=True))
    lora = draw(
        st.none() | st.builds(Lora, st.integers(1, 64), st.just(tuple(targets)))
    )
    return model, layout | {
        "layers": (start, stop),
        "first": start == 0,
        "last": stop == count,
        "micro_batch": draw(st.integers(1, 4)),
        "seq": seq,
        "pp": draw(st.integers(2, 8)) if stop - start < count else 1,
        "dtype": draw(st.sampled_from(DTYPES)),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "recompute_every": draw(st.integers(1, 3)),
        "optimizer": draw(
            st.sampled_from(["sgd", "adam", "lamb", "adafactor", "adam8bit"])
        ),
        "zero_stage": draw(st.integers(0, 3)),
        "sequence_parallel": split,
        "lora": lora,
        "offload_optimizer": draw(st.booleans()),
        "offload_activations": draw(st.booleans()),
        "stack": stack,
    }


@st.composite
def spread_inputs(draw: st.DrawFn) -> tuple[ModelSpec, dict[str, Any], bool]:
    """A model whose sizes divide by 4, a layout, and whether it is split."""
    model = draw(divisible_models(4))
    tp = draw(st.sampled_from([1, 2, 4]))
    ep = draw(st.sampled_from([1, 2, 4]))
    fields = model.model_dump()
    fields |= {"sliding_window": None, "full_attention_every": 0}
    fields |= {"full_attention_layers": (), "position": "rotary"}
    fields["full_attention"] = None
    fields |= {"position_rows": 0, "relative_buckets": 0, "max_context": None}
    if fields["moe"] is not None:
        fields["moe"]["experts"] *= 4
    else:
        ep = 1
    mode = draw(st.sampled_from(["ring", "all_to_all", "all_gather"]))
    layout = {
        "tp": tp, "cp": draw(st.sampled_from([1, 2])), "ep": ep, "dp": 4,
        "etp": draw(st.sampled_from([1, tp])), "cp_mode": mode,
    }  # fmt: skip
    made = ModelSpec.model_validate(fields)
    if mode == "all_to_all" and made.kv_heads // tp % layout["cp"]:
        layout["cp_mode"] = "ring"
    if made.ssm is not None and made.ssm.heads // tp % layout["cp"]:
        layout["cp"] = 1
    return made, layout, draw(st.booleans())
