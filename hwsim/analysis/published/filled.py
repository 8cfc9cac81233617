"""What a row of published training leaves open: degrees, batch, dtype, options."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hwsim.errors import InputError
from hwsim.graph.modules import JOIN, MODULES
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.training import PublishedRun

# What sources call the dtype of the matrix work.
DTYPE_WORDS = {
    "amp_fp16": "fp16", "float16": "fp16", "half": "fp16", "amp_bf16": "bf16",
    "amp": "fp16", "bfloat16": "bf16", "float32": "fp32", "fp8-cs": "fp8",
    "fp8-ds": "fp8", "fp8-sc": "fp8", "fp8-mx": "fp8", "fp8_full": "fp8",
    "mxfp8": "fp8", "fp8_e4m3": "fp8", "amp_fp8": "fp8", "nvfp4": "fp4",
    "mxfp4": "fp4", "float8": "fp8", "e4m3": "fp8", "16": "fp16", "32": "fp32",
    "hfp8": "fp8", "f8": "fp8", "cb16": "bf16", "bf16-mixed": "bf16",
    "16-mixed": "fp16", "mixed": "", "mixed precision": "",
}  # fmt: skip
_DEFAULT_DTYPES = ("bf16", "fp16", "fp32")
_DEGREES = ("pp", "vpp", "cp", "ep")
RECOMPUTE = ("none", "selective", "full")
# Targets of T5's span corruption, of 512 tokens that go in (Raffel et al. 2020,
# arXiv 1910.10683, section 3.1.4: 15 % in spans of three, a sentinel for each).
SPANS = 114.0 / 512.0
ROUNDED = 0.5  # most that a batch is changed to suit the ranks, of itself
MICRO_BATCHES = tuple(2**i for i in range(7))
# Where a row does not say: tokens of a sequence at most, tokens of a data-parallel
# rank, micro-batches for each stage of a pipeline.
USUAL_SEQ, USUAL_TOKENS, PIPELINE_DEPTHS = 4096, 16384, 8
# Interleaving and micro-batches that are tried in a pipeline.
_MOST_VPP, _MOST_PIPELINED = 8, 8


def completed(
    run: PublishedRun, longest: int | None = None
) -> tuple[PublishedRun, tuple[str, ...]]:
    """Return a row with its degrees and batch filled, and what was filled.

    Where the degrees do not multiply to the devices, the devices are kept and
    ``dp`` (else ``pp``) is changed to fit.

    Parameters
    ----------
    longest : int or None
        Tokens that the model is made for: a blank sequence is as long, up to
        ``USUAL_SEQ``.

    Raises
    ------
    InputError
        If no whole degree fits, or a step time has no batch or length.
    """
    devices = run.num_devices or 1
    degrees = {n: getattr(run, n) or 1 for n in ("tp", "pp", "cp")}
    inner = degrees["tp"] * degrees["pp"] * degrees["cp"]
    notes: list[str] = []
    dp = run.dp
    if dp is None or inner * dp != devices:
        dp, degrees["pp"] = _fitted(run, devices, degrees)
        for name, value in (("dp", dp), ("pp", degrees["pp"])):
            if value != (getattr(run, name) or 1):
                notes.append(f"{name} = {value}")
    vpp = run.vpp if degrees["pp"] > 1 else None
    if run.vpp not in (None, 1, vpp):
        notes.append("vpp = 1")
    seq = run.seq_len
    if seq is None:
        if run.figure == "iter_time_s":
            raise InputError("seq_len is not given, and a step time goes with it")
        seq = min(longest or USUAL_SEQ, USUAL_SEQ)
        notes.append(f"seq_len = {seq}")
    batch = _batch(run, dp, degrees["pp"], seq)
    if batch != run.global_batch:
        # A published batch is often a round number of tokens.
        notes.append(f"global_batch = {batch}")
    etp = run.etp
    inner = dp * degrees["cp"]
    if etp is None and inner % (run.ep or 1):
        # Too many expert ranks for data parallelism alone: tensor ranks share too.
        etp = 1
        notes.append("etp = 1")
    shard = run.dp_shard
    if shard is None and run.slices > 1 and dp % run.slices == 0 and run.zero_stage:
        shard = dp // run.slices
        notes.append(f"dp_shard = {shard}: a slice")
    return dataclasses.replace(
        run, tp=degrees["tp"], pp=degrees["pp"], cp=degrees["cp"], dp=dp,
        seq_len=seq, global_batch=batch, etp=etp, vpp=vpp, dp_shard=shard,
    ), tuple(notes)  # fmt: skip


def _batch(run: PublishedRun, dp: int, pp: int, seq: int) -> int:
    """Return sequences of a step; a blank one fills the devices and pipelines."""
    batch = run.global_batch
    if batch is None:
        if run.figure == "iter_time_s" and run.micro_batch is None:
            raise InputError("global_batch is not given, and a step time goes with it")
        rank = run.micro_batch or max(USUAL_TOKENS // seq, 1)
        in_flight = PIPELINE_DEPTHS * pp if pp > 1 else 1
        return rank * in_flight * dp
    unit = dp * (run.micro_batch or 1)
    near = max(round(batch / unit), 1) * unit
    return near if abs(near - batch) <= ROUNDED * batch else batch


def layouts(run: PublishedRun, per_node: int, layers: int) -> Iterator[PublishedRun]:
    """Yield a row with the degrees that it states, then with others it leaves open.

    Tensor ranks of a node come first, then stages, fewest ranks of a model first.
    """
    yield run
    if run.tp is not None and run.pp is not None:
        return
    devices = run.num_devices or 1
    inner = devices // (run.cp or 1)
    powers = [2**i for i in range(7)]
    tensor = [run.tp] if run.tp else [t for t in powers if t <= per_node]
    stages = [run.pp] if run.pp else [p for p in powers if p <= layers]
    found = ((t, p) for t in tensor for p in stages if 1 < t * p <= inner)
    for tp, pp in sorted(found, key=lambda d: (d[0] * d[1], d[1])):
        whole = inner % (tp * pp) == 0
        if whole and (run.dp is None or run.dp * tp * pp == inner):
            yield dataclasses.replace(run, tp=tp, pp=pp)


def _fitted(
    run: PublishedRun, devices: int, degrees: Mapping[str, int]
) -> tuple[int, int]:
    tp, pp, cp = degrees["tp"], degrees["pp"], degrees["cp"]
    if devices % (tp * pp * cp) == 0:
        return devices // (tp * pp * cp), pp
    dp = run.dp or 1
    if devices % (tp * cp * dp) == 0:
        return dp, devices // (tp * cp * dp)
    raise InputError(
        f"tp x pp x cp = {tp} x {pp} x {cp} does not divide {devices} devices"
    )


def with_dtype(
    run: PublishedRun, device: DeviceSpec
) -> tuple[PublishedRun, tuple[str, ...]]:
    """Return a row with the dtype of its products, and what was assumed."""
    word = run.dtype.casefold()
    lacking = ""
    if DTYPE_WORDS.get(word, word):
        dtype = _matrix_dtype(word)
        if dtype not in DTYPE_BYTES or dtype in device.dtypes:
            return dataclasses.replace(run, dtype=dtype), ()
        lacking = f": {device.id} has no {dtype} rate"
    dtype = next((d for d in _DEFAULT_DTYPES if d in device.compute.matrix), "fp32")
    return dataclasses.replace(run, dtype=dtype), (f"dtype = {dtype}{lacking}",)


def _matrix_dtype(cell: str) -> str:
    """Return the narrowest dtype that a cell names: matrices are multiplied in it."""
    words = [cell, *re.findall(r"[a-z0-9]+", cell)]
    known = [d for w in words if (d := DTYPE_WORDS.get(w, w)) in DTYPE_BYTES]
    return min(known, key=DTYPE_BYTES.__getitem__, default=cell)


def with_targets(
    run: PublishedRun, model: ModelSpec
) -> tuple[PublishedRun, tuple[str, ...]]:
    """Return a row with the length of a decoder's sequence, and what was assumed."""
    if run.decoder_seq is not None or model.family != "T5" or run.seq_len is None:
        return run, ()
    tokens = max(round(run.seq_len * SPANS), 1)
    return dataclasses.replace(run, decoder_seq=tokens), (f"decoder_seq = {tokens}",)


def run_options(run: PublishedRun, open_: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a training run."""
    options: dict[str, Any] = {
        "devices": run.num_devices, "tp": run.tp or 1, "dp": run.dp,
        "global_batch": run.global_batch, "seq": run.seq_len, "dtype": run.dtype,
        "optimizer": run.optimizer or "adamw", "zero_stage": run.zero_stage or 0,
        "sequence_parallel": bool(run.sequence_parallel),
    } | dict(open_)  # fmt: skip
    degrees = {n: options.pop(n, None) or getattr(run, n) or 1 for n in _DEGREES}
    more = (
        "offload_optimizer", "offload_activations", "etp", "dp_shard",
        "recompute_every", "lora_rank", "lora_targets", "cp_mode",
        "decoder_seq",
    )  # fmt: skip
    options |= {name: value for name in more if (value := getattr(run, name))}
    if not run.lora_rank:
        options.pop("lora_targets", None)
    if (run.cp or 1) == 1:
        options.pop("cp_mode", None)
    if "recompute_every" not in options and (every := _every(run)):
        options["recompute_every"] = every
    if options.get("recompute", "none") == "none":
        options.pop("recompute_every", None)
    return options | degrees


def open_choices(
    run: PublishedRun, model: ModelSpec, *, choose_vpp: bool
) -> Iterator[dict[str, Any]]:
    """Yield every combination of what the row leaves open."""
    per_rank = (run.global_batch or 1) // (run.dp or 1)
    micro: Iterable[int] = [run.micro_batch or 1]
    if run.micro_batch is None:
        most = _MOST_PIPELINED if (run.pp or 1) > 1 else MICRO_BATCHES[-1]
        micro = [m for m in MICRO_BATCHES if per_rank % m == 0 and m <= most] or [1]
    stages: Iterable[int] = [run.vpp or 1]
    pp = run.pp or 1
    if choose_vpp and run.vpp is None and pp > 1:
        # Where layers do not divide, embedding and head count as one each.
        each = next(
            (n // pp for n in (model.layers, model.layers + 2) if n % pp == 0), 1
        )
        stages = [v for v in range(1, min(each, _MOST_VPP) + 1) if each % v == 0]
    for recompute, m, v in itertools.product(_recompute(run), micro, stages):
        yield {"recompute": recompute, "micro_batch": m, "vpp": v}


# What sources call recomputation, the first pattern that is found. Of what XLA
# keeps, ``minimal`` is every product: what stands between is run again.
_RECOMPUTE_WORDS = (
    (r"^(n/?a|-+|\?|unknown|not (stated|given|said)|unstated|custom|mixed|auto)$", ""),
    (r"^(no|not|false|off|0|n|disabled|without)\b", "none"),
    (r"^(minimal|save_dot(?!s?_except_mlp))", "operators"),
    (r"selective|partial|\bsac\b|norm|moe_act|activation_func|up_proj|core_attn"
     r"|^(attention|attn|sdpa|moe|mlp|op)\b", "selective"),
    (r"yes|true|\bon\b|^(y|1|enabled|ac)$|checkpoint|ckpt|recompute|remat|block|uniform"
     r"|\ball\b|save_|every|\bhalf\b|\d ?%|proj_offload", "full"),
    (r"offload", "none"),
)  # fmt: skip


def _recompute(run: PublishedRun) -> Iterable[str]:
    word = run.recompute.strip().casefold()
    if not word:
        return RECOMPUTE
    named = frozenset(re.findall(r"[a-z_]+", word)) - {"selective"}
    alone = named <= {"mlp", "moe"} and JOIN not in word  # said in general words
    if named and not alone and named <= frozenset(MODULES):
        return (JOIN.join(sorted(named)),)
    for known in reversed(RECOMPUTE):
        if word.startswith(known):
            return (known,)
    for pattern, extent in _RECOMPUTE_WORDS:
        if re.search(pattern, word):
            return (extent,) if extent else RECOMPUTE
    raise InputError(f"recompute {run.recompute!r} is not known")


def _every(run: PublishedRun) -> int | None:
    """Return which layers are recomputed: one in so many, where the row says."""
    word = run.recompute.casefold()
    if found := re.search(r"every (?:other|second)\b|\bhalf\b|\b50 ?%", word):
        return 2
    found = re.search(r"every (\d{1,3})\b", word)
    return max(int(found[1]), 1) if found else None
