"""Routed experts as grouped library products."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.cost.expert_products import expert_products_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.specs.calibration import calibration_for
from hwsim.specs.catalogs import load_device

DEVICE = load_device("h100-80gb-sxm")
CALIBRATION = calibration_for(DEVICE, "structured")
TOKENS, FFN, HIDDEN = 65536.0, 2048, 4096


def cost(**options: Any) -> float:
    settings = {"experts": 64, "topk": 8, "ep": 8} | options
    return float(
        expert_products_cost(
            TOKENS, FFN, HIDDEN, device=DEVICE, calibration=CALIBRATION, dtype="bf16",
            **settings,
        ).time
    )  # fmt: skip


def test_it_is_the_products_and_the_activation() -> None:
    rows = TOKENS * 8 / 64

    def product(m: float, n: float, k: float) -> float:
        return float(
            matmul_cost(
                m, n, k, batch=8, device=DEVICE, calibration=CALIBRATION, dtype="bf16"
            ).time
        )

    products = product(rows, 2 * FFN, HIDDEN) + product(rows, HIDDEN, FFN)
    assert products < cost() < 1.4 * products


def test_ranks_share_the_work() -> None:
    assert cost(ep=16) == pytest.approx(cost() / 2, rel=0.1)
    assert cost(ep=8, tp=2) == pytest.approx(cost() / 2, rel=0.25)


def test_backward_is_twice_forward() -> None:
    assert cost(backward=True) == pytest.approx(2 * cost(), rel=0.15)


def test_a_plain_block_has_less_to_do() -> None:
    assert cost(gated=False) == pytest.approx(cost() * 2 / 3, rel=0.1)


def test_rows_of_other_ranks_cost_nothing_once_exchanged() -> None:
    def fused(exchanged: bool, ep: int) -> float:
        return float(
            moe_ffn_cost(
                TOKENS * ep / 8, FFN, HIDDEN, experts=64, topk=8, ep=ep, device=DEVICE,
                calibration=CALIBRATION, dtype="bf16", exchanged=exchanged,
            ).time
        )  # fmt: skip

    assert fused(True, 8) < fused(False, 8)
    # The same rows on each rank, of ever more ranks.
    assert fused(True, 64) == pytest.approx(fused(True, 8), rel=0.35)


def test_experts_one_by_one_cost_their_tails_and_casts() -> None:
    long = {"sustained_flop": 1e15}
    together, apart = cost(**long), cost(each=True, **long)
    assert together <= apart < 1.6 * together


def test_narrow_inputs_are_cast_along_rows_and_columns() -> None:
    def narrow(each: bool) -> float:
        return float(
            expert_products_cost(
                TOKENS, FFN, HIDDEN, experts=8, topk=8, ep=8, device=DEVICE,
                calibration=CALIBRATION, dtype="fp8", each=each,
            ).time
        )  # fmt: skip

    # One expert a rank: the casts alone are apart, two bytes read, two written.
    values = TOKENS * (HIDDEN + FFN)
    added = narrow(True) - narrow(False)
    assert added == pytest.approx(4 * values / (DEVICE.bandwidth * 0.9), rel=0.2)
