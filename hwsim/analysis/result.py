"""What every result can do: a dict in SI, JSON, a saved file, a notebook view."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from hwsim.version import __version__

RESULT_SCHEMA = 1


class Result:
    """Base of results; subclasses fill :meth:`to_dict`."""

    kind = "result"

    def to_dict(self) -> dict[str, Any]:
        """Return the result with keys in SI units."""
        raise NotImplementedError

    def to_json(self, indent: int | None = 2) -> str:
        """Return :meth:`to_dict` as JSON; figures that do not exist are null."""
        return json.dumps(_finite(self.to_dict()), indent=indent, allow_nan=False)

    def header(self) -> dict[str, Any]:
        """Return what identifies a saved result."""
        return {
            "kind": self.kind,
            "schema_version": RESULT_SCHEMA,
            "hwsim_version": __version__,
        }

    def __repr__(self) -> str:
        """Return what it is and its headline figures, not all it holds."""
        shown = [
            f"{key}={_short(value)}"
            for key, value in self.to_dict().items()
            if isinstance(value, float | str | bool) and key != "hwsim_version"
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(key)}</th>"
            f"<td>{escape(_short(value))}</td></tr>"
            for key, value in self.to_dict().items()
        )
        return f"<table>{rows}</table>"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_short(v) for v in value)
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
