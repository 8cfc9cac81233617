"""Calibrating one device: 20,000 rows within three minutes on two cores."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import hwsim

ROWS = 4_000  # a fifth of what a device is calibrated from
LIMIT_S = 36.0  # a fifth of three minutes, on one core


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return products whose times are a roofline's, with noise."""
    rng = np.random.default_rng(7)
    sides = 2 ** rng.integers(7, 15, (ROWS, 3))
    m, n, k = sides.T
    flop, nbytes = 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n)
    seconds = 3e-6 + np.maximum(flop / 7e14, nbytes / 2.8e12)
    micros = 1e6 * seconds * np.exp(rng.normal(0.0, 0.05, ROWS))
    lines = ["source,device,op,dtype,m,n,k,latency_us"]
    lines += [
        f"synthetic,h100,linear,bf16,{a},{b},{c},{t:.4f}"
        for a, b, c, t in zip(m, n, k, micros, strict=True)
    ]
    path = tmp_path_factory.mktemp("rows") / "gemm.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_fifth_of_a_device_is_calibrated_in_a_fifth_of_three_minutes(
    table: Path,
) -> None:
    started = time.process_time()
    result = hwsim.calibrate("h100", [table])
    spent = time.process_time() - started
    fit = result.file.families["gemm"]
    assert sum(data.rows for data in fit.data) == ROWS
    assert fit.held_out is not None
    assert fit.held_out.median_ape < 0.10
    assert spent <= LIMIT_S
