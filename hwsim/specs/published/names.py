"""Devices and models as papers and tables call them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from hwsim.errors import HwsimError, UnknownNameError
from hwsim.specs.given_names import given_device, given_model
from hwsim.specs.load import fold
from hwsim.specs.model import ModelSpec

# Words around a device's name that do not change it.
_AROUND = re.compile(
    r"\b(nvidia|amd|intel|google|cloud|aws|azure|gcp|habana|tesla|instinct|dgx|hgx|gpus?"
    r"|accelerators?|chips?|devices?|hpus?|nodes?|superchip|tensor core|hbm\d?e?|vram"
    r"|nvl\d+|x\s*\d+(?=\s|$))\b|^\d+\s*x\s*|[()\[\],]"
)
_CODENAMES = {
    "trillium": "tpu-v6e", "ironwood": "tpu-v7x", "hl-225": "gaudi2",
    "hl-325": "gaudi3", "trn2": "trainium2", "trn2.48xlarge": "trainium2",
    "wse-2": "cerebras-wse-2", "wse-3": "cerebras-wse-3", "cs-2": "cerebras-wse-2",
    "cs-3": "cerebras-wse-3", "v5-lite": "tpu-v5e", "v5litepod": "tpu-v5e",
}  # fmt: skip
_TPU = re.compile(r"(?:tpu)?[\s-]*v(\d)(?:[\s-]*(lite(?:pod)?|e|p|x))?(?:[\s-]+\d+)?$")
_FORM = re.compile(r"\b(sxm|pcie|nvl|oam)\d?\b")
_MEMORY = re.compile(r"\b(\d+)\s*(?:gb|gib|g)\b")
_WORD = re.compile(r"[a-z]+\s?\d+[a-z]*")
# What a model's name may carry besides.
_BESIDE = re.compile(
    r"\([^)]*\)|\[[^]]*\]|\b(q?lora|sft|dpo|pre-?train(?:ing)?|fine-?tun(?:e|ed|ing)"
    r"|full|model)\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=1024)
def published_device(text: str) -> str:
    """Return the catalog's id of a device, or what was given where none is.

    Examples
    --------
    >>> published_device("NVIDIA A100 40GB")
    'a100-40gb-sxm'
    >>> published_device("TPU v5p-128")
    'tpu-v5p'
    """
    for name in _names(text):
        try:
            return given_device(name).id
        except HwsimError:
            continue
    return text


def _names(text: str) -> Iterator[str]:
    yield text
    plain = " ".join(_AROUND.sub(" ", text.casefold().replace("_", "-")).split())
    if plain in _CODENAMES:
        yield _CODENAMES[plain]
    tpu = _TPU.match(plain)
    if tpu:
        kind = tpu[2] or ("x" if tpu[1] == "7" else "")
        yield f"tpu-v{tpu[1]}{'e' if kind.startswith('lite') else kind}"
    if not plain:
        return
    yield plain
    spaced = plain.replace("-", " ")
    memory, form = _MEMORY.search(spaced), _FORM.search(spaced)
    rest = " ".join(_MEMORY.sub(" ", _FORM.sub(" ", spaced)).split())
    chips = [rest] + ([found[0]] if (found := _WORD.match(rest)) else [])
    for chip in dict.fromkeys([*chips, *(c.replace(" ", "") for c in chips)]):
        parts = [f"{memory[1]}gb"] if memory else []
        shape = [form[1]] if form else []
        yield "-".join([chip, *parts, *shape])
        yield "-".join([chip, *shape])
        yield "-".join([chip, *parts])
        yield chip


@functools.lru_cache(maxsize=1024)
def published_model(text: str) -> ModelSpec | None:
    """Return the catalog's model of a name, without words of fine-tuning.

    Examples
    --------
    >>> published_model("Llama-2-70B (LoRA)").id
    'llama-2-70b'
    """
    tried = [text, _BESIDE.sub(" ", text), _BESIDE.sub(" ", text).replace(" ", "-")]
    tried.append(re.sub(r"^gpt[\s-]?(\d+(?:\.\d+)?b)$", r"gpt-3-\1", text.casefold()))
    for name in dict.fromkeys(fold(t.strip(" -")) for t in tried):
        if not name or "/" in name or name.endswith((".toml", ".json")):
            continue
        try:
            return given_model(name)
        except UnknownNameError:
            continue
    return None
