import time

import numpy as np
import pytest

from hwsim.errors import InputError
from hwsim.measure import cpu_plan, cpu_work, live, live_run
from hwsim.measure.live_model import LiveModel, Transformer
from hwsim.measure.live_training import Trainer
from hwsim.specs.measurement.names import family_of

TINY = LiveModel("tiny", layers=2, hidden=16, heads=2, ffn=32, vocab=11, positions=8)


def flop(operators, *ops):
    return sum(
        2.0 * o["m"] * o["n"] * o["k"] * o["batch"] * o["count"]
        for o in operators
        if o["op"] in ops
    )


@pytest.fixture(scope="module")
def trainer():
    made = Trainer(TINY, 2, 5, np.float64)
    made.gradients()
    return made


NAMES = ["positions", "head", "norm.gain"] + [
    f"{i}.{part}"
    for i in (0, 1)
    for part in ("qkv", "out", "up", "down", "norm1.gain", "norm2.shift")
]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(trainer, name):
    weight = trainer.weights[name]
    trainer.gradients()
    index = np.unravel_index(np.abs(trainer.grads[name]).argmax(), weight.shape)
    got, kept, step = trainer.grads[name][index], weight[index], 1e-5
    weight[index] = kept + step
    up = trainer.gradients()
    weight[index] = kept - step
    down = trainer.gradients()
    weight[index] = kept
    assert got == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_embedding_s_gradient(trainer):
    token = int(trainer.ids[0, 0])
    trainer.gradients()
    got, step = trainer.grads["embed"][token, 2], 1e-5
    trainer.weights["embed"][token, 2] += step
    up = trainer.gradients()
    trainer.weights["embed"][token, 2] -= 2 * step
    down = trainer.gradients()
    trainer.weights["embed"][token, 2] += step
    assert got == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_training_learns():
    trainer = Trainer(TINY, 2, 5)
    losses = [trainer.step() for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(TINY.vocab), rel=0.35)
    assert losses[-1] < 0.3 * losses[0]


def test_a_decode_step_gives_what_the_prompt_would():
    prompt = Transformer(TINY, 2, 5, np.float64)
    want = prompt.prefill().copy()
    decoder = Transformer(TINY, 2, 1, np.float64)
    decoder.ids = prompt.ids[:, 4:]
    for i in range(TINY.layers):
        qkv = prompt.buffer(f"{i}.qkv", 10, 48)
        _, keys, values = prompt._heads(qkv, 5)
        for kept, made in zip(decoder.cache(i, 5), (keys, values), strict=True):
            kept[:, :, :4] = made[:, :, :4]
    assert decoder.decode(5) == pytest.approx(want)


@pytest.mark.parametrize("work", ["prefill", "decode", "train"])
def test_written_down_operators_have_the_work_of_the_step(work):
    order = {"model": TINY.to_dict(), "work": work, "batch": 3, "tokens": 6}
    model, step = live_run.prepared(order)
    operators = live_run.operators_of(model, step)
    assert {family_of(o["op"])[0] for o in operators} <= {"gemm", "elementwise"}
    rows = 3 if work == "decode" else 18
    weights = TINY.layers * (4 * 16 * 16 + 2 * 16 * 32)
    head = 16 * TINY.vocab * (18 if work == "train" else 3)
    times = 3 if work == "train" else 1
    assert flop(operators, "linear") == times * 2.0 * (weights * rows + head)
    queries = 1 if work == "decode" else 6
    attend = TINY.layers * 2 * 2.0 * 3 * 16 * queries * 6
    assert flop(operators, "bmm") == attend * times
    if work == "train":
        updated = [o for o in operators if o["op"] == "adamw"]
        count = sum(o["n"] * o["count"] for o in updated)
        assert count == sum(w.size for w in model.weights.values())
    assert model.trace is None  # nothing is written down while it is timed


def test_cases_cover_works_sizes_and_threads():
    cases = live.live_cases(threads=[1, 2])
    assert {c.work for c in cases} == {"prefill", "decode", "train"}
    assert {c.threads for c in cases} == {1, 2}
    assert len({c.model for c in cases}) == len(live.MODELS) >= 3
    # Whatever the budget cuts off, every kind of work has been seen early.
    assert {c.work for c in cases[: len(cases) * 3 // 5]} == {
        "prefill",
        "decode",
        "train",
    }
    with pytest.raises(InputError, match="unknown live model 'huge': known: nano"):
        live.live_cases(["huge"])


def test_measured_on_this_host(monkeypatch):
    monkeypatch.setattr(live_run, "TARGET", 0.05)
    tiny = LiveModel("tiny", layers=1, hidden=16, heads=2, ffn=32, vocab=11)
    cases = [live.LiveCase(tiny, work, 1, 4, 1) for work in ("prefill", "decode")]
    told = []
    results = live.measure_live(cases, budget=30.0, report=told.append)
    assert [r.case for r in results] == cases
    assert told == results
    for result in results:
        assert 0.0 < result.time_p25 <= result.time <= result.time_p75 < 1.0
        assert result.samples >= 3
        assert any(o["op"] == "linear" for o in result.operators)


def test_no_case_is_begun_that_the_budget_cannot_hold():
    assert live.measure_live(live.live_cases(threads=[1]), budget=1.0) == []


def test_one_thread_is_timed_by_its_own_processor_time():
    assert cpu_work.step_clock(1) is time.process_time
    assert cpu_work.step_clock(2) is time.perf_counter
    outcome = cpu_work.Timer(1).measure(cpu_plan.dispatch([1])[0], 2.0)
    assert outcome.columns["disturbed"] == 0.0


def test_few_threads_come_first():
    counts = [case.threads for case in live.live_cases(threads=[1, 2])]
    assert counts == sorted(counts)
