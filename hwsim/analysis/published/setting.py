"""Model, system, precision and stack behind a row of published inference."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from hwsim.analysis.resolve import default_dtype
from hwsim.errors import HwsimError, InputError
from hwsim.specs.benchmark import DEFAULT, load_benchmark
from hwsim.specs.catalogs import (
    SYSTEMS,
    load_device,
    load_model,
    load_system,
    load_system_file,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.inference import InferenceRow
from hwsim.specs.published.inference_map import MappedInference
from hwsim.specs.published.model import run_model
from hwsim.specs.published.names import published_model
from hwsim.specs.published.rules import ANY
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import PublishedMap, mapped
from hwsim.specs.system import SystemSpec
from hwsim.specs.usual_system import assumed_system, cuts_out

_SHAPE = (
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "ffn_words", "params_b",
)  # fmt: skip


@dataclass(frozen=True)
class Precisions:
    """Dtypes of arithmetic, weights and cache; None follows the first."""

    dtype: str
    weight_dtype: str | None = None
    kv_dtype: str | None = None


# Words of dtype cells, most specific first: arithmetic (None: the device's usual
# 16-bit dtype) and weights.
_DTYPES: tuple[tuple[str, str | None, str | None], ...] = (
    (r"q4_k|q4km|iq4", None, "q4_k_m"), (r"q5_k|q5_[01]", None, "q5_k_m"),
    (r"q6_k", None, "q6_k"), (r"q8_0|q8\b", None, "q8_0"),
    (r"q4_[01]|q4\b|q3_k|q2_k", None, "q4_0"),
    (r"q4f(16|32)", None, "int4"), (r"q3f16|q3\b", None, "int4"),
    (r"nvfp4|mxfp4.?a4|w4a4|\bfp4", "fp4", "fp4"), (r"mxfp4", None, "mxfp4"),
    (r"w4a8", "fp8", "int4"),
    (r"w4|awq|gptq|int4|4.?bit|nf4|exl2|4\.\d+ ?bpw", None, "int4"),
    (r"w8a16|int8[ _-]*weight|weight[- ]only int8|8.?bit|llm\.int8", None, "int8"),
    (r"w8a8[-_ ]?int8|smooth|int8|w8a8", "int8", "int8"),
    (r"fp8|float8|e4m3", "fp8", "fp8"),
    (r"bf16|bfloat16", "bf16", None), (r"tf32", "tf32", None),
    (r"fp16|float16|half|\bf16", "fp16", None),
    (r"fp32|float32|\bf32", "fp32", None),
)  # fmt: skip
_GGUF = {"q4_k_m", "q5_k_m", "q6_k", "q8_0", "q4_0"}
_KV = (
    (r"fp8|e4m3|e5m2|q8", "fp8"), (r"int8", "int8"), (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|f16|half", "fp16"), (r"fp32|f32", "fp32"), (r"q4|int4|fp4", "int4"),
)  # fmt: skip


def precisions(row: InferenceRow, device: DeviceSpec) -> tuple[Precisions, list[str]]:
    """Return the dtypes of a row, and what was assumed.

    A format that the device does not multiply in is taken as one of weights.

    Raises
    ------
    InputError
        If the cell's words are not known.
    """
    text, usual, notes = row.dtype.casefold(), default_dtype(device), list[str]()
    if not text:
        notes.append(f"dtype = {usual}")
    dtype, weight = _words(text) if text else (usual, None)
    if row.weight_dtype:
        weight = _words(row.weight_dtype.casefold())[1] or weight
    if dtype is None:
        # GGUF's formats are multiplied in fp16, others in the usual 16 bit.
        half = ("fp16", usual) if weight in _GGUF else (usual, "fp16", "bf16")
        dtype = next((d for d in half if d in device.dtypes and d != "fp32"), usual)
    elif dtype not in device.dtypes:
        weight, lacking = weight or dtype, dtype
        dtype = usual
        notes.append(f"dtype = {dtype}: {device.id} has no {lacking} rate")
    if weight == dtype:
        weight = None
    cache = None
    if row.kv_dtype:
        found = [k for words, k in _KV if re.search(words, row.kv_dtype.casefold())]
        cache = found[0] if found else None
    return Precisions(dtype, weight, cache), notes


def _words(text: str) -> tuple[str | None, str | None]:
    for words, dtype, weight in _DTYPES:
        if re.search(words, text):
            if "weight" in text and dtype is not None and weight is None:
                return None, dtype  # "bf16 weights"
            return dtype, weight
    raise InputError(
        f"dtype {text!r} is not known; write for example fp16, fp8 or w4a16"
    )


def row_model(found: MappedInference, general: tuple[PublishedMap, ...]) -> ModelSpec:
    """Return the model of a row, long enough for its tokens.

    Raises
    ------
    InputError
        If there is neither a name that is known nor a shape.
    """
    row = found.row
    # A prompt gives a token; rounded up, so that rows share tables of step times.
    seq = 1 << int((row.isl or 0) + (row.osl or 0)).bit_length()
    # A model that a mapping names stands for what was run, whatever the cells say.
    kept = ("vocab",) if found.model else _SHAPE
    cells = {name: getattr(row, name) for name in kept}
    name = found.model or _known_name(row.model)
    run = PublishedRun(
        row.file, row.row, model=name, source=row.source, seq_len=seq, **cells
    )
    two_sided = _two_sided(name)
    if two_sided is not None:
        return two_sided
    plain = mapped(run, tuple(m for m in general if m.id == ANY))
    return run_model(dataclasses.replace(plain, model=found.model or name))


def _two_sided(name: str) -> ModelSpec | None:
    """Return an encoder-decoder of the catalog: cells give one of its stacks."""
    try:
        model = load_model(name)
    except HwsimError:
        return None
    return model if model.kind == "encoder_decoder" else None


def _known_name(name: str) -> str:
    """Return the catalog's name for a checkpoint's; itself where there is none."""
    model = published_model(name)
    return name if model is None else model.id


def row_system(
    found: MappedInference, devices: int, general: tuple[PublishedMap, ...]
) -> SystemSpec:
    """Return a system that holds the devices of a row.

    The mapping's comes first, then the usual node of the device, its usual
    cluster, the smallest system of the catalog that has enough of them, and at
    last an assumed one.

    Raises
    ------
    InputError
        If the devices do not fill whole assumed nodes.
    """
    if devices == 1 and not found.system:
        return load_system(found.row.device)
    if found.system:
        system = load_system(found.system)
        if system.num_devices < devices:
            system = system.with_nodes(-(-devices // system.devices_per_node))
        return system
    device = load_device(found.row.device).id
    usual = load_benchmark(DEFAULT)
    tables = (
        usual.systems,
        usual.clusters,
        *(m.systems for m in general if m.id == ANY),
    )
    names = [table[device] for table in tables if device in table]
    fitting = (load_system(n) for n in names)
    system_found = next((s for s in fitting if s.num_devices >= devices), None)
    if system_found is None:
        system_found = _smallest(device, devices)
    if system_found is None:
        return assumed_system(load_device(device), devices)
    return system_found


def _smallest(device: str, devices: int) -> SystemSpec | None:
    found = []
    for name in sorted(SYSTEMS):
        file = load_system_file(name)
        if getattr(file, "device", None) == device:
            system = load_system(name)
            if system.num_devices >= devices:
                found.append(system)
    found.sort(key=lambda s: (s.num_devices, s.id))
    whole = [s for s in found if cuts_out(s, devices)]
    return next(iter(whole or found), None)
