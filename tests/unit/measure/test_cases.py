import math

import pytest

from hwsim.measure.cpu_plan import cpu_plan
from hwsim.measure.cuda.app import DEVICES, chosen, device_id
from hwsim.measure.cuda.backend import BackendError
from hwsim.measure.cuda.cases import Case, interleave, shape, spread
from hwsim.measure.cuda.plan import operator_plan
from hwsim.measure.cuda.tables import SHAPES
from hwsim.measure.cuda.whole import whole_plan
from hwsim.specs.catalogs import DEVICES as CATALOG
from hwsim.specs.measurement.names import family_of


def grid(*sides):
    return [
        Case("gemm", "linear", "bf16", shape(m=m, n=n)) for m in sides for n in sides
    ]


@pytest.fixture(scope="module")
def cuda_plan():
    return operator_plan(8)


@pytest.fixture(scope="module")
def host_plan():
    return cpu_plan([1, 2], torch=True)


def test_key_tells_cases_apart_but_not_their_expected_time():
    case = Case("gemm", "linear", "bf16", shape(m=1), seconds=1.0)
    assert case.key == Case("gemm", "linear", "bf16", shape(m=1), seconds=9.0).key
    others = [
        Case("gemm", "linear", "fp16", shape(m=1)),
        Case("gemm", "linear", "bf16", shape(m=2)),
        Case("gemm", "linear", "bf16", shape(m=1), launch="graph"),
        Case("gemm", "linear", "bf16", shape(m=1), operands="hot"),
        Case("gemm", "linear", "bf16", shape(m=1), threads=2),
        Case("gemm", "linear", "bf16", shape(m=1), kernel="x"),
    ]
    assert len({case.key, *(c.key for c in others)}) == 7


@pytest.mark.parametrize(
    ("launch", "column"),
    [("graph", "graph"), ("eager", "eager"), ("compiled", "eager")],
)
def test_columns_use_the_schema_s_words(launch, column):
    row = Case("gemm", "linear", "bf16", (), launch=launch, operands="hot").columns()
    assert (row["launch"], row["mode"], row["hot"]) == (column, launch, "yes")


def test_spread_is_a_permutation_that_starts_with_corners():
    cases = grid(1, 8, 64, 512, 4096)
    order = spread(cases)
    assert sorted(c.key for c in order) == sorted(c.key for c in cases)
    corners = {(m, n) for m in (1, 4096) for n in (1, 4096)}
    assert {(c["m"], c["n"]) for c in order[:4]} == corners


def test_spread_covers_better_than_the_grid_s_own_order():
    cases = grid(*(2**i for i in range(12)))

    def worst_gap(some):
        points = [(math.log2(c["m"]), math.log2(c["n"])) for c in some]
        return max(
            min(math.dist(p, (i, j)) for p in points)
            for i in range(12)
            for j in range(12)
        )

    assert worst_gap(spread(cases)[:16]) < 0.5 * worst_gap(cases[:16])


def test_interleave_keeps_weights_in_every_prefix_and_drops_repeats():
    a = grid(1, 2, 4, 8, 16, 32)
    b = [Case("gemm", "linear", "fp8", c.shape) for c in a]
    merged = interleave([(3.0, a), (1.0, b), (1.0, a[:5])])
    assert sorted(c.key for c in merged) == sorted(c.key for c in a + b)
    first = [c.dtype for c in merged[:16]]
    assert first.count("bf16") == 12


def test_cuda_plan_has_what_it_promises(cuda_plan):
    found = {(c.table, c.op, c.dtype) for c in cuda_plan}
    for dtype in ("fp32", "tf32", "fp16", "bf16", "fp8", "int8"):
        assert ("gemm", "linear", dtype) in found
    assert ("gemm", "bmm", "bf16") in found
    ops = {op for _, op, _ in found}
    assert {
        "prefill", "decode", "layernorm", "rmsnorm", "rope", "silu_and_mul", "softmax",
        "embedding", "cross_entropy", "adamw", "copy", "launch_eager", "launch_graph",
        "h2d", "d2h", "power",
    } <= ops  # fmt: skip
    collectives = {c.op for c in cuda_plan if c.table == "collective"}
    assert collectives == {
        "all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast",
        "send_recv",
    }  # fmt: skip
    attention = [c for c in cuda_plan if c.table == "attention"]
    assert {c["head_dim"] for c in attention} >= {64, 80, 96, 128, 192, 256}
    assert any(c["heads"] > c["kv_heads"] for c in attention)
    sides = [c["m"] for c in cuda_plan if c.op == "linear"]
    assert any(m % 8 for m in sides)


def test_cuda_plan_has_no_case_twice_and_none_for_one_gpu_s_collectives(cuda_plan):
    keys = [c.key for c in cuda_plan]
    assert len(keys) == len(set(keys))
    assert not [c for c in operator_plan(1) if c.table == "collective"]


def test_a_short_budget_sees_every_table(cuda_plan):
    seconds, seen = 0.0, set()
    for case in cuda_plan:
        seconds += case.seconds
        if seconds > 240.0:
            break
        seen.add(case.table)
    assert seen == set(SHAPES) - {"end_to_end"}


def test_narrow_formats_ask_only_what_their_kernels_take(cuda_plan):
    for case in cuda_plan:
        if case.op == "linear" and case.dtype == "fp8":
            assert case["n"] % 16 == case["k"] % 16 == 0
        if case.op == "linear" and case.dtype == "int8":
            assert case["m"] > 16


def test_whole_plan_has_models_metrics_and_launches():
    plan = whole_plan()
    models = {"gpt2", "gpt2-xl", "llama-3.2-1b", "llama-3.1-8b-layer", "bert-large"}
    assert models < {c["model"] for c in plan}
    assert any("mixtral" in str(c["model"]) for c in plan)
    assert {c["metric"] for c in plan} == {"ttft", "tpot", "step_time", "latency"}
    assert {c.launch for c in plan} == {"eager", "compiled", "graph"}
    longest = [c for c in plan if str(c["model"]).startswith("gpt2")]
    assert max(int(v) for c in longest for n, v in c.shape if n == "prompt") <= 1024
    assert len({c.key for c in plan}) == len(plan)


def test_every_operator_is_in_the_tables_vocabulary(cuda_plan, host_plan):
    for case in [*cuda_plan, *whole_plan(), *host_plan]:
        assert family_of(case.op) == (case.table, case.op), case.key
        assert {name for name, _ in case.shape} <= set(SHAPES[case.table]), case.key


def test_host_plan_covers_threads_dtypes_and_operators(host_plan):
    products = {(c.dtype, c.threads, c.kernel) for c in host_plan if c.op == "linear"}
    for threads in (1, 2):
        assert ("fp32", threads, "numpy") in products
        assert ("fp64", threads, "numpy") in products
        assert ("bf16", threads, "torch") in products
    sizes = [c["working_set_bytes"] for c in host_plan if c.op == "copy"]
    assert min(sizes) <= 32 * 1024
    assert max(sizes) >= 256 * 2**20
    shared = [
        c["working_set_bytes"] for c in host_plan if c.op == "copy" and c.threads == 2
    ]
    assert min(shared) >= 2 * 2**20  # smaller ones would time the interpreter's lock
    # NumPy runs these on one thread whatever BLAS does.
    assert {c.threads for c in host_plan if c.table == "elementwise"} == {1}


@pytest.mark.parametrize("known", [known for _, known in DEVICES])
def test_ids_that_driver_names_lead_to_are_in_the_catalog(known):
    assert CATALOG.by_id(known) is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb-sxm"),
        ("NVIDIA H100 PCIe", "h100-80gb-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10G", "a10g"),
        ("Tesla T4", "t4"),
        ("NVIDIA B200", "b200-sxm"),
        ("NVIDIA GB200", "gb200"),
        ("Imaginary GPU 9", "imaginary-gpu-9"),
    ],
)
def test_device_id_from_the_driver_s_name(name, expected):
    assert device_id(name) == expected


def test_only_and_models_choose_and_refuse():
    assert {c.table for c in chosen("launch,power", "", 1)} == {"launch", "power"}
    models = {c["model"] for c in chosen("end_to_end", "gpt2", 1)}
    assert models == {"gpt2"}
    with pytest.raises(BackendError, match="unknown table 'gem'; known: gemm"):
        chosen("gem", "", 1)
    with pytest.raises(BackendError, match="unknown model 'gpt9'"):
        chosen("", "gpt9", 1)
