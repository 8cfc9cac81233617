"""Adapters, optimizers, host memory, mixed precision as PyTorch does it."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.cost.footprint import training_footprint
from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.lora import Lora
from hwsim.graph.op import (
    Collective,
    Copy,
    Elementwise,
    Matmul,
    Norm,
    Op,
    OptimizerUpdate,
    Softmax,
)
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import load_model, load_stack
from hwsim.specs.model import ModelSpec
from tests.strategies.graphs import FUSED, SEPARATE, stack_with

LLAMA = load_model("llama-2-7b")
GPT = load_model("gpt-2-124m")


def train(model: ModelSpec, **kwargs: Any) -> OpGraph:
    given = {"micro_batch": 2, "seq": 512, "stack": FUSED} | kwargs
    graph = training_graph(model, **given)
    verify(graph)
    return graph


def ops(graph: OpGraph, block: str = "") -> list[tuple[Op, int]]:
    return [
        (node.op, b.repeat)
        for b in graph.blocks
        if not block or b.name == block
        for node in b.nodes
    ]


def named(graph: OpGraph, name: str, block: str = "") -> Op:
    return next(op for op, _ in ops(graph, block) if op.name == name)


# Adapters ---------------------------------------------------------------------


@pytest.mark.parametrize("stack", [FUSED, SEPARATE])
def test_only_adapters_get_gradients(stack) -> None:
    lora = Lora(16, ("qkv", "out", "down"))
    graph = train(LLAMA, lora=lora, stack=stack, optimizer="sgd")
    written = sum(
        o.nbytes * repeat
        for op, repeat in ops(graph)
        if op.phase == "backward"
        for o in op.writes
        if o.role == "gradient"
    )
    parts = 1 if stack is FUSED else 3
    qkv = parts * 4096 + 3 * 4096
    adapters = 32 * 16 * (qkv + 2 * 4096 + 4096 + 11008)
    assert written == 2 * adapters
    update = [
        (op, r) for op, r in ops(graph, "optimizer") if op.name != "gradient_norm"
    ]
    assert all(getattr(op, "numel", adapters) == adapters for op, _ in update)
    names = {op.name for op, _ in ops(graph)}
    assert "qkv_weight_gradient" not in names
    assert "gate_up_weight_gradient" not in names


def test_adapters_save_a_third_of_the_products() -> None:
    """Forward and input gradients stay, weight gradients go."""
    whole, tuned = train(LLAMA), train(LLAMA, lora=Lora(1))
    work = [
        sum(op.flop * r for op, r in ops(g) if isinstance(op, Matmul))
        for g in (whole, tuned)
    ]
    assert work[1] / work[0] == pytest.approx(2 / 3, rel=2e-3)


def test_divided_adapters_sum_the_repeated_half() -> None:
    graph = train(LLAMA, lora=Lora(16), tp=4)
    op = named(graph, "norm_gradients")
    assert isinstance(op, Collective)
    # Down of qkv (4096 x 16) and up of out (16 x 4096) are on every device.
    assert op.message == 2.0 * 32 * 16 * (4096 + 4096)
    frozen = train(load_model("mixtral-8x7b"), lora=Lora(16))
    op = named(frozen, "experts_input_gradient")
    assert not any(o.role == "gradient" for o in op.writes)


def test_bad_adapters_are_named() -> None:
    with pytest.raises(InputError, match="lora rank is 0"):
        Lora(0)
    with pytest.raises(UnknownNameError, match="qkv"):
        Lora(8, ("qkw",))


# Optimizers and host memory -----------------------------------------------------


@pytest.mark.parametrize("stack", [FUSED, SEPARATE])
@pytest.mark.parametrize("name", ["adafactor", "adam8bit", "lamb", "sgd", "momentum"])
def test_optimizers_update_all_parameters(name: str, stack) -> None:
    graph = train(GPT, optimizer=name, stack=stack)
    updates = [op for op, _ in ops(graph, "optimizer") if op.name != "gradient_norm"]
    assert updates
    for op in updates:
        assert isinstance(op, Elementwise | OptimizerUpdate)
        assert op.numel == GPT.num_parameters


def test_narrow_states_move_fewer_bytes() -> None:
    n = GPT.num_parameters

    def moved(name: str) -> float:
        return named(train(GPT, optimizer=name), name).nbytes_read - (2 + 4) * n

    assert moved("adam") == 8 * n
    assert moved("adam8bit") == pytest.approx((2 + 8 / 2048) * n)
    assert moved("adafactor") < 0.02 * n


def test_states_come_from_the_host_and_go_back() -> None:
    graph = train(GPT, offload_optimizer=True, dp=2, zero_stage=1)
    copies = [(op, r) for op, r in ops(graph) if isinstance(op, Copy) and r > 1]
    assert {op.path for op, _ in copies} == {"host_to_device", "device_to_host"}
    for path in ("host_to_device", "device_to_host"):
        total = sum(op.nbytes_read * r for op, r in copies if op.path == path)
        assert total == pytest.approx(12 * GPT.num_parameters / 2)
    plain = train(GPT, dp=2, zero_stage=1)
    host = sum(op.nbytes * r for op, r in copies)
    # Each piece is rounded up to whole kernels, and nothing else changes.
    assert graph.nbytes - host == pytest.approx(plain.nbytes, rel=1e-12)


def test_activations_wait_on_the_host() -> None:
    graph = train(LLAMA, offload_activations=True)
    forward = next(b for b in graph.blocks if b.name == "decoder")
    back = next(b for b in graph.blocks if b.name == "decoder_backward")
    out, home = forward.nodes[-1], back.nodes[0]
    assert (out.stream, home.stream, home.after) == ("copy_out", "copy", 2)
    tokens = 2 * 512
    # Norm and product inputs, queries, keys, values, output; gate, up, product.
    kept = 2 * 4 * 4096 + 2 * 4 * 4096 + 2 * 3 * 11008
    assert out.op.nbytes_read == tokens * (kept + 4 * 32)
    assert out.op.nbytes_read == home.op.nbytes_read
    again = train(LLAMA, offload_activations=True, recompute="full")
    forward = next(b for b in again.blocks if b.name == "decoder")
    assert forward.nodes[-1].op.nbytes_read == tokens * 2 * 4096


# Automatic mixed precision ----------------------------------------------------

EAGER, COMPILED = load_stack("nanogpt-eager"), load_stack("nanogpt-compile")


def test_parameters_and_residual_stream_are_fp32() -> None:
    graph = train(GPT, stack=EAGER)
    n = GPT.num_parameters
    norm = named(graph, "attention_norm", "decoder")
    assert isinstance(norm, Norm)
    numel = 2 * 512 * 768
    assert norm.nbytes_read == 4 * (numel + 2 * 768)
    assert norm.nbytes_written == 4 * numel
    # The sum reads a narrow branch and the wide stream, and keeps the mask.
    assert named(graph, "attention_add", "decoder").nbytes == (2 + 4 + 4 + 1) * numel
    assert named(graph, "qkv", "decoder").dtype == "bf16"
    casts = sum(
        op.nbytes * r for op, r in ops(graph) if op.name.endswith("_weight_cast")
    )
    products = sum(
        op.n * op.k * r
        for op, r in ops(graph)
        if isinstance(op, Matmul) and op.phase == "forward"
        and op.name not in {"scores", "values"}
    )  # fmt: skip
    assert casts == 6 * products
    gradients = sum(
        o.nbytes * r
        for op, r in ops(graph)
        if op.phase == "backward"
        for o in op.writes
        if o.role == "gradient"
    )
    tables = (50257 + 1024) * 768
    # A tied head's product makes a gradient of the whole table, too.
    rows = 2 * 512 * 768 + 512 * 768
    assert gradients == 4 * (n - tables + 50257 * 768 + rows)
    assert not any(o.dtype == "bf16" for o in named(graph, "gradient_norm").reads)


def test_scores_are_widened_for_softmax_and_narrowed_after() -> None:
    scores = 2 * 12 * 512 * 512
    graph = train(GPT, stack=EAGER)
    names = [op.name for op, _ in ops(graph, "decoder")]
    start = names.index("scores")
    assert names[start : start + 7] == [
        "scores", "mask", "softmax_cast", "softmax", "attention_dropout", "cast",
        "values",
    ]  # fmt: skip
    moved = [op.nbytes for op, _ in ops(graph, "decoder")][start : start + 7]
    assert moved[2:6] == [6 * scores, 8 * scores, 9 * scores, 6 * scores]
    half = train(GPT, stack=EAGER, dtype="fp16")
    softmax = named(half, "softmax", "decoder")
    assert softmax.nbytes == 6 * scores
    back = named(half, "softmax_gradient")
    assert back.nbytes == (4 + 4 + 2) * scores


def test_a_compiler_writes_casts_with_what_comes_before() -> None:
    graph = train(GPT, stack=COMPILED)
    names = [op.name for op, _ in ops(graph, "decoder")]
    assert "cast" not in names
    assert "mask" not in names
    assert "attention_dropout" not in names
    softmax = named(graph, "softmax", "decoder")
    assert isinstance(softmax, Softmax)
    scores = 2 * 12 * 512 * 512
    assert softmax.nbytes_written == (4 + 2) * scores
    norm = named(graph, "ffn_norm", "decoder")
    numel = 2 * 512 * 768
    assert norm.nbytes_written == (2 + 4 + 1) * numel
    eager = train(GPT, stack=EAGER)
    kernels = [sum(op.kernels * r for op, r in ops(g)) for g in (graph, eager)]
    assert kernels[0] < 0.6 * kernels[1]
    assert graph.nbytes < 0.6 * eager.nbytes


def test_gelu_in_operators() -> None:
    numel = 2 * 512 * 3072
    eager = named(train(GPT, stack=EAGER), "gelu", "decoder")
    assert (eager.kernels, eager.nbytes) == (9, 70 * numel)
    back = named(train(GPT, stack=EAGER), "gelu_gradient")
    assert (back.kernels, back.nbytes) == (14, (68 + 44) * numel)
    plain = named(train(GPT, stack=stack_with(gelu=False)), "gelu", "decoder")
    assert (plain.kernels, plain.nbytes) == (8, 2 * 18 * numel)
    one = named(train(GPT), "gelu", "decoder")
    assert (one.kernels, one.nbytes) == (1, 2 * (2 * numel + 3072))


@pytest.mark.parametrize("stack", [EAGER, COMPILED])
def test_autocast_does_nothing_in_fp32(stack) -> None:
    plain = stack.model_copy(update={"autocast": False})
    for dtype in ("fp32", "tf32"):
        with_, without = (train(GPT, stack=s, dtype=dtype) for s in (stack, plain))
        if stack is EAGER:
            assert with_.nbytes == without.nbytes
        assert with_.flop == without.flop
    narrow, wide = (train(GPT, stack=s, dtype="bf16") for s in (plain, stack))
    assert narrow.model_flop == wide.model_flop


# Recomputation by operator ----------------------------------------------------

MODELS = ("llama-3.1-8b", "gpt-3-1.3b", "mixtral-8x7b", "t5-base", "mamba-2.8b")


@pytest.mark.parametrize("name", MODELS)
def test_operators_recomputes_all_but_products(name: str) -> None:
    model = load_model(name)
    common = {"micro_batch": 1, "seq": 512, "stack": load_stack("default-training")}
    plain, light, full = (
        training_graph(model, recompute=r, **common)
        for r in ("none", "operators", "full")
    )
    again = [op for op, _ in ops(light) if op.phase == "recompute"]
    assert again
    assert all(isinstance(op, Elementwise | Norm) for op in again)
    assert plain.model_flop == light.model_flop == full.model_flop
    assert plain.flop < light.flop < full.flop
    assert plain.nbytes < light.nbytes < full.nbytes
    sizes = [
        training_footprint(model, micro_batch=1, seq=512, recompute=r).activations
        for r in ("full", "operators", "none")
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_operators_keeps_products_and_the_layer_s_input() -> None:
    layers = LLAMA.layers

    def kept(recompute: str, tokens: int) -> float:
        # The last norm, the head and its logits are the same in both.
        return training_footprint(
            LLAMA, micro_batch=1, seq=tokens, recompute=recompute, dropout=False
        ).activations

    tokens, hidden, ffn = 512, 4096, 11008
    rest = kept("full", tokens)
    light = kept("operators", tokens)
    # Input, output product, down; queries, keys, values, result; gate and up.
    values = 3 * hidden + 4 * hidden + 2 * ffn
    each = tokens * (2 * values + 4 * 32)
    inputs = tokens * 2 * hidden
    assert light - rest == pytest.approx(layers * (each - inputs), rel=1e-9)


def test_every_second_layer_recomputed_is_half_of_the_extra_work() -> None:
    common = {"micro_batch": 1, "seq": 512, "stack": load_stack("default-training")}
    plain, half, whole = (
        training_graph(LLAMA, recompute=r, recompute_every=k, **common).nbytes
        for r, k in (("none", 1), ("operators", 2), ("operators", 1))
    )
    assert half - plain == pytest.approx((whole - plain) / 2, rel=1e-9)
