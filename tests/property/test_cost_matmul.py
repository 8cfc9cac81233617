"""Laws of matrix products and memory-bound kernels on every kind of device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.roofline import roofline_cost
from hwsim.specs.base import DTYPE_BYTES, Spec, iter_figures
from hwsim.specs.calibration import Calibration, calibration_for
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec

DEVICES = (
    "a100-80gb-sxm", "h100-80gb-sxm", "b200-sxm", "l40s", "p100-sxm2-16gb", "mi300x",
    "tpu-v4", "tpu-v6e", "gaudi2", "xeon-platinum-8480+", "epyc-7763", "alveo-u280",
)  # fmt: skip
RATES = {"bandwidth", "rate", "frequency"}

sizes = st.integers(1, 60_000) | st.sampled_from([1, 16, 128, 1024, 4096, 16384])
shapes = st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=8)
shares = st.sampled_from([0.0, 0.3, 1.0])
common = settings(max_examples=25, deadline=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[DeviceSpec, Calibration, dict[str, Any]]:
    device = load_device(draw(st.sampled_from(DEVICES)))
    m, n, k = np.array(draw(shapes), dtype=float).T
    known = [*device.compute.matrix, *device.compute.vector]
    work = {
        "m": m,
        "n": n,
        "k": k,
        "dtype": draw(st.sampled_from(known)),
        "batch": draw(st.sampled_from([1, 3, 40])),
        "resident": draw(shares),
        "b_bytes": draw(st.sampled_from([None, 0.5, 2.0])),
    }
    return device, calibration_for(device), work


def times(
    device: DeviceSpec, calibration: Calibration, work: dict[str, Any]
) -> np.ndarray:
    return matmul_cost(**work, device=device, calibration=calibration).time


def scaled(spec: Any, factor: float, only: str = "") -> Any:
    """Return a spec with rates times factor and times divided by it."""
    table = spec.model_dump()
    for path, value, dimension in iter_figures(spec):
        name = dimension.name if dimension else ""
        power = 1 if name in RATES else -1 if name == "time" else 0
        if power and path.startswith(only):
            _put(table, path, value * factor**power)
    return type(spec).model_validate(table)


def _put(table: Any, path: str, value: float) -> None:
    *holders, last = path.split(".")
    for key in holders:
        table = table[key]
    table[last] = value


def roofline(device: DeviceSpec, work: dict[str, Any]) -> np.ndarray:
    m, n, k, batch = work["m"], work["n"], work["k"], work["batch"]
    width = DTYPE_BYTES[work["dtype"]]
    narrow = width if work["b_bytes"] is None else work["b_bytes"]
    nbytes = (m * k * width + k * n * narrow + m * n * width) * batch
    traffic = {device.main_memory_name: nbytes * (1 - work["resident"])}
    if device.cache is not None:
        name = next(n for n, v in device.memory.items() if v is device.cache)
        traffic[name] = nbytes * work["resident"]
    flop = 2 * m * n * k * batch
    return roofline_cost(flop, traffic, device=device, dtype=work["dtype"]).time


@common
@given(cases())
def test_nothing_beats_the_roofline(
    case: tuple[DeviceSpec, Calibration, dict[str, Any]],
) -> None:
    device, calibration, work = case
    assert np.all(
        times(device, calibration, work) >= roofline(device, work) * (1 - 1e-9)
    )


@common
@given(cases(), st.floats(1.1, 5.0))
def test_all_rates_scale_time(
    case: tuple[DeviceSpec, Calibration, dict[str, Any]], factor: float
) -> None:
    device, calibration, work = case
    before = times(device, calibration, work)
    after = times(scaled(device, factor), scaled(calibration, factor), work)
    np.testing.assert_allclose(after, before / factor, rtol=1e-9)


def _faster(device: DeviceSpec, what: str) -> DeviceSpec:
    if what == "size":
        table = device.model_dump()
        for level in table["memory"].values():
            level["size"] *= 3
        return DeviceSpec.model_validate(table)
    spec: Spec = scaled(device, 1.7, what)
    assert isinstance(spec, DeviceSpec)
    return spec


@common
@given(cases(), st.sampled_from(["compute", "memory", "size"]))
def test_no_faster_figure_slows_a_product(
    case: tuple[DeviceSpec, Calibration, dict[str, Any]], what: str
) -> None:
    device, calibration, work = case
    before = times(device, calibration, work)
    after = times(_faster(device, what), calibration, work)
    assert np.all(after <= before * (1 + 1e-9))


@pytest.mark.parametrize("name", DEVICES)
def test_no_single_peak_slows_a_product(name: str) -> None:
    device = load_device(name)
    if device.compute.cpu is not None:
        paths = ["memory"]  # a CPU's peaks follow from its clock: one figure
    else:
        paths = [
            f"compute.{unit}.{dtype}"
            for unit in ("matrix", "vector")
            for dtype in getattr(device.compute, unit)
        ]
    calibration = calibration_for(device)
    m = np.array([1.0, 7, 64, 300, 5000])
    dtype = device.dtypes[0]
    work = {"m": m, "n": 4096.0, "k": 4097.0, "dtype": dtype, "b_bytes": 0.5}
    before = times(device, calibration, work)
    for path in paths:
        after = times(scaled(device, 2.0, path), calibration, work)
        assert np.all(after <= before * (1 + 1e-9)), path


amounts = st.lists(st.floats(0, 1e12), min_size=1, max_size=6)


@common
@given(st.sampled_from(DEVICES), amounts, st.floats(0, 1e12), shares)
def test_memory_bound_kernels_obey_the_same_laws(
    name: str, nbytes: list[float], flop: float, resident: float
) -> None:
    device = load_device(name)
    calibration = calibration_for(device)

    def run(spec: DeviceSpec, parameters: Calibration) -> np.ndarray:
        return elementwise_cost(
            nbytes, flop, device=spec, calibration=parameters, resident=resident
        ).time

    before = run(device, calibration)
    main = np.asarray(nbytes) * (1 - resident)
    least = roofline_cost(flop, main, device=device, dtype="fp32", unit="vector").time
    assert np.all(before >= least * (1 - 1e-9))
    after = run(scaled(device, 4.0), scaled(calibration, 4.0))
    np.testing.assert_allclose(after, before / 4.0, rtol=1e-9)
    for what in ("compute", "memory"):
        assert np.all(run(_faster(device, what), calibration) <= before * (1 + 1e-9))
