"""Realistic devices for the cost tests, apart from the shipped catalog."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from hwsim.specs.device import DeviceSpec

SOURCE = {"kind": "assumed", "title": "test fixture", "date": dt.date(2025, 1, 1)}


def make_device(**fields: Any) -> DeviceSpec:
    base = {
        "id": "fixture",
        "name": "Fixture",
        "vendor": "Nobody",
        "year": 2023,
        "sources": [SOURCE],
    }
    return DeviceSpec.model_validate({**base, **fields})


def h100_like() -> DeviceSpec:
    return make_device(
        kind="gpu",
        architecture="hopper",
        compute={
            "units": 132,
            "unit_kind": "SM",
            "clock": 1.83e9,
            "matrix": {"bf16": 989.4e12, "fp16": 989.4e12, "fp8": 1978.9e12},
            "vector": {"fp32": 67e12},
        },
        memory={
            "shared": {"size": 256 * 1024, "scope": "unit"},
            "l2": {"size": 50 * 2**20, "bandwidth": 7e12},
            "hbm": {"size": 80e9, "bandwidth": 3.35e12},
        },
    )


def tpu_like() -> DeviceSpec:
    return make_device(
        kind="tpu",
        architecture="tpu-v6",
        compute={
            "units": 1,
            "unit_kind": "TensorCore",
            "clock": 1.75e9,
            "matrix": {"bf16": 918e12, "int8": 1836e12},
            "vector": {"fp32": 14e12},
            "systolic": {"rows": 256, "columns": 256, "arrays": 4},
        },
        memory={
            "vmem": {"size": 128 * 2**20},
            "hbm": {"size": 32e9, "bandwidth": 1.64e12},
        },
    )


def cpu_like() -> DeviceSpec:
    return make_device(
        kind="cpu",
        architecture="x86-amx",
        compute={
            "units": 56,
            "unit_kind": "core",
            "clock": 2.0e9,
            "matrix": {"bf16": 114.7e12, "int8": 229.4e12},
            "vector": {"fp32": 7.168e12, "fp64": 3.584e12},
            "cpu": {
                "cores": 56,
                "simd_bits": 512,
                "fma_ports": 2,
                "matrix_flop_per_clock": {"bf16": 1024, "int8": 2048},
            },
        },
        memory={
            "l1": {"size": 48 * 1024, "scope": "unit"},
            "l2": {"size": 2 * 2**20, "scope": "unit"},
            "l3": {"size": 105 * 2**20},
            "ddr": {"size": 512e9, "bandwidth": 307.2e9},
        },
    )


def asic_like() -> DeviceSpec:
    return make_device(
        kind="asic",
        architecture="gaudi",
        compute={
            "units": 2,
            "unit_kind": "MME",
            "matrix": {"bf16": 432e12, "fp8": 865e12},
            "vector": {"fp32": 11e12},
        },
        memory={
            "sram": {"size": 48 * 2**20},
            "hbm": {"size": 96e9, "bandwidth": 2.46e12},
        },
    )


DEVICES = {
    "gpu": h100_like,
    "tpu": tpu_like,
    "cpu": cpu_like,
    "asic": asic_like,
}


@pytest.fixture(params=sorted(DEVICES))
def any_device(request: pytest.FixtureRequest) -> DeviceSpec:
    return DEVICES[request.param]()


@pytest.fixture
def gpu() -> DeviceSpec:
    return h100_like()


@pytest.fixture
def tpu() -> DeviceSpec:
    return tpu_like()


@pytest.fixture
def cpu() -> DeviceSpec:
    return cpu_like()
