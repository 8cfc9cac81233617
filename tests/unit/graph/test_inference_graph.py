from __future__ import annotations

import time

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Attention, Collective, Matmul, MoeExperts
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import MODELS, load_model
from tests.strategies.graphs import FUSED, SEPARATE, stack_with


def total(graph: OpGraph, kind: type, name: str = "flop") -> float:
    return sum(
        getattr(node.op, name) * repeat
        for _, _, node, repeat in graph.distinct()
        if isinstance(node.op, kind)
    )


def operands(graph: OpGraph, role: str, *, written: bool = False) -> float:
    return sum(
        operand.nbytes * repeat
        for _, _, node, repeat in graph.distinct()
        for operand in (node.op.writes if written else node.op.reads)
        if operand.role == role
    )


def names(graph: OpGraph, block: str) -> list[str]:
    return [node.op.name for b in graph.blocks if b.name == block for node in b.nodes]


def kernels(graph: OpGraph) -> int:
    return sum(node.op.kernels * repeat for _, _, node, repeat in graph.distinct())


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_of_the_catalog_builds(model: str) -> None:
    spec = load_model(model)
    for stack in (FUSED, SEPARATE):
        verify(prefill_graph(spec, batch=2, prompt=64, stack=stack))
        if spec.kind == "encoder":
            continue
        encoder = 64 if spec.kind == "encoder_decoder" else 0
        verify(
            decode_graph(
                spec, batch=2, context=65, stack=stack, encoder_context=encoder
            )
        )


def test_prefill_is_two_flop_per_parameter_and_token() -> None:
    model = load_model("llama-2-7b")
    graph = prefill_graph(model, batch=2, prompt=512, stack=FUSED)
    norms = (2 * 32 + 1) * 4096
    head = 32000 * 4096
    layers = model.num_parameters - model.num_embedding_parameters - norms - head
    # The head sees each sequence's last position only.
    assert total(graph, Matmul) == 2 * layers * 1024 + 2 * head * 2
    attention = 4 * 2 * 32 * 32 * 128 * (512 * 513 / 2)
    assert total(graph, Attention) == attention


def test_unfused_attention_does_the_work_of_the_unmasked_kernel() -> None:
    model = load_model("bert-base")
    fused = prefill_graph(model, batch=4, prompt=384, stack=FUSED)
    separate = prefill_graph(model, batch=4, prompt=384, stack=SEPARATE)
    expected = total(fused, Matmul) + total(fused, Attention)
    assert total(separate, Matmul) == expected
    assert total(fused, Attention) == 12 * 4.0 * 4 * 384 * 384 * 768


def test_scores_go_through_memory_only_when_unfused() -> None:
    model = load_model("gpt-2-124m")
    scores = 2.0 * 12 * 1024 * 1024
    # Product writes, scaling and mask read and write, softmax too, product reads.
    separate, together = SEPARATE, stack_with(attention="unfused", softmax=True)
    cases = ((separate, 1 + 4 + 2 + 1), (together, 1 + 2 + 1))
    for stack, passes in cases:
        graph = prefill_graph(model, batch=1, prompt=1024, stack=stack)
        moved = sum(
            node.op.nbytes
            for b in graph.blocks
            if b.name == "decoder"
            for node in b.nodes
            if node.op.name in {"scores", "mask", "softmax", "values"}
        )
        qkvo = 2.0 * 4 * 1024 * 768
        mask = 2.0 * 1024 * 1024
        assert moved == passes * scores + qkvo + mask


def test_llama_70b_decode_traffic() -> None:
    model = load_model("llama-2-70b")
    graph = decode_graph(model, batch=4, context=1000, stack=FUSED)
    cache = 2.0 * 4 * 80 * 2 * 8 * 128
    assert operands(graph, "kv_cache") == cache * 999
    assert operands(graph, "kv_cache", written=True) == cache
    table = 32000 * 8192
    rows = 4 * 8192
    assert operands(graph, "weight") == 2.0 * (68_976_648_192 - table + rows)
    # The same with a kernel of its own for the write: it is read back.
    graph = decode_graph(model, batch=4, context=1000, stack=stack_with(rotary=False))
    assert operands(graph, "kv_cache") == cache * 1000
    assert operands(graph, "kv_cache", written=True) == cache


def test_quantised_weights_and_cache() -> None:
    model = load_model("llama-2-7b")
    plain = decode_graph(model, batch=1, context=100, stack=FUSED)
    narrow = decode_graph(
        model, batch=1, context=100, stack=FUSED, weight_dtype="int4", kv_dtype="fp8"
    )
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert operands(plain, "weight") - operands(narrow, "weight") == 1.5 * linear
    assert operands(narrow, "kv_cache") * 2 == operands(plain, "kv_cache")
    assert total(plain, Matmul) == total(narrow, Matmul)
    assert {n.op.dtype for _, _, n, _ in narrow.distinct() if n.op.name == "down"} == {
        "bf16"
    }


def test_fp8_quantises_activations_unless_that_is_fused() -> None:
    model = load_model("llama-2-7b")
    separate = prefill_graph(model, batch=1, prompt=128, dtype="fp8", stack=FUSED)
    fused = prefill_graph(
        model, batch=1, prompt=128, dtype="fp8", stack=stack_with(quantize=True)
    )
    assert names(separate, "decoder").count("quantize") == 4
    assert "quantize" not in names(fused, "decoder")
    for graph in (separate, fused):
        by_name = {n.op.name: n.op for _, _, n, _ in graph.distinct()}
        assert by_name["qkv"].dtype == "fp8"
        assert by_name["attention"].dtype == "bf16"
        assert by_name["head"].dtype == "bf16"
        assert by_name["qkv"].reads[0].nbytes == 128 * 4096
    both = prefill_graph(
        model, batch=1, prompt=128, dtype="fp8", kv_dtype="fp8", stack=FUSED
    )
    assert {
        n.op.dtype for _, _, n, _ in both.distinct() if n.op.kind == "attention"
    } == {"fp8"}


def test_tensor_parallel_collectives() -> None:
    model = load_model("llama-2-70b")
    graph = decode_graph(model, batch=16, context=100, tp=8, stack=FUSED)
    sent = {
        node.op.name: (node.op.collective, node.op.message, repeat)
        for _, _, node, repeat in graph.distinct()
        if isinstance(node.op, Collective)
    }
    hidden = 16 * 8192 * 2.0
    assert sent == {
        "embedding_reduce": ("all_reduce", hidden, 1),
        "attention_reduce": ("all_reduce", hidden, 80),
        "ffn_reduce": ("all_reduce", hidden, 80),
        "logits_gather": ("all_gather", 16 * 32000 * 2.0, 1),
    }
    streams = {n.stream for _, _, n, _ in graph.distinct() if n.op.kind == "collective"}
    assert streams == {"tp"}
    alone = decode_graph(model, batch=16, context=100, stack=FUSED)
    assert not any(isinstance(n.op, Collective) for _, _, n, _ in alone.distinct())


def test_parallel_block_reduces_once() -> None:
    model = load_model("falcon-40b")
    graph = decode_graph(model, batch=1, context=10, tp=4, stack=FUSED)
    assert [n for n in names(graph, "decoder") if n.endswith("_reduce")] == [
        "layer_reduce"
    ]


def test_replicated_kv_heads_keep_the_cache_whole() -> None:
    model = load_model("llama-2-70b")
    eight = decode_graph(model, batch=1, context=100, tp=8, stack=FUSED)
    sixteen = decode_graph(model, batch=1, context=100, tp=16, stack=FUSED)
    assert operands(eight, "kv_cache") == operands(sixteen, "kv_cache")


def test_latent_attention_reads_one_row_per_token() -> None:
    model = load_model("deepseek-v3")
    graph = decode_graph(model, batch=2, context=50, stack=FUSED)
    row = 2.0 * 2 * 61 * (512 + 64)
    assert operands(graph, "kv_cache") == row * 49
    attention = [n.op for _, _, n, _ in graph.distinct() if n.op.kind == "attention"]
    assert {(a.heads, a.kv_heads, a.head_dim, a.v_head_dim) for a in attention} == {
        (128, 1, 576, 512)
    }
    assert all(a.shared_kv for a in attention)
    # Many tokens: keys and values are expanded, those of the history again.
    graph = prefill_graph(model, batch=2, prompt=30, history=20, stack=FUSED)
    assert operands(graph, "kv_cache") == row * 20
    assert operands(graph, "kv_cache", written=True) == row * 30
    kv_b = next(n.op for _, _, n, _ in graph.distinct() if n.op.name == "kv_b")
    assert (kv_b.m, kv_b.n, kv_b.k) == (100, 128 * 256, 512)


def test_experts_touched() -> None:
    model = load_model("mixtral-8x7b")
    one = decode_graph(model, batch=1, context=10, stack=FUSED)
    expert = 3 * 4096 * 14336
    everything = 46_702_792_704 - 32000 * 4096 + 4096
    assert operands(one, "weight") == 2.0 * (everything - 32 * 6 * expert)
    work = total(one, MoeExperts)
    assert work == 2 * 32 * 2 * expert
    shared = decode_graph(model, batch=1, context=10, tp=4, stack=FUSED)
    assert total(shared, MoeExperts) * 4 == work
    many = decode_graph(model, batch=512, context=10, stack=FUSED)
    rows = 511 * 4096
    assert operands(many, "weight") == pytest.approx(2.0 * (everything + rows))


def test_sliding_windows_bound_the_cache_read() -> None:
    model = load_model("gpt-oss-20b")
    windows = {kind.window: count for kind, count in model.layer_groups()}
    assert windows == {128: 12, None: 12}
    graph = decode_graph(model, batch=1, context=4096, stack=FUSED)
    row = 2.0 * 2 * 8 * 64
    assert operands(graph, "kv_cache") == row * (12 * 127 + 12 * 4095)


def test_encoder_decoder_passes() -> None:
    model = load_model("t5-base")
    encoder = prefill_graph(model, batch=2, prompt=100, stack=FUSED)
    assert operands(encoder, "kv_cache", written=True) == 2.0 * 2 * 100 * 12 * 2 * 768
    assert {b.name: b.repeat for b in encoder.blocks}["cross_keys"] == 12
    step = decode_graph(model, batch=2, context=5, encoder_context=100, stack=FUSED)
    assert operands(step, "kv_cache") == 2.0 * 2 * (4 + 100) * 12 * 2 * 768
    assert "cross_q" in names(step, "decoder")
    assert "encoder" not in {b.name for b in step.blocks}


def test_an_eager_stack_launches_every_operation() -> None:
    model = load_model("llama-2-7b")
    few = kernels(decode_graph(model, batch=1, context=100, stack=FUSED))
    many = kernels(decode_graph(model, batch=1, context=100, stack=SEPARATE))
    assert few == 32 * 9 + 3
    assert many > 32 * 28


def test_unfused_residual_adds_twice_per_layer() -> None:
    model = load_model("llama-2-7b")
    fused, separate = (
        prefill_graph(model, batch=1, prompt=64, stack=stack_with(residual_norm=flag))
        for flag in (True, False)
    )
    hidden = 2.0 * 64 * 4096

    def moved(graph: OpGraph) -> float:
        return sum(
            node.op.nbytes * repeat
            for _, _, node, repeat in graph.distinct()
            if node.op.kind == "norm" or node.op.name.endswith("_add")
        )

    # Separate: the sum is written by one kernel and read again by the next.
    assert moved(separate) - moved(fused) == 64 * hidden


def test_communication_beside_products() -> None:
    model = load_model("llama-2-7b")
    graph = prefill_graph(model, batch=1, prompt=64, tp=2, stack=stack_with(tp=True))
    layer = next(b for b in graph.blocks if b.name == "decoder")
    at = {n.op.name: i for i, n in enumerate(layer.nodes)}
    assert layer.nodes[at["ffn_reduce"]].deps == layer.nodes[at["down"]].deps


def test_decode_graph_of_eighty_layers_is_built_fast() -> None:
    model = load_model("llama-2-70b")

    def once() -> float:
        start = time.perf_counter()
        decode_graph(model, batch=8, context=2000, tp=8, stack=FUSED)
        return time.perf_counter() - start

    assert min(once() for _ in range(30)) < 0.5e-3


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"batch": 0}, InputError, "batch is 0"),
        ({"batch": 1.5}, InputError, "batch is 1.5"),
        ({"batch": True}, InputError, "batch is True"),
        ({"context": 5000}, InputError, "4096 tokens"),
        ({"tp": 0}, InputError, "tp is 0"),
        ({"tp": 3}, InputError, "use tp 1, 2, 4, 8"),
        ({"dtype": "bf61"}, UnknownNameError, "bf16"),
        ({"kv_dtype": "fp9"}, UnknownNameError, "fp8"),
        ({"encoder_context": 5}, InputError, "no encoder"),
    ],
)
def test_bad_input_is_named(change: dict, error: type, says: str) -> None:
    kwargs = {"batch": 1, "context": 10, "stack": FUSED} | change
    with pytest.raises(error) as caught:
        decode_graph(load_model("llama-2-70b"), **kwargs)
    assert says in str(caught.value)


def test_models_without_a_decode_step() -> None:
    with pytest.raises(InputError, match="encoder"):
        decode_graph(load_model("bert-base"), batch=1, context=10, stack=FUSED)
    with pytest.raises(InputError, match="encoder_context is 0"):
        decode_graph(load_model("t5-base"), batch=1, context=10, stack=FUSED)
    with pytest.raises(InputError, match="history"):
        prefill_graph(
            load_model("bert-base"), batch=1, prompt=10, history=5, stack=FUSED
        )


def test_block_formats_store_weights_only() -> None:
    model = load_model("llama-2-7b")
    graph = decode_graph(model, batch=1, context=10, weight_dtype="q4_0", stack=FUSED)
    verify(graph)
    product = next(n.op for _, _, n, _ in graph.distinct() if n.op.name == "out")
    assert (product.dtype, product.b_bytes) == ("bf16", 4.5 / 8)
    assert product.reads[1].nbytes == 4096 * 4096 * 4.5 / 8
    for name in ("dtype", "kv_dtype"):
        with pytest.raises(UnknownNameError):
            decode_graph(model, batch=1, context=9, stack=FUSED, **{name: "q4_0"})
