"""Random inputs of the graph builders."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from hwsim.errors import InputError
from hwsim.graph.shard import shard
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import Fusion, Overlap, StackSpec
from tests.strategies.models import SOURCE, model_specs

DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")


def stack_with(*, dp: bool = True, tp: bool = False, **fusion: Any) -> StackSpec:
    """A stack with the given fusion flags; the rest as they are by default."""
    return StackSpec.model_validate(
        {
            "id": "drawn",
            "name": "drawn",
            "sources": (SOURCE,),
            "fusion": Fusion(**fusion),
            "overlap": Overlap(dp=dp, tp=tp),
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
    attention=st.sampled_from(["fused", "unfused"]),
    **{
        name: st.booleans()
        for name in Fusion.model_fields
        if name != "attention"
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
    # Latents and the low-rank embedding are on every device.
    if fields["mla"] is not None:
        fields |= {"mla": None, "head_dim": 16}
    return ModelSpec.model_validate(fields | {"embedding_size": None, "pooler": False})


@st.composite
def dense_decoders(draw: st.DrawFn) -> ModelSpec:
    """A decoder without experts."""
    fields = draw(model_specs()).model_dump()
    only = {"kind": "decoder", "encoder_layers": 0, "moe": None}
    return ModelSpec.model_validate(fields | only)
