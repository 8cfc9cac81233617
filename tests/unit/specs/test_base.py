"""Figures of specs: their sources, paths and units."""

from __future__ import annotations

from hwsim.specs.base import CatalogSpec, Source, dimension_of, iter_figures
from hwsim.specs.catalogs import load_device, load_system


def source(title: str, *covers: str) -> Source:
    return Source.model_validate(
        {"kind": "assumed", "title": title, "date": "2026-01-01", "covers": covers}
    )


def test_the_longest_prefix_is_the_source() -> None:
    spec = CatalogSpec(
        id="x",
        name="x",
        sources=(
            source("all", "*"),
            source("memory", "memory"),
            source("hbm", "memory.hbm"),
            source("late", "memory.hbm"),
        ),
    )
    titles = {
        path: found.title
        for path in ("a", "memory.l2.size", "memory.hbm.size", "memory.hbm", "memoryx")
        if (found := spec.source_of(path))
    }
    assert titles == {
        "a": "all",
        "memory.l2.size": "memory",
        "memory.hbm.size": "hbm",
        "memory.hbm": "hbm",
        "memoryx": "all",
    }
    assert CatalogSpec(id="x", name="x").source_of("a") is None


def test_figures_are_listed_with_their_units() -> None:
    figures = {p: (v, d) for p, v, d in iter_figures(load_device("h100-80gb-sxm"))}
    value, dimension = figures["memory.hbm.bandwidth"]
    assert value == 3.35e12
    assert dimension is not None
    assert dimension.unit == "B/s"
    assert figures["compute.units"] == (132, None)
    assert figures["compute.matrix.bf16"][1] is not None
    assert not any(path.startswith("sources") for path in figures)


def test_list_items_stand_under_their_name() -> None:
    system = load_system("dgx-h100")
    figures = {path for path, _, _ in iter_figures(system)}
    assert {"networks.nvlink.bandwidth", "device.memory.hbm.size"} <= figures
    found = dimension_of(system, ("networks", "nvlink", "latency"))
    assert found is not None
    assert found.unit == "s"
    assert dimension_of(system, ("networks", "nvlink", "size")) is None
    assert dimension_of(system, ("nodes", "deeper")) is None
