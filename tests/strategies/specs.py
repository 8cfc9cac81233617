"""Random specs and spec files."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import strategies as st

from hwsim.specs.base import DTYPES, Source
from hwsim.specs.device import (
    Compute,
    DeviceSpec,
    Launch,
    Link,
    MemoryLevel,
    Power,
)
from hwsim.specs.network import Network
from hwsim.specs.stack import Fusion, LaunchPolicy, Overlap, StackSpec
from hwsim.specs.system import SystemSpec

ASSUMED = Source(kind="assumed", title="made up", date=dt.date(2026, 1, 1))

identifiers = st.from_regex(r"[a-z0-9][a-z0-9.+_-]{0,30}", fullmatch=True)
names = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")),
    min_size=1,
    max_size=40,
)
bandwidths = st.floats(1e8, 1e14)
rates = st.floats(1e9, 1e17)
latencies = st.floats(0.0, 1e-3)
sizes = st.floats(1024.0, 1e13)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw a value or None."""
    return st.none() | strategy


peaks = st.dictionaries(st.sampled_from(DTYPES), rates, min_size=1, max_size=4)
links = st.builds(
    Link,
    technology=names,
    bandwidth=bandwidths,
    count=optional(st.integers(1, 64)),
    latency=optional(latencies),
    topology=optional(names),
)
levels = st.builds(
    MemoryLevel,
    size=sizes,
    bandwidth=optional(bandwidths),
    latency=optional(latencies),
    scope=st.sampled_from(["unit", "device"]),
    technology=optional(names),
)
main_memories = st.builds(MemoryLevel, size=sizes, bandwidth=bandwidths)


@st.composite
def devices(draw: st.DrawFn) -> DeviceSpec:
    """Draw a device with up to three cache levels."""
    inner = draw(st.dictionaries(st.sampled_from(["l1", "l2", "l3"]), levels))
    return DeviceSpec(
        id=draw(identifiers),
        name=draw(names),
        aliases=tuple(draw(st.lists(names, max_size=3))),
        sources=(ASSUMED,),
        kind=draw(st.sampled_from(["gpu", "tpu", "asic", "fpga"])),
        vendor=draw(names),
        architecture=draw(names),
        year=draw(st.integers(1990, 2035)),
        compute=Compute(
            units=draw(st.integers(1, 10_000)),
            unit_kind=draw(names),
            clock=draw(optional(st.floats(1e8, 5e9))),
            matrix=draw(peaks),
            vector=draw(peaks),
        ),
        memory={**inner, "main": draw(main_memories)},
        links=draw(st.dictionaries(st.sampled_from(["nvlink", "ici"]), links)),
        host_link=draw(optional(links)),
        power=Power(tdp=draw(optional(st.floats(1.0, 2e3)))),
        launch=draw(optional(st.builds(Launch, eager=latencies, graph=latencies))),
    )


@st.composite
def networks(draw: st.DrawFn, size: int, index: int) -> Network:
    """Draw one level of a given size."""
    kinds = ["switch", "mesh", "bus", "fat_tree", "dcn"] + ["torus"] * (index == 0)
    kind = draw(st.sampled_from(kinds))
    extra: dict[str, Any] = {}
    if kind == "torus":
        extra = {"dims": (1, size), "wraparound": draw(st.booleans())}
    if kind in {"fat_tree", "dcn"}:
        extra = {
            "nics_per_node": draw(optional(st.integers(1, 32))),
            "oversubscription": draw(st.floats(1.0, 16.0)),
        }
    return Network(
        name=f"level-{index}",
        kind=kind,
        size=size,
        bandwidth=draw(bandwidths),
        latency=draw(latencies),
        **extra,
    )


@st.composite
def systems(draw: st.DrawFn) -> SystemSpec:
    """Draw a system of up to three nested levels."""
    factors = draw(st.lists(st.integers(2, 6), min_size=1, max_size=3))
    levels: list[Network] = []
    size = 1
    for index, factor in enumerate(factors):
        size *= factor
        levels.append(draw(networks(size, index)))
    return SystemSpec(
        id=draw(identifiers),
        name=draw(names),
        device=draw(devices()),
        devices_per_node=factors[0],
        nodes=size // factors[0],
        networks=tuple(levels),
        sources=(ASSUMED,),
    )


stacks = st.builds(
    StackSpec,
    id=identifiers,
    name=names,
    sources=st.just((ASSUMED,)),
    launch=st.builds(
        LaunchPolicy,
        mode=st.sampled_from(["eager", "graph"]),
        host_time=optional(latencies),
        step_overhead=latencies,
    ),
    fusion=st.builds(Fusion, attention=st.sampled_from(["fused", "unfused"])),
    overlap=st.builds(Overlap),
    matmul_derate=st.floats(0.01, 1.0),
    attention_derate=st.floats(0.01, 1.0),
    memory_reserve=st.floats(0.0, 0.9),
)
