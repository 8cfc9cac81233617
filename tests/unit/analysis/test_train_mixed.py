"""Training over unlike stages against one kind, brute force and bounds."""

import itertools
import math

import pytest

import hwsim
from hwsim.errors import InputError

MODEL = "llama-2-7b"
FAST, SLOW = "dgx-h100-ndr-4", "dgx-a100-80gb-hdr-4"
SIZES = {"global_batch": 16, "seq": 2048, "sequence_parallel": True}


def mixed(stages, model=MODEL, **changed):
    return hwsim.train_mixed(model, stages, **{**SIZES, **changed})


def place(system, **more):
    return {"system": system, "tp": 8, **more}


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zero_bubble"])
@pytest.mark.parametrize("model", [MODEL, "gpt2"])
def test_two_places_of_one_system_are_plain_train(model, schedule):
    tp = 8 if model == MODEL else 4
    layers = hwsim.load_model(model).layers // 4
    options = {**SIZES, "seq": 1024, "schedule": schedule, "stage_layers": [layers] * 4}
    plain = hwsim.train(model, FAST, devices=8 * tp // 2, tp=tp, pp=4, dp=1, **options)
    both = [{"system": FAST, "tp": tp, "stages": 2}] * 2
    found = hwsim.train_mixed(model, both, **options)
    assert found.step_s == pytest.approx(plain.step_s, rel=1e-12)
    assert found.mfu == pytest.approx(plain.mfu, rel=1e-12)
    assert found.parts == pytest.approx(plain.parts, rel=1e-9)
    assert found.bubble_fraction == pytest.approx(plain.bubble_fraction, rel=1e-9)
    assert max(p.footprint.total for p in found.places) == plain.footprint.total
    assert found.devices == plain.config.devices


def test_data_parallel_places_of_one_system_are_plain_train():
    options = {**SIZES, "stage_layers": [16, 16], "micro_batch": 2}
    plain = hwsim.train(MODEL, FAST, devices=32, tp=8, pp=2, dp=2, **options)
    found = hwsim.train_mixed(MODEL, [place(FAST, dp=2)] * 2, **options)
    assert found.step_s == pytest.approx(plain.step_s, rel=1e-12)


def test_the_given_link_carries_what_stages_send():
    stages = [place(FAST), place(SLOW)]
    layers = [20, 12]
    message = 2048 * 4096 * 2
    slow = mixed(stages, stage_layers=layers, link=1e9, link_latency=1e-3)
    (link,) = slow.links
    assert link.transfer == pytest.approx(message / 1e9)
    assert link.fixed == 1e-3
    sends = [r for r in slow.records if r.stream == "pp"]
    assert len(sends) == 2 * 16
    assert min(r.end - r.start for r in sends) == pytest.approx(1e-3 + message / 1e9)
    fast = mixed(stages, stage_layers=layers, link=1e12, link_latency=0.0)
    assert fast.step_s < slow.step_s


def test_without_a_link_the_slower_network_carries_it():
    (link,) = mixed([place(FAST), place(SLOW)]).links
    assert "dgx-a100-80gb-hdr-4" in link.basis
    (turned,) = mixed([place(SLOW), place(FAST)]).links
    assert turned.basis == link.basis
    (none,) = mixed([place("dgx-h100"), place("dgx-a100-80gb")]).links
    assert none.basis == "assumed"
    assert none.bandwidth == pytest.approx(50e9)


def test_layers_are_shared_out_about_as_well_as_can_be():
    stages = [place(FAST), place(SLOW)]
    chosen = mixed(stages)
    counts = [len(part) for p in chosen.places for part in p.layers]
    assert sum(counts) == 32
    assert counts[0] > counts[1]  # the faster devices hold more
    best = min(mixed(stages, stage_layers=[k, 32 - k]).step_s for k in range(16, 30))
    assert chosen.step_s <= best * 1.01


def test_a_system_named_twice_is_two_of_it_unless_it_holds_both():
    one = mixed([place("dgx-h100")] * 2)
    assert one.devices == 16
    assert one.links[0].basis == "assumed"
    assert "infiniband" in mixed([place(FAST)] * 2).links[0].basis


def test_three_stages_are_no_slower_than_any_neighbouring_split():
    stages = [place(SLOW), place(FAST), place(SLOW)]
    chosen = mixed(stages)
    counts = [len(part) for p in chosen.places for part in p.layers]
    for a, b in itertools.permutations(range(3), 2):
        moved = list(counts)
        moved[a] -= 1
        moved[b] += 1
        other = mixed(stages, stage_layers=moved)
        assert chosen.step_s <= other.step_s * 1.005


def test_memory_bounds_how_many_layers_a_stage_gets():
    # As fast as each other; by time alone each would hold a third.
    stages = ["a100-40gb-sxm", "a100-80gb-sxm", "a100-80gb-sxm"]
    options = {"sequence_parallel": False, "seq": 512}
    even = mixed(stages, stage_layers=[11, 11, 10], **options)
    assert not even.fits
    found = mixed(stages, **options)
    assert found.fits
    counts = [len(part) for p in found.places for part in p.layers]
    assert counts[0] < 11
    one_more = [counts[0] + 1, counts[1], counts[2] - 1]
    assert not mixed(stages, stage_layers=one_more, **options).fits
    with pytest.raises(InputError, match="no split of"):
        mixed([{"system": "rtx-4090"}] * 2, "llama-2-13b", **options)


def test_ranks_take_their_share_of_a_pass():
    stages = [place(FAST, dp=1), place(SLOW, dp=2)]
    found = mixed(stages, micro_batch=2)
    assert [p.config.micro_batch for p in found.places] == [2, 1]
    assert [p.config.num_microbatches for p in found.places] == [8, 8]
    with pytest.raises(InputError, match=r"does not divide by dp 2.*use dp 1"):
        mixed(stages, micro_batch=1)


def test_times_add_up_and_money_is_of_both_kinds():
    stages = [place(FAST, price=10.0), place(SLOW, price=4.0)]
    found = mixed(stages, pue=1.0)
    assert math.fsum(found.parts.values()) == pytest.approx(found.step_s)
    for p in found.places:
        assert math.fsum(p.parts.values()) == pytest.approx(found.step_s)
    assert found.cost_usd == pytest.approx((80 + 32) * found.step_s / 3600)
    doubled = mixed(stages, pue=2.0)
    assert doubled.energy_j == pytest.approx(2 * found.energy_j)
    low, high = found.interval_90["step_s"]
    assert low < found.step_s < high


def test_mfu_is_of_all_peaks_together():
    found = mixed([place(FAST), place(SLOW)])
    tokens = 16 * 2048
    h100, a100 = (hwsim.load_device(d).peak("bf16") for d in ("h100", "a100"))
    # Products of the layers and the head, forward and backward, and attention.
    model = hwsim.load_model(MODEL)
    weights = model.num_parameters - model.vocab * model.hidden
    flop = tokens * (6 * weights + 6 * model.layers * model.hidden * 2048)
    mfu = flop / found.step_s / (8 * h100 + 8 * a100)
    assert found.mfu == pytest.approx(mfu, rel=0.02)


def test_nodes_may_be_partly_used():
    """Six of eight devices are a domain of six; others are further out."""
    part = {"tp": 2, "dp": 3}
    found = mixed(
        [place(FAST, **part), place(SLOW, **part)], global_batch=12, model=MODEL
    )
    whole = mixed(
        [place(FAST, tp=2, dp=4), place(SLOW, tp=2, dp=4)], global_batch=16, model=MODEL
    )
    assert found.devices == 12
    assert found.step_s == pytest.approx(whole.step_s, rel=0.05)


def test_a_slower_partner_never_speeds_a_step_up():
    fast = mixed([place(FAST)] * 2)
    both = mixed([place(FAST), place(SLOW)])
    slow = mixed([place(SLOW)] * 2)
    assert fast.step_s < both.step_s < slow.step_s


@pytest.mark.parametrize(
    ("stages", "changed", "said"),
    [
        ([place(FAST)], {}, "one stage is no pipeline"),
        ([], {}, "no stage is given"),
        ([place(FAST), place(SLOW, tpp=2)], {}, "'tpp' is unknown; use tp"),
        ([{"tp": 8}, place(SLOW)], {}, "system is missing"),
        ([place(FAST, layers=20), place(SLOW)], {}, "for every place, or for none"),
        (
            [place(FAST, layers=20), place(SLOW, layers=20)], {},
            "places hold 40 layers, but llama-2-7b has 32; make the last 12",
        ),
        ([place(FAST, price=-1), place(SLOW)], {}, "price is -1; give USD"),
        ([place(FAST), place(SLOW)], {"schedule": "dualpipe"}, "take 1f1b, gpipe"),
        ([place(FAST), place(SLOW)], {"tp": 8}, "tp is said of each place"),
        ([place(FAST), place(SLOW)], {"link": 0.0}, "link is 0.0"),
        ([place(FAST), place(SLOW)], {"pue": 0.5}, "pue is 0.5"),
        ([place(FAST), place(SLOW)], {"dtype": "fp8"}, "fp8"),
        ([place(FAST), place(SLOW)], {"stage_layers": [32]}, "give one for each"),
        ([place(FAST, stages=40), place(SLOW)], {}, "has 32 layers; use at most 32"),
        ([place(FAST, stages=5), place(SLOW)], {}, "system dgx-h100-ndr-4 has 32"),
    ],
)  # fmt: skip
def test_bad_questions_get_one_clear_line(stages, changed, said):
    with pytest.raises(InputError, match=said) as caught:
        mixed(stages, **changed)
    assert "\n" not in str(caught.value)


def test_it_saves_loads_and_has_a_page(tmp_path):
    found = mixed([place(FAST), place(SLOW)])
    path = hwsim.save_result(found, tmp_path / "m.json")
    again = hwsim.load_result(path)
    assert again.kind == "mixed_train"
    assert again.step_s == found.step_s
    assert [p["layers"] for p in again.places] == [[0, 25], [25, 32]] or sum(
        p["layers"][1] - p["layers"][0] for p in again.places
    ) == 32
    page = hwsim.write_report(again, tmp_path / "m.html").read_text()
    assert "NVIDIA A100" in page
    assert page == hwsim.write_report(found, tmp_path / "n.html").read_text()
