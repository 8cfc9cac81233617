"""Arrivals, traces, memory in pages, token gaps."""

import gzip
import math

import numpy as np
import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.schedule.batching import POLICIES
from hwsim.sim.serving.arrivals import draw_requests, read_trace
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.memory import Pages
from hwsim.sim.serving.records import StepLog, gap_quantiles
from hwsim.sim.serving.routers import router_named
from hwsim.specs.traffic import Traffic, parse_lengths
from tests.strategies.serving import AffineCost, fast_serve


def drawn(seed=1, longest=None, **fields):
    traffic = Traffic(**{"requests": 20_000, "rate": 5.0} | fields)
    return draw_requests(traffic, np.random.default_rng(seed), longest)


def test_poisson_arrivals_have_mean_and_spread():
    gaps = np.diff(drawn().arrival)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.03)


def test_gamma_arrivals_are_as_bursty_as_asked():
    gaps = np.diff(drawn(arrival="gamma", burstiness=4.0).arrival)
    assert gaps.mean() == pytest.approx(0.2, rel=0.06)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(4.0, rel=0.1)


def test_deterministic_arrivals_are_even_and_an_infinite_rate_is_at_once():
    assert np.diff(drawn(arrival="deterministic").arrival) == pytest.approx(0.2)
    assert not drawn(rate=math.inf).arrival.any()


def test_the_seed_decides():
    assert np.array_equal(drawn(7).arrival, drawn(7).arrival)
    assert np.array_equal(drawn(7).inputs, drawn(7).inputs)
    assert not np.array_equal(drawn(7).inputs, drawn(8).inputs)


def test_lognormal_lengths_have_the_mean_and_too_long_ones_are_drawn_again():
    assert drawn().inputs.mean() == pytest.approx(1000, rel=0.03)
    assert drawn().outputs.mean() == pytest.approx(250, rel=0.03)
    short = drawn(longest=4000)
    assert (short.inputs + short.outputs).max() <= 4000
    with pytest.raises(InputError, match="beyond the 3 tokens"):
        drawn(longest=3, inputs=parse_lengths("input_len", "lognormal:1000:0.1"))


def test_lengths_come_from_a_file(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("5\n7\n\n9\n")
    lengths = drawn(inputs=parse_lengths("input_len", f"file:{path}")).inputs
    assert set(lengths.tolist()) == {5, 7, 9}
    path.write_text("5\nseven\n")
    with pytest.raises(InputError, match=r"row 2: input_len is 'seven'"):
        drawn(inputs=parse_lengths("input_len", f"file:{path}"))


AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n"
    "118,GPT-4,417,276,693,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0]}\n'
    '{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": []}\n'
)
OWN = "arrival_s,input_tokens,output_tokens\n1.5,10,20\n2.5,30,40\n"


@pytest.mark.parametrize(
    ("name", "text", "arrival", "inputs", "outputs"),
    [
        ("azure.csv", AZURE, [0.0, 4.314579], [374, 396], [44, 109]),
        ("burst.csv", BURST, [0.0, 113.0], [472, 417], [18, 276]),
        ("mooncake.jsonl", MOONCAKE, [0.0, 3.0], [6758, 7322], [500, 490]),
        ("own.csv", OWN, [0.0, 1.0], [10, 30], [20, 40]),
    ],
)
def test_traces_are_recognised(tmp_path, name, text, arrival, inputs, outputs):
    path = tmp_path / name
    path.write_text(text)
    trace = read_trace(path)
    assert trace.arrival == pytest.approx(arrival)
    assert trace.inputs.tolist() == inputs
    assert trace.outputs.tolist() == outputs
    assert read_trace(path, 1).inputs.tolist() == inputs[:1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("arrival_s,input_tokens,output_tokens\n", "is empty"),
        ("arrival_s,input_tokens,output_tokens\n0,5,0\n", "no row generates"),
        ("when,input_tokens,output_tokens\n0,5,5\n", "no column of arrival"),
        ("arrival_s,output_tokens\n0,5\n", "no column of input tokens"),
        (OWN + "2.0,5,5\n", "row 4: arrives before the row above"),
        (OWN + "3.0,-5,5\n", "row 4: input_tokens is '-5'"),
        (OWN + "3.0,5\n", "row 4: output_tokens is missing"),
        (OWN + "later,5,5\n", "row 4: arrival is 'later'"),
        (OWN + "nan,5,5\n", "row 4: arrival is 'nan'"),
        (OWN + "3.0,x,5\n", r"row 4: input_tokens is 'x'.*\(request 3 of the file\)"),
        (OWN + "3.0,1_000,5\n", "row 4: input_tokens is '1_000'"),
        (OWN + f"3.0,{'9' * 140_000},5\n", "row 4: field larger than field limit"),
        (
            "arrival_s;input_tokens;output_tokens\n0;5;5\n",
            "not separated by commas, but by ';'",
        ),
        ("arrival_s,input_tokens,input_tokens\n0,5,5\n", "'input_tokens' twice"),
    ],
)
def test_faulty_traces_name_the_row(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_trace(path)


def test_packed_traces_are_read_and_broken_ones_said(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(OWN.encode("utf-8-sig")))
    plain = tmp_path / "trace.csv"
    plain.write_text(OWN)
    assert read_trace(path).inputs.tolist() == read_trace(plain).inputs.tolist()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_trace(path)


def test_a_missing_trace_and_broken_json_are_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE + "{oops\n")
    with pytest.raises(InputError, match="row 3: is not a JSON object"):
        read_trace(path)


def test_pages_count_blocks_as_counting_one_by_one():
    rng = np.random.default_rng(0)
    pages, bases = Pages(10**6, 16), []
    for counter in range(300):
        if rng.random() < 0.3:
            base = int(rng.integers(1, 200)) - counter
            pages.add(base)
            bases.append(base)
        if bases and rng.random() < 0.1:
            pages.add(bases.pop(0), -1)
        assert pages.used(counter) == sum(-(-(b + counter) // 16) for b in bases)


def test_pages_say_how_many_steps_fit():
    for total in range(6, 40):
        pages = Pages(total, 4)
        for base in (3, 8, 10):
            pages.add(base)
        fit = pages.steps_that_fit(0, 50)
        assert pages.used(fit - 1) <= total
        assert fit == 50 or pages.used(fit) > total


def test_gap_quantiles_are_those_of_the_gaps():
    rng = np.random.default_rng(2)
    gaps = rng.lognormal(-4, 1, 50_000)
    log = StepLog()
    log.extra = [(g, 1) for g in gaps]
    sums = log.flush()
    found = gap_quantiles(sums.gaps, [0.5, 0.99])
    assert found == pytest.approx(np.quantile(gaps, [0.5, 0.99]), rel=2e-3)
    assert sums.gap_time == pytest.approx(gaps.sum())


def test_a_prompt_step_stalls_the_batch_where_prompts_come_first():
    limits = Limits(4, 100, True, 1000, 16)
    cost = AffineCost(step=0.01, sequence=0.0, context=0.0, token=0.001)
    scenario = ([10, 50], [20, 5], [0.0, 0.05])
    longest = {}
    for name in ("mixed", "prefill_first"):
        _, engines = fast_serve((*scenario, POLICIES[name], limits), cost)
        sums = engines[0].log.flush()
        longest[name] = gap_quantiles(sums.gaps, [1.0])[0]
        assert sums.gaps.sum() == 19 + 4
    # Mixed: one step with 50 prompt tokens. First: that step, then a decode step.
    assert longest["mixed"] == pytest.approx(0.06, rel=2e-3)
    assert longest["prefill_first"] == pytest.approx(0.07, rel=2e-3)


def test_a_static_batch_waits_for_its_longest():
    limits = Limits(2, 100, False, 1000, 16, 0, 1.0)
    cost = AffineCost(step=0.01, sequence=0.0, context=0.0, token=0.0)
    scenario = ([1, 1, 1], [2, 50, 1], [0.0, 0.0, 0.0], POLICIES["static"], limits)
    requests, _ = fast_serve(scenario, cost)
    assert requests.finish[0] == pytest.approx(0.02)
    assert requests.finish[1] == pytest.approx(0.50)
    assert requests.first[2] == pytest.approx(0.51)


def test_the_least_outstanding_replica_is_chosen():
    limits = Limits(4, 100, True, 1000, 16)
    scenario = (
        [10] * 6, [100, 1, 100, 1, 100, 1], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0],
        POLICIES["mixed"], limits,
    )  # fmt: skip
    requests, _ = fast_serve(
        scenario, AffineCost(), router="least_outstanding", replicas=2
    )
    assert list(requests.replica) == [0, 1, 1, 0, 0, 1]
    with pytest.raises(UnknownNameError, match="round_robin"):
        router_named("round_robbin")
