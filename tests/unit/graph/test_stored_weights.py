"""Weights stored narrower than they are multiplied, and activations in fp32."""

from __future__ import annotations

import pytest

from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Elementwise, Matmul, Op
from hwsim.graph.precision import resolve
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.catalogs import load_model, load_stack

MODEL = load_model("llama-3-8b")


def prompt_ops(stack: str, tokens: int = 64, weights: str | None = "q4_0") -> list[Op]:
    graph = prefill_graph(
        MODEL, batch=1, prompt=tokens, dtype="fp16", weight_dtype=weights,
        stack=load_stack(stack),
    )  # fmt: skip
    return [node.op for block in graph.blocks for node in block.nodes]


def named(ops: list[Op], name: str) -> list[Op]:
    return [op for op in ops if op.name == name]


def test_a_library_takes_weights_that_a_kernel_wrote_out() -> None:
    ops = prompt_ops("llama-cpp")
    (widened,) = named(ops, "gate_dequantize")
    numel = MODEL.hidden * MODEL.ffn
    assert isinstance(widened, Elementwise)
    assert widened.nbytes_read == pytest.approx(numel * DTYPE_BYTES["q4_0"])
    assert widened.nbytes_written == pytest.approx(numel * 2.0)
    (gate,) = named(ops, "gate")
    assert isinstance(gate, Matmul)
    assert (gate.b_bytes, gate.c_bytes) == (2.0, 2.0)


@pytest.mark.parametrize("stack", ["llama-cpp-own", "llama-cpp-graph", "vllm"])
def test_others_take_weights_as_they_are_stored(stack: str) -> None:
    ops = prompt_ops(stack)
    assert not [op for op in ops if op.name.endswith("_dequantize")]
    (down,) = named(ops, "down")
    assert isinstance(down, Matmul)
    assert down.b_bytes == DTYPE_BYTES["q4_0"]


def test_few_rows_stream_weights_as_they_are_stored() -> None:
    graph = decode_graph(
        MODEL, batch=1, context=64, dtype="fp16", weight_dtype="q4_0",
        stack=load_stack("llama-cpp"),
    )  # fmt: skip
    names = {node.op.name for block in graph.blocks for node in block.nodes}
    assert not [name for name in names if name.endswith(("_dequantize", "_widen"))]


def test_casts_stand_around_the_products_of_a_library() -> None:
    ops = prompt_ops("llama-cpp", weights=None)
    rows = 64.0
    (before, *_), (after,) = named(ops, "cast"), named(ops, "gate_widen")
    assert before.nbytes_read == 2.0 * before.nbytes_written == rows * MODEL.hidden * 4
    assert after.nbytes_written == 2.0 * after.nbytes_read == rows * MODEL.ffn * 4
    assert not named(prompt_ops("llama-cpp-own", weights=None), "gate_widen")


def test_wide_activations_leave_cache_and_tables_in_16_bit() -> None:
    wide = resolve("fp16", wide=True)
    assert (wide.math, wide.act, wide.kv, wide.table) == (
        "fp16", "fp32", "fp16", "fp16",
    )  # fmt: skip
    assert wide.widened
    assert not wide.quantised
    assert resolve("fp8", wide=True) == resolve("fp8")
