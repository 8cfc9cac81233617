"""What every result can do: a dict in SI, JSON, a saved file, a notebook view."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from html import escape
from typing import Any

from hwsim.specs.base import Spec
from hwsim.units import format_quantity
from hwsim.version import __version__

RESULT_SCHEMA = 2
# What a saved file has beside the answer.
RECORD = (
    "command", "environment", "spec_hashes", "overrides", "assumptions", "evidence",
    "specs", "detail",
)  # fmt: skip
_ROLES = ("model", "system", "stack", "engine")
_UNITS = {
    "_j_per_token": "J", "_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s",
    "flop_per_s_per_device": "FLOP/s", "_bytes": "B", "_usd": "USD", "_kg": "kg",
    "_rps": "/s", "tokens_per_s": "/s", "per_s_per_device": "/s", "_j": "J",
    "_w": "W", "_per_s": "/s", "_s": "s",
}  # fmt: skip
_PLAIN = {"USD", "kg", "/s"}


class Result(ABC):
    """Base of results; subclasses fill :meth:`to_dict`.

    A subclass that has more to show than its headline figures adds it in
    :meth:`details`; one that does not hold its specs as ``model``, ``system``
    and ``stack`` names them in :meth:`specs`.
    """

    kind: str = "result"

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the result with keys in SI units."""

    def to_json(self, indent: int | None = 2) -> str:
        """Return :meth:`to_dict` as JSON; figures that do not exist are null."""
        return json.dumps(finite(self.to_dict()), indent=indent, allow_nan=False)

    def header(self) -> dict[str, Any]:
        """Return what identifies a saved result."""
        return {
            "kind": self.kind,
            "schema_version": RESULT_SCHEMA,
            "hwsim_version": __version__,
        }

    def specs(self) -> dict[str, Spec]:
        """Return the specs that the answer was computed from, by role."""
        found = {role: getattr(self, role, None) for role in _ROLES}
        return {role: spec for role, spec in found.items() if isinstance(spec, Spec)}

    def details(self) -> dict[str, Any]:
        """Return what tables and pictures need beyond :meth:`to_dict`, in SI."""
        return {}

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of such answers."""
        from hwsim.analysis.evidence import evidence

        system = self.specs().get("system")
        used = getattr(self, "fidelity_by_family", None)
        if system is None or not used:
            return {}
        task = {"training_run": "train", "graph": None, "op": None}
        return evidence(
            system.device,  # type: ignore[attr-defined]
            used,
            task.get(self.kind, self.kind),
        )

    def document(self, command: str | None = None) -> dict[str, Any]:
        """Return all that is saved: the answer and what it rests on, in SI.

        Parameters
        ----------
        command : str, optional
            The command line that made the result.
        """
        from hwsim.analysis import provenance

        specs = self._every_spec()
        return {
            **self.to_dict(),
            "command": command,
            "environment": provenance.environment(),
            "spec_hashes": provenance.hashes(specs),
            "overrides": [
                *getattr(self, "overrides", ()),
                *provenance.override_texts(_with_device(specs)),
            ],
            "assumptions": provenance.assumed_figures(specs),
            "evidence": self.accuracy(),
            "specs": {k: s.model_dump(mode="json") for k, s in specs.items()},
            "detail": self.details(),
        }

    def _every_spec(self) -> dict[str, Spec]:
        """Return the specs and, unless it is a bound, the calibration."""
        from hwsim.specs.calibration import calibration_for

        specs = self.specs()
        device = getattr(specs.get("system"), "device", None)
        fidelity: Any = getattr(self, "fidelity", "roofline")
        if device is not None and fidelity != "roofline":
            specs["calibration"] = calibration_for(device, fidelity)
        return specs

    def saved_text(self, command: str | None = None) -> str:
        """Return :meth:`document` as the text of a file, its bulk on few lines."""
        document = finite(self.document(command))
        bulk = {key: document.pop(key) for key in ("specs", "detail")}
        head = json.dumps(document, indent=2, allow_nan=False)
        tail = ",\n".join(
            f'  "{key}": {json.dumps(value, allow_nan=False, separators=(",", ":"))}'
            for key, value in bulk.items()
        )
        return f"{head[:-2]},\n{tail}\n}}\n"

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
            f"<td style='text-align:left'>{escape(_shown(key, value))}</td></tr>"
            for key, value in self.to_dict().items()
            if key not in {"schema_version", "hwsim_version", "kind"}
            and not (isinstance(value, list) and value and isinstance(value[0], dict))
        )
        return (
            f"<table><caption style='text-align:left'><b>{escape(self.kind)}</b>, "
            f"hwsim {__version__}</caption>{rows}</table>"
        )


def _with_device(specs: Mapping[str, Spec]) -> list[Spec]:
    device = getattr(specs.get("system"), "device", None)
    return [*([device] if isinstance(device, Spec) else []), *specs.values()]


def _shown(key: str, value: Any) -> str:
    """Return a figure with the unit that its key ends in."""
    if isinstance(value, Mapping):
        # Keys of a dict of figures may carry units of their own, or the dict's.
        return ", ".join(
            f"{k} {_shown(k if _unit(k) else key, v)}" for k, v in value.items()
        )
    if isinstance(value, list | tuple):
        return " – ".join(_shown(key, v) for v in value)
    unit = _unit(key)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not unit or not math.isfinite(value):
        return _short(value)
    if unit in _PLAIN:
        return f"{value:,.5g} {unit}"
    return format_quantity(value, unit)


def _unit(key: str) -> str:
    return next((unit for end, unit in _UNITS.items() if key.endswith(end)), "")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_short(v) for v in value)
    return str(value)


def finite(value: Any) -> Any:
    """Return a value with figures that do not exist as None, as JSON has them."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
