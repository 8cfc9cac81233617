"""From A's time to B's, mechanism by mechanism.

Each mechanism is a group of parameters that is taken either from A or from B:
the device's peaks, its memory, its caches, the links, kernel launch, the
calibration of its generation; the software stack, precision, layout and work
where these differ. What a group explains is its Shapley value: the mean, over
all orders in which the groups could be swapped, of what swapping it changes.
It depends on no order, and the values add up to the difference exactly.

References
----------
.. [1] L. S. Shapley, "A value for n-person games", in Contributions to the
   Theory of Games II, Princeton, 1953, pp. 307-317.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwsim.analysis.case import TIMES, Case
from hwsim.analysis.comparing.cell import CompareCell
from hwsim.analysis.serving.mean_request import mean_request, request_graphs
from hwsim.errors import HwsimError, InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.system import SystemSpec

COMPUTE, MEMORY, CACHE = "peak compute", "memory bandwidth", "cache"
LINKS, LAUNCH, QUALITY = "interconnect", "launch overhead", "efficiency"
STACK, PRECISION, WORK, MODEL = "software stack", "precision", "work", "model"
LAYOUT = "layout and interconnect"

_IDENTITY = ("id", "architecture", "kind", "calibrated_as")
_PRECISIONS = ("dtype", "weight_dtype", "kv_dtype")
_LAYOUTS = (
    "tp", "dp", "pp", "vpp", "cp", "ep", "devices", "replicas", "schedule",
    "zero_stage", "sequence_parallel", "micro_batch", "global_batch",
    "attention_dp", "etp", "dp_shard", "stage_layers", "cp_mode",
)  # fmt: skip
Take = Mapping[str, bool]  # whether a group comes from B


@dataclass(frozen=True)
class Waterfall:
    """What the difference between two times is made of.

    Attributes
    ----------
    steps : dict of str to float
        Seconds that each mechanism adds, largest first; their sum is
        ``to_s - from_s``. [s]
    of : str
        Which time it is.
    reason : str
        Why there are no steps, where there are none.
    """

    source: str
    target: str
    from_s: float
    to_s: float
    steps: Mapping[str, float]
    of: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it with keys in SI."""
        return {
            "from": self.source,
            "to": self.target,
            "of": self.of,
            "from_s": self.from_s,
            "to_s": self.to_s,
            "steps": [
                {"mechanism": name, "seconds": value}
                for name, value in self.steps.items()
            ],
            "method": "Shapley values over groups of parameters",
            "reason": self.reason,
        }


def waterfall(a: CompareCell, b: CompareCell) -> Waterfall:
    """Return what the difference between two cells' times is made of."""
    value, of = _valued(a)
    try:
        players = _players(a.case, b.case)
        worth = {
            mask: value(_hybrid(a.case, b.case, players, mask))
            for mask in range(1 << len(players))
        }
    except HwsimError as error:
        ends = (a.time_s, b.time_s)
        why = f"no step in between can run: {error}"
        return Waterfall(a.label, b.label, *ends, {}, of, why)
    steps = shapley(worth, players)
    ordered = dict(sorted(steps.items(), key=lambda item: -abs(item[1])))
    first, last = worth[0], worth[(1 << len(players)) - 1]
    return Waterfall(a.label, b.label, first, last, ordered, of)


def shapley(worth: Mapping[int, float], players: Sequence[str]) -> dict[str, float]:
    """Return the Shapley value of each player.

    Parameters
    ----------
    worth : dict of int to float
        Value of each coalition; bit ``i`` of the key says whether player ``i``
        is in it.

    Examples
    --------
    >>> shapley({0: 0.0, 1: 1.0, 2: 2.0, 3: 5.0}, ["a", "b"])
    {'a': 2.0, 'b': 3.0}
    """
    n = len(players)
    scale = [
        math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n)
        for k in range(n)
    ]
    found = {}
    for i, name in enumerate(players):
        bit = 1 << i
        found[name] = math.fsum(
            scale[mask.bit_count()] * (worth[mask | bit] - worth[mask])
            for mask in range(1 << n)
            if not mask & bit
        )
    return found


def _valued(a: CompareCell) -> tuple[Callable[[Case], float], str]:
    """Return what is explained: the time; of a service, the work of a request."""
    if a.case.task != "serve":
        key, of = TIMES[a.case.task]
        return lambda case: float(getattr(case.run(), key)), of
    request = mean_request(a.result)

    def engine_time(case: Case) -> float:
        asked = _Asked(case, a.result)
        return sum(g.time_s * k for g, k in request_graphs(asked, *request))

    batch = round(request[3])
    return engine_time, f"engine time of a mean request, batch {batch}"


class _Asked:
    """What :func:`request_graphs` needs of a service that was not played."""

    def __init__(self, case: Case, result: Any) -> None:
        self.model, self.stack, self.engine = case.model, case.stack, result.engine
        self.fidelity = case.options.get("fidelity", "auto")
        dtype = case.options["dtype"]
        wide = dtype if dtype in {"fp32", "bf16", "fp16"} else "bf16"
        precise = {"dtype": dtype, "weight_dtype": dtype, "kv_dtype": wide}
        self.config = replace(
            result.config,
            **{n: case.options.get(n, 1) for n in ("tp", "pp", "ep", "attention_dp")},
            **precise | _options(case, _PRECISIONS),
        )
        self.system = case.system.subsystem(self.config.layout.devices)


def _players(a: Case, b: Case) -> list[str]:
    """Return the groups in which two questions differ."""
    one, two = a.system.device, b.system.device
    differs = {
        COMPUTE: one.compute != two.compute,
        MEMORY: one.main_memory != two.main_memory,
        CACHE: _caches(one) != _caches(two),
        LAUNCH: one.launch != two.launch,
        QUALITY: any(getattr(one, k) != getattr(two, k) for k in _IDENTITY),
        STACK: a.stack != b.stack,
        MODEL: a.model != b.model,
        PRECISION: _options(a, _PRECISIONS) != _options(b, _PRECISIONS),
        WORK: _work(a) != _work(b),
    }
    layout = _options(a, _LAYOUTS) != _options(b, _LAYOUTS)
    differs[LAYOUT if layout else LINKS] = layout or _links(a) != _links(b)
    found = [name for name, different in differs.items() if different]
    if PRECISION in found and COMPUTE in found and not _both_run(a, b):
        found.remove(PRECISION)  # it goes with the units that can do it
    return found


def _both_run(a: Case, b: Case) -> bool:
    wanted = {a.options.get("dtype"), b.options.get("dtype")} - {None}
    return all(wanted <= set(c.system.device.dtypes) for c in (a, b))


def _options(case: Case, names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in case.options.items() if k in names and v is not None}


def _work(case: Case) -> dict[str, Any]:
    known = (*_PRECISIONS, *_LAYOUTS, "progress")
    return {k: v for k, v in case.options.items() if k not in known and v is not None}


def _caches(device: DeviceSpec) -> dict[str, Any]:
    return {k: v for k, v in device.memory.items() if k != device.main_memory_name}


def _links(case: Case) -> tuple[Any, ...]:
    s = case.system
    return (s.networks, s.devices_per_node, s.nodes, s.device.host_link)


def _hybrid(a: Case, b: Case, players: Sequence[str], mask: int) -> Case:
    """Return the question with some groups from B and the others from A."""
    take = {name: bool(mask >> i & 1) for i, name in enumerate(players)}
    options = dict((b if take.get(WORK) else a).options)
    # Precision that is no group of its own goes with the compute units.
    precise = PRECISION if PRECISION in take else COMPUTE
    for name, names in ((precise, _PRECISIONS), (LAYOUT, _LAYOUTS)):
        for key in names:
            options.pop(key, None)
        options |= _options(b if take.get(name) else a, names)
    return replace(
        a,
        model=(b if take.get(MODEL) else a).model,
        stack=(b if take.get(STACK) else a).stack,
        system=_system(a.system, b.system, take),
        options=options,
    )


def _system(a: SystemSpec, b: SystemSpec, take: Take) -> SystemSpec:
    device = _device(a.device, b.device, take)
    outer = b if take.get(LINKS) or take.get(LAYOUT) else a
    return outer.model_copy(update={"device": device})


def _device(a: DeviceSpec, b: DeviceSpec, take: Take) -> DeviceSpec:
    """Return a device made of both; it is nobody's, and not checked as one."""

    def pick(group: str) -> DeviceSpec:
        return b if take.get(group) else a

    fields = {name: getattr(a, name) for name in DeviceSpec.model_fields}
    fields |= {name: getattr(pick(QUALITY), name) for name in _IDENTITY}
    main, caches = pick(MEMORY), _caches(pick(CACHE))
    if main.main_memory_name in caches:
        raise InputError(f"{main.main_memory_name} is a cache of the other device")
    outer = pick(LAYOUT if LAYOUT in take else LINKS)
    return DeviceSpec.model_construct(
        **fields
        | {
            "compute": pick(COMPUTE).compute,
            "launch": pick(LAUNCH).launch,
            "memory": {**caches, main.main_memory_name: main.main_memory},
            "host_link": outer.host_link,
        }
    )
