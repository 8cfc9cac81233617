"""Models on unlike devices against answers for one kind, and bounds."""

import math

import pytest

import hwsim
from hwsim.errors import InputError

MODEL = "llama-3.1-8b"


@pytest.fixture(scope="module")
def alone():
    return {
        name: hwsim.infer(MODEL, name, batch=8, engine="closed_form")
        for name in ("h100", "a100")
    }


def test_one_place_is_what_infer_answers(alone):
    found = hwsim.mixed(MODEL, "h100", batch=8)
    single = alone["h100"]
    assert found.latency_s == pytest.approx(single.latency_s, rel=1e-9)
    assert found.ttft_s == pytest.approx(single.ttft_s, rel=1e-9)
    (stage,) = found.stages
    assert stage.memory.needed == pytest.approx(single.memory.needed)
    assert found.parts == pytest.approx(single.parts)


def test_phases_are_those_of_their_devices(alone):
    found = hwsim.mixed(MODEL, prefill="h100", decode="a100", batch=8, link=100e9)
    assert found.ttft_s == pytest.approx(alone["h100"].ttft_s, rel=1e-9)
    assert found.tpot_s == pytest.approx(alone["a100"].tpot_s, rel=1e-9)
    # 32 layers, 8 heads of 128, keys and values in 16 bit, 1,024 tokens of 8.
    kv = 32 * 8 * 128 * 2 * 2 * 1024 * 8
    assert found.handover_s == pytest.approx(kv / 100e9 + 5e-6)


def test_stages_share_layers_and_add_up(alone):
    found = hwsim.mixed(MODEL, ["h100", "a100"], batch=8)
    (a, b) = found.stages
    assert a.place.layers[0] == 0
    assert a.place.layers[1] == b.place.layers[0]
    assert b.place.layers[1] == 32
    assert a.place.layers[1] > 16  # the faster device holds more
    assert found.tpot_s < alone["a100"].tpot_s
    assert found.tpot_s > alone["h100"].tpot_s
    assert math.fsum(found.parts.values()) == pytest.approx(found.latency_s)


def test_no_other_split_has_a_faster_slowest_stage():
    def slowest(layers):
        stages = [
            {"system": "h100", "layers": layers},
            {"system": "a100", "layers": 32 - layers},
        ]
        found = hwsim.mixed(MODEL, stages, batch=8)
        return max(s.decode.time_s for s in found.stages)

    chosen = hwsim.mixed(MODEL, ["h100", "a100"], batch=8).stages[0].place.layers[1]
    best = min(range(14, 30), key=slowest)
    assert slowest(chosen) <= slowest(best) * 1.02


def test_small_devices_hold_what_they_can():
    found = hwsim.mixed("llama-3.1-8b", ["l4", "h100"], batch=1)
    assert found.fits
    with pytest.raises(InputError, match="no split of llama"):
        hwsim.mixed("llama-3.1-70b", ["l4", "l4"])


def test_cache_on_a_host_frees_the_device_and_takes_time():
    there = hwsim.mixed(MODEL, "l4", kv_host="xeon-8488c", batch=32)
    here = hwsim.mixed(MODEL, "l4", batch=32)
    assert not here.fits
    assert there.fits
    assert there.host_bytes == pytest.approx(
        here.stages[0].memory.needed - there.stages[0].memory.needed
    )
    assert there.parts["host"] > 0


def test_a_faster_host_is_never_slower():
    slow = hwsim.mixed(MODEL, "l4", kv_host="xeon-8488c", batch=8)
    device = hwsim.load_device(
        "xeon-8488c", overrides=["device.memory.main.bandwidth=x2"]
    )
    fast = hwsim.mixed(MODEL, "l4", kv_host=device, batch=8)
    assert fast.tpot_s < slow.tpot_s


def test_embedding_on_a_host_frees_its_table():
    here, there = (
        hwsim.mixed(MODEL, "h100", embedding_host=host) for host in (None, "xeon-8488c")
    )
    table = 128256 * 4096 * 2
    freed = here.stages[0].memory.needed - there.stages[0].memory.needed
    assert freed == pytest.approx(table)
    assert there.host_bytes == pytest.approx(table)
    tied = hwsim.mixed("gemma-2-2b", "h100", embedding_host="xeon-8488c")
    assert tied.host_bytes == 0  # the head needs the table where it is


def test_saved_answer_loads(tmp_path):
    found = hwsim.mixed(MODEL, ["h100", "a100"])
    place = tmp_path / "mixed.json"
    place.write_text(found.saved_text())
    assert hwsim.load_result(place).latency_s == found.latency_s


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give stages, or both"),
        ({"stages": "h100", "decode": "a100"}, "give stages, or both"),
        ({"prefill": "h100"}, "give stages, or both"),
        ({"stages": [{"system": "h100", "layer": 3}]}, "'layer' is unknown"),
        ({"stages": [{"system": "h100", "layers": 3}]}, "hold 3 layers"),
        ({"stages": [{"system": "h100", "layers": 16}, "a100"]}, "for every stage"),
        ({"stages": "h100", "link": 0.0}, "link is 0"),
        ({"stages": "h100", "dtype": "fp8", "kv_host": "xeon-8488c"}, "fp8"),
        ({"stages": "h100", "prompt": 10**7}, "prompt"),
        ({"stages": [{"system": "h100", "tp": 2}]}, "2 devices"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        hwsim.mixed(MODEL, **arguments)


def test_only_decoders_are_mixed():
    with pytest.raises(InputError, match="no decoder"):
        hwsim.mixed("bert-base", "h100", prompt=128)
