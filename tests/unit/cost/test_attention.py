import numpy as np
import pytest

from hwsim.cost.attention import decode_attention_cost, prefill_attention_cost
from hwsim.specs.calibration import GENERATIONS, Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec

SOURCES = [{"kind": "assumed", "title": "test", "date": "2025-01-01"}]
PEAK, BANDWIDTH, UNITS = 1e15, 2e12, 100


def make_device(**changes):
    fields = {
        "id": "toy",
        "name": "Toy",
        "sources": SOURCES,
        "kind": "gpu",
        "vendor": "x",
        "architecture": "gpu",
        "year": 2024,
        "compute": {
            "units": UNITS,
            "unit_kind": "SM",
            "clock": 1e9,
            "matrix": {"bf16": PEAK, "fp8": 2 * PEAK},
        },
        "memory": {
            "l2": {"size": 40e6, "bandwidth": 5e12},
            "hbm": {"size": 80e9, "bandwidth": BANDWIDTH},
        },
    }
    return DeviceSpec(**{**fields, **changes})


@pytest.fixture(scope="module")
def device():
    return make_device()


@pytest.fixture(scope="module")
def boundless():
    """A device whose memory never binds."""
    return make_device(memory={"hbm": {"size": 80e9, "bandwidth": 1e16}})


@pytest.fixture(scope="module")
def calibration():
    return load_spec(GENERATIONS, Calibration, "gpu")


def with_attention(calibration, prefill=None, decode=None):
    attention = calibration.attention
    return calibration.model_copy(
        update={
            "attention": attention.model_copy(
                update={
                    "prefill": attention.prefill.model_copy(update=prefill or {}),
                    "decode": attention.decode.model_copy(update=decode or {}),
                }
            )
        }
    )


@pytest.fixture(scope="module")
def ideal(calibration):
    """Nothing but matrix work and bytes."""
    return with_attention(
        calibration,
        prefill={
            "start_time": 0.0,
            "token_time": 0.0,
            "block_time": 0.0,
            "tile_rows": 1,
            "tile_columns": 1,
            "packs_groups": False,
            "matrix_efficiency": 1.0,
            "exponentials_per_clock": 1e6,
            "wave_quantization": 0.0,
            "longest_block_ratio": 1e-6,
            "memory_efficiency": 1.0,
            "memory_overlap": 1e3,
            "overlap": 64.0,
        },
        decode={
            "start_time": 0.0,
            "fill_time": 0.0,
            "sequence_time": 0.0,
            "unit_time": 0.0,
            "split_time": 0.0,
            "split_tokens": 1,
            "max_splits": 1e6,
            "splits_ungrouped": True,
            "regroups_heads": False,
            "row_padding": 1,
            "memory_efficiency": 1.0,
            "unit_bandwidth_ratio": 1.0,
            "matrix_efficiency": 1.0,
            "overlap": 1e3,
        },
    )


def parts(cost):
    return cost.compute + cost.memory + cost.interconnect + cost.overhead


def test_parts_add_up_and_shapes_broadcast(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    lengths = np.array([1, 17, 512, 4096])
    prefill = prefill_attention_cost(
        np.array([[1], [8]]), 32, 8, 128, lengths, lengths, **use
    )
    decode = decode_attention_cost(np.array([[1], [8]]), 32, 8, 128, lengths, **use)
    for cost in (prefill, decode):
        assert cost.time.shape == (2, 4)
        np.testing.assert_allclose(parts(cost), cost.time, rtol=1e-12)
        assert (np.diff(cost.time, axis=1) >= 0).all()


def test_arrays_equal_scalars(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    lengths = np.array([1, 100, 3000])
    whole = prefill_attention_cost(2, 16, 4, 64, lengths, 3000, window=0, **use)
    each = [
        prefill_attention_cost(2, 16, 4, 64, s, 3000, window=0, **use).time
        for s in lengths
    ]
    np.testing.assert_allclose(whole.time, each, rtol=1e-12)


def test_ideal_causal_prefill_is_half_of_full(boundless, ideal):
    use = {
        "device": boundless,
        "calibration": ideal,
        "dtype": "bf16",
        "write_kv": False,
    }
    s, h, d = 4096, 32, 128
    causal = prefill_attention_cost(4, h, h, d, s, s, **use).compute
    full = prefill_attention_cost(4, h, h, d, s, s, causal=False, **use).compute
    assert full == pytest.approx(4 * 4 * h * s * s * d / PEAK, rel=1e-3)
    assert causal / full == pytest.approx(0.5 * (s + 1) / s, rel=1e-6)


def test_chunks_with_history_add_up_to_the_whole(boundless, ideal):
    use = {
        "device": boundless,
        "calibration": ideal,
        "dtype": "bf16",
        "write_kv": False,
    }
    whole = prefill_attention_cost(4, 32, 32, 128, 4096, 4096, **use).compute
    chunks = prefill_attention_cost(
        4, 32, 32, 128, 1024, np.array([1024, 2048, 3072, 4096]), **use
    ).compute
    assert chunks.sum() == pytest.approx(whole, rel=1e-6)


def test_window_visits_window_keys_only(boundless, ideal):
    use = {
        "device": boundless,
        "calibration": ideal,
        "dtype": "bf16",
        "write_kv": False,
    }
    full = prefill_attention_cost(1, 8, 8, 128, 8192, 8192, causal=False, **use)
    wide = prefill_attention_cost(1, 8, 8, 128, 8192, 8192, window=8192, **use)
    none = prefill_attention_cost(1, 8, 8, 128, 8192, 8192, **use)
    narrow = prefill_attention_cost(1, 8, 8, 128, 8192, 8192, window=512, **use)
    np.testing.assert_allclose(wide.time, none.time)
    keys = 512 + 1 - 512 * 512 / 2 / 8192
    assert narrow.compute / full.compute == pytest.approx(keys / 8192, rel=0.01)


def test_one_new_token_is_a_decode_step(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    one = prefill_attention_cost(8, 32, 8, 128, 1, 2048, **use)
    decode = decode_attention_cost(8, 32, 8, 128, 2048, **use)
    np.testing.assert_array_equal(one.time, decode.time)


def test_backward_is_a_multiple_of_forward(boundless, ideal):
    use = {
        "device": boundless,
        "calibration": ideal,
        "dtype": "bf16",
        "write_kv": False,
    }
    forward = prefill_attention_cost(4, 32, 32, 128, 4096, 4096, **use)
    backward = prefill_attention_cost(4, 32, 32, 128, 4096, 4096, backward=True, **use)
    p = ideal.attention.prefill
    expected = p.backward_flop_ratio / p.backward_efficiency
    assert backward.compute / forward.compute == pytest.approx(expected, rel=1e-3)


def test_writing_the_cache_costs_time(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    shape = (8, 32, 8, 128, 2048, 2048)
    written = prefill_attention_cost(*shape, **use)
    kept = prefill_attention_cost(*shape, write_kv=False, **use)
    assert written.time > kept.time


def test_prefill_never_beats_the_roofline(device, calibration):
    b, h, s, d = np.meshgrid([1, 64], [1, 32], [1, 100, 5000], [64, 128, 256])
    cost = prefill_attention_cost(
        b, h, h, d, s, s, device=device, calibration=calibration, dtype="bf16"
    )
    flop = 4 * b * h * d * (s * (s + 1) / 2)
    nbytes = 2 * 4 * b * h * s * d
    assert (cost.time >= flop / PEAK).all()
    assert (cost.time >= nbytes / BANDWIDTH).all()


def test_systolic_arrays_pad_the_head(ideal):
    compute = {
        "units": UNITS,
        "unit_kind": "MXU",
        "matrix": {"bf16": PEAK},
        "systolic": {"rows": 128, "columns": 128, "arrays": 4},
    }
    tpu = make_device(compute=compute)
    use = {"device": tpu, "calibration": ideal, "dtype": "bf16", "write_kv": False}
    narrow = prefill_attention_cost(1, 8, 8, 64, 4096, 4096, **use)
    wide = prefill_attention_cost(1, 8, 8, 128, 4096, 4096, **use)
    np.testing.assert_allclose(narrow.compute, wide.compute)


def test_ideal_decode_is_the_bytes_over_the_bandwidth(device, ideal):
    use = {"device": device, "calibration": ideal, "dtype": "bf16"}
    b, h, g, d, s = 64, 32, 8, 128, 8192
    cost = decode_attention_cost(b, h, g, d, s, **use)
    nbytes = 2 * (b * g * s * 2 * d + b * h * 2 * d)
    assert cost.levels["hbm"] == pytest.approx(nbytes / BANDWIDTH, rel=1e-6)
    assert cost.bound() == "hbm"


def test_narrow_cache_halves_the_bytes(device, ideal):
    shape = (64, 32, 8, 128, 65536)
    use = {"device": device, "calibration": ideal}
    wide = decode_attention_cost(*shape, dtype="bf16", **use)
    narrow = decode_attention_cost(*shape, dtype="bf16", kv_dtype="fp8", **use)
    assert narrow.memory / wide.memory == pytest.approx(0.5, rel=1e-3)


def test_shared_rows_are_read_once(device, ideal):
    use = {"device": device, "calibration": ideal, "dtype": "bf16"}
    shape = (8, 1, 1, 576, 65536)
    latent = decode_attention_cost(*shape, v_head_dim=512, shared_kv=True, **use)
    plain = decode_attention_cost(*shape, v_head_dim=512, **use)
    ratio = latent.memory / plain.memory
    assert ratio == pytest.approx(576 / (576 + 512), rel=1e-3)


def test_many_heads_on_one_latent_are_compute_bound(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    cost = decode_attention_cost(
        128, 128, 1, 576, 65536, v_head_dim=512, shared_kv=True, **use
    )
    flop = 2 * 128 * 128 * (576 + 512) * 65536
    assert cost.time >= flop / PEAK


def test_window_bounds_decode(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    long = decode_attention_cost(64, 32, 8, 128, [4096, 131072], window=1024, **use)
    assert long.time[0] == long.time[1]
    short = decode_attention_cost(64, 32, 8, 128, 512, window=1024, **use)
    plain = decode_attention_cost(64, 32, 8, 128, 512, **use)
    assert short.time == plain.time


def test_resident_cache_is_read_faster(device, calibration):
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    shape = (16, 32, 8, 128, 8192)
    cold = decode_attention_cost(*shape, **use)
    warm = decode_attention_cost(*shape, resident=1.0, **use)
    assert warm.time < cold.time


def test_unsplit_single_heads_use_few_units(device, calibration):
    whole = with_attention(calibration, decode={"splits_ungrouped": True})
    unsplit = with_attention(calibration, decode={"splits_ungrouped": False})
    use = {"device": device, "dtype": "bf16"}
    alone = (1, 1, 1, 128, 65536)
    grouped = (1, 8, 1, 128, 65536)
    fast = decode_attention_cost(*alone, calibration=whole, **use).time
    slow = decode_attention_cost(*alone, calibration=unsplit, **use).time
    assert slow > 3 * fast
    np.testing.assert_array_equal(
        decode_attention_cost(*grouped, calibration=whole, **use).time,
        decode_attention_cost(*grouped, calibration=unsplit, **use).time,
    )


def test_regrouping_copies_queries(device, calibration):
    plain = with_attention(calibration, decode={"regroups_heads": False})
    copies = with_attention(
        calibration, decode={"regroups_heads": True, "regroup_time": 5e-6}
    )
    use = {"device": device, "dtype": "bf16"}
    for shape, copied in (((8, 32, 8), True), ((8, 8, 8), False), ((1, 32, 8), False)):
        a = decode_attention_cost(*shape, 128, 256, calibration=plain, **use).time
        b = decode_attention_cost(*shape, 128, 256, calibration=copies, **use).time
        assert (b >= a + 5e-6) == copied


@pytest.mark.parametrize("kind", ["gpu", "tpu", "cpu", "asic", "fpga"])
def test_every_kind_of_device_answers(kind):
    calibration = load_spec(GENERATIONS, Calibration, kind)
    device = make_device(kind=kind, architecture=kind)
    use = {"device": device, "calibration": calibration, "dtype": "bf16"}
    prefill = prefill_attention_cost(1, 32, 8, 128, 2048, 2048, **use).time
    decode = decode_attention_cost(1, 32, 8, 128, 2048, **use).time
    assert 0 < decode < prefill < 0.1


def test_fewer_keys_than_queries_without_a_mask(boundless, calibration):
    """Half of the keys of another context-parallel rank are half of the work."""

    def time(seq_q, seq_kv):
        return float(
            prefill_attention_cost(
                1, 64, 8, 128, seq_q, seq_kv, causal=False, device=boundless,
                calibration=calibration, dtype="bf16", write_kv=False,
            ).time
        )  # fmt: skip

    assert time(32768, 16384) == pytest.approx(time(32768, 32768) / 2, rel=0.02)
    assert time(32768, 16384) == pytest.approx(time(16384, 32768), rel=0.02)
