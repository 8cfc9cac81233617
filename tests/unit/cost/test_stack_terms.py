"""What a software stack changes in the cost of a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.cost import combine
from hwsim.cost.evaluate import cost_op
from hwsim.cost.stack_terms import (
    alignment_rate,
    attention_rate,
    collective_by,
    derated,
    inner_dtype,
    product_by,
    stored_rate,
)
from hwsim.graph.op import Matmul
from hwsim.specs.calibration import calibration_for
from hwsim.specs.catalogs import load_device, load_stack, load_system
from hwsim.specs.stack import LaunchPolicy, StackSpec

PLAIN = load_stack("default-inference")


def changed(**fields: object) -> StackSpec:
    return PLAIN.model_copy(update=fields)


def cost():
    return combine(
        compute=np.array([8e-6]), levels={"hbm": np.array([2e-6])}, overhead=1e-6,
    )  # fmt: skip


def test_one_scale_per_tensor_speeds_arithmetic_of_narrow_products_alone() -> None:
    fast, base = changed(tensor_scales=1.25), cost()
    narrow = product_by(base, fast, "fp8")
    assert narrow.compute == pytest.approx(base.compute / 1.25)
    assert narrow.time == pytest.approx(base.time - base.compute * 0.2)
    assert product_by(base, fast, "bf16").time == pytest.approx(base.time)
    assert narrow.overhead == pytest.approx(base.overhead)


def test_parts_of_a_product_follow_each_other() -> None:
    system, stack = load_system("dgx-h100"), load_stack("nemo")

    def product(rows: int, parts: int = 1) -> Matmul:
        return Matmul(
            name="p", dtype="bf16", m=rows, n=2304, k=16384, parts=parts,
            a_bytes=2, b_bytes=2, c_bytes=2, reads=(), writes=(),
        )  # fmt: skip

    whole, cut, one = (
        cost_op(op, system, stack)
        for op in (product(4096), product(4096, 8), product(512))
    )
    assert cut.time == pytest.approx(8 * one.time)
    assert cut.overhead == pytest.approx(8 * one.overhead)
    assert cut.time > whole.time


def test_derate_leaves_the_start_alone() -> None:
    base, slow = cost(), derated(cost(), 0.5)
    assert slow.time - slow.overhead == pytest.approx(2 * (base.time - base.overhead))
    assert slow.overhead == pytest.approx(base.overhead)


def test_an_older_library_makes_each_collective_longer() -> None:
    late = changed(launch=LaunchPolicy(collective=30e-6))
    assert collective_by(cost(), late).time == pytest.approx(cost().time + 30e-6)
    assert collective_by(cost(), PLAIN).time == pytest.approx(cost().time)


@pytest.mark.parametrize(
    ("device", "dtype", "kept"),
    [
        ("t4", "bf16", "fp16"), ("t4", "fp16", "fp16"), ("h20", "bf16", "bf16"),
        ("xeon-8375c", "bf16", "fp32"), ("t4", "fp8", "fp8"),
    ],
)  # fmt: skip
def test_activations_follow_what_the_device_has(
    device: str, dtype: str, kept: str
) -> None:
    assert inner_dtype(load_device(device), dtype) == kept


@pytest.mark.parametrize(
    ("stack", "device", "rate"),
    [
        ("pytorch-fsdp", "h100-80gb-sxm", 0.6),
        ("pytorch-fsdp", "a100-80gb-sxm", 1.0),
        ("llm-foundry-2023", "h100-80gb-sxm", 0.58 * 0.6),
        ("llm-foundry-2023", "a100-80gb-sxm", 0.58),
        ("nemo", "h100-80gb-sxm", 1.0),
    ],
)
def test_attention_kernels_of_an_earlier_architecture(
    stack: str, device: str, rate: float
) -> None:
    found = attention_rate(load_stack(stack), load_device(device))
    assert found == pytest.approx(rate)


@pytest.mark.parametrize(
    ("device", "stack", "rates"),
    [
        # (narrow weights, 16-bit weights) of many rows.
        ("a100-80gb-sxm", "llama-cpp-graph", (0.5, 1.0)),
        ("rtx-4090", "llama-cpp-graph", (1.0, 1.5)),
        ("rtx-4090", "llama-cpp", (1.0, 1.5)),
        ("m2-ultra", "llama-cpp-graph", (1.0, 1.0)),
        ("h100-80gb-sxm", "vllm", (1.0, 1.0)),
    ],
)
def test_rates_by_storage(device: str, stack: str, rates: tuple[float, float]) -> None:
    spec = load_device(device)
    found = stored_rate(
        load_stack(stack), spec, calibration_for(spec, "auto"), "fp16",
        np.array([512.0, 512.0, 1.0, 1.0]), np.array([0.6, 2.0, 0.6, 2.0]),
    )  # fmt: skip
    assert found == pytest.approx([*rates, 1.0, 1.0], rel=2e-3)


def test_rows_that_begin_at_odd_bytes_slow_matrix_units_alone() -> None:
    device = load_device("a100-80gb-sxm")
    calibration = calibration_for(device, "structured")
    begins = np.array([32.0, 16.0, 8.0, 6.0, 4.0, 2.0])
    rate = alignment_rate(device, calibration, "fp16", begins)
    table = dict(calibration.matmul.unaligned)
    expected = [1.0, 1.0, table[8.0], table[8.0], table[4.0], table[2.0]]
    assert rate.tolist() == expected
    assert np.all(np.diff(rate) <= 0)
    on_vector = load_device("p100-sxm2-16gb")
    assert np.all(alignment_rate(on_vector, calibration, "fp16", begins) == 1.0)


def test_an_unaligned_product_takes_longer_by_its_arithmetic() -> None:
    system, stack = load_system("dgx-a100-80gb"), load_stack("pytorch-eager")

    def product(alignment: float) -> Matmul:
        return Matmul(
            name="p", dtype="bf16", m=8192, n=50257, k=2048, alignment=alignment,
            a_bytes=2, b_bytes=2, c_bytes=2, reads=(), writes=(),
        )  # fmt: skip

    aligned, odd = (cost_op(product(a), system, stack) for a in (16.0, 2.0))
    assert odd.time - aligned.time == pytest.approx(odd.compute - aligned.compute)
    assert 2.0 < odd.time / aligned.time < 3.0
