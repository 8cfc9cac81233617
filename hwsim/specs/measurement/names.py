"""The vocabulary of measurement tables: families, operators, dtypes."""

from __future__ import annotations

from collections.abc import Mapping

# Operators by family, as tables write them.
OPS: dict[str, tuple[str, ...]] = {
    "gemm": ("linear", "bmm"),
    "attention": ("prefill", "decode", "mixed"),
    "elementwise": (
        "add", "add_scalar", "mul", "mul_scalar", "div", "div_scalar", "pow",
        "pow_scalar", "relu", "tanh", "gelu", "silu", "silu_and_mul", "softmax",
        "layernorm", "rmsnorm", "rmsnorm_head", "add_layernorm", "add_rmsnorm",
        "sub", "sub_scalar", "neg", "exp", "log", "sqrt", "rsqrt", "sigmoid", "dropout",
        "cast", "transpose", "gelu_and_mul",
        "rope", "embedding", "cross_entropy", "adamw", "quantize_fp8",
        "quantize_int8", "gelu_backward", "layernorm_backward", "softmax_backward",
        "embedding_backward",
    ),
    "moe": ("moe_ffn",),
    "collective": (
        "all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast",
        "send_recv",
    ),
    "memory": ("copy", "read", "write", "scale", "triad", "load_latency"),
    "launch": ("launch_eager", "launch_graph"),
    "host_link": ("h2d", "d2h"),
    "power": ("power",),
    "end_to_end": ("train", "infer"),
}  # fmt: skip
FAMILIES = tuple(OPS)

# Other spellings; case, spaces and the choice of - or _ never matter.
OP_ALIASES: dict[str, str] = {
    "gemm": "linear", "matmul": "linear", "mm": "linear", "addmm": "linear",
    "batched_gemm": "bmm", "batched_matmul": "bmm", "baddbmm": "bmm",
    "context_attention": "prefill", "attention_prefill": "prefill",
    "generation_attention": "decode", "attention_decode": "decode",
    "attention_mixed": "mixed", "chunked_prefill": "mixed",
    "vector_add": "add", "residual_add": "add", "bias_add": "add",
    "subtract": "sub", "multiply": "mul", "divide": "div",
    "negate": "neg", "geglu": "gelu_and_mul", "gelu_tanh": "gelu",
    "gelu_tanh_and_mul": "gelu_and_mul", "swish": "silu", "permute": "transpose",
    "adds": "add_scalar", "scalar_add": "add_scalar",
    "muls": "mul_scalar", "scalar_mul": "mul_scalar",
    "divs": "div_scalar", "scalar_div": "div_scalar",
    "pows": "pow_scalar", "scalar_pow": "pow_scalar",
    "swiglu": "silu_and_mul", "layer_norm": "layernorm", "rms_norm": "rmsnorm",
    "rmsnorm_per_head": "rmsnorm_head", "qk_norm": "rmsnorm_head",
    "fused_add_rmsnorm": "add_rmsnorm", "rmsnorm_add": "add_rmsnorm",
    "fused_add_rms_norm": "add_rmsnorm", "layernorm_add": "add_layernorm",
    "fused_add_layernorm": "add_layernorm", "rotary": "rope",
    "rotary_embedding": "rope", "quantise_fp8": "quantize_fp8",
    "quantise": "quantize_fp8", "quantize": "quantize_fp8",
    "quantise_int8": "quantize_int8", "moe": "moe_ffn", "fused_moe": "moe_ffn",
    "allreduce": "all_reduce", "allgather": "all_gather",
    "reducescatter": "reduce_scatter", "all_to_all": "alltoall",
    "sendrecv": "send_recv", "p2p": "send_recv", "step": "train",
    "train_step": "train", "inference": "infer", "generate": "infer",
}  # fmt: skip

# What a collective of the tables is called in cost models.
COLLECTIVE_NAMES = {"alltoall": "all_to_all"}

DTYPE_ALIASES: dict[str, str] = {
    "float64": "fp64", "double": "fp64", "f64": "fp64",
    "float32": "fp32", "float": "fp32", "f32": "fp32", "single": "fp32",
    "tfloat32": "tf32", "float16": "fp16", "half": "fp16", "f16": "fp16",
    "bfloat16": "bf16", "float8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "e4m3": "fp8",
    "i8": "int8", "uint8": "int8", "i4": "int4",
}  # fmt: skip
# Formats with scales of their own, by the dtype that is multiplied.
SCALED_DTYPES: dict[str, str] = {"fp8_block": "fp8"}

METRICS = ("step_time", "ttft", "tpot", "latency", "throughput")
METRIC_ALIASES: dict[str, str] = {
    "iteration_time": "step_time", "iter_time": "step_time",
    "time_to_first_token": "ttft", "mean_ttft": "ttft",
    "time_per_output_token": "tpot", "mean_tpot": "tpot", "mean_itl": "tpot",
    "itl": "tpot", "next_token_latency": "tpot",
    "end_to_end_latency": "latency", "e2e_latency": "latency",
    "forward_latency": "latency", "output_throughput": "throughput",
}  # fmt: skip
# Other names of columns, by family.
COLUMN_ALIASES: dict[str, dict[str, str]] = {
    "end_to_end": {"prompt": "isl", "output": "osl", "seq": "seq_len"},
}
# SI factor of each unit of an end-to-end metric, and the unit in SI.
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}
RATE_UNITS = ("tokens/s", "tokens/s/device", "sequences/s", "samples/s")


def folded(text: str) -> str:
    """Return a name as tables are compared: lower case, words joined by ``_``."""
    return "_".join(text.strip().casefold().replace("-", " ").replace("_", " ").split())


def _index() -> dict[str, tuple[str, str]]:
    found = {op: (family, op) for family, ops in OPS.items() for op in ops}
    for alias, op in OP_ALIASES.items():
        found[alias] = found[op]
    return found


_BY_NAME: Mapping[str, tuple[str, str]] = _index()


def family_of(op: str) -> tuple[str, str] | None:
    """Return (family, operator) behind a table's operator name, if known.

    Examples
    --------
    >>> family_of("All-Reduce")
    ('collective', 'all_reduce')
    """
    return _BY_NAME.get(folded(op))


def known_ops() -> list[str]:
    """Return every spelling of an operator that tables may use."""
    return sorted(_BY_NAME)


def canonical_dtype(text: str) -> str:
    """Return a dtype as hwsim writes it; unknown ones are left as they are.

    Examples
    --------
    >>> canonical_dtype("torch.bfloat16"), canonical_dtype("bf16->fp8")
    ('bf16', 'bf16->fp8')
    """
    name = text.strip().casefold().removeprefix("torch.")
    return DTYPE_ALIASES.get(name, name)


def canonical_metric(text: str) -> str:
    """Return an end-to-end metric as hwsim writes it."""
    name = folded(text)
    return METRIC_ALIASES.get(name, name)


def canonical_unit(text: str) -> str:
    """Return a unit without what follows in brackets.

    Examples
    --------
    >>> canonical_unit("tokens/s (whole system)")
    'tokens/s'
    """
    return text.split("(")[0].strip().casefold().replace("/gpu", "/device")
