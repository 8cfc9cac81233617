"""The live check's predicting half, on tables made from known laws."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hwsim.analysis.live.check import LiveCheck, LiveRow, StepPrediction, predict_step
from hwsim.analysis.live.fit import fit_operators, fit_terms, held_out, table_offset
from hwsim.analysis.live.operators import FAR, CopyRate, Products, product_terms
from hwsim.errors import InputError
from hwsim.specs.measurement.read import read_measurements

FAST, SLOW = 1e-11, 5e-11  # seconds per byte in the caches and in memory
CACHE = 1 << 23
FLOP = 1e-11  # seconds per multiplication


def per_byte(size):
    return FAST if size <= CACHE else SLOW


def product_time(m, n, k, batch=1, *, far=False, threads=1):
    m8, n4 = math.ceil(m / 8) * 8, math.ceil(n / 4) * 4
    own = 4.0 * batch * (m * k + k * n + m * n)
    traffic = own * (SLOW if far else per_byte(own))
    alone = 1e-6 + batch * m8 * n4 * k * FLOP + traffic
    large = m * n * k > 2**18
    return alone / threads + 2e-6 if threads > 1 and large else alone


def value_time(m, n, nbytes, factor=2.0):
    return 5e-6 + 2e-8 * m + factor * nbytes * per_byte(nbytes)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    head = "device,source,op,dtype,kernel,hot,threads,disturbed,latency_us"
    products, values = [f"{head},m,n,k,batch"], [f"{head},m,n,bytes"]
    streams = [f"{head},bytes,working_set_bytes"]
    common = "epyc-zen5-2vcpu,test"

    def line(op, kernel, hot, threads, disturbed, seconds, *shape):
        figures = ",".join(f"{value:.12g}" for value in (seconds * 1e6, *shape))
        return f"{common},{op},fp32,{kernel},{hot},{threads},{disturbed},{figures}"

    for m in (1, 3, 16, 50, 130, 256):
        for n, k in ((64, 64), (256, 64), (333, 100), (512, 512), (64, 1024)):
            for far in (False, True):
                time = product_time(m, n, k, far=far)
                hot = "no" if far else "yes"
                products.append(line("linear", "numpy", hot, 1, 0, time, m, n, k, 1))
            time = product_time(m, n, k, threads=2)
            products.append(line("linear", "numpy", "yes", 2, 0, time, m, n, k, 1))
    products.append(line("linear", "numpy", "yes", 1, 0.9, 1.0, 64, 64, 64, 1))
    for op, each in (("softmax", 8), ("add", 12), ("adamw", 28)):
        for m in (1, 32, 512, 4096):
            for n in (64, 512, 2048):
                size = each * m * n
                time = value_time(m, n, size)
                values.append(line(op, "numpy", "yes", 1, 0, time, m, n, size))
    for power in range(14, 30):
        time = 2**power * per_byte(2**power)
        streams.append(line("copy", "numpy", "yes", 1, 0, time, 2**power, 2**power))
    for name, lines in (("gemm", products), ("values", values), ("memory", streams)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return read_measurements([folder / "*.csv"])


@pytest.fixture(scope="module")
def host(table):
    return fit_operators(table)


def shape(m, n, k, batch=1):
    sides = [np.array([float(x)]) for x in (m, n, k, batch)]
    none = np.zeros(1)
    own = Products(*sides, none, none, none).own
    return Products(*sides, own, own, own)


def test_the_copy_rate_is_that_of_the_working_set(host):
    found = host.rate.per_byte(np.array([1e4, 2.0**20, 2.0**28, FAR]))
    assert found == pytest.approx([FAST, FAST, SLOW, SLOW])


def test_small_copies_that_are_all_dispatch_do_not_count():
    rate = CopyRate(np.log([1e5, 1e7]), np.log([FAST, SLOW]))
    assert rate.per_byte(np.array([1.0]))[0] == pytest.approx(FAST)


def test_a_fit_ignores_a_wild_row():
    size = np.linspace(1.0, 9.0, 30)
    terms = np.stack([np.ones(30), size], axis=1)
    times = terms @ [2e-6, 3e-6]
    times[7] *= 4
    assert fit_terms(terms, times) == pytest.approx([2e-6, 3e-6], rel=0.02)


def test_held_out_blocks_do_not_see_themselves():
    terms, times = np.ones((6, 1)), np.array([1.0, 1, 1, 1, 2, 2])
    logs = held_out(terms, times, ["a", "a", "a", "a", "b", "b"])
    assert logs[:4] == pytest.approx(-np.log(2.0), abs=0.01)
    assert logs[4:] == pytest.approx(np.log(2.0), abs=0.01)


def test_products_are_learned_with_the_tile_of_the_library(host):
    assert host.alone[False].tile == (8, 4)
    times, names = host.products(shape(100, 300, 200), 1)
    assert times[0] == pytest.approx(product_time(100, 300, 200), rel=0.02)
    assert names == ["matrix products, 1 thread"]
    assert host.alone[False].spread.median_ape < 0.02


def test_several_threads_share_large_products_only(host):
    large, _ = host.products(shape(200, 400, 300), 2)
    assert large[0] == pytest.approx(product_time(200, 400, 300, threads=2), rel=0.05)
    small, _ = host.products(shape(16, 64, 64), 2)
    alone, _ = host.products(shape(16, 64, 64), 1)
    assert small[0] == pytest.approx(alone[0], rel=0.02)


def test_padding_and_far_operands_cost_time(host):
    rate, tile = host.rate, (8, 4)
    near = shape(9, 64, 64)
    far = Products(near.m, near.n, near.k, near.batch, near.own, np.array([FAR]),
                   near.own)  # fmt: skip
    assert product_terms(near, rate, tile)[0, 2] == 16 * 64 * 64
    assert host.products(far, 1)[0][0] > host.products(near, 1)[0][0]


def test_values_are_learned_by_operator(host):
    m, n = np.array([100.0]), np.array([300.0])
    nbytes = 8 * m * n
    found = host.value_times("softmax", m, n, nbytes, nbytes)
    assert found[0] == pytest.approx(value_time(100, 300, 240_000), rel=0.02)


def test_what_the_table_lacks_is_named(host, table):
    one = np.ones(1)
    with pytest.raises(InputError, match="too few rows of gelu; hwsim measure cpu"):
        host.value_times("gelu", one, one, one, one)
    with pytest.raises(InputError, match="no products on 8 threads"):
        host.products(shape(64, 64, 64), 8)
    with pytest.raises(InputError, match="no elementwise rows"):
        fit_operators(table.select(lambda rows: rows["op"] == "linear"))


SOFTMAX = {"op": "softmax", "m": 64, "n": 64, "bytes": 32768.0, "count": 3}
LINEAR = {"op": "linear", "m": 8, "n": 512, "k": 512, "batch": 1, "count": 1}


def predict(host, *operators, work="decode", rows=8, threads=1):
    return predict_step(host, operators, work=work, rows=rows, threads=threads)


def test_a_step_is_the_sum_of_its_operators(host):
    whole = predict(host, SOFTMAX, LINEAR)
    parts = predict(host, SOFTMAX).time + predict(host, LINEAR).time
    assert whole.time == pytest.approx(parts, rel=1e-9)
    assert sum(whole.by_op.values()) == pytest.approx(whole.time)
    assert whole.by_op["softmax"] == pytest.approx(3 * value_time(64, 64, 32768.0),
                                                   rel=0.02)  # fmt: skip
    assert whole.lower <= whole.time <= whole.upper


def test_weights_are_far_away_when_the_step_touches_much(host):
    few, many = (predict(host, LINEAR | {"count": n}).time / n for n in (1, 40))
    extra = 4 * 512 * 512 * (SLOW - FAST)
    assert many - few == pytest.approx(extra, rel=0.1)


def test_what_was_just_made_is_near(host):
    heads = {"op": "bmm", "m": 128, "n": 128, "k": 64, "batch": 4, "count": 1}
    crowd = LINEAR | {"count": 40}
    both = predict(host, heads, crowd, work="prefill", rows=128).by_op["bmm"]
    alone = predict(host, heads, work="prefill", rows=128).by_op["bmm"]
    assert both == pytest.approx(alone)
    cache = heads | {"m": 1, "n": 512, "batch": 32}
    assert predict(host, cache, crowd).by_op["bmm"] > predict(host, cache).time


def test_an_optimizer_reads_states_of_a_step_ago(host):
    step = {"op": "adamw", "m": 1, "n": 1000, "bytes": 28_000.0, "count": 1}
    near = predict(host, step, work="train").time
    far = predict(host, step | {"count": 1000}, work="train").time / 1000
    assert far - near == pytest.approx(2 * 28_000 * (SLOW - FAST), rel=0.1)


def row(measured, predicted, *, threads=1, disturbed=0.0):
    made = StepPrediction(predicted, 0.9 * predicted, 1.1 * predicted, {})
    return LiveRow("nano", "prefill", 1, 256, threads, measured, measured, measured,
                   9, disturbed, 0.5, made)  # fmt: skip


def test_the_check_sums_up_and_keeps_disturbed_steps_apart(host):
    rows = (row(1.0, 1.05), row(1.0, 0.8), row(9.0, 1.0, threads=2, disturbed=0.9),
            row(1.0, 1.0, disturbed=0.9))  # fmt: skip
    check = LiveCheck("cpu", rows, host, "table")
    assert [r.quiet for r in rows] == [True, True, False, True]
    found = check.to_dict()
    assert found["rows"] == 4
    assert found["quiet"]["rows"] == 3
    assert found["quiet"]["median_ape"] == pytest.approx(0.05)
    assert found["coverage_90"] == 0.5
    assert found["by_threads"]["2"]["mape"] == pytest.approx(8 / 9)
    assert '"NaN"' not in check.to_json()


def test_a_check_without_rows_says_so(host):
    assert LiveCheck("cpu", (), host, "table").to_dict()["quiet"] == {"rows": 0}


def test_laws_agree_with_the_table_they_come_from(host, table):
    assert table_offset(host, table) < 0.05


def test_a_slower_memory_shows_as_an_offset(host, table):
    slower = {
        name: replace(rows, columns={**rows.columns, "time": 1.5 * rows["time"]})
        for name, rows in table.families.items()
    }
    offset = table_offset(host, replace(table, families=slower))
    assert offset == pytest.approx(math.log(1.5), abs=0.05)
