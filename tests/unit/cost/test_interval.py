import numpy as np
import pytest

from hwsim.cost.interval import (
    LogInterval,
    family_of,
    graph_interval,
    op_logs,
    quadrature,
    weighted,
)
from hwsim.graph.op import Attention, Collective, Elementwise, Matmul
from hwsim.specs.calibration import calibration_for
from hwsim.specs.calibration_file import Regime, RegimeTable, Spread
from hwsim.specs.catalogs import load_device


def spread(low, high, **regimes):
    named = {name: Regime(low=a, high=b) for name, (a, b) in regimes.items()}
    return Spread(RegimeTable(regimes={"every": Regime(low=low, high=high), **named}))


@pytest.fixture
def calibration():
    base = calibration_for(load_device("h100-80gb-sxm"))
    known = {"gemm": spread(-0.1, 0.1), "elementwise": spread(-0.2, 0.2)}
    return base.model_copy(update={"spread": known})


def matmul():
    return Matmul(
        name="p", dtype="bf16", m=8, n=8, k=8, a_bytes=2, b_bytes=2, c_bytes=2
    )


def elementwise():
    return Elementwise(name="e", dtype="bf16", numel=64, function="add")


def interval_of(ops, times, calibration, outside=None):
    time = np.array(times)
    return graph_interval(
        ops, time, np.ones(len(ops)), float(time.sum()), calibration, outside
    )


def test_every_operator_has_a_family():
    send = Collective(
        name="c", dtype="bf16", collective="all_reduce", message=8, group_size=2
    )
    decode = Attention(
        name="a", mode="decode", dtype="bf16", batch=1, heads=1, kv_heads=1,
        head_dim=64, v_head_dim=64, seq_q=1, seq_kv=8, causal=True, window=0,
        kv_dtype="bf16",
    )  # fmt: skip
    assert family_of(matmul()) == "gemm"
    assert family_of(decode) == "attention_decode"
    assert family_of(send) == "collective"
    assert family_of(elementwise()) == "elementwise"


def test_short_and_long_kernels_have_spreads_of_their_own(calibration):
    known = spread(-0.1, 0.1, **{"below 5 us": (-0.5, 0.4)})
    calibration = calibration.model_copy(update={"spread": {"gemm": known}})
    low, high = op_logs("gemm", np.array([1e-6, 1.0]), calibration)
    np.testing.assert_allclose(low, [-0.5, -0.1])
    np.testing.assert_allclose(high, [0.4, 0.1])


def test_a_family_without_spread_is_wide(calibration):
    low, high = op_logs("moe", np.array([1e-3]), calibration)
    assert high[0] > 0.5
    assert low[0] < -0.5


def test_errors_of_one_family_do_not_shrink_with_numbers(calibration):
    one = interval_of([matmul()], [1e-3], calibration)
    many = interval_of([matmul()] * 50, [1e-3] * 50, calibration)
    assert one.high == pytest.approx(0.1)
    assert many.high == pytest.approx(one.high)
    assert many.low == pytest.approx(one.low)


def test_errors_of_two_families_combine_in_quadrature(calibration):
    both = interval_of([matmul(), elementwise()], [1.0, 1.0], calibration)
    gemm = np.log1p(np.expm1(0.1) / 2), np.log1p(np.expm1(-0.1) / 2)
    other = np.log1p(np.expm1(0.2) / 2), np.log1p(np.expm1(-0.2) / 2)
    half = np.hypot(gemm[0] - gemm[1], other[0] - other[1]) / 2
    assert (both.high - both.low) / 2 == pytest.approx(half)


def test_what_operators_do_not_explain_widens(calibration):
    inside = interval_of([matmul()], [1.0], calibration)
    outside = interval_of([matmul()], [1.0], calibration, LogInterval(-0.3, 0.3))
    assert outside.high == pytest.approx(np.hypot(inside.high, 0.3), rel=0.02)
    assert outside.low < inside.low


def test_a_known_bias_moves_both_ends():
    found = quadrature([0.1], [0.3], None)
    assert 0 < found.low < found.high


def test_nothing_takes_no_time_for_sure(calibration):
    assert interval_of([], [], calibration) == LogInterval(0.0, 0.0)


def test_a_rate_is_bounded_by_the_inverse_times():
    low, high = LogInterval(-0.1, 0.3).inverse().around(10.0)
    assert low == pytest.approx(10 / np.exp(0.3))
    assert high == pytest.approx(10 / np.exp(-0.1))


def test_a_sum_lies_between_its_parts():
    narrow, wide = LogInterval(-0.1, 0.1), LogInterval(-0.5, 0.5)
    both = weighted([(narrow, 1.0), (wide, 1.0)])
    assert narrow.high < both.high < wide.high
    assert wide.low < both.low < narrow.low
    assert weighted([(narrow, 2.0), (wide, 0.0)]).high == pytest.approx(0.1)
