"""What is asked of inference: checked, with defaults, and the memory it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.check import context_within, dtype_on, known_dtype, positive_int
from hwsim.cost.footprint import Footprint, inference_footprint
from hwsim.errors import InputError
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

DEFAULT_PROMPT = 1024
DEFAULT_OUTPUT = 128


@dataclass(frozen=True)
class InferConfig:
    """What is asked: sizes in tokens and sequences, dtypes by name."""

    batch: int
    prompt: int
    output: int
    tp: int
    dtype: str
    weight_dtype: str
    kv_dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))


def checked_request(
    model: ModelSpec,
    system: SystemSpec,
    batch: Any,
    prompt: Any,
    output: Any,
    tp: Any,
    dtype: str,
    weight_dtype: str | None,
    kv_dtype: str | None,
) -> InferConfig:
    """Return what is asked, with what was left out; refuse what cannot be."""
    batch, tp = positive_int("batch", batch), positive_int("tp", tp)
    output = DEFAULT_OUTPUT if output is None else output
    output = positive_int("output", output, minimum=0)
    if prompt is None:
        prompt = _default_prompt(model, output)
    prompt = positive_int("prompt", prompt, minimum=0)
    if not prompt and (not output or model.kind != "decoder"):
        raise InputError(
            "prompt is 0; only a decoder can generate from an empty context, "
            "and output must be at least 1 then"
        )
    dtype_on(system.device, dtype)
    if model.kind == "encoder":
        output = 0
    if tp > system.num_devices:
        raise InputError(
            f"tp {tp} needs {tp} devices, but {system.id} has {system.num_devices}; "
            "name a larger system"
        )
    if model.kind == "encoder_decoder":
        context_within(model, max(prompt, output), "the longer of prompt and output")
    else:
        context_within(model, prompt + output, "prompt + output")
    weight = known_dtype("weight_dtype", weight_dtype or dtype)
    cache = known_dtype("kv_dtype", kv_dtype or _cache_dtype(dtype))
    return InferConfig(batch, prompt, output, tp, dtype, weight, cache)


def _default_prompt(model: ModelSpec, output: int) -> int:
    """Return 1024 tokens, or what the model's context leaves beside the output."""
    if model.max_context is None:
        return DEFAULT_PROMPT
    kept = output if model.kind == "decoder" else 0
    return min(DEFAULT_PROMPT, max(model.max_context - kept, 1))


def _cache_dtype(dtype: str) -> str:
    """KV caches stay in 16 bit unless asked otherwise."""
    return dtype if dtype in {"fp32", "bf16", "fp16"} else "bf16"


def request_footprint(
    model: ModelSpec, config: InferConfig, stack: StackSpec, **changed: Any
) -> Footprint:
    """Return the memory of one device, with some of the fields changed."""
    now = {**vars(config), **changed}
    return inference_footprint(
        model, batch=now["batch"], context=_context(model, now),
        prompt=max(now["prompt"], 1), tp=now["tp"], dtype=now["dtype"],
        kv_dtype=now["kv_dtype"], weight_dtype=now["weight_dtype"],
        flash=stack.fusion.attention == "fused", split=stack.split_sequences,
    )  # fmt: skip


def _context(model: ModelSpec, now: dict[str, Any]) -> int:
    """Return the tokens whose keys a sequence's decoder keeps of its own."""
    if model.kind == "encoder_decoder":
        return max(int(now["output"]), 1)  # the prompt's stand in cross attention
    return int(now["prompt"] + now["output"])


def gentler_requests(
    model: ModelSpec, system: SystemSpec, config: InferConfig, stack: StackSpec
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield single changes, the gentlest of each sort first."""

    def after(**changed: Any) -> Callable[[], float]:
        return lambda: request_footprint(model, config, stack, **changed).total

    tp = config.tp * 2
    while tp <= 64:
        more = "" if tp <= system.num_devices else " on a larger system"
        yield f"tp {tp}{more}", after(tp=tp)
        tp *= 2
    batch = config.batch // 2
    while batch >= 1:
        yield f"batch {batch}", after(batch=batch)
        batch //= 2
    for dtype in ("fp8", "int8", "int4"):
        yield f"weight-dtype {dtype}", after(weight_dtype=dtype)
    yield "kv-dtype fp8", after(kv_dtype="fp8")
