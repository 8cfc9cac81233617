"""Calibrations: named physical parameters of the cost models of one device.

Numbers stand in data, never here. ``devices/generations/<name>.toml`` holds
the defaults of an architecture or, failing that, of a device kind;
``calibration.json`` beside a device's spec holds what was fitted to
measurements of that very device.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from hwsim.errors import HwsimError, InputError, SpecError, UnknownNameError
from hwsim.registry import search_paths
from hwsim.resources import USER_PATH
from hwsim.specs.base import CatalogSpec, Name, Source
from hwsim.specs.calibration_file import CalibrationFile, IntervalFile, Spread
from hwsim.specs.carry import CARRIED, Traits, carried_from, traits
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import Catalog, load_spec, read_table, validate
from hwsim.specs.parameters.attention import AttentionParameters
from hwsim.specs.parameters.collective import CollectiveParameters
from hwsim.specs.parameters.elementwise import ElementwiseParameters
from hwsim.specs.parameters.matmul import MatmulParameters
from hwsim.specs.parameters.moe import MoeParameters
from hwsim.specs.residual import Residual

Fidelity = Literal["auto", "roofline", "structured", "borrowed", "calibrated"]
Resolved = Literal["roofline", "structured", "borrowed", "calibrated"]
Basis = Resolved | Literal["registered"]
FIDELITIES: tuple[Fidelity, ...] = (
    "auto", "roofline", "structured", "borrowed", "calibrated",
)  # fmt: skip
FILE = "calibration.json"
FAMILIES = (
    "gemm", "attention_prefill", "attention_decode", "elementwise", "moe",
    "collective",
)  # fmt: skip
Origin = Literal["generation", "kind", "assumed"]
Reach = Annotated[float, Field(gt=0.0, le=4.0)]


class Calibration(CatalogSpec):
    """Parameters of every cost model, for one device or generation.

    Attributes
    ----------
    cache_reach : dict of family to float
        Share of the last shared cache's size within which operands that a
        benchmark uses again are still found; a cache in two halves that both
        keep a copy reaches half. Families not listed reach all of it. [1]
    residuals : dict of family to Residual
        Learned factors on top of the physical forms.
    spread : dict of family to Spread
        How far measurements lie from predictions.
    calibrated : tuple of str
        Families whose parameters were fitted to this very device; the others
        are its generation's.
    borrowed : tuple of str
        Families whose parameters were fitted to a device with the same chip.
    registered : tuple of str
        Families that a cost model of a stack's own predicts; how far it is off is
        not known.
    stated_for : dict of path to device
        Device that parameters below a dotted path were measured on, or are
        meant for; on others they follow its spec (``hwsim.specs.carry``).
    origin : str
        How near the data behind the generation's values are: ``generation``
        (this generation was measured), ``kind`` (devices of its kind were)
        or ``assumed``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    matmul: MatmulParameters
    elementwise: ElementwiseParameters
    attention: AttentionParameters
    moe: MoeParameters
    collective: CollectiveParameters
    cache_reach: dict[Name, Reach] = {}
    stated_for: dict[Name, Name] = {}
    residuals: SkipJsonSchema[Mapping[str, Residual]] = Field(
        default={}, exclude=True, repr=False
    )
    spread: SkipJsonSchema[Mapping[str, Spread]] = Field(
        default={}, exclude=True, repr=False
    )
    calibrated: tuple[Name, ...] = ()
    borrowed: tuple[Name, ...] = ()
    registered: tuple[Name, ...] = ()
    origin: Origin = "assumed"

    def reach(self, family: str) -> float:
        """Return the share of the shared cache that a family's operands reach."""
        return float(self.cache_reach.get(family, 1.0))

    def fidelities(self) -> dict[str, Basis]:
        """Return which values each operator family uses."""
        used: dict[str, Basis] = dict.fromkeys(FAMILIES, "structured")
        used |= dict.fromkeys(self.borrowed, "borrowed")
        used |= dict.fromkeys(self.calibrated, "calibrated")
        used |= dict.fromkeys(self.registered, "registered")
        return used

    def without(self, families: tuple[str, ...]) -> Calibration:
        """Return what is left where other cost models predict some families."""
        if not families:
            return self
        spread = {n: s for n, s in self.spread.items() if n not in families}
        return self.model_copy(update={"spread": spread, "registered": families})


GENERATIONS = Catalog("generation", Calibration, "devices", "generations/*.toml")


def calibration_for(
    device: DeviceSpec, fidelity: Fidelity = "structured"
) -> Calibration:
    """Return the parameters of a device's cost models.

    Parameters
    ----------
    device : DeviceSpec
        The device.
    fidelity : str
        ``structured``: the values of its architecture, else of its kind.
        ``calibrated`` or ``auto``: those of the ``calibration.json`` beside
        its spec for the families that it covers. ``borrowed``, or ``auto``
        where a device has none: those of the device with the same chip that
        the spec names in ``calibrated_as``. A speed of light has no
        parameters: for ``roofline`` they are those of ``structured``.

    Raises
    ------
    UnknownNameError
        If there are defaults for neither architecture nor kind.
    SpecError
        If a calibration file is faulty.
    """
    user_path = os.environ.get(USER_PATH)
    path = calibration_path(device) if fidelity in {"auto", "calibrated"} else None
    if path is None and fidelity in {"auto", "borrowed"}:
        path = borrowed_path(device)
    stamp = 0 if path is None else path.stat().st_mtime_ns
    return _calibration(
        device.id, device.architecture, device.kind, traits(device), path, stamp,
        user_path,
    )  # fmt: skip


def _in_catalog(device: str, figures: Traits) -> Traits:
    """Return what a device's parameters go with, whatever was changed in its spec.

    What-if changes keep the parameters of the device that is in the catalog.
    """
    if figures == Traits():
        return figures
    try:
        return traits(load_device(device))
    except HwsimError:
        return figures


def calibration_path(device: DeviceSpec) -> Path | None:
    """Return the first calibration file of a device on the search path, if any.

    It stands in ``devices/<kind>/<id>/``, beside the spec or in a folder of
    the user's own (``HWSIM_PATH``), which goes first.
    """
    return _first_file(device.kind, device.id)


def borrowed_path(device: DeviceSpec) -> Path | None:
    """Return the calibration file of the device that this one borrows from."""
    if device.calibrated_as is None:
        return None
    return _first_file(device.kind, device.calibrated_as)


def _first_file(kind: str, device: str) -> Path | None:
    for path in _candidates(kind, device, os.environ.get(USER_PATH)):
        if path.is_file():
            return path
    return None


@functools.lru_cache(maxsize=256)
def _candidates(kind: str, device: str, user_path: str | None) -> tuple[Path, ...]:
    del user_path  # part of the cache key: it decides where to look
    return tuple(root / kind / device / FILE for root in search_paths("devices"))


def load_calibration_file(path: Path) -> CalibrationFile:
    """Read a calibration file."""
    return validate(CalibrationFile, read_table(path), str(path), units_required=False)


def resolved_fidelity(device: DeviceSpec, fidelity: str) -> Resolved:
    """Return what ``auto`` means for a device; other fidelities are as asked.

    Raises
    ------
    InputError
        If a fidelity is unknown, or a calibration is asked for and there is
        none.
    """
    if fidelity not in FIDELITIES:
        raise InputError(
            f"fidelity {fidelity!r} is unknown; choose {' or '.join(FIDELITIES)}"
        )
    if fidelity in {"roofline", "structured"}:
        return cast("Resolved", fidelity)
    if fidelity != "borrowed" and calibration_path(device) is not None:
        return "calibrated"
    if fidelity != "calibrated" and borrowed_path(device) is not None:
        return "borrowed"
    if fidelity == "auto":
        return "structured"
    if fidelity == "borrowed":
        raise InputError(
            f"device {device.id} borrows no calibration; name a device with the same "
            "chip in its spec (calibrated_as), or use fidelity structured"
        )
    raise InputError(
        f"device {device.id} has no {FILE}; make one with hwsim calibrate "
        f"{device.id} --measurements FILE, or use fidelity structured"
    )


@functools.lru_cache(maxsize=128)
def _calibration(
    device: str,
    architecture: str,
    kind: str,
    figures: Traits,
    path: Path | None,
    stamp: int,
    user_path: str | None,
) -> Calibration:
    del stamp  # part of the cache key: a new calibration is read again
    generation = _generation(architecture, kind, user_path)
    figures = _in_catalog(device, figures)
    base = carried(generation, figures)
    if path is None:
        return base
    file = load_calibration_file(path)
    if file.device != path.parent.name:
        raise SpecError(
            f"{path}: device", f"{file.device!r} is not {path.parent.name!r}",
            "put it right",
        )  # fmt: skip
    if file.device == device:
        return apply_file(base, file)
    owner = load_device(file.device)
    found = apply_file(carried(generation, traits(owner)), file)
    found = found.model_copy(update={"stated_for": dict.fromkeys(CARRIED, owner.id)})
    # Errors on a device that was not measured are those of its generation.
    return carried(found, figures).model_copy(
        update={"calibrated": (), "borrowed": found.calibrated, "spread": base.spread}
    )


def carried(found: Calibration, figures: Traits) -> Calibration:
    """Return parameters as they are on a device of the figures given."""
    if figures == Traits():
        return found
    values = carried_from(found, lambda path: _stated_for(found, path), figures)
    return with_parameters(found, values) if values else found


def _stated_for(found: Calibration, path: str) -> Traits | None:
    """Return the figures of the device that a path's value is stated for."""
    fits = [
        prefix
        for prefix in found.stated_for
        if path == prefix or path.startswith(f"{prefix}.")
    ]
    if not fits:
        return None
    return traits(load_device(found.stated_for[max(fits, key=len)]))


def apply_file(base: Calibration, file: CalibrationFile) -> Calibration:
    """Return a generation's calibration with a device's own values on top."""
    values = {
        path: figure.value
        for fit in file.families.values()
        for path, figure in fit.parameters.items()
    }
    changed = with_parameters(base, values)
    source = Source(
        kind="measured", title=f"fitted to measurements of {file.device}",
        date=file.date, covers=tuple(sorted(values)) or ("cache_reach",),
    )  # fmt: skip
    fits = file.families
    return changed.model_copy(
        update={
            "id": file.device,
            "name": f"{base.name}, fitted to {file.device}",
            "sources": (source, *file.sources, *base.sources),
            "residuals": {
                family: Residual(fit.residual)
                for family, fit in fits.items()
                if fit.residual is not None
            },
            "spread": {
                **base.spread,
                **{family: Spread(f.interval.regimes) for family, f in fits.items()},
            },
            "calibrated": tuple(f for f in FAMILIES if f in fits),
        }
    )


def with_parameters(base: Calibration, values: Mapping[str, Any]) -> Calibration:
    """Return a calibration with figures replaced, by dotted path.

    Nothing is checked: fits call it thousands of times, within bounds.
    """
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        at = tree
        for key in outer:
            at = at.setdefault(key, {})
        at[last] = value
    changed: Calibration = _replaced(base, tree)
    return changed


def _replaced(holder: Any, tree: Mapping[str, Any]) -> Any:
    def old(key: str) -> Any:
        return holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key)

    update = {
        key: _replaced(old(key), value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }
    if isinstance(holder, Mapping):
        return {**holder, **update}
    return holder.model_copy(update=update)


@functools.lru_cache(maxsize=64)
def _generation(architecture: str, kind: str, user_path: str | None) -> Calibration:
    del user_path  # part of the cache key: it decides which files are found
    for name in (architecture, kind):
        try:
            found = load_spec(GENERATIONS, Calibration, name)
        except UnknownNameError:
            continue
        return _with_spread(found, kind)
    raise UnknownNameError("generation", architecture, GENERATIONS)


def _with_spread(found: Calibration, kind: str) -> Calibration:
    intervals = load_intervals()
    origin: Origin = "assumed"
    if found.id in intervals.generations:
        origin = "generation"
    elif kind in intervals.kinds:
        origin = "kind"
    tables = intervals.tables[origin]
    spread = {family: Spread(table) for family, table in tables.items()}
    return found.model_copy(update={"spread": spread, "origin": origin})


@functools.lru_cache(maxsize=1)
def load_intervals() -> IntervalFile:
    """Return how far measurements lie from predictions of devices not fitted."""
    from hwsim.resources import builtin_path

    path = builtin_path("devices") / "generations" / "intervals.json"
    return validate(IntervalFile, read_table(path), str(path), units_required=False)
