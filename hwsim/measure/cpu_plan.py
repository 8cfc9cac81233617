"""Which operators to time on a CPU, most informative first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hwsim.measure.cuda.cases import Case, Value, interleave, shape, spread

SIDES = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
RAGGED = (7, 33, 65, 100, 129, 250, 333, 500, 777, 1000, 1500, 2049)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# (n, k) of small Transformers' linear layers.
LINEAR = tuple(
    pair
    for hidden in (128, 256, 384, 512, 768, 1024, 2048)
    for pair in (
        (3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden),
        (hidden, 4 * hidden), (8192, hidden),
    )
)  # fmt: skip
MOST_FLOP = 1.2e10  # of one product, for one thread's sake
WIDTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096, 8192)
ROWS = (1, 8, 32, 128, 512, 2048, 8192)
MOST_VALUES = 1 << 24
VALUES = (  # operator, bytes moved per value of four bytes when each moves once
    ("gelu", 8), ("layernorm", 8), ("softmax", 8), ("add", 12), ("rmsnorm", 8),
    ("silu_and_mul", 12), ("mul", 12), ("tanh", 8), ("silu", 8), ("relu", 8),
    ("rope", 8), ("embedding", 8), ("gelu_backward", 12), ("layernorm_backward", 12),
    ("softmax_backward", 12), ("embedding_backward", 8), ("cross_entropy", 8),
    ("div", 12), ("add_scalar", 8), ("mul_scalar", 8), ("div_scalar", 8), ("pow", 12),
    ("pow_scalar", 8),
)  # fmt: skip
PARAMETERS = (10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
HEADS = ((4, 32), (4, 64), (8, 64), (12, 64), (8, 128))
KIBI = 1 << 10
LEAST_SHARE = 1 << 20  # of a working set, for each of several threads. [B]
EXACT = {"torch": ("fp32", "bf16", "int8"), "numpy": ("fp32", "fp64")}


def cpu_plan(threads: Sequence[int], *, torch: bool = False) -> list[Case]:
    """Return every case in the order in which to measure them.

    Parameters
    ----------
    threads : sequence of int
        Numbers of BLAS threads.
    torch : bool
        Also time PyTorch on the CPU.
    """
    groups: list[tuple[float, Sequence[Case]]] = [(3.0, dispatch(threads))]
    for count in threads:
        groups += [
            (4.0, gemm("fp32", count)),
            (2.0, gemm("fp32", count, operands="cold")),
            (1.0, ragged("fp32", count)),
            (0.5, gemm("fp64", count)),
            (2.0, batched(count)),
            (1.5, attention(count)),
            (1.5, stream(count)),
        ]
    groups += [(12.0, elementwise()), (1.5, elementwise("cold")), (0.8, load_latency())]
    if torch:
        groups += _with_torch(threads)
    return interleave(groups)


def _with_torch(threads: Sequence[int]) -> list[tuple[float, Sequence[Case]]]:
    groups: list[tuple[float, Sequence[Case]]] = []
    for count in threads:
        groups += [(1.0, gemm(dtype, count, "torch")) for dtype in EXACT["torch"]]
        groups.append((0.5, attention(count, "sdpa")))
    return groups


def dispatch(threads: Sequence[int]) -> list[Case]:
    """Return calls that do next to nothing: what NumPy asks for a call."""
    kernels = [("add_one_value", 1), ("matmul_8x8", 1), ("matmul_8x8", max(threads))]
    return [
        Case("launch", "launch_eager", "fp32", (), kernel, "eager", "hot", count, 0.1)
        for kernel, count in dict.fromkeys(kernels)
    ]


def gemm(
    dtype: str, threads: int, kernel: str = "numpy", operands: str = "hot"
) -> list[Case]:
    """Return products of small models and of a grid."""
    models = [(m, n, k) for m in TOKENS for n, k in dict.fromkeys(LINEAR)]
    grid = list(itertools.product(SIDES[::2], SIDES[1::2], SIDES[::2]))
    # Backward products: few columns, as long a sum as there are tokens.
    grid += [(k, n, m) for m in TOKENS[5:] for n, k in LINEAR[:20:3]]
    found = [
        spread([_gemm(dtype, *sides, threads, kernel, operands) for sides in part])
        for part in (
            _affordable(models, kernel, dtype),
            _affordable(grid, kernel, dtype),
        )
    ]
    return interleave([(1.5, found[0]), (1.0, found[1])])


def _affordable(
    shapes: Sequence[tuple[int, int, int]], kernel: str, dtype: str
) -> list[tuple[int, int, int]]:
    whole = kernel == "torch" and dtype == "int8"
    return [
        (m, n, k)
        for m, n, k in dict.fromkeys(shapes)
        if 2.0 * m * n * k <= MOST_FLOP and (not whole or m > 16)
    ]


def _gemm(
    dtype: str, m: int, n: int, k: int, threads: int, kernel: str, operands: str,
    batch: int = 1, op: str = "linear",
) -> Case:  # fmt: skip
    seconds = 0.2 + 6.0 * 2.0 * m * n * k * batch / 5e10
    where = shape(m=m, n=n, k=k, batch=batch)
    return Case("gemm", op, dtype, where, kernel, "eager", operands, threads, seconds)


def ragged(dtype: str, threads: int) -> list[Case]:
    """Return products whose sides are no multiples of any tile."""
    sides = itertools.product(RAGGED[::2], RAGGED[1::2], RAGGED[::2])
    return spread([_gemm(dtype, *s, threads, "numpy", "hot") for s in sides])


def batched(threads: int) -> list[Case]:
    """Return batched products as unfused attention makes them."""
    cases = []
    for batch, tokens, width in itertools.product(
        (4, 8, 16, 64), (16, 32, 64, 128, 256, 512), (32, 64, 128)
    ):
        for m, n, k in ((tokens, tokens, width), (tokens, width, tokens),
                        (1, tokens, width), (1, width, tokens),
                        (width, tokens, tokens)):  # fmt: skip
            if batch * m * n <= MOST_VALUES:
                cases.append(
                    _gemm("fp32", m, n, k, threads, "numpy", "hot", batch, "bmm")
                )
    return spread(cases)


def attention(threads: int, kernel: str = "numpy_unfused") -> list[Case]:
    """Return whole unfused attention: prompts, and steps over a cache."""
    cases = []
    for (heads, width), batch in itertools.product(HEADS, (1, 4, 16)):
        for tokens in (32, 64, 128, 256, 512, 1024):
            if batch * heads * tokens * tokens <= MOST_VALUES:
                cases.append(
                    _attention(
                        "prefill", batch, heads, width, tokens, tokens, threads, kernel
                    )
                )
            cases.append(
                _attention(
                    "decode", batch, heads, width, 1, 2 * tokens, threads, kernel
                )
            )
    return spread(cases)


def _attention(
    op: str, batch: int, heads: int, width: int, q: int, kv: int, threads: int,
    kernel: str,
) -> Case:  # fmt: skip
    where = shape(batch=batch, heads=heads, kv_heads=heads, head_dim=width,
                  seq_q=q, seq_kv=kv, window=0, kv_dtype="fp32")  # fmt: skip
    seconds = 0.2 + 6.0 * 4.0 * batch * heads * q * kv * (width + 10) / 3e10
    return Case(
        "attention", op, "fp32", where, kernel, "eager", "hot", threads, seconds
    )


def elementwise(operands: str = "hot") -> list[Case]:
    """Return everything that is no product; NumPy runs it on one thread."""
    groups = []
    for op, each in VALUES:
        grid = [
            _values(op, m, n, float(each) * m * n, operands)
            for m, n in itertools.product(ROWS, WIDTHS)
            if m * n <= MOST_VALUES
        ]
        groups.append((1.0, spread(grid)))
    groups.append(
        (1.0, [_values("adamw", 1, n, 28.0 * n, operands) for n in PARAMETERS])
    )
    return interleave(groups)


def _values(op: str, m: int, n: int, nbytes: float, operands: str) -> Case:
    where = shape(m=m, n=n, bytes=nbytes)
    seconds = 0.2 + 6.0 * m * n * 3e-9
    return Case(
        "elementwise", op, "fp32", where, "numpy", "eager", operands, 1, seconds
    )


def stream(threads: int) -> list[Case]:
    """Return streams over working sets from inside the L1 to far into memory."""
    sizes = [int(8 * KIBI * 2 ** (i / 2)) // 4096 * 4096 for i in range(2, 32)]
    cases = [
        Case("memory", op, "fp32", _working_set(size), "numpy", "eager", "hot",
             threads, 0.25)
        for size in sizes
        for op in ("copy", "read", "write", "scale", "triad")
        # Small arrays on several threads would time Python's interpreter lock.
        if threads == 1 or size >= LEAST_SHARE * threads
    ]  # fmt: skip
    return spread(cases)


def _working_set(size: int) -> tuple[tuple[str, Value], ...]:
    return shape(bytes=float(size), working_set_bytes=float(size))


def load_latency() -> list[Case]:
    """Return dependent loads over growing working sets."""
    sizes = [int(16 * KIBI * 2**i) for i in range(14)]
    cases = [
        Case("memory", "load_latency", "fp64", _working_set(size), "object_chain",
             "eager", "hot", 1, 0.3 + size * 2e-8)
        for size in sizes
    ]  # fmt: skip
    return spread(cases)
