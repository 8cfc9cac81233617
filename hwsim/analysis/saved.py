"""Results read back from files, of this version of hwsim or an older one."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hwsim.analysis.packing import unpack_records, unpack_rows
from hwsim.analysis.result import RECORD, RESULT_SCHEMA, Result, finite
from hwsim.errors import InputError
from hwsim.sim.records import Record
from hwsim.specs.base import Spec

MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class SavedGraph:
    """A graph of a saved result: what tables and pictures take of it.

    Attributes
    ----------
    name, engine, fidelity : str
        Of the graph; ``closed_form`` or ``simulate``; what its costs rest on.
    time_s, flop, nbytes : float
        Its time [s], work [FLOP] and traffic [B] on one device.
    parts, memory_levels : dict of str to float
        Breakdown of the time; of its memory part by level. [s]
    rows : list of dict
        One per distinct operator.
    records : tuple of Record
        Its timeline, empty where there was none. [s]
    """

    name: str
    engine: str
    fidelity: str
    time_s: float
    flop: float
    nbytes: float
    parts: dict[str, float]
    memory_levels: dict[str, float]
    rows: list[dict[str, Any]] = field(repr=False)
    records: tuple[Record, ...] = field(repr=False, default=())

    def op_rows(self) -> list[dict[str, Any]]:
        """Return one dict per distinct operator; times are of one call. [s]"""
        return self.rows


@dataclass(frozen=True, repr=False)
class SavedResult(Result):
    """A result as a file has it: figures by key, specs, tables, timelines.

    Keys of the answer are attributes too: ``saved.ttft_s`` is
    ``saved.data["ttft_s"]``.

    Attributes
    ----------
    data : dict
        All of the file, brought up to today's schema.
    origin : str
        The file, or what it was made from; errors name it.
    """

    data: dict[str, Any]
    origin: str = "result"

    @property
    def kind(self) -> str:  # type: ignore[override]
        """What sort of result it is: ``infer``, ``train``, …"""
        return str(self.data["kind"])

    def to_dict(self) -> dict[str, Any]:
        """Return the answer, without the record of how it came about."""
        return {k: v for k, v in self.data.items() if k not in RECORD}

    def document(self, command: str | None = None) -> dict[str, Any]:
        """Return all that the file holds; a command given replaces its own."""
        return self.data if command is None else {**self.data, "command": command}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(
                f"{self.origin}: a result of kind {self.kind!r} has no {name!r}"
            ) from None

    def need(self, *path: str) -> Any:
        """Return what stands at a path of keys.

        Raises
        ------
        InputError
            If the file does not have it: it was cut, or changed by hand.
        """
        value: Any = self.data
        for depth, key in enumerate(path, start=1):
            if not isinstance(value, Mapping) or key not in value:
                where = ".".join(path[:depth])
                raise InputError(
                    f"{self.origin}: {where} is missing from this {self.kind} result; "
                    "save it again with --out"
                )
            value = value[key]
        return value

    def specs(self) -> dict[str, Spec]:
        """Return the specs that the answer was computed from, by role."""
        return {} if self._specs is None else dict(self._specs)

    @functools.cached_property
    def _specs(self) -> dict[str, Spec]:
        found = {}
        for role, body in (self.data.get("specs") or {}).items():
            spec = _spec(role, body)
            if spec is not None:
                found[role] = spec
        return found

    @functools.cached_property
    def graphs(self) -> list[SavedGraph]:
        """The graphs behind the figures; none in files of schema 1."""
        try:
            return [
                _graph(g) for g in (self.data.get("detail") or {}).get("graphs", ())
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.origin}: detail.graphs is damaged ({error}); save the result "
                "again with --out"
            ) from None


def as_saved(result: Result, command: str | None = None) -> SavedResult:
    """Return a result as a file would have it."""
    if isinstance(result, SavedResult):
        return SavedResult(result.document(command), result.origin)
    return SavedResult(finite(result.document(command)), type(result).__name__)


def _graph(saved: Mapping[str, Any]) -> SavedGraph:
    timeline = saved.get("timeline")
    return SavedGraph(
        name=str(saved["name"]), engine=saved["engine"], fidelity=saved["fidelity"],
        time_s=float(saved["time_s"]), flop=float(saved["flop"]),
        nbytes=float(saved["nbytes"]), parts=dict(saved["parts"]),
        memory_levels=dict(saved["memory_levels"]), rows=unpack_rows(saved["ops"]),
        records=() if timeline is None else unpack_records(timeline),
    )  # fmt: skip


def _spec(role: str, body: Any) -> Spec | None:
    """Return a spec, or nothing where this version cannot read it."""
    known = _classes().get(role.partition(":")[0])
    if known is None:
        return None
    try:
        return known.model_validate(body)
    except ValidationError:
        return None


@functools.cache
def _classes() -> dict[str, type[Spec]]:
    from hwsim.specs.calibration import Calibration
    from hwsim.specs.device import DeviceSpec
    from hwsim.specs.engine import EngineSpec
    from hwsim.specs.model import ModelSpec
    from hwsim.specs.stack import StackSpec
    from hwsim.specs.system import SystemSpec

    return {
        "model": ModelSpec, "system": SystemSpec, "device": DeviceSpec,
        "stack": StackSpec, "engine": EngineSpec, "calibration": Calibration,
    }  # fmt: skip


def load_result(path: str | os.PathLike[str]) -> SavedResult:
    """Read a saved result of any kind and any schema version so far.

    Parameters
    ----------
    path : str or path-like
        A file that ``--out`` or :func:`hwsim.save_result` wrote, or the JSON
        that ``--json`` printed.

    Raises
    ------
    InputError
        If it cannot be read, is no result, or is of a newer hwsim.
    """
    data = _read(Path(path).expanduser(), str(path))
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise InputError(
            f"{path}: no result: it has no kind; give a file that --out wrote"
        )
    version = data.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InputError(
            f"{path}: schema_version is {version!r}, not a whole number from 1; "
            "save the result again with --out"
        )
    if version > RESULT_SCHEMA:
        raise InputError(
            f"{path}: schema_version {version} is newer than this hwsim, which reads "
            f"up to {RESULT_SCHEMA}; upgrade hwsim"
        )
    for number in range(version, RESULT_SCHEMA):
        data = _MIGRATIONS[number](data)
    return SavedResult(data, str(path))


def _read(place: Path, name: str) -> Any:
    try:
        if place.stat().st_size > MAX_BYTES:
            raise InputError(f"{name}: larger than 512 MiB; that is no saved result")
        text = place.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; check the path") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{name}: no text; give a JSON file that --out wrote"
        ) from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{name}: cannot be read: {why}; check the path") from None
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name}: line {error.lineno}: no JSON ({error.msg}); "
            "give a file that --out wrote"
        ) from None
    except RecursionError:
        raise InputError(f"{name}: no result: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{name}: no result: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no figure; write null for one that does not exist")


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 held the answer alone."""
    return {
        **data, "schema_version": 2, "command": None, "environment": {},
        "spec_hashes": {}, "overrides": [], "assumptions": [], "evidence": {},
        "specs": {}, "detail": {},
    }  # fmt: skip


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
