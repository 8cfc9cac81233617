"""How a source of measurements measures: caches, launches, systems.

One file is one source, ``devices/benchmarks/<name>.toml``. It states what a
table's rows do not: columns of the table go first.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hwsim.specs.base import CatalogSpec, Count, Identifier, Name, Seconds
from hwsim.specs.load import Catalog, load_spec

DEFAULT = "any"
Share = Annotated[float, Field(gt=0.0, le=2.0)]


class BenchmarkSpec(CatalogSpec):
    """Conditions behind the rows of one source.

    Attributes
    ----------
    prefixes : tuple of str
        A row belongs to this source if its ``source`` column starts with one.
    launch : str
        ``graph``: times are of the device alone; ``eager``: host launch of
        each kernel is in them.
    eager_time : float or None
        Time that an eager launch adds; the device's own figure where it is
        not given. [s]
    copies : dict of family to int
        Separate copies of the operands that the benchmark cycles through:
        they stay in the shared cache if all of them fit. A family that is not
        listed finds its operands in main memory. Attention modes may be
        listed by themselves (``decode``).
    cache_share : dict of architecture to float
        Share of the shared cache that one working set can fill: a cache in
        two halves keeps data of the far half twice. 1 where not listed. [1]
    ungated_experts : tuple of (width, hidden)
        Models whose experts have two matrices rather than three, by the widths
        of their rows, where a row does not say.
    routing_leftovers : str
        As for :func:`~hwsim.cost.routing.expert_load`: how its power laws round.
    writes_kv : bool
        Times of attention include writing new keys and values to the cache.
    systems : dict of device to system
        Where collectives of a device were measured, unless a row says.
    clusters : dict of device to system
        The same where they span more nodes than that.
    """

    prefixes: tuple[Name, ...]
    launch: Literal["eager", "graph"] = "graph"
    eager_time: Seconds | None = None
    copies: dict[Name, Count] = {}
    cache_share: dict[Name, Share] = {}
    ungated_experts: tuple[tuple[Count, Count], ...] = ()
    routing_leftovers: Literal["largest", "first"] = "largest"
    writes_kv: bool = True
    systems: dict[Identifier, Identifier] = {}
    clusters: dict[Identifier, Identifier] = {}


BENCHMARKS = Catalog("benchmark", BenchmarkSpec, "devices", "benchmarks/*.toml")


def load_benchmark(name: str) -> BenchmarkSpec:
    """Load how a source measures, by id, alias or path."""
    return load_spec(BENCHMARKS, BenchmarkSpec, name)


def benchmark_of(source: str) -> BenchmarkSpec:
    """Return how the source of a row measures: the longest prefix wins."""
    best, length = load_benchmark(DEFAULT), -1
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        for prefix in benchmark.prefixes:
            if source.startswith(prefix) and len(prefix) > length:
                best, length = benchmark, len(prefix)
    return best
