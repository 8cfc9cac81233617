"""Whole work: prefill, decode steps and training steps of small models."""

# ruff: noqa: TID252 -- the folder also runs as a bare copy
from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from .backend import Backend, Work
from .cases import Case, Skip, interleave, shape
from .nets import NETS, Net, Runner, cache, weights

LAUNCHES = ("graph", "eager", "compiled")
COMPILE_SECONDS = 60.0
PREFILLS = ((1, 1024), (8, 512), (1, 4096), (4, 2048), (32, 128), (1, 128))
DECODES = ((1, 1024), (16, 1024), (64, 1024), (8, 4096), (128, 512), (1, 128))
TRAININGS = ((8, 1024), (4, 512), (16, 1024), (1, 1024), (4, 2048))
ENCODERS = ((32, 128), (8, 384), (1, 128), (16, 512), (64, 256))
MOST_POSITIONS = {"gpt2": 1024, "bert": 512}


def whole_plan() -> list[Case]:
    """Return every end-to-end case, a first one of each model early."""
    groups: list[tuple[float, Sequence[Case]]] = []
    for launch, weight in zip(LAUNCHES, (1.0, 0.8, 0.4)):  # noqa: B905
        for net in NETS.values():
            cases = [
                c for c in _cases(net, launch) if int(c["tokens"]) <= _most_tokens(net)
            ]
            groups.append((weight, [_plain(c) for c in cases]))
    return interleave(groups)


def _most_tokens(net: Net) -> int:
    family = net.name.split("-", maxsplit=1)[0]
    return MOST_POSITIONS.get(family, 1 << 20)


def _cases(net: Net, launch: str) -> list[Case]:
    prefills = [
        _case(net, launch, "infer", "ttft", b, s, prompt=s) for b, s in PREFILLS
    ]
    decodes = [_case(net, launch, "infer", "tpot", b, s, context=s) for b, s in DECODES]
    trainings = [
        _case(net, launch, "train", "step_time", b, s, seq=s) for b, s in TRAININGS
    ]
    if not net.causal:
        decodes = []
        prefills = [_case(net, launch, "infer", "latency", b, s, prompt=s)
                    for b, s in ENCODERS]  # fmt: skip
        trainings = [_case(net, launch, "train", "step_time", b, s, seq=s)
                     for b, s in ((32, 128), (8, 512), (16, 384))]  # fmt: skip
    return interleave([(1.0, decodes), (1.0, prefills), (1.0, trainings)])


def _case(
    net: Net, launch: str, op: str, metric: str, batch: int, tokens: int, **more: int
) -> Case:
    amount = batch * (1 if metric == "tpot" else tokens)
    flop = 2.0 * net.weights * amount * (3.0 if op == "train" else 1.0)
    seconds = 2.0 + net.weights * 2e-9 + 12.0 * flop / 2e14
    seconds += COMPILE_SECONDS if launch == "compiled" else 0.0
    where = shape(model=net.name, metric=metric, layers=net.layers, batch=batch,
                  tokens=tokens, **more)  # fmt: skip
    return Case(
        "end_to_end", op, "bf16", where, "torch", launch, "hot", seconds=seconds
    )


def _plain(case: Case) -> Case:
    """Return a case without the helper column."""
    kept = tuple((name, value) for name, value in case.shape if name != "tokens")
    return Case(case.table, case.op, case.dtype, kept, case.kernel, case.launch,
                case.operands, seconds=case.seconds)  # fmt: skip


def build_whole(backend: Backend, case: Case) -> Work:
    """Return one step of a model, ready to run."""
    net = NETS[str(case["model"])]
    if case.launch == "compiled" and not hasattr(backend.torch, "compile"):
        raise Skip("this PyTorch has no torch.compile (2.0 has)")
    maker = {"step_time": _training, "tpot": _decoding}
    return maker.get(str(case["metric"]), _prefilling)(backend, net, case)


def _input(backend: Backend, net: Net, batch: int, tokens: int, dtype: str) -> Any:
    if not net.vocab:
        return backend.tensor(batch, tokens, net.hidden, dtype=dtype)
    return backend.torch.randint(0, net.vocab, (batch, tokens), device=backend.device)


def _maybe_compiled(backend: Backend, case: Case, call: Callable[..., Any]) -> Any:
    return backend.torch.compile(call) if case.launch == "compiled" else call


def _prefilling(backend: Backend, net: Net, case: Case) -> Work:
    batch, tokens = case.number("batch"), case.number("prompt")
    runner = Runner(backend, net, weights(backend, net, case.dtype), tokens)
    x = _input(backend, net, batch, tokens, case.dtype)
    forward = _maybe_compiled(backend, case, runner.forward)

    def call(_: int) -> Any:
        with backend.torch.no_grad():
            return forward(x, last=net.causal)

    return Work(call)


def _decoding(backend: Backend, net: Net, case: Case) -> Work:
    batch, context = case.number("batch"), case.number("context")
    runner = Runner(backend, net, weights(backend, net, case.dtype), context)
    kept = cache(backend, net, batch, context, case.dtype)
    x = _input(backend, net, batch, 1, case.dtype)
    forward = _maybe_compiled(backend, case, runner.forward)

    def call(_: int) -> Any:
        with backend.torch.no_grad():
            return forward(x, kept, context - 1)

    return Work(call)


def _training(backend: Backend, net: Net, case: Case) -> Work:
    """Mixed precision as is usual: fp32 weights and AdamW, bf16 products."""
    torch = backend.torch
    batch, tokens = case.number("batch"), case.number("seq")
    w = weights(backend, net, "fp32")
    leaves = [value.requires_grad_(True) for value in w.values()]
    runner = Runner(backend, net, w, tokens)
    x = _input(backend, net, batch, tokens, "bf16")
    target = torch.randint(
        0, max(net.vocab, 2), (batch * tokens,), device=backend.device
    )
    options: dict[str, Any] = {"fused": True}
    if backend.cuda:
        options["capturable"] = True
    optimizer = torch.optim.AdamW(leaves, lr=1e-5, **options)

    def loss(given: Any) -> Any:
        # A cached cast would be wrong in a captured graph.
        with torch.autocast(backend.device.type, torch.bfloat16, cache_enabled=False):
            out = runner.forward(given)
            if not net.vocab:
                return out.float().square().mean()
        flat = out.view(batch * tokens, -1).float()
        return torch.nn.functional.cross_entropy(flat, target)

    compute = _maybe_compiled(backend, case, loss)

    def call(_: int) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = compute(x)
        value.backward()
        optimizer.step()
        return value.detach()

    return Work(call, columns={})


@contextlib.contextmanager
def fresh_compiler(backend: Backend, case: Case) -> Any:
    """Forget compiled code afterwards: cases must not share or exhaust it."""
    try:
        yield
    finally:
        dynamo = getattr(backend.torch, "_dynamo", None)
        if case.launch == "compiled" and dynamo is not None:
            dynamo.reset()
