"""Devices in step go at the pace of the slowest."""

import numpy as np
import pytest

import hwsim
from hwsim.cost.pace import SPREAD, slowest_pace
from hwsim.specs.catalogs import load_device

H100 = load_device("h100-80gb-sxm")


@pytest.mark.parametrize("devices", [2, 8, 64, 1024])
def test_it_is_the_mean_of_the_slowest_drawn(devices):
    drawn = np.random.default_rng(0).normal(1.0, SPREAD, size=(4000, devices))
    assert slowest_pace(H100, devices) == pytest.approx(
        drawn.max(axis=1).mean(), abs=4e-4
    )


def test_one_device_waits_for_none_and_other_kinds_do_not_vary():
    assert slowest_pace(H100, 1) == 1.0
    assert slowest_pace(load_device("tpu-v5p"), 1024) == 1.0


def test_only_matrix_work_of_a_training_step_waits():
    step = hwsim.train("llama-2-7b", "dgx-h100", tp=8, micro_batch=1, seq=2048)
    alone = hwsim.train("llama-2-7b", "h100-80gb-sxm", micro_batch=1, seq=2048)
    for result, pace in ((step, slowest_pace(H100, 8)), (alone, 1.0)):
        costs = result.step.costs
        again = hwsim.analysis.graph_result.run_graph(
            result.step.graph, result.system, result.stack
        ).costs
        ratio = costs.compute[costs.compute > 0] / again.compute[costs.compute > 0]
        assert np.allclose(ratio.max(), pace)
        assert np.allclose(costs.memory, again.memory)
