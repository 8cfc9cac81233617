"""Checked access to the keys of a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hwsim.errors import SpecError

ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
}
MAX_LAYERS: Final = 10_000
MAX_WIDTH: Final = 10_000_000
_REQUIRED: Final = object()


class Config:
    """A config and the file it is from; each accessor checks one key.

    Parameters
    ----------
    table : mapping
        The parsed JSON.
    where : str
        File name, for errors.

    Notes
    -----
    Accessors take the key's name in the config followed by older names of
    it. Absent and ``null`` both give the default; without one they are an
    error.
    """

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self.table, self.where = table, where

    @property
    def model_type(self) -> str:
        """The architecture's name."""
        return self.text("model_type")

    def _get(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self.table.get(key) is not None:
                return key, self.table[key]
        if default is _REQUIRED:
            others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
            raise self.fault(keys[0], "is missing", f"add it{others}")
        return keys[0], default

    def fault(self, key: str, what: str, remedy: str = "") -> SpecError:
        """Return the error that says what is wrong with a key."""
        return SpecError(f"{self.where}: {key}", what, remedy)

    def count(
        self,
        *keys: str,
        default: Any = _REQUIRED,
        least: int = 1,
        most: int = MAX_WIDTH,
    ) -> int:
        """Return a whole number from ``least`` to ``most``."""
        key, value = self._get(keys, default)
        return self._checked(key, value, least, most)

    def optional_count(self, *keys: str, most: int = MAX_WIDTH * 10) -> int | None:
        """Return a whole number of at least 1, or None where there is none."""
        key, value = self._get(keys, None)
        return None if value is None else self._checked(key, value, 1, most)

    def _checked(self, key: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(key, f"{_shown(value)} is not a whole number")
        if not least <= value <= most:
            raise self.fault(key, f"{value} is not between {least} and {most}")
        return value

    def layers(self, *keys: str) -> int:
        """Return a number of layers."""
        return self.count(*keys, most=MAX_LAYERS)

    def flag(self, *keys: str, default: bool) -> bool:
        """Return true or false."""
        key, value = self._get(keys, default)
        if not isinstance(value, bool):
            raise self.fault(key, f"{_shown(value)} is not true or false")
        return value

    def fraction(self, *keys: str, default: float, most: float = 1.0) -> float:
        """Return a number above 0 and up to ``most``."""
        key, value = self._get(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(key, f"{_shown(value)} is not a number")
        if not 0.0 < value <= most:
            raise self.fault(key, f"{value} is not above 0 and at most {most:g}")
        return float(value)

    def text(self, *keys: str, default: Any = _REQUIRED) -> str:
        """Return a text."""
        key, value = self._get(keys, default)
        if not isinstance(value, str) or not value:
            raise self.fault(key, f"{_shown(value)} is not a text")
        return value

    def items(self, key: str, kind: type) -> list[Any]:
        """Return a list whose entries are all of one type; empty if absent."""
        _, value = self._get((key,), [])
        fits = isinstance(value, list) and all(
            isinstance(v, kind) and not isinstance(v, bool) for v in value
        )
        if not fits:
            word = "names" if kind is str else "whole numbers"
            raise self.fault(key, f"{_shown(value)} is not a list of {word}")
        return list(value)

    def table_at(self, key: str) -> Config:
        """Return the config nested under a key; an empty one if absent."""
        _, value = self._get((key,), {})
        if not isinstance(value, Mapping):
            raise self.fault(key, f"{_shown(value)} is not a table of keys")
        return Config(value, f"{self.where}: {key}")

    def activation(self, *keys: str, default: Any = _REQUIRED) -> str:
        """Return the activation function by the name that specs use."""
        name = self.text(*keys, default=default)
        if name not in ACTIVATIONS:
            raise self.fault(
                keys[0],
                f"unknown activation {_shown(name)}",
                f"known: {', '.join(ACTIVATIONS)}",
            )
        return ACTIVATIONS[name]

    def windows(
        self, layers: int, window: int | None, *, every: int = 0
    ) -> dict[str, Any]:
        """Return the fields that say which layers attend within a window.

        ``layer_types``, where the config has it, wins over the period
        ``every`` of layers with full attention.
        """
        if window is None:
            return {}
        types = self.items("layer_types", str)
        if not types:
            return {"sliding_window": window, "full_attention_every": every}
        if len(types) != layers:
            raise self.fault(
                "layer_types", f"has {len(types)} entries for {layers} layers"
            )
        known = {"full_attention", "sliding_attention", "chunked_attention"}
        for name in types:
            if name not in known:
                raise self.fault("layer_types", f"unknown type {_shown(name)}")
        full = [i for i, name in enumerate(types) if name == "full_attention"]
        return windows_except(layers, window, full)


def windows_except(layers: int, window: int, full: list[int]) -> dict[str, Any]:
    """Return the window fields of a model with full attention at some layers.

    Examples
    --------
    >>> windows_except(6, 128, [1, 3, 5])
    {'sliding_window': 128, 'full_attention_every': 2}
    >>> windows_except(3, 128, [0, 1, 2])
    {}
    """
    if len(full) == layers:
        return {}
    if not full:
        return {"sliding_window": window}
    every = full[0] + 1
    if full == list(range(every - 1, layers, every)):
        return {"sliding_window": window, "full_attention_every": every}
    return {"sliding_window": window, "full_attention_layers": tuple(full)}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
