"""Spec to JSON to spec is the identity, and what-ifs keep their promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.errors import HwsimError
from hwsim.specs.base import Spec
from hwsim.specs.catalogs import (
    DEVICES,
    STACKS,
    SYSTEMS,
    load_device,
    load_stack,
    load_system,
)
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import dump_json, fold, validate
from hwsim.specs.override import apply_overrides, parse_override
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.units import DIMENSIONS, parse_quantity
from tests.strategies.specs import devices, stacks, systems

T = TypeVar("T")


def attempt(
    call: Callable[[], T], expected: type[Exception] = HwsimError
) -> tuple[T | None, str]:
    """Return a result, or the text of the error that was raised on purpose."""
    try:
        return call(), ""
    except expected as error:
        return None, str(error)


def roundtrip(spec: Spec) -> Spec:
    return type(spec).model_validate(json.loads(dump_json(spec)))


@given(devices() | stacks | systems())
@settings(max_examples=60, deadline=None)
def test_random_specs_survive_json(spec: Spec) -> None:
    assert roundtrip(spec) == spec


def test_every_device_survives_json() -> None:
    for name in DEVICES:
        device = load_device(name)
        back = roundtrip(device)
        assert back == device
        # the last level is the main memory: order is part of the value
        assert list(back.memory) == list(device.memory)  # type: ignore[attr-defined]


def test_every_system_survives_json() -> None:
    for name in SYSTEMS:
        system = load_system(name)
        assert roundtrip(system) == system


def test_every_stack_survives_json() -> None:
    for name in STACKS:
        stack = load_stack(name)
        assert roundtrip(stack) == stack


@given(devices())
@settings(max_examples=20, deadline=None)
def test_json_needs_no_units_but_toml_does(device: DeviceSpec) -> None:
    table = json.loads(dump_json(device))
    assert validate(DeviceSpec, table, "x.json", units_required=False) == device
    with pytest.raises(HwsimError, match="has no unit"):
        validate(DeviceSpec, table, "x.toml", units_required=True)


@given(devices(), st.floats(0.01, 100.0))
@settings(max_examples=30, deadline=None)
def test_scaling_changes_one_figure_only(device: DeviceSpec, factor: float) -> None:
    text = f"device.memory.main.bandwidth=x{factor:.6f}"
    changed = apply_overrides(device, [parse_override(text, ["device"])])
    scale = float(f"{factor:.6f}")
    assert math.isclose(changed.bandwidth, device.bandwidth * scale, rel_tol=1e-12)
    same = changed.memory["main"].model_copy(update={"bandwidth": device.bandwidth})
    memory = {**changed.memory, "main": same}
    assert changed.name.startswith(device.name)  # and says that it is assumed
    own = {"memory": memory, "sources": device.sources, "name": device.name}
    assert changed.model_copy(update=own) == device
    source = changed.source_of("memory.main.bandwidth")
    assert source is not None
    assert source.kind == "assumed"


@given(systems(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_subsystem_is_a_valid_system_of_its_size(
    system: SystemSpec, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, system.num_devices))
    part, fault = attempt(lambda: system.subsystem(count))
    if part is None:
        assert "ask for" in fault
        return
    assert part.num_devices == count
    assert part.device == system.device
    assert part.subsystem(count) == part
    assert count == 1 or part.networks[-1].size >= count
    assert len(part.networks) <= len(system.networks)
    by_name = {n.name: n for n in system.networks}
    for level in part.networks:
        assert level.bandwidth <= by_name[level.name].bandwidth
        assert level.size <= by_name[level.name].size or level.size == count
    assert roundtrip(part) == part


@given(
    st.floats(1.0, 999.0),
    st.sampled_from([("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)]),
    st.sampled_from([("B/s", 1.0), ("bit/s", 0.125)]),
    st.sampled_from(["", " ", "  "]),
)
def test_quantities_mean_number_times_prefix_times_unit(
    number: float, prefix: tuple[str, float], unit: tuple[str, float], gap: str
) -> None:
    value = number * prefix[1] * unit[1]
    text = f"{number!r}{gap}{prefix[0]}{unit[0]}"
    if value < DIMENSIONS["bandwidth"].low:
        with pytest.raises(ValueError, match="outside the plausible"):
            parse_quantity(text, DIMENSIONS["bandwidth"])
    else:
        got = parse_quantity(text, DIMENSIONS["bandwidth"])
        assert math.isclose(got, value, rel_tol=1e-12)


@given(st.text(max_size=80), st.sampled_from(sorted(DIMENSIONS)))
def test_any_text_is_a_quantity_or_a_clear_error(text: str, dimension: str) -> None:
    value, fault = attempt(
        lambda: parse_quantity(text, DIMENSIONS[dimension]), ValueError
    )
    if value is None:
        assert fault
    else:
        assert DIMENSIONS[dimension].low <= value <= DIMENSIONS[dimension].high


@given(st.text(max_size=120))
@settings(deadline=None, max_examples=40)
def test_any_name_loads_or_is_one_line_of_error(name: str) -> None:
    system, fault = attempt(lambda: load_system(name))
    assert system is not None or (fault and "\n" not in fault)


@given(st.text(max_size=40))
def test_folding_twice_is_folding_once(name: str) -> None:
    assert fold(fold(name)) == fold(name)


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_override_applies_or_is_one_line_of_error(key: str, value: str) -> None:
    stack = load_stack("default-training")
    text = f"stack.{key}={value}"
    changed, fault = attempt(
        lambda: apply_overrides(stack, [parse_override(text, ["stack"])])
    )
    if changed is None:
        assert fault
        assert "\n" not in fault
    else:
        assert isinstance(changed, StackSpec)
        assert changed.sources[0].kind == "assumed"
