"""Checks of user input, each with a message that says what to give instead."""

from __future__ import annotations

import math
import numbers
from typing import Any

from hwsim.errors import InputError, nearest
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec


def positive_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return a whole number of at least ``minimum``."""
    number = _whole(value)
    if number is None:
        raise InputError(f"{name} is {value!r}; give a whole number")
    if number < minimum:
        raise InputError(f"{name} is {number}; give at least {minimum}")
    if number > 10**12:
        raise InputError(f"{name} is {number}; that is beyond any machine")
    return number


def _whole(value: Any) -> int | None:
    """Return a whole number as an int, NumPy's too; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def dtype_on(device: DeviceSpec, dtype: str, name: str = "dtype") -> str:
    """Return a dtype that the device computes in."""
    known_dtype(name, dtype)
    if dtype not in device.dtypes:
        raise InputError(
            f"{name} {dtype}: device {device.id} does not compute in it; "
            f"it has {', '.join(device.dtypes)}"
        )
    return dtype


def known_dtype(name: str, dtype: str) -> str:
    """Return a dtype that hwsim knows, for storage."""
    if dtype not in DTYPE_BYTES:
        close = nearest(str(dtype), DTYPE_BYTES) or list(DTYPE_BYTES)
        raise InputError(f"{name} {dtype!r} is unknown; choose {', '.join(close)}")
    return dtype


def context_within(model: ModelSpec, tokens: int, what: str) -> None:
    """Refuse a context beyond the model's."""
    limit = model.max_context
    if limit is not None and tokens > limit:
        raise InputError(
            f"{what} is {tokens} tokens, but {model.id} takes at most {limit}; "
            "shorten it or override model.max_context"
        )
