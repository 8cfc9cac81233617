"""Which operators to time on a GPU, most informative first."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .cases import Case, interleave, shape, spread

# (n, k) of linear layers: Llama 8B and 70B (whole and a tensor-parallel
# eighth), Llama 1B, GPT-2 124M and 1.5B, BERT-large, Mixtral experts, heads.
LINEAR = (
    (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096),
    (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672), (1280, 8192),
    (8192, 1024), (7168, 8192), (8192, 3584), (3072, 2048), (2048, 2048),
    (16384, 2048), (2048, 8192), (2304, 768), (768, 768), (3072, 768), (768, 3072),
    (50257, 768), (4800, 1600), (1600, 1600), (6400, 1600), (1600, 6400),
    (1024, 1024), (4096, 1024), (1024, 4096), (14336, 4096),
)  # fmt: skip
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096,
          8192, 16384)  # fmt: skip
GRID = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
RAGGED = (65, 100, 129, 200, 333, 500, 777, 1000, 1500, 2049, 3000, 5000, 8200, 12289)
WIDE_FLOP = 4e12  # fp32 and tf32 products above this say little for their time
HEADS = (  # heads, kv_heads, head_dim of one device
    (32, 8, 128), (8, 1, 128), (64, 8, 128), (12, 12, 64), (25, 25, 64), (16, 16, 64),
    (32, 32, 128), (32, 8, 64), (16, 8, 256), (32, 32, 80), (24, 8, 96), (16, 16, 192),
)  # fmt: skip
WIDTHS = (768, 1600, 2048, 4096, 8192, 14336)
ROWS = (1, 16, 128, 1024, 4096, 16384)
VALUES = (  # operator, dtype, bytes moved per value (reads and writes)
    ("add", "bf16", 6), ("mul", "bf16", 6), ("div", "bf16", 6), ("pow", "bf16", 6),
    ("add_scalar", "bf16", 4), ("mul_scalar", "bf16", 4), ("div_scalar", "bf16", 4),
    ("pow_scalar", "bf16", 4), ("relu", "bf16", 4), ("tanh", "bf16", 4),
    ("gelu", "bf16", 4), ("silu", "bf16", 4), ("silu_and_mul", "bf16", 6),
    ("softmax", "bf16", 4), ("softmax", "fp32", 8), ("layernorm", "bf16", 4),
    ("layernorm", "fp32", 8), ("rmsnorm", "bf16", 4), ("add_rmsnorm", "bf16", 8),
    ("add_layernorm", "bf16", 8), ("rmsnorm_head", "bf16", 4), ("rope", "bf16", 4),
    ("embedding", "bf16", 4), ("add", "fp32", 12), ("quantize_fp8", "bf16->fp8", 3),
    ("quantize_int8", "bf16->int8", 3),
)  # fmt: skip
VOCABULARIES = (32000, 50304, 128256)
PARAMETERS = (1_000_000, 10_000_000, 96_000_000, 400_000_000, 960_000_000)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall",
               "broadcast", "send_recv")  # fmt: skip
MEBI = 1 << 20


def operator_plan(gpus: int = 1) -> list[Case]:
    """Return every operator case in the order in which to measure them."""
    groups: list[tuple[float, Sequence[Case]]] = [
        (6.0, gemm("bf16")),
        (2.5, gemm("fp8")),
        (1.0, gemm("fp16")),
        (1.0, gemm("tf32")),
        (0.7, gemm("fp32")),
        (1.0, gemm("int8")),
        (1.0, ragged("bf16")),
        (0.5, ragged("fp16")),
        (0.4, gemm("bf16", operands="hot")),
        (0.5, gemm("bf16", launch="eager")),
        (1.0, batched()),
        (2.0, prefill()),
        (2.0, decode()),
        (0.6, prefill(kernel="sdpa_flash")),
        (0.6, decode(kernel="sdpa_flash")),
        (0.5, prefill(kernel="flash_attn")),
        (0.5, decode(kernel="flash_attn")),
        (2.0, elementwise()),
        (0.4, elementwise(launch="eager")),
        (1.0, memory()),
        (3.0, launches()),
        (0.5, host_link()),
        (0.7, power()),
    ]
    if gpus > 1:
        groups.append((2.0, collectives(gpus)))
    return interleave(groups)


def gemm(dtype: str, *, launch: str = "graph", operands: str = "cold") -> list[Case]:
    """Return products of language models and of a grid, well spread."""
    kernel = {"fp8": "scaled_mm_tensorwise", "int8": "int_mm"}.get(dtype, "linear")
    shapes = [(m, n, k) for m in TOKENS for n, k in LINEAR]
    shapes += [(m, n, k) for m in GRID for n in GRID for k in GRID]
    wide = dtype in ("fp32", "tf32")
    cases = [
        _product("linear", dtype, m, n, k, kernel, launch, operands)
        for m, n, k in dict.fromkeys(shapes)
        if not (wide and 2.0 * m * n * k > WIDE_FLOP) and _fits_format(dtype, m, n, k)
    ]
    return _two_scales(cases)


def _fits_format(dtype: str, m: int, n: int, k: int) -> bool:
    """Leave out what the narrow kernels of PyTorch refuse."""
    if dtype == "fp8":
        return n % 16 == 0 and k % 16 == 0
    if dtype == "int8":
        return m > 16 and n % 8 == 0 and k % 8 == 0
    return True


def _two_scales(cases: list[Case]) -> list[Case]:
    """Alternate model shapes and grid shapes, each well spread."""
    models = [c for c in cases if (c.number("n"), c.number("k")) in LINEAR]
    grid = [c for c in cases if (c.number("n"), c.number("k")) not in LINEAR]
    return interleave([(1.0, spread(models)), (1.0, spread(grid))])


def ragged(dtype: str) -> list[Case]:
    """Return products whose sides are no multiples of any tile."""
    cases = [
        _product("linear", dtype, m, n, k, "linear", "graph", "cold")
        for m, n, k in itertools.product(RAGGED[::2], RAGGED[1::2], RAGGED)
    ]
    return spread(cases)


def _product(
    op: str, dtype: str, m: int, n: int, k: int, kernel: str, launch: str,
    operands: str, batch: int = 1,
) -> Case:  # fmt: skip
    slow = {"fp32": 4e13, "tf32": 2e14}.get(dtype, 4e14)
    seconds = 0.35 + 12.0 * 2.0 * m * n * k * batch / slow
    return Case("gemm", op, dtype, shape(m=m, n=n, k=k, batch=batch), kernel,
                launch, operands, seconds=seconds)  # fmt: skip


def batched() -> list[Case]:
    """Return batched products as unfused attention and experts make them."""
    sides = (16, 64, 128, 256, 512, 1024, 2048)
    cases = [
        _product("bmm", "bf16", m, n, k, "bmm", "graph", "cold", batch)
        for batch in (2, 8, 32, 128, 512)
        for m, n in itertools.product(sides, sides)
        for k in (64, 128, 512, 2048)
        if batch * (m * n + m * k + n * k) < 2e9
    ]
    return spread(cases)[:400]


def prefill(kernel: str = "sdpa") -> list[Case]:
    """Return causal attention over whole prompts."""
    cases = [
        _attention("prefill", batch, heads, s, s, kernel)
        for heads in HEADS
        for s in (128, 256, 512, 1000, 1024, 2048, 4096, 8192, 16384)
        for batch in (1, 2, 4, 8, 16, 32)
        if batch * s <= 32768
    ]
    return spread(cases)


def decode(kernel: str = "sdpa") -> list[Case]:
    """Return one new token of each sequence over its cache."""
    cases = [
        _attention("decode", batch, heads, 1, s, kernel)
        for heads in HEADS
        for s in (128, 512, 1000, 2048, 4096, 8192, 16384, 32768, 65536)
        for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        if batch * s * heads[1] * heads[2] <= 4e9
    ]
    return spread(cases)


def _attention(
    op: str, batch: int, heads: tuple[int, int, int], seq_q: int, seq_kv: int,
    kernel: str,
) -> Case:  # fmt: skip
    flop = 2.0 * batch * heads[0] * seq_q * seq_kv * heads[2]
    where = shape(batch=batch, heads=heads[0], kv_heads=heads[1], head_dim=heads[2],
                  seq_q=seq_q, seq_kv=seq_kv, window=0, kv_dtype="bf16")  # fmt: skip
    return Case("attention", op, "bf16", where, kernel, "graph", "cold",
                seconds=0.35 + 12.0 * flop / 2e14)  # fmt: skip


def elementwise(launch: str = "graph") -> list[Case]:
    """Return kernels bound by memory, the loss and the optimizer."""
    groups = []
    for op, dtype, each in VALUES:
        grid = [
            _values(op, dtype, m, n, float(each) * m * n, launch)
            for m in ROWS
            for n in ((128,) if op == "rmsnorm_head" else WIDTHS)
        ]
        groups.append((1.0, spread(grid)))
    groups.append((1.0, spread(list(_losses(launch)))))
    groups.append((1.0, [_optimizer(n, launch) for n in PARAMETERS]))
    return interleave(groups)


def _values(op: str, dtype: str, m: int, n: int, nbytes: float, launch: str) -> Case:
    where = shape(m=m, n=n, bytes=nbytes)
    return Case("elementwise", op, dtype, where, "torch", launch, "cold", seconds=0.35)


def _losses(launch: str) -> Iterator[Case]:
    for m, n in itertools.product((512, 2048, 8192), VOCABULARIES):
        yield _values("cross_entropy", "bf16", m, n, 2.0 * m * n, launch)


def _optimizer(n: int, launch: str) -> Case:
    # AdamW in fp32: reads parameter, gradient, two moments; writes three of them.
    return _values("adamw", "fp32", 1, n, 28.0 * n, launch)


def memory() -> list[Case]:
    """Return streams over working sets from far inside the L2 to far outside."""
    sizes = [float(int(64 * 1024 * 2 ** (i / 2)) // 1024 * 1024) for i in range(33)]
    cases = [
        Case("memory", op, "fp32", shape(bytes=size, working_set_bytes=size),
             "torch", "graph", "hot", seconds=0.4)
        for size in sizes
        for op in ("copy", "read", "write", "triad")
    ]  # fmt: skip
    return spread(cases)


def launches() -> list[Case]:
    """Return kernels that do next to nothing."""
    return [
        Case("launch", "launch_graph", "fp32", (), "add_one_value", "graph", "hot"),
        Case("launch", "launch_eager", "fp32", (), "add_one_value", "eager", "hot"),
        Case("launch", "launch_eager", "bf16", (), "linear_8x8x8", "eager", "hot"),
        Case("launch", "launch_graph", "bf16", (), "linear_8x8x8", "graph", "hot"),
    ]


def host_link() -> list[Case]:
    """Return copies to and from the host's memory."""
    cases = [
        Case("host_link", op, "int8", shape(bytes=float(4**i * 1024), pinned=pinned),
             "torch", "eager", "hot", seconds=0.4 + (4**i * 1024) * 2e-9)
        for i in range(11)
        for op in ("h2d", "d2h")
        for pinned in ("yes", "no")
    ]  # fmt: skip
    return spread(cases)


def power() -> list[Case]:
    """Return operators to repeat for seconds: energy and sustained clocks."""
    sizes = [(8192, 8192, 8192), (4096, 4096, 4096), (1024, 8192, 8192),
             (128, 8192, 8192), (1, 8192, 8192)]  # fmt: skip
    cases = [
        _load("linear", dtype, m, n, k)
        for m, n, k in sizes
        for dtype in ("bf16", "fp8", "fp16", "tf32", "fp32", "int8")
        if _fits_format(dtype, m, n, k)
    ]
    cases += [
        _load("prefill", "bf16", 4, 4096, 128),
        _load("decode", "bf16", 32, 8192, 128),
    ]
    cases += [_load(op, "bf16", 8192, 8192, 0) for op in ("add", "gelu", "rmsnorm")]
    return [*cases[:1], *cases[-5:], *cases[1:-5]]


def _load(operator: str, dtype: str, m: int, n: int, k: int) -> Case:
    where = shape(operator=operator, m=m, n=n, k=k)
    return Case("power", "power", dtype, where, operator, "eager", "cold", seconds=4.5)


def collectives(gpus: int) -> list[Case]:
    """Return collectives of one node by message size and group size."""
    worlds = sorted(
        {2**i for i in range(1, gpus.bit_length()) if 2**i <= gpus} | {gpus}
    )
    cases = [
        Case("collective", op, dtype,
             shape(bytes=float(1024 * 4**i), world_size=world,
                   gpus_per_node_used=world, gpus_per_node_max=gpus),
             "nccl", "eager", "hot", seconds=0.5)
        for op in COLLECTIVES
        for dtype in ("bf16", "fp32")
        for world in worlds
        if op != "send_recv" or world == 2
        for i in range(11)
    ]  # fmt: skip
    return spread(cases)
