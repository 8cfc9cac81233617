"""Operators of the tables as PyTorch calls on random operands."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .backend import Backend, Work
from .cases import Case, Skip

Maker = Callable[[Backend, Case], Work]
EPSILON = 1e-5


def build(backend: Backend, case: Case) -> Work:
    """Return an operator ready to run, on fresh operands."""
    maker = _MAKERS.get(case.table)
    if maker is None:
        raise Skip(f"no kernels for table {case.table}")
    return maker(backend, case)


def _rotating(
    backend: Backend, case: Case, make: Callable[[], tuple[Any, ...]],
    function: Callable[..., Any],
) -> Work:  # fmt: skip
    """Return work that calls a function on one of several operand sets."""
    first = make()
    nbytes = sum(t.numel() * t.element_size() for t in first)
    copies, past = backend.copies(nbytes, case.operands)
    sets = [first] + [make() for _ in range(copies - 1)]
    # As many results stay alive as it takes to leave the last cache.
    keep = 1 if case.operands == "hot" else min(copies, 8)
    return Work(lambda i: function(*sets[i]), copies, past, keep)


def _gemm(backend: Backend, case: Case) -> Work:
    torch, dtype = backend.torch, case.dtype
    m, n, k, batch = (case.number(name) for name in ("m", "n", "k", "batch"))
    if backend.cuda:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    if case.op == "bmm":

        def pair() -> tuple[Any, ...]:
            b = backend.tensor(batch, n, k, dtype=dtype)
            return backend.tensor(batch, m, k, dtype=dtype), b

        return _rotating(
            backend, case, pair, lambda a, b: torch.bmm(a, b.transpose(1, 2))
        )

    def operands() -> tuple[Any, ...]:
        return backend.tensor(m, k, dtype=dtype), backend.tensor(n, k, dtype=dtype)

    return _rotating(backend, case, operands, _product(backend, dtype))


def _product(backend: Backend, dtype: str) -> Callable[..., Any]:
    torch = backend.torch
    if dtype == "int8":
        return lambda a, w: torch._int_mm(a, w.t())
    if dtype != "fp8":
        linear: Callable[..., Any] = torch.nn.functional.linear
        return linear
    one = torch.ones((), dtype=torch.float32, device=backend.device)

    def scaled(a: Any, w: Any) -> Any:
        return torch._scaled_mm(
            a, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip

    return scaled


def _attention(backend: Backend, case: Case) -> Work:
    batch, heads, kv_heads, width, q, kv = (
        case.number(name)
        for name in ("batch", "heads", "kv_heads", "head_dim", "seq_q", "seq_kv")
    )
    flash_layout = case.kernel == "flash_attn"

    def rows(count: int, tokens: int) -> Any:
        size = (
            (batch, tokens, count, width)
            if flash_layout
            else (batch, count, tokens, width)
        )
        return backend.tensor(*size, dtype=case.dtype)

    def operands() -> tuple[Any, ...]:
        return rows(heads, q), rows(kv_heads, kv), rows(kv_heads, kv)

    causal = case.op == "prefill"
    if flash_layout:
        return _rotating(backend, case, operands, _flash_attn(causal))
    attend = sdpa(backend, causal=causal, grouped=heads != kv_heads)
    if case.kernel == "sdpa_flash":
        attend = _forced_flash(attend)
    return _rotating(backend, case, operands, attend)


def _flash_attn(causal: bool) -> Callable[..., Any]:
    try:
        flash: Any = importlib.import_module("flash_attn")
    except ImportError:
        raise Skip("the package flash_attn is not installed") from None
    return lambda q, k, v: flash.flash_attn_func(q, k, v, causal=causal)


def sdpa(backend: Backend, *, causal: bool, grouped: bool) -> Callable[..., Any]:
    """Return PyTorch's fused attention, with grouped heads where asked."""
    torch = backend.torch
    function = torch.nn.functional.scaled_dot_product_attention
    if not grouped:
        return lambda q, k, v: function(q, k, v, is_causal=causal)
    if "enable_gqa" in (function.__doc__ or ""):
        return lambda q, k, v: function(q, k, v, is_causal=causal, enable_gqa=True)
    raise Skip("this PyTorch has no grouped-query attention (2.5 has)")


def _forced_flash(attend: Callable[..., Any]) -> Callable[..., Any]:
    try:
        choice: Any = importlib.import_module("torch.nn.attention")
    except ImportError:
        raise Skip("this PyTorch cannot choose the attention kernel") from None

    def flash(q: Any, k: Any, v: Any) -> Any:
        with choice.sdpa_kernel(choice.SDPBackend.FLASH_ATTENTION):
            return attend(q, k, v)

    return flash


def _elementwise(backend: Backend, case: Case) -> Work:
    m, n = case.number("m"), case.number("n")
    dtype = case.dtype.split("->")[0]
    if case.op in _SPECIAL:
        return _SPECIAL[case.op](backend, case)
    arity, function = _functions(backend, n)[case.op]
    columns = 2 * n if case.op == "silu_and_mul" else n

    def operands() -> tuple[Any, ...]:
        return tuple(backend.tensor(m, columns, dtype=dtype) for _ in range(arity))

    return _rotating(backend, case, operands, function)


def _functions(backend: Backend, n: int) -> dict[str, tuple[int, Callable[..., Any]]]:
    torch = backend.torch
    f = torch.nn.functional
    gain = {d: torch.ones(n, dtype=backend.dtype(d), device=backend.device)
            for d in ("fp32", "bf16")}  # fmt: skip

    def weight(x: Any) -> Any:
        return gain["fp32" if x.dtype == torch.float32 else "bf16"]

    def layer(x: Any) -> Any:
        return f.layer_norm(x, (n,), weight(x), weight(x), EPSILON)

    def rms(x: Any) -> Any:
        return rmsnorm(torch, x, weight(x))

    return {
        "add": (2, torch.add), "mul": (2, torch.mul), "div": (2, torch.div),
        "pow": (2, lambda a, b: torch.pow(a, b)),
        "add_scalar": (1, lambda a: a + 1.5), "mul_scalar": (1, lambda a: a * 1.5),
        "div_scalar": (1, lambda a: a / 1.5), "pow_scalar": (1, lambda a: a**2.5),
        "relu": (1, torch.relu), "tanh": (1, torch.tanh),
        "gelu": (1, lambda a: f.gelu(a, approximate="tanh")), "silu": (1, f.silu),
        "silu_and_mul": (1, lambda a: f.silu(a[:, :n]) * a[:, n:]),
        "softmax": (1, lambda a: torch.softmax(a, -1)),
        "layernorm": (1, layer), "rmsnorm": (1, rms), "rmsnorm_head": (1, rms),
        "add_layernorm": (2, lambda a, b: layer(a + b)),
        "add_rmsnorm": (2, lambda a, b: rms(a + b)),
        "quantize_fp8": (1, lambda a: a.to(backend.dtype("fp8"))),
        "quantize_int8": (1, lambda a: (a * 20.0).to(torch.int8)),
    }  # fmt: skip


def rmsnorm(torch: Any, x: Any, gain: Any) -> Any:
    """Return the root-mean-square norm: one kernel where PyTorch has it."""
    fused = getattr(torch.nn.functional, "rms_norm", None)
    if fused is not None:
        return fused(x, (x.shape[-1],), gain, EPSILON)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(
        x.dtype
    ) * gain


def rotate(torch: Any, x: Any, cosine: Any, sine: Any) -> Any:
    """Return heads with their halves rotated, as Llama's code does it."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + turned * sine


def _rope(backend: Backend, case: Case) -> Work:
    m, n, torch = case.number("m"), case.number("n"), backend.torch
    width = 128 if n % 128 == 0 else 64

    def operands() -> tuple[Any, ...]:
        return (backend.tensor(m, n // width, width, dtype=case.dtype),)

    cosine, sine = (backend.tensor(m, 1, width, dtype=case.dtype) for _ in range(2))
    return _rotating(backend, case, operands, lambda x: rotate(torch, x, cosine, sine))


def _embedding(backend: Backend, case: Case) -> Work:
    m, n, torch = case.number("m"), case.number("n"), backend.torch
    table = backend.tensor(32000, n, dtype=case.dtype)

    def operands() -> tuple[Any, ...]:
        return (torch.randint(0, 32000, (m,), device=backend.device),)

    return _rotating(backend, case, operands,
                     lambda i: torch.nn.functional.embedding(i, table))  # fmt: skip


def _cross_entropy(backend: Backend, case: Case) -> Work:
    m, n, torch = case.number("m"), case.number("n"), backend.torch
    target = torch.randint(0, n, (m,), device=backend.device)

    def operands() -> tuple[Any, ...]:
        return (backend.tensor(m, n, dtype=case.dtype),)

    loss = torch.nn.functional.cross_entropy
    return _rotating(backend, case, operands, lambda x: loss(x, target))


def _adamw(backend: Backend, case: Case) -> Work:
    torch, n = backend.torch, case.number("n")
    # As models have them: many tensors, none of them all of it.
    sizes = [min(16_000_000, n)] * max(n // 16_000_000, 1)
    weights = [backend.tensor(size, dtype=case.dtype) for size in sizes]
    for weight in weights:
        weight.grad = backend.tensor(weight.numel(), dtype=case.dtype)
    step = torch.optim.AdamW(weights, lr=1e-4, fused=True, **_capturable(backend))
    past = 16.0 * sum(sizes) >= 2 * backend.cache_bytes
    return Work(lambda _: step.step(), 1, past)


def _capturable(backend: Backend) -> dict[str, bool]:
    return {"capturable": True} if backend.cuda else {}


_SPECIAL: dict[str, Maker] = {
    "rope": _rope,
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
    "adamw": _adamw,
}


def _memory(backend: Backend, case: Case) -> Work:
    torch = backend.torch
    parts = {"copy": 2, "read": 1, "write": 1, "triad": 3}[case.op]
    count = max(int(float(case["bytes"])) // 4 // parts, 1)
    a, b, c = (backend.tensor(count, dtype="fp32") for _ in range(3))
    calls: dict[str, Callable[[int], Any]] = {
        "copy": lambda _: b.copy_(a),
        "read": lambda _: torch.sum(a),
        "write": lambda _: b.fill_(1.0),
        "triad": lambda _: torch.add(a, b, alpha=1.5, out=c),
    }
    return Work(calls[case.op])


def _launch(backend: Backend, case: Case) -> Work:
    torch = backend.torch
    if case.kernel == "add_one_value":
        x = backend.tensor(1, dtype="fp32")
        return Work(lambda _: x.add_(1.0))
    a, b = (backend.tensor(8, 8, dtype="bf16") for _ in range(2))
    return Work(lambda _: torch.nn.functional.linear(a, b))


def _host_link(backend: Backend, case: Case) -> Work:
    torch, count = backend.torch, int(float(case["bytes"]))
    pinned = case["pinned"] == "yes" and backend.cuda
    part = torch.randint(0, 100, (min(count, 1 << 20),), dtype=torch.int8)
    host = part.repeat(-(-count // len(part)))[:count].clone()
    host = host.pin_memory() if pinned else host
    there = torch.empty_like(host, device=backend.device)
    pair = (there, host) if case.op == "h2d" else (host, there)
    return Work(lambda _: pair[0].copy_(pair[1], non_blocking=pinned))


_MAKERS: dict[str, Maker] = {
    "gemm": _gemm,
    "attention": _attention,
    "elementwise": _elementwise,
    "memory": _memory,
    "launch": _launch,
    "host_link": _host_link,
}
