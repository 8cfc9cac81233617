"""Names as servers and logs print them: devices, checkpoints, dtypes, systems."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.benchmark import DEFAULT, load_benchmark
from hwsim.specs.catalogs import (
    SYSTEMS,
    load_device,
    load_model,
    load_system,
    load_system_file,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.measurement.names import canonical_dtype
from hwsim.specs.model import ModelSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.usual_system import assumed_system, cuts_out, joined

# Formats in names of checkpoints: arithmetic (None: 16 bit) and weights.
_FORMATS: tuple[tuple[str, str | None, str], ...] = (
    (r"nvfp4|w4a4|[-_]fp4", "fp4", "fp4"),
    (r"mxfp4|gpt-oss", None, "mxfp4"),
    (r"w4a8", "fp8", "int4"),
    (r"awq|gptq|w4a16|int4|4bit", None, "int4"),
    (r"w8a8|int8", "int8", "int8"),
    (r"w8a16|8bit", None, "int8"),
    (r"fp8|deepseek-(v3|r1)(?!-distill)", "fp8", "fp8"),
)


# Versions of vLLM from which on its engine is V1, and schedules ahead.
_V1, _ASYNCHRONOUS = (0, 8), (0, 14)

# Cells that leave the format to the checkpoint's name.
_BY_CHECKPOINT = {
    "auto", "", "nan", "none", "null", "n/a", "-", "compressed-tensors", "modelopt",
}  # fmt: skip


@dataclass(frozen=True)
class GivenDtypes:
    """Dtypes of arithmetic, linear weights and cache."""

    dtype: str
    weight_dtype: str
    kv_dtype: str


def given_device(text: str) -> DeviceSpec:
    """Return the device behind a name as drivers and logs print it.

    Raises
    ------
    UnknownNameError
        If the catalog has none that is called so.

    Examples
    --------
    >>> given_device("NVIDIA A100-SXM4-80GB").id
    'a100-80gb-sxm'
    """
    return load_device(text)


def given_engine(text: str) -> EngineSpec:
    """Return the engine behind a name, or behind vLLM's version.

    Asynchronous scheduling is vLLM's default from 0.14 on.

    Raises
    ------
    UnknownNameError
        If the catalog has none that is called so.

    Examples
    --------
    >>> [given_engine(f"vLLM {v}").id for v in ("0.6.3", "v0.11.0", "0.14.1")]
    ['vllm-v0', 'vllm-v1-sync', 'vllm-v1']
    """
    found = re.fullmatch(r"vllm[\s=:_-]*v?(\d+)\.(\d+).*", text.strip().casefold())
    if not found:
        return load_engine(text)
    version = (int(found[1]), int(found[2]))
    if version < _V1:
        return load_engine("vllm-v0")
    return load_engine("vllm-v1-sync" if version < _ASYNCHRONOUS else "vllm-v1")


def given_model(text: str) -> ModelSpec:
    """Return the model behind a checkpoint's name or path.

    Words of formats, dates and fine-tuning do not change the architecture.

    Raises
    ------
    UnknownNameError
        If the catalog has none that is called so.

    Examples
    --------
    >>> given_model("Qwen/Qwen3-30B-A3B-Instruct-2507").id
    'qwen3-30b-a3b'
    """
    cached = re.search(r"models--[^/\\]+?--([^/\\]+)", text)
    if cached:
        return load_model(cached[1])
    return load_model(re.split(r"[/\\]", text.strip().rstrip("/\\"))[-1] or text)


def given_dtypes(
    text: str, model: str, device: DeviceSpec, kv: str = ""
) -> GivenDtypes:
    """Return the dtypes of a server: its dtype cell and its checkpoint's name.

    The cell is of activations: weights that are stored in another format say so
    in the checkpoint's name. Arithmetic that the device has no rate for is done
    in 16 bit.

    Raises
    ------
    InputError
        If the dtype is not known.

    Examples
    --------
    >>> given_dtypes("bfloat16", "Qwen/Qwen3-8B-FP8", given_device("H100"))
    GivenDtypes(dtype='fp8', weight_dtype='fp8', kv_dtype='bf16')
    """
    wide = "bf16" if "bf16" in device.compute.matrix else "fp16"
    word = canonical_dtype(text or "auto").replace("_block", "")
    dtype = wide if word in _BY_CHECKPOINT else word
    name = model.casefold()
    if dtype not in DTYPE_BYTES or dtype == "int4":
        # Not a dtype but a format, as methods of quantisation are called.
        dtype, name = wide, f"-{word}" if "fp8" not in word else "fp8"
        if not any(re.search(words, name) for words, _, _ in _FORMATS):
            raise InputError(
                f"dtype {text!r} is not known; write for example bf16 or fp8"
            )
    weight = dtype
    if dtype in {"bf16", "fp16", "fp32"}:
        half = dtype
        for words, arithmetic, stored in _FORMATS:
            if re.search(words, name):
                dtype, weight = arithmetic or dtype, stored
                break
    else:
        half = wide
    if dtype not in device.dtypes:
        dtype = half if half in device.dtypes else wide
    cache = canonical_dtype(kv) if kv and kv.casefold() != "auto" else half
    return GivenDtypes(dtype, weight, cache)


def given_system(device: DeviceSpec, devices: int) -> SystemSpec:
    """Return a system of the catalog with so many of a device.

    The usual node comes first, then its usual cluster, then the smallest
    system that has enough, of tori those that have so many as a box; a node is
    repeated where none has, and assumed where the catalog joins no such devices.

    Raises
    ------
    InputError
        If the devices do not fill whole assumed nodes.
    """
    if devices == 1:
        return load_system(device.id)
    usual = load_benchmark(DEFAULT)
    named = [t[device.id] for t in (usual.systems, usual.clusters) if device.id in t]
    known = [load_system(name) for name in named]
    known += sorted(
        (load_system(name) for name in sorted(SYSTEMS)
         if load_system_file(name).device == device.id),
        key=lambda s: s.num_devices,
    )  # fmt: skip
    enough = [system for system in known if system.num_devices >= devices]
    if enough:
        return next((s for s in enough if cuts_out(s, devices)), enough[0])
    if not known:
        return assumed_system(device, devices)
    largest = max(known, key=lambda s: s.num_devices)
    return joined(largest, -(-devices // largest.devices_per_node))
