from __future__ import annotations

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.op import Attention, Collective, Matmul, OptimizerUpdate
from hwsim.graph.opgraph import Block, OpGraph
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import MODELS, load_model, load_stack
from hwsim.specs.model import ModelSpec
from tests.strategies.graphs import FUSED, SEPARATE, stack_with
from tests.strategies.models import SOURCE

UNFUSED = stack_with(attention="unfused", softmax=True)


def gpt(**changes) -> ModelSpec:
    """GPT-3-like, as the formulas of the literature take it."""
    fields = {
        "id": "gpt", "name": "gpt", "sources": (SOURCE,), "kind": "decoder",
        "family": "gpt", "layers": 24, "hidden": 2304, "heads": 24, "ffn": 9216,
        "activation": "gelu", "vocab": 51200, "max_context": 2048,
        "norm": "layernorm", "norm_bias": True, "qkv_bias": True, "out_bias": True,
        "ffn_bias": True, "position": "learned", "tied_embeddings": True,
    }  # fmt: skip
    return ModelSpec.model_validate(fields | changes)


def train(model: ModelSpec, **kwargs) -> OpGraph:
    given = {"micro_batch": 2, "seq": 512, "stack": FUSED} | kwargs
    graph = training_graph(model, **given)
    verify(graph)
    return graph


def matmul_flop(graph: OpGraph, *phases: str) -> float:
    return sum(
        node.op.flop * repeat
        for _, _, node, repeat in graph.distinct()
        if isinstance(node.op, Matmul) and (not phases or node.op.phase in phases)
    )


def block(graph: OpGraph, name: str) -> Block:
    return next(b for b in graph.blocks if b.name == name)


def collectives(graph: OpGraph, axis: str) -> dict[str, tuple[str, float, int]]:
    """Collectives of an axis by block and name: kind, all messages' bytes."""
    return {
        f"{b.name}/{node.op.name}": (
            node.op.collective,
            node.op.message * b.repeat,
            node.op.group_size,
        )
        for b in graph.blocks
        for node in b.nodes
        if isinstance(node.op, Collective) and node.op.axis == axis
    }


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_of_the_catalog_trains(model: str) -> None:
    train(load_model(model), seq=64, stack=SEPARATE, recompute="selective")
    train(load_model(model), seq=64, stack=FUSED, recompute="full", zero_stage=3, dp=2)


def test_megatron_formula_with_full_recomputation() -> None:
    """Narayanan et al., 2021, arXiv:2104.04473, equation 3."""
    b, s, layers, h, v = 4, 2048, 24, 2304, 51200
    graph = train(
        gpt(), micro_batch=b, seq=s, stack=UNFUSED, recompute="full", dtype="fp16"
    )
    formula = 96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert matmul_flop(graph) == pytest.approx(formula, rel=1e-12)


def test_palm_formula() -> None:
    """Chowdhery et al., 2022, arXiv:2204.02311, appendix B: 6 N + 12 L H Q T."""
    model = load_model("llama-2-7b")
    b, s = 2, 1024
    matrices = model.num_parameters - model.num_embedding_parameters - 65 * 4096
    formula = b * s * (6 * matrices + 12 * 32 * 32 * 128 * s)
    for stack in (FUSED, UNFUSED):
        for recompute in ("none", "selective", "full"):
            graph = train(model, micro_batch=b, seq=s, stack=stack, recompute=recompute)
            assert graph.full_flop == pytest.approx(formula, rel=1e-12)


def test_full_recomputation_adds_one_forward_of_the_layers() -> None:
    model = load_model("llama-2-7b")
    plain, full = (train(model, recompute=r) for r in ("none", "full"))
    layers = block(plain, "decoder")
    forward = layers.repeat * sum(n.op.flop for n in layers.nodes)
    traffic = layers.repeat * sum(n.op.nbytes for n in layers.nodes)
    assert full.flop - plain.flop == pytest.approx(forward, rel=1e-12)
    assert full.nbytes - plain.nbytes == pytest.approx(traffic, rel=1e-12)


def test_selective_recomputation_repeats_unfused_attention_only() -> None:
    core = 24 * 4.0 * 2 * 512 * 512 * 2304
    plain, again = (
        train(gpt(), stack=UNFUSED, recompute=r) for r in ("none", "selective")
    )
    assert matmul_flop(again, "recompute") == core
    assert matmul_flop(again) - matmul_flop(plain) == core
    flash, same = (
        train(gpt(), stack=FUSED, recompute=r) for r in ("none", "selective")
    )
    assert flash.flop == same.flop


def test_flash_attention_backward_is_five_products_to_two() -> None:
    graph = train(gpt())
    by_phase = {
        n.op.phase: n.op.flop
        for _, _, n, _ in graph.distinct()
        if isinstance(n.op, Attention)
    }
    assert by_phase["backward"] == 2.5 * by_phase["forward"]


def test_every_weight_gets_one_gradient() -> None:
    """All parameters but the table's rows, which come with their tokens."""
    model = load_model("llama-2-7b")
    for stack in (FUSED, SEPARATE):
        graph = train(model, stack=stack, optimizer="sgd", grad_dtype="fp32")
        written = sum(
            o.nbytes * repeat
            for _, _, node, repeat in graph.distinct()
            if node.op.phase == "backward"
            for o in node.op.writes
            if o.role == "gradient"
        )
        rows = 2 * 512 * 4096
        assert written == 4 * (model.num_parameters - 32000 * 4096 + rows)


def test_biases_get_gradients_fused_or_not() -> None:
    model = gpt(position="rotary", position_rows=0)
    for stack in (FUSED, SEPARATE):
        graph = train(model, stack=stack)
        written = sum(
            o.nbytes * repeat
            for _, _, node, repeat in graph.distinct()
            if node.op.phase == "backward"
            for o in node.op.writes
            if o.role == "gradient"
        )
        rows = 2 * 512 * 2304
        assert written == 2 * (model.num_parameters + rows)


def test_accumulating_microbatches_read_gradients_and_do_not_update() -> None:
    model = load_model("llama-2-7b")
    last = train(model, dp=4)
    other = train(model, dp=4, last=False)
    assert any(b.name == "optimizer" for b in last.blocks)
    assert not any(b.name == "optimizer" for b in other.blocks)
    assert not collectives(other, "dp")
    read = sum(
        o.nbytes * repeat
        for _, _, node, repeat in other.distinct()
        for o in node.op.reads
        if o.role == "gradient"
    )
    rows = 2 * 512 * 4096
    assert read == 2 * (model.num_parameters - 32000 * 4096 + rows)


def _moved(graph: OpGraph, *, name: str = "", role: str = "") -> tuple[float, float]:
    """Bytes read and written, of nodes by name or of operands by role."""
    found = [
        sum(
            o.nbytes * repeat
            for _, _, node, repeat in graph.distinct()
            if node.op.name.startswith(name)
            for o in (node.op.reads if way == "reads" else node.op.writes)
            if not role or o.role == role
        )
        for way in ("reads", "writes")
    ]
    return found[0], found[1]


@pytest.mark.parametrize("gradients", [None, "fp32"])
def test_gradients_added_apart_move_what_a_sum_of_two_moves(
    gradients: str | None,
) -> None:
    model = load_model("llama-2-7b")
    fused = load_stack("default-training").fusion
    apart = fused.model_copy(update={"accumulate": False})
    stack = load_stack("default-training").model_copy(
        update={"fusion": apart, "gradients": gradients}
    )
    graph = train(model, stack=stack, last=False)
    width = 4 if gradients else 2
    values = model.num_parameters - 32000 * 4096 + 1024 * 4096  # rows of the table
    read, written = _moved(graph, name="accumulate_gradients")
    assert written == pytest.approx(width * values)
    assert read == pytest.approx((2 + width) * values)
    # Products write what is fresh, in the activations' dtype, and read no gradient.
    made = _moved(graph, role="gradient")[1] - written
    assert made == pytest.approx(2 * values)
    assert _moved(graph, role="gradient")[0] == pytest.approx(read)
    assert "accumulate_gradients" not in {
        n.op.name for _, _, n, _ in train(model, stack=stack).distinct()
    }


def test_megatrons_loss_passes_over_wide_logits() -> None:
    model = load_model("llama-2-7b")
    stack = load_stack("default-training")
    stack = stack.model_copy(
        update={"fusion": stack.fusion.model_copy(update={"loss": "vocab_parallel"})}
    )
    graph = train(model, stack=stack, tp=2)
    names = {
        "logits_cast", "maximum", "subtract", "exp", "sum", "divide",
        "loss_gradient", "logits_cast_gradient",
    }  # fmt: skip
    moved = sum(
        o.nbytes
        for _, _, node, _ in graph.distinct()
        if node.op.name in names
        for o in (*node.op.reads, *node.op.writes)
    )
    logits = 1024 * 32000 / 2
    assert moved == pytest.approx(52 * logits, rel=1e-3)
    sums = [n.op for _, _, n, _ in graph.distinct() if n.op.name.startswith("loss_")]
    sums = [op for op in sums if op.kind == "collective"]
    assert [op.name for op in sums] == ["loss_maximum", "loss_sum", "loss_target"]


def test_gradients_are_reduced_layer_by_layer_beside_compute() -> None:
    model = load_model("llama-2-7b")
    graph = train(model, dp=8, tp=2)
    sent = collectives(graph, "dp")
    assert {kind for kind, _, _ in sent.values()} == {"all_reduce"}
    assert set(sent) == {
        "head/gradient_reduce",
        "decoder_backward/gradient_reduce",
        "embedding_backward/gradient_reduce",
    }
    norms = 65 * 4096
    assert sum(m for _, m, _ in sent.values()) == (model.num_parameters + norms)
    layer = block(graph, "decoder_backward")
    node = layer.nodes[-1]
    assert (node.stream, node.op.stride, node.op.group_size) == ("dp", 2, 8)
    assert layer.output_index < len(layer.nodes) - 1
    update = block(graph, "optimizer")
    assert update.nodes[0].barrier


def test_without_overlap_gradients_are_reduced_after_backward() -> None:
    graph = train(load_model("llama-2-7b"), dp=8, stack=stack_with(dp=False))
    assert set(collectives(graph, "dp")) == {"gradient_reduce/gradient_reduce"}
    assert graph.blocks[-2].nodes[0].barrier


@pytest.mark.parametrize("overlap", [True, False])
def test_zero_stages(overlap: bool) -> None:
    model = load_model("llama-2-7b")
    stack = stack_with(dp=overlap)
    whole = 2.0 * model.num_parameters
    for stage, last in ((1, True), (2, True), (2, False), (3, True), (3, False)):
        graph = train(model, dp=8, zero_stage=stage, last=last, stack=stack)
        sent = collectives(graph, "dp")
        reduced = [m for kind, m, _ in sent.values() if kind == "reduce_scatter"]
        gathered = [m for kind, m, _ in sent.values() if kind == "all_gather"]
        assert sum(reduced) == whole
        if stage == 3:
            # Forward, and backward for all but the table; the head stays.
            layers = whole - 2 * (2 * 32000 * 4096 + 4096)
            assert sum(gathered) == whole + layers
            assert block(graph, "decoder").nodes[0].after == (2 if overlap else 1)
            # All that computes waits for the parameters.
            assert 0 in block(graph, "decoder").nodes[1].deps
            last_node = block(graph, "decoder_backward")
            waits = last_node.output_index == len(last_node.nodes) - 1
            assert waits is not overlap
        else:
            assert sum(gathered) == (whole if last else 0.0)
        if last:
            update = next(
                n.op for _, _, n, _ in graph.distinct()
                if isinstance(n.op, OptimizerUpdate)
            )  # fmt: skip
            assert update.numel == model.num_parameters / 8


def test_optimizer_traffic() -> None:
    """AdamW in mixed precision: gradient, master, two moments; bf16 copy out."""
    model = load_model("gpt-2-124m")
    n = model.num_parameters
    update = block(train(model), "optimizer").nodes[-1].op
    assert update.nbytes_read == (2 + 4 + 8) * n
    assert update.nbytes_written == (4 + 8 + 2) * n
    single = block(train(model, dtype="fp32"), "optimizer").nodes[-1].op
    assert single.nbytes_read == (4 + 4 + 8) * n
    assert single.nbytes_written == (4 + 8) * n
    passes = block(train(model, stack=SEPARATE), "optimizer")
    assert sum(x.op.nbytes for x in passes.nodes) > 3 * update.nbytes
    assert sum(x.op.kernels for x in passes.nodes) > 10


def test_tensor_parallel_collectives_of_a_layer() -> None:
    """Two all-reduces forward, two backward (Shoeybi et al., 2019)."""
    message = 2.0 * 2 * 512 * 2304
    graph = train(gpt(), tp=4)
    for name in ("decoder", "decoder_backward"):
        found = [
            (n.op.collective, n.op.message)
            for n in block(graph, name).nodes
            if isinstance(n.op, Collective)
        ]
        assert found == [("all_reduce", message)] * 2
    graph = train(gpt(), tp=4, sequence_parallel=True)
    forward = [
        n.op.collective for n in block(graph, "decoder").nodes if n.stream == "tp"
    ]
    assert forward == ["all_gather", "reduce_scatter"] * 2
    backward = [
        n.op.collective
        for n in block(graph, "decoder_backward").nodes
        if n.stream == "tp"
    ]
    # Gradients, the inputs again for the weights' gradients, and back.
    assert backward == ["all_gather", "all_gather", "reduce_scatter"] * 2


def test_input_gradient_is_sent_beside_the_weight_gradient_on_request() -> None:
    for overlap in (True, False):
        graph = train(gpt(), tp=4, stack=stack_with(tp=overlap))
        layer = block(graph, "decoder_backward")
        at = {n.op.name: i for i, n in enumerate(layer.nodes)}
        sent = next(n for n in layer.nodes if n.op.name == "input_gradient_reduce")
        assert (at["up_weight_gradient"] not in sent.deps) is overlap


def test_sharded_work_adds_up() -> None:
    whole = train(gpt())
    part = train(gpt(), tp=8)
    assert matmul_flop(part) * 8 == pytest.approx(matmul_flop(whole), rel=1e-12)
    assert part.model_flop * 8 == pytest.approx(whole.model_flop, rel=1e-12)


def test_loss_fused_or_in_steps() -> None:
    fused, steps = train(gpt()), train(gpt(), stack=stack_with(cross_entropy=False))
    logits = 2 * 512 * 51200

    def loss_bytes(graph: OpGraph) -> float:
        return sum(
            n.op.nbytes
            for n in block(graph, "head").nodes
            if any(w in n.op.name for w in ("cross_entropy", "logits", "loss", "log_"))
        )

    assert loss_bytes(fused) == pytest.approx(3 * 2 * logits, rel=1e-3)
    # Cast 2+4, softmax 4+4, gather's gradient 4, softmax's 8+4, cast 4+2.
    assert loss_bytes(steps) == pytest.approx(36 * logits, rel=1e-3)
    shared = train(gpt(), tp=4)
    assert {n for n in collectives(shared, "tp") if "loss" in n} == {
        "head/loss_maximum",
        "head/loss_sum",
    }


def test_fp8_training_quantises_and_keeps_masters() -> None:
    graph = train(load_model("llama-2-7b"), dtype="fp8")
    ops = {n.op.name: n.op for _, _, n, _ in graph.distinct()}
    assert ops["qkv"].dtype == ops["qkv_weight_gradient"].dtype == "fp8"
    assert ops["head"].dtype == "bf16"
    assert {"quantize", "quantize_gradient", "quantize_weights"} <= set(ops)
    assert ops["attention"].dtype == "bf16"


def test_encoder_predicts_masked_positions() -> None:
    graph = train(load_model("bert-base"), micro_batch=3, seq=128)
    head = next(n.op for n in block(graph, "head").nodes if n.op.name == "head")
    assert head.m == 3 * 20
    attention = next(
        n.op for _, _, n, _ in graph.distinct() if n.op.kind == "attention"
    )
    assert not attention.causal


def test_encoder_decoder_trains_both_stacks() -> None:
    graph = train(load_model("t5-base"), seq=512, decoder_seq=114)
    names = [b.name for b in graph.blocks]
    assert names == [
        "embedding", "encoder", "norm", "embedding", "decoder", "head",
        "decoder_backward", "embedding_backward", "norm_backward",
        "encoder_backward", "embedding_backward", "optimizer",
    ]  # fmt: skip
    cross = {n.op.name: n.op for n in block(graph, "decoder").nodes}["cross_attention"]
    assert (cross.seq_q, cross.seq_kv, cross.causal) == (114, 512, False)
    assert graph.tokens == 2 * (512 + 114)
    # Each layer adds its gradient of the encoder's output to the others'.
    summed = [
        n.op.nbytes
        for n in block(graph, "decoder_backward").nodes
        if n.op.name == "add_gradients"
    ]
    assert 3 * 2.0 * 2 * 512 * 768 in summed


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"micro_batch": 0}, InputError, "micro_batch is 0"),
        ({"seq": 4096}, InputError, "2048 tokens"),
        ({"tp": 7}, InputError, "use tp"),
        ({"dp": 0}, InputError, "dp is 0"),
        ({"zero_stage": 4}, InputError, "zero_stage is 4"),
        ({"zero_stage": -1}, InputError, "zero_stage is -1"),
        ({"recompute": "ful"}, UnknownNameError, "did you mean full"),
        ({"optimizer": "adamv"}, UnknownNameError, "adamw"),
        ({"dtype": "half"}, UnknownNameError, "dtype"),
        ({"grad_dtype": "fp33"}, UnknownNameError, "fp32"),
        ({"decoder_seq": 5}, InputError, "no encoder"),
        (
            {"seq": 510, "tp": 4, "sequence_parallel": True},
            InputError,
            "not a multiple of tp 4",
        ),
    ],
)
def test_bad_input_is_named(change: dict, error: type, says: str) -> None:
    with pytest.raises(error) as caught:
        train(gpt(), **change)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("stack", "ep", "bias"),
    [("nemo", 1, (6, 8)), ("nemo", 8, (6, 8)), ("nemo-hybridep", 8, (14, 20)),
     ("nemo-graphs", 1, None)],
)  # fmt: skip
def test_biases_and_clamps_of_experts_one_by_one(
    stack: str, ep: int, bias: tuple[int, int] | None
) -> None:
    """2 bytes a pass: clamp 8 forward, 15 backward; weights in fp32 widen the bias."""
    graph = train(
        load_model("gpt-oss-20b"), stack=load_stack(stack), seq=1024, micro_batch=1,
        ep=ep, dp=ep,
    )  # fmt: skip
    passes, single = dict.fromkeys(("c", "cg", "e", "eg"), 0.0), 0.0
    values = 2 * 1024 * 4 * 2880  # layers with a window and without
    for _, _, node, _ in graph.distinct():
        if node.op.name.startswith(("clamp", "expert_bias")):
            key = node.op.name[0] + "g" * node.op.name.endswith("_gradient")
            passes[key] += node.op.nbytes / (2 * values)
            single += node.op.singly / values
    if bias is None:
        assert not any(passes.values())
        return
    assert tuple(passes.values()) == pytest.approx((8, 15, *bias))
    assert single == pytest.approx(11 if bias[0] > 6 else 10)


def test_a_rotation_that_no_kernel_scales_is_written_in_operators() -> None:
    """YaRN's magnitude: Transformer Engine's kernel rotates only."""
    model, rotations = load_model("gpt-oss-20b"), []
    assert model.rotary_scale > 1.0
    stack = load_stack("nemo")
    scaled = stack.fusion.model_copy(update={"rotary_scaled": True})
    for each in (stack, stack.model_copy(update={"fusion": scaled})):
        graph = train(model, stack=each, seq=1024, micro_batch=1)
        found = (n.op for _, _, n, _ in graph.distinct() if n.op.name == "rotary")
        rotations.append(next(found))
    separate, fused = rotations
    assert separate.nbytes == pytest.approx(5 * fused.nbytes)
    assert separate.singly > 3 * separate.numel
    assert not fused.singly
    llama = train(load_model("llama-2-7b"), stack=stack)
    assert not any(getattr(n.op, "singly", 0.0) for _, _, n, _ in llama.distinct())


def beside(**changes) -> OpGraph:
    """Eight-way tensor parallelism with its collectives beside products."""
    given = {"tp": True, "ring": True, "quantize": True, "quantize_activation": False}
    stack = stack_with(**given | changes.pop("stack", {}))
    options = {"tp": 8, "sequence_parallel": True, "dtype": "fp8", "last": False}
    return train(load_model("llama-2-7b"), stack=stack, **options | changes)


def at_name(nodes: Block) -> dict[str, int]:
    return {n.op.name: i for i, n in enumerate(nodes.nodes)}


@pytest.mark.parametrize("dtype", ["fp8", "bf16"])
def test_a_gather_goes_round_beside_the_first_product_that_reads_it(dtype: str) -> None:
    graph = beside(dtype=dtype)
    for name, gather, product in (
        ("decoder", "attention_gather", "qkv"),
        ("decoder", "ffn_gather", "gate_up"),
        ("decoder_backward", "gradient_gather", "down_input_gradient"),
    ):
        nodes = block(graph, name)
        at = at_name(nodes)
        sent = next(n for n in nodes.nodes if n.op.name == gather)
        first = nodes.nodes[at[product]]
        index = nodes.nodes.index(sent)
        assert index not in first.deps
        assert set(sent.deps) <= set(first.deps)
        assert first.op.parts == 8
        # What reads the product's result waits for the last rows that came.
        assert any({index, at[product]} <= set(n.deps) for n in nodes.nodes), (
            name,
            product,
        )


def test_gathered_values_are_quantised_before_they_are_sent() -> None:
    hidden = 2 * 512 * 4096
    for dtype, width in (("fp8", 1), ("bf16", 2)):
        graph = beside(dtype=dtype)
        sent = [
            node.op for _, _, node, _ in graph.distinct()
            if isinstance(node.op, Collective) and node.op.collective == "all_gather"
        ]  # fmt: skip
        assert {op.name for op in sent} >= {
            "attention_gather", "ffn_gather", "gradient_gather", "input_gather",
        }  # fmt: skip
        narrow = [op.message for op in sent if op.name != "head_gather"]
        # The head's products stay wide; its gather again in backward too.
        assert sorted(set(narrow)) in ([width * hidden], [width * hidden, 2 * hidden])
        wide = [op.message for op in sent if op.name == "head_gather"]
        assert set(wide) == {2 * hidden}


def test_reductions_begin_with_the_product_whose_parts_they_send() -> None:
    narrow, wide = beside(), beside(dtype="bf16")
    for graph, parts in ((narrow, 8), (wide, 4)):
        nodes = block(graph, "decoder")
        at = at_name(nodes)
        product = nodes.nodes[at["down"]]
        assert product.op.parts == parts
        sent = [n for n in nodes.nodes if n.op.name == "ffn_reduce"]
        assert sent[0].deps == product.deps
        assert sum(n.op.message for n in sent) == 2 * 2 * 512 * 4096
        if parts == 4:  # the last of four parts is reduced when the product is done
            assert at["down"] in sent[1].deps
            assert sent[1].op.message == sent[0].op.message / 3
        else:
            total = nodes.nodes[at["partial_sums"]].op
            assert total.reads[0].nbytes == 8 * total.writes[0].nbytes


def test_inputs_that_no_norm_writes_are_cast_by_kernels_of_their_own() -> None:
    def casts(graph: OpGraph) -> list[float]:
        return [
            n.op.writes[0].nbytes
            for n in block(graph, "decoder").nodes
            if n.op.name == "quantize"
        ]

    tokens = 2 * 512
    # Rows and columns, of attention's and the activation's results.
    assert casts(beside()) == [2 * tokens * 4096 / 8, 2 * tokens * 11008 / 8]
    assert not casts(beside(stack={"quantize_activation": True}))
    assert len(casts(beside(stack={"quantize": False}))) == 4


def test_fp4_is_quantised_in_two_passes_and_by_no_norm() -> None:
    graphs = {dtype: beside(dtype=dtype) for dtype in ("fp4", "fp8")}
    tokens = 2 * 512
    for dtype, count, passes in (("fp4", 4, 2), ("fp8", 2, 1)):
        nodes = block(graphs[dtype], "decoder").nodes
        cast = [n.op for n in nodes if n.op.name == "quantize"]
        assert len(cast) == count
        assert cast[-1].reads[0].nbytes == passes * 2 * tokens * 11008 / 8
        if count == 4:  # what norms write is quantised before it is gathered
            assert cast[0].reads[0].nbytes == passes * 2 * tokens * 4096 / 8
    gathered = {
        dtype: next(
            n.op.message for n in block(graph, "decoder").nodes
            if n.op.name == "attention_gather"
        )
        for dtype, graph in graphs.items()
    }  # fmt: skip
    # Half a byte, and a byte of scale for each sixteen.
    assert gathered["fp4"] == gathered["fp8"] * (0.5 + 1 / 16)


def test_rows_of_logits_are_as_aligned_as_the_vocabulary() -> None:
    def alignment(vocab: int, tp: int = 1, **stack: object) -> set[float]:
        changed = FUSED.model_copy(update=stack)
        graph = train(gpt(vocab=vocab), tp=tp, stack=changed)
        return {
            node.op.alignment
            for _, _, node, _ in graph.distinct()
            if isinstance(node.op, Matmul) and node.op.name.startswith("head")
        }

    assert alignment(51_200) == {16.0}
    assert alignment(50_257) == {2.0}
    assert alignment(30_522) == {4.0}
    assert alignment(50_257, padded_vocabulary=True) == {16.0}
    assert alignment(50_257, tp=2) == {16.0}  # who shares words out pads them


def test_a_softmax_kernel_takes_heads_by_the_four() -> None:
    stack = stack_with(attention="unfused", softmax=True, softmax_multiple=4)

    def names(micro_batch: int, tp: int) -> list[str]:
        graph = train(
            gpt(heads=16, hidden=2048, ffn=8192), micro_batch=micro_batch, tp=tp,
            stack=stack, dtype="fp16",
        )  # fmt: skip
        return [n.op.name for n in block(graph, "decoder").nodes]

    apart = {"scores_widened", "mask", "scores_cast"}
    assert not apart & set(names(1, 4))
    assert apart <= set(names(1, 8))
    assert not apart & set(names(2, 8))
    assert len(names(1, 8)) == len(names(2, 8)) + 3


def test_the_host_waits_for_tensor_parallel_collectives_where_a_stack_does() -> None:
    launch = FUSED.launch.model_copy(update={"collectives_wait": True})
    waiting = FUSED.model_copy(update={"launch": launch})
    for stack, waits in ((FUSED, False), (waiting, True)):
        graph = train(gpt(), tp=4, stack=stack)
        for b in graph.blocks:
            if b.name == "optimizer":
                continue  # one sum of norms in a step
            for node in b.nodes:
                after = any(b.nodes[dep].stream == "tp" for dep in node.deps)
                assert node.synced == (waits and after)
