"""Devices and models as papers and tables call them."""

from __future__ import annotations

import functools

from hwsim.errors import HwsimError, InputError, UnknownNameError
from hwsim.specs.given_names import given_device, given_model
from hwsim.specs.model import ModelSpec


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
    try:
        return given_device(text).id
    except HwsimError:
        return text


@functools.lru_cache(maxsize=1024)
def published_model(text: str) -> ModelSpec | None:
    """Return the catalog's model of a name, without words of fine-tuning.

    Examples
    --------
    >>> published_model("Llama-2-70B (LoRA)").id
    'llama-2-70b'
    """
    name = text.split("/")[-1].strip()
    if not name or name.endswith((".toml", ".json")):
        return None
    try:
        return given_model(name)
    except (UnknownNameError, InputError):
        return None
