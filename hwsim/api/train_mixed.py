"""The question of a training step over stages on unlike devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hwsim.analysis.check import dtype_on, positive_int
from hwsim.analysis.graph_result import Engine
from hwsim.analysis.mixing.train_mixed import run_mixed_training
from hwsim.analysis.mixing.train_place import TrainPlace
from hwsim.analysis.mixing.train_result import MixedTrainResult
from hwsim.analysis.resolve import default_dtype, resolve
from hwsim.api.mixed import Entry, hop_of
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError, nearest
from hwsim.specs.economics import load_economics
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

_KEYS = ("system", "tp", "dp", "stages", "layers", "stack", "price", "overrides")


def train_mixed(
    model: str | ModelSpec,
    stages: Sequence[Entry],
    *,
    link: float | None = None,
    link_latency: float | None = None,
    stage_layers: Sequence[int] = (),
    dtype: str | None = None,
    pue: float | None = None,
    stack: str | StackSpec = "default-training",
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    overrides: Iterable[str] = (),
    **training: Any,
) -> MixedTrainResult:
    """Predict one optimizer step of a pipeline over devices of several kinds.

    Parameters
    ----------
    model : str or ModelSpec
        Any model that can be trained.
    stages : sequence of str, spec or mapping
        Places in pipeline order. A mapping has ``system`` and, if need be,
        ``tp`` and ``dp`` of each stage, ``stages`` (pipeline stages there),
        ``layers`` (of all of them), ``stack``, ``price`` [USD/h] and
        ``overrides``. Without ``layers`` they are shared out by time, within memory.
    link, link_latency : float
        Between places, all devices of a stage together. By default the slower
        of the networks that leave either place's nodes; a node whose system
        names none has one 400 Gbit/s port and 5 us, assumed. [B/s], [s]
    stage_layers : sequence of int
        Layers of every pipeline stage, in place of ``layers``.
    pue : float or None
        Facility over computer power.
    dtype, stack, fidelity, engine, overrides
        As for :func:`hwsim.train`; overrides change every place alike.
    **training
        ``cp``, ``ep``, ``schedule`` (1f1b, gpipe or zero_bubble),
        ``micro_batch`` (of the first place; where ``dp`` differs a rank takes
        its share of the same pass), ``global_batch``, ``seq``, ``recompute``,
        ``optimizer``, ``zero_stage`` and all else that :func:`hwsim.train` has
        of a step.

    Returns
    -------
    MixedTrainResult
        Step time, timeline, and memory, idle time, power and price of each
        place; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    unknown = {"devices", "tp", "dp", "pp", "vpp", "price"} & set(training)
    if unknown:
        raise InputError(f"{min(unknown)} is said of each place; write it there")
    entries = [_entry(value) for value in _several(stages)]
    changes, places = list(overrides), []
    spec = None
    for entry in entries:
        spec, place = _place(model, entry, stack, changes)
        places.append(place)
    if spec is None:
        raise InputError("no stage is given; name at least one system")
    chosen = dtype or default_dtype(places[0].system.device)
    for place in places:
        dtype_on(place.system.device, chosen)
    if pue is not None and not 1.0 <= pue <= 5.0:
        raise InputError(f"pue is {pue}; facility over computer power is 1 to 5")
    given = link is not None or link_latency is not None
    return run_mixed_training(
        spec, places, load_economics(),
        hop=hop_of(link, link_latency) if given else None, pue=pue,
        stage_layers=stage_layers, fidelity=fidelity, engine=engine, dtype=chosen,
        **training,
    )  # fmt: skip


def _several(stages: Any) -> Sequence[Any]:
    return stages if isinstance(stages, list | tuple) else [stages]


def _entry(value: Any) -> dict[str, Any]:
    entry = dict(value) if isinstance(value, Mapping) else {"system": value}
    for name in entry:
        if name not in _KEYS:
            near = nearest(str(name), _KEYS) or _KEYS
            raise InputError(f"stage: {name!r} is unknown; use {', '.join(near)}")
    if "system" not in entry:
        raise InputError(f"stage: system is missing; it has {', '.join(_KEYS)}")
    return entry


def _place(
    model: str | ModelSpec,
    entry: Mapping[str, Any],
    stack: str | StackSpec,
    overrides: Sequence[str],
) -> tuple[ModelSpec, TrainPlace]:
    spec, system, software = resolve(
        model,
        entry["system"],
        entry.get("stack", stack),
        [*overrides, *entry.get("overrides", ())],
    )
    numbers = {
        name: positive_int(name, entry.get(name, 1)) for name in ("tp", "dp", "stages")
    }
    layers, price = entry.get("layers"), entry.get("price")
    return spec, TrainPlace(
        system, software, **numbers,
        layers=None if layers is None else positive_int("layers", layers),
        price=None if price is None else _price(price),
    )  # fmt: skip


def _price(value: Any) -> float:
    try:
        price = float(value)
    except (TypeError, ValueError):
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise InputError(f"price is {value}; give USD per device hour, 0 or more")
    return price
