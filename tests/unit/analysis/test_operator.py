"""Single operators: scalars, arrays, keys, refusals."""

import json

import numpy as np
import pytest

import hwsim


def test_json_has_the_promised_keys():
    answer = json.loads(hwsim.op("matmul", device="h100", m=64, n=64, k=64).to_json())
    for key in ("time_s", "flop", "nbytes", "bound", "breakdown"):
        assert key in answer
    assert answer["flop"] == 2 * 64**3
    assert answer["nbytes"] == 3 * 64 * 64 * 2
    assert sum(answer["breakdown"].values()) == pytest.approx(answer["time_s"])


def test_arrays_give_what_scalars_give():
    m = np.array([1, 17, 128, 4096])
    many = hwsim.op("matmul", device="a100", m=m, n=4096, k=4096)
    one = [hwsim.op("matmul", device="a100", m=int(i), n=4096, k=4096) for i in m]
    np.testing.assert_allclose(many.time_s, [o.time_s for o in one], rtol=1e-12)
    assert list(many.bound) == [o.bound for o in one]
    assert len(many.to_dict()["time_s"]) == 4


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("matmul", {"m": 512, "n": 512, "k": 512}),
        ("prefill", {"heads": 32, "kv_heads": 8, "seq_kv": 2048}),
        ("prefill", {"heads": 32, "seq_q": 128, "seq_kv": 2048, "window": 512}),
        ("decode", {"heads": 32, "kv_heads": 8, "seq_kv": 2048, "batch": 16}),
        ("moe", {"m": 64, "n": 14336, "k": 4096, "experts": 8, "topk": 2}),
        ("rmsnorm", {"m": 4096, "n": 4096}),
        ("layernorm", {"m": 4096, "n": 4096}),
        ("softmax", {"m": 4096, "n": 4096}),
        ("elementwise", {"m": 4096, "n": 4096, "inputs": 2}),
    ],
)
def test_no_operator_beats_the_speed_of_light(kind, shapes):
    for device in ("h100", "a100", "mi300x", "tpu-v5p", "xeon-platinum-8480+"):
        real = hwsim.op(kind, device=device, **shapes)
        light = hwsim.op(kind, device=device, fidelity="roofline", **shapes)
        assert real.time_s >= light.time_s * (1 - 1e-9)


@pytest.mark.parametrize(
    "kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
)
@pytest.mark.parametrize("group", [2, 8])
def test_no_collective_beats_the_links(kind, group):
    for nbytes in (1e3, 1e6, 1e9):
        shapes = {"bytes": nbytes, "group": group}
        real = hwsim.op(kind, device="dgx-a100-80gb", **shapes)
        light = hwsim.op(kind, device="dgx-a100-80gb", fidelity="roofline", **shapes)
        assert real.time_s >= light.time_s * (1 - 1e-9)
        assert real.to_dict()["nbytes"] == nbytes


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("matmul", {"m": 1, "n": 1}, "k is missing"),
        ("matmul", {"m": 1, "n": 1, "k": -2}, "k is -2"),
        ("matmul", {"m": np.array([1, np.nan]), "n": 1, "k": 2}, "m is nan"),
        ("matmul", {"m": "many", "n": 1, "k": 2}, "positive number"),
        ("matmul", {"m": 1e13, "n": 1, "k": 2}, "beyond"),
        ("matmul", {"m": 1, "n": 1, "k": 2, "heads": 3}, "takes no heads"),
        ("prefill", {"heads": 3, "kv_heads": 2, "seq_kv": 2}, "multiple"),
        ("prefill", {"heads": 2, "seq_q": 9, "seq_kv": 2}, "exceeds"),
        ("moe", {"m": 1, "n": 1, "k": 1, "experts": 2, "topk": 3}, "topk"),
        ("all_reduce", {"bytes": 8, "group": 9}, "9"),
        ("convolution", {}, "operator"),
    ],
)
def test_impossible_operators_are_refused(kind, shapes, message):
    with pytest.raises(hwsim.HwsimError, match=message):
        hwsim.op(kind, device="dgx-h100", **shapes)
