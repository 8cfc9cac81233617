"""One row of a measurement table, by operator family: names, units, limits.

Times are microseconds on disk and seconds in memory; sizes are bytes, rates
SI. A column that a family does not know is kept as it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from hwsim.specs.base import DTYPE_BYTES, Name
from hwsim.specs.measurement.names import (
    METRICS,
    RATE_UNITS,
    SCALED_DTYPES,
    TIME_UNITS,
    canonical_dtype,
    canonical_metric,
    canonical_unit,
)

_ARITHMETIC = (*DTYPE_BYTES, *SCALED_DTYPES)


def _known_dtype(text: str) -> str:
    name = canonical_dtype(text)
    if name not in _ARITHMETIC:
        raise ValueError(f"dtype {text!r} is none of {', '.join(_ARITHMETIC)}")
    return name


def _dtype_pair(text: str) -> str:
    """Check a dtype, or input and output dtype joined by ``->``."""
    return "->".join(_known_dtype(part) for part in text.split("->", 1))


def _known_metric(text: str) -> str:
    name = canonical_metric(text)
    if name not in METRICS:
        raise ValueError(f"metric {text!r} is none of {', '.join(METRICS)}")
    return name


def _known_unit(text: str) -> str:
    name = canonical_unit(text)
    if name not in {*TIME_UNITS, *RATE_UNITS}:
        known = ", ".join((*TIME_UNITS, *RATE_UNITS))
        raise ValueError(f"unit {text!r} is none of {known}")
    return name


def _flag(value: object) -> object:
    return (
        {"yes": 1, "no": 0}.get(value.casefold(), value)
        if isinstance(value, str)
        else value
    )


Micros = Annotated[float, Field(gt=0.0, le=1e12)]
Size = Annotated[int, Field(ge=1, le=10**12)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]
Nbytes = Annotated[float, Field(gt=0.0, le=1e18)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Watts = Annotated[float, Field(gt=0.0, le=1e9)]
Flag = Annotated[bool, BeforeValidator(_flag)]
DtypeName = Annotated[str, AfterValidator(_known_dtype)]
DtypePair = Annotated[str, AfterValidator(_dtype_pair)]
Launch = Literal["eager", "graph"]
Metric = Annotated[str, AfterValidator(_known_metric)]
Unit = Annotated[str, AfterValidator(_known_unit)]


class MeasuredRow(BaseModel):
    """What every row has.

    Attributes
    ----------
    source : str
        Who measured with what, as ``repository:framework-version``.
    device : str
        Id or alias of a device, or a spec file.
    op : str
        Operator; it decides the family.
    dtype : str
        Of the operands; ``a->b`` where a kernel converts.
    kernel : str
        As the framework calls it.
    launch : str or None
        ``eager``: host launch is part of the time; ``graph``: replayed from a
        captured graph, device time alone. Else as the source is known for.
    resident : float or None
        Share of the operands that the shared cache holds before the kernel
        runs. [1]
    copies : int or None
        Separate copies of the operands that the benchmark cycles through;
        together with the cache's size they give ``resident``.
    hot : bool or None
        Whether the same operands are used again at once (one copy).
    energy_j : float or None
        Energy of one execution. [J]
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    device: Name
    op: Name
    source: str = ""
    dtype: DtypeName = "bf16"
    kernel: str = ""
    system: str = ""
    launch: Launch | None = None
    resident: Share | None = None
    copies: Annotated[int, Field(ge=1, le=10**6)] | None = None
    hot: Flag | None = None
    energy_j: Annotated[float, Field(gt=0.0, le=1e12)] | None = None


class TimedRow(MeasuredRow):
    """A row that measures a time, in microseconds on disk."""

    latency_us: Micros


class GemmRow(TimedRow):
    """out[m, n] = in[m, k] x w[k, n], ``batch`` times with own operands.

    Attributes
    ----------
    out_dtype : str or None
        Of the result; by default 16 bit where the operands are narrower.
    includes_act_quant : bool
        A separate kernel that quantises 16-bit activations is in the time.
    outlier : bool
        Marked by whoever made the table; predicted and counted all the same.
    """

    m: Size
    n: Size
    k: Size
    batch: Size = 1
    out_dtype: DtypeName | None = None
    includes_act_quant: Flag = False
    outlier: Flag = False


class AttentionRow(TimedRow):
    """Fused attention on one device: prefill, decode, or both in one call.

    Attributes
    ----------
    seq_q, seq_kv : int
        New tokens and all tokens of each sequence (of the prefills in a mixed
        batch).
    kv_dtype : str or None
        Of the cache; as ``dtype`` where it is not given.
    window : int
        Sliding window in tokens; 0 is none.
    n_decode, seq_kv_decode : int
        Mixed batches: sequences that decode one token, and their length.
    """

    batch: Size
    heads: Size
    kv_heads: Size | None = None
    head_dim: Size = 128
    v_head_dim: Size | None = None
    seq_q: Size | None = None
    seq_kv: Size
    kv_dtype: DtypeName | None = None
    window: Tokens = 0
    causal: Flag = True
    write_kv: Flag | None = None
    n_decode: Tokens = 0
    seq_kv_decode: Tokens = 0


class ElementwiseRow(TimedRow):
    """A kernel bound by memory over m x n values.

    Attributes
    ----------
    n : int
        Values of one row (the normalised axis of norms and softmax).
    bytes : float or None
        Bytes read and written; from the operator and dtype where not given. [B]
    """

    dtype: DtypePair = "bf16"
    m: Size
    n: Size = 1
    bytes: Nbytes | None = None


class MoeRow(TimedRow):
    """The routed experts' feed-forward network on one rank.

    Attributes
    ----------
    m : int
        Tokens before dispatch.
    n, k : int
        Intermediate width before dividing by ``tp``; hidden size.
    routing : str
        ``balanced`` or ``power_law_<exponent>``.
    gated : bool or None
        Three matrices an expert rather than two; None: what the source is known
        for, else three.
    """

    m: Size
    n: Size
    k: Size
    experts: Size
    topk: Size
    tp: Size = 1
    ep: Size = 1
    routing: Annotated[str, Field(pattern=r"^(balanced|power_law_\d+(\.\d+)?)$")] = (
        "balanced"
    )
    gated: Flag | None = None


class CollectiveRow(TimedRow):
    """One collective or message among the devices of a system.

    Attributes
    ----------
    system : str
        Id or alias of the system; else the usual one for the device.
    bytes : float
        Whole buffer: the gathered result of an all_gather, the input of a
        reduce_scatter, one rank's buffer otherwise. [B]
    world_size : int
        Devices that take part.
    gpus_per_node_used, gpus_per_node_max : int or None
        Devices of each node that take part; devices a node has.
    """

    bytes: Nbytes
    world_size: Annotated[int, Field(ge=2, le=10**6)]
    gpus_per_node_used: Size | None = None
    gpus_per_node_max: Size | None = None


class MemoryRow(TimedRow):
    """A stream through one level of memory, or the latency of one load.

    Attributes
    ----------
    bytes : float
        Bytes read and written in the time; for ``load_latency`` the working
        set. [B]
    working_set_bytes : float or None
        Bytes touched again and again; ``bytes`` where not given. [B]
    threads : int or None
        CPU threads that stream; all where not given.
    """

    dtype: DtypeName = "fp32"
    bytes: Nbytes
    working_set_bytes: Nbytes | None = None
    threads: Size | None = None


class LaunchRow(TimedRow):
    """Time from one kernel to the next where the kernels do nothing."""


class HostLinkRow(TimedRow):
    """A copy between host and device.

    Attributes
    ----------
    pinned : bool
        Host memory is page-locked.
    """

    bytes: Nbytes
    pinned: Flag = True


class PowerRow(MeasuredRow):
    """Board power while one operator repeats.

    Attributes
    ----------
    power_w : float
        Mean power. [W]
    utilization : float
        Share of time that the device was busy. [1]
    clock_mhz : float or None
        Mean clock of the execution units.
    """

    power_w: Watts
    utilization: Share = 1.0
    clock_mhz: Annotated[float, Field(gt=0.0, le=1e6)] | None = None


class EndToEndRow(MeasuredRow):
    """A whole step, request or layer stack.

    Attributes
    ----------
    op : str
        ``train`` (one optimizer step) or ``infer`` (a batch of equal requests).
    device, system : str
        A system, else a device: a system of one, or the usual node of it where
        more devices take part.
    layers : int or None
        Layers, where not all of the model's were run.
    global_batch, micro_batch : int or None
        Sequences of a step; of one rank and pass.
    batch, isl, osl : int or None
        Requests served together, prompt tokens, generated tokens of each;
        ``batch`` also stands for ``global_batch``.
    context : int or None
        A single decode step (``tpot``) with so many tokens in the cache.
    stack : str
        Software stack; the default of the task where it is not given.
    metric : str
        step_time, ttft, tpot, latency, throughput.
    value : float or None
        In ``unit``: a time, or tokens/s, tokens/s/device, sequences/s of a
        throughput; ``latency_us`` instead of both.
    """

    model: Name
    num_devices: Size = 1
    tp: Size = 1
    pp: Size = 1
    dp: Size | None = None
    cp: Size = 1
    ep: Size = 1
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    sequence_parallel: Flag = False
    recompute: Literal["none", "selective", "full"] = "none"
    optimizer: str = "adamw"
    layers: Size | None = None
    global_batch: Size | None = None
    micro_batch: Size | None = None
    seq_len: Size | None = None
    batch: Size | None = None
    isl: Tokens | None = None
    osl: Tokens | None = None
    context: Tokens | None = None
    weight_dtype: str = ""
    kv_dtype: DtypeName | None = None
    stack: str = ""
    metric: Metric
    value: Annotated[float, Field(gt=0.0, le=1e15)] | None = None
    unit: Unit = "s"
    latency_us: Micros | None = None


ROWS: dict[str, type[MeasuredRow]] = {
    "gemm": GemmRow,
    "attention": AttentionRow,
    "elementwise": ElementwiseRow,
    "moe": MoeRow,
    "collective": CollectiveRow,
    "memory": MemoryRow,
    "launch": LaunchRow,
    "host_link": HostLinkRow,
    "power": PowerRow,
    "end_to_end": EndToEndRow,
}
