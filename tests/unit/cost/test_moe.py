import numpy as np
import pytest

from hwsim.cost.moe import moe_ffn_cost
from hwsim.specs.calibration import GENERATIONS, Calibration, with_parameters
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec

PEAK, BANDWIDTH = 1e15, 2e12


@pytest.fixture(scope="module")
def device():
    return DeviceSpec(
        id="toy",
        name="Toy",
        sources=[{"kind": "assumed", "title": "test", "date": "2025-01-01"}],
        kind="gpu",
        vendor="x",
        architecture="gpu",
        year=2024,
        compute={
            "units": 100,
            "unit_kind": "SM",
            "clock": 1e9,
            "matrix": {"bf16": PEAK, "fp8": 2 * PEAK},
        },
        memory={"hbm": {"size": 80e9, "bandwidth": BANDWIDTH}},
    )


@pytest.fixture(scope="module")
def calibration():
    return load_spec(GENERATIONS, Calibration, "gpu")


@pytest.fixture(scope="module")
def ideal(calibration):
    """Nothing but matrix work and bytes."""
    return changed(
        calibration,
        start_time=0.0,
        block_time=0.0,
        tile_rows=(1,),
        tile_columns=1,
        tile_choice="fastest",
        half_rate_rows=0.0,
        matrix_efficiency=1.0,
        unaligned_efficiency=1.0,
        wave_quantization=0.0,
        memory_efficiency=1.0,
        unit_bandwidth_ratio=1e6,
        reread_share=0.0,
        overlap=1e3,
        row_copy_efficiency=1.0,
        foreign_pair_share=0.0,
    )


def changed(calibration, **figures):
    """The same kernels, both widths, with other figures."""
    return with_parameters(
        calibration,
        {
            f"moe.kernels.{name}.{figure}": value
            for name in ("wide", "narrow")
            for figure, value in figures.items()
        },
    )


SHAPE = {"n": 2048, "k": 4096, "experts": 128, "topk": 8}


def cost_of(device, calibration, m, **changes):
    use = {**SHAPE, "dtype": "bf16", **changes}
    return moe_ffn_cost(
        m, use.pop("n"), use.pop("k"), device=device, calibration=calibration, **use
    )


def test_parts_add_up(device, calibration):
    cost = cost_of(device, calibration, np.array([1, 30, 1000, 30000]))
    total = cost.compute + cost.memory + cost.interconnect + cost.overhead
    np.testing.assert_allclose(total, cost.time, rtol=1e-12)
    assert (np.diff(cost.time) > 0).all()


def test_one_token_reads_the_weights_of_its_experts(device, ideal):
    cost = cost_of(device, ideal, 1)
    weights = 8 * 3 * 2048 * 4096 * 2
    assert cost.memory == pytest.approx(weights / BANDWIDTH, rel=0.01)
    assert cost.bound() == "hbm"


def test_many_tokens_read_every_expert_once(device, ideal):
    weights = 128 * 3 * 2048 * 4096 * 2
    few, many = cost_of(device, ideal, np.array([512, 1024])).memory
    assert few > weights / BANDWIDTH
    assert many < 1.1 * few


def test_large_batches_are_compute_bound(device, ideal):
    m = 262144
    cost = cost_of(device, ideal, m)
    assert cost.bound() == "compute"
    assert cost.compute == pytest.approx(m * 8 * 6 * 2048 * 4096 / PEAK, rel=0.01)


def test_ungated_experts_have_two_matrices(device, ideal):
    gated = cost_of(device, ideal, 262144).compute
    ungated = cost_of(device, ideal, 262144, gated=False).compute
    assert ungated / gated == pytest.approx(2 / 3, rel=0.01)


def test_sharding_experts_shares_weights_and_rows(device, ideal):
    whole = cost_of(device, ideal, 4096)
    for split in ({"tp": 4}, {"ep": 4}):
        part = cost_of(device, ideal, 4096, **split)
        # Hidden rows are not split by tensor parallelism.
        assert 0.25 <= part.time / whole.time < 0.4


def test_hot_rank_is_slower(device, calibration):
    even = cost_of(device, calibration, 65536, ep=8).time
    hot = cost_of(device, calibration, 65536, ep=8, imbalance=2.0).time
    assert even < hot < 2 * even


def test_imbalance_cannot_exceed_all_tokens(device, calibration):
    most = cost_of(device, calibration, 64, ep=16, imbalance=16.0).time
    more = cost_of(device, calibration, 64, ep=16, imbalance=1e6).time
    assert more == most


def test_uneven_routing_touches_fewer_experts(device, ideal):
    even = cost_of(device, ideal, 32).memory
    uneven = cost_of(
        device, ideal, 32, routing="power_law", routing_exponent=1.2
    ).memory
    balanced = cost_of(device, ideal, 32, routing="balanced").memory
    assert uneven < even < balanced


def test_uneven_routing_keeps_the_rows(device, ideal):
    even = cost_of(device, ideal, 262144).compute
    for exponent in (0.5, 1.0, 1.2):
        uneven = cost_of(
            device, ideal, 262144, routing="power_law", routing_exponent=exponent
        ).compute
        assert uneven == pytest.approx(even, rel=0.02)


def test_narrow_weights_are_half_the_bytes(device, ideal):
    wide = cost_of(device, ideal, 16)
    narrow = cost_of(device, ideal, 16, weight_bytes=1.0)
    assert narrow.memory / wide.memory == pytest.approx(0.5, rel=0.05)


def test_resident_weights_are_read_faster(device, calibration):
    cold = cost_of(device, calibration, 8)
    warm = cost_of(device, calibration, 8, resident=1.0)
    assert warm.time < cold.time


def test_never_beats_the_roofline(device, calibration):
    m = np.array([1, 10, 100, 1000, 10000, 100000])
    cost = cost_of(device, calibration, m)
    touched = 128 * (1 - (1 - 8 / 128) ** m)
    assert (cost.time >= touched * 3 * 2048 * 4096 * 2 / BANDWIDTH).all()
    assert (cost.time >= 6 * 8 * m * 2048 * 4096 / PEAK).all()


def test_foreign_pairs_cost_traffic_of_their_own(device, calibration):
    slots = changed(calibration, foreign_pair_share=1.0)
    compact = changed(calibration, foreign_pair_share=0.0)
    times = [cost_of(device, c, 16384, ep=32).time for c in (slots, compact)]
    assert times[0] > 1.2 * times[1]


def test_widths_that_are_no_multiple_of_16_are_slower(device, calibration):
    m = np.array([1, 64, 4096])
    odd = cost_of(device, calibration, m, n=2040).time
    assert (odd > cost_of(device, calibration, m, n=2048).time).all()


def test_weights_beyond_the_cache_are_read_again_for_further_tiles(device, ideal):
    def memory(share, m):
        tall = changed(ideal, tile_rows=(128,), reread_share=share)
        return cost_of(device, tall, m, routing="balanced").memory

    assert memory(1.0, 2048) == memory(0.0, 2048)  # one tile an expert
    assert memory(1.0, 8192) > 2 * memory(0.0, 8192)


def test_an_untuned_library_takes_its_tile_by_the_number_of_tokens(device, ideal):
    fixed = changed(ideal, tile_rows=(16, 64), tile_choice="by_tokens")
    small = changed(ideal, tile_rows=(16,))
    tall = changed(ideal, tile_rows=(64,))
    for m, same in ((128, small), (129, tall)):
        assert cost_of(device, fixed, m).time == cost_of(device, same, m).time


def test_another_library_may_have_kernels_of_its_own(device, calibration):
    kernels = calibration.moe.kernels
    slow = kernels["wide"].model_copy(update={"start_time": 1e-3})
    moe = calibration.moe.model_copy(
        update={"kernels": {**kernels, "cutlass_wide": slow}}
    )
    both = calibration.model_copy(update={"moe": moe})
    usual = cost_of(device, both, 64).time
    assert cost_of(device, both, 64, library="cutlass").time > usual + 9e-4
    assert cost_of(device, both, 64, library="unheard_of").time == usual
    assert moe.name(1.0, "cutlass") == "narrow"


def test_shapes_that_somebody_tuned_run_their_own_kernel(device, calibration):
    usual = calibration.moe.kernels["wide"]
    quick = usual.model_copy(update={"matrix_efficiency": 1.0, "start_time": 1e-6})
    kernels = {**calibration.moe.kernels, "tuned_wide": quick}
    moe = calibration.moe.model_copy(update={"kernels": kernels, "tuned": ((8, 1792),)})
    tuned = calibration.model_copy(update={"moe": moe})

    def times(with_):
        return moe_ffn_cost(
            4096.0, [14336.0, 14336.0, 3584.0], 4096.0, experts=[8.0, 8.0, 16.0],
            topk=2.0, tp=[8.0, 4.0, 2.0], ep=[1.0, 1.0, 2.0], device=device,
            calibration=with_, dtype="bf16",
        ).time  # fmt: skip

    before, after = times(calibration), times(tuned)
    assert after[0] < before[0]
    assert after[1] == before[1]  # another width on each rank
    assert after[2] < before[2]  # the same experts and width on each rank
    only = calibration.model_copy(
        update={"moe": calibration.moe.model_copy(update={"tuned": ((8, 1792),)})}
    )
    np.testing.assert_array_equal(times(only), before)


def test_kernels_start_in_as_many_clocks_on_each_device(device, calibration):
    def time(clock):
        compute = device.compute.model_copy(update={"clock": clock})
        here = device.model_copy(update={"compute": compute})
        return cost_of(here, only_start, 1.0).time

    moe = calibration.moe.model_copy(update={"reference_clock": 1e9})
    only_start = changed(
        calibration.model_copy(update={"moe": moe}), start_time=1.0, block_time=0.0
    )
    assert time(1e9) == pytest.approx(1.0, rel=1e-3)
    assert time(2e9) == pytest.approx(0.5, rel=1e-3)
