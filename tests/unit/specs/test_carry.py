"""Parameters of one device on another: by figures of their specs."""

from __future__ import annotations

import pytest

from hwsim.specs.calibration import calibration_for
from hwsim.specs.carry import RULES, Traits, carried_value, carried_values, traits
from hwsim.specs.catalogs import load_device


def test_a_device_keeps_what_was_measured_on_it() -> None:
    own = traits(load_device("l40s"))
    values = {path: 0.5 for rule in RULES for path in rule.paths}
    kept = carried_values(values, own, own)
    for rule in RULES:
        for path in rule.paths:
            assert kept[path] == max(0.5, rule.lower)


def test_floors_go_with_the_gap_between_kernels_of_a_graph() -> None:
    a100, a40 = load_device("a100-80gb-sxm"), load_device("a40")
    assert a100.launch is not None
    assert a40.launch is not None
    ratio = a40.launch.graph / a100.launch.graph
    there = calibration_for(a100).attention.decode.start_time
    here = calibration_for(a40).attention.decode.start_time
    assert here == pytest.approx(ratio * there)


def test_a_lower_power_limit_lowers_sustained_clocks_of_the_same_chip() -> None:
    pcie = calibration_for(load_device("h100-80gb-pcie")).matmul.sustained_derate
    sxm = calibration_for(load_device("h100-80gb-sxm")).matmul.sustained_derate
    assert pcie > sxm


def test_what_one_unit_draws_is_a_larger_share_of_a_slower_memory() -> None:
    """The same bytes per clock and unit, over 864 GB/s rather than 2,039 GB/s."""
    a100, a40 = load_device("a100-80gb-sxm"), load_device("a40")
    here = calibration_for(a40).attention.decode.unit_bandwidth_ratio
    there = calibration_for(a100).attention.decode.unit_bandwidth_ratio

    def per_clock(ratio: float, device: str) -> float:
        spec = load_device(device)
        assert spec.compute.clock is not None
        return ratio * spec.bandwidth / spec.compute.units / spec.compute.clock

    assert per_clock(here, a40.id) == pytest.approx(per_clock(there, a100.id))


def test_a_share_of_the_cache_bandwidth_stays_a_share() -> None:
    narrow, wide = Traits(draw_from_cache=1.0), Traits(draw_from_cache=100.0)
    path = "elementwise.cache_efficiency"
    assert carried_value(path, 0.65, narrow, wide) == 1.0
    assert carried_value(path, 0.65, wide, wide) == 0.65


def test_an_unknown_figure_changes_nothing() -> None:
    assert carried_value("matmul.overhead", 2e-6, Traits(), Traits(launch=1e-6)) == 2e-6
    assert carried_value("matmul.overlap", 3.0, Traits(launch=1.0), Traits()) == 3.0


def test_every_rule_names_a_parameter_of_a_gpu() -> None:
    found = calibration_for(load_device("h100-80gb-sxm"))
    for rule in RULES:
        for path in rule.paths:
            holder: object = found
            for key in path.split("."):
                holder = getattr(holder, key)
            assert isinstance(holder, float), path


def test_other_kinds_of_devices_have_no_figures_to_go_with() -> None:
    assert traits(load_device("tpu-v5e")) == Traits()
