"""What collectives take of each level against hand-made networks."""

import pytest

from hwsim.cost.collective import collective_cost
from hwsim.cost.sharing import HOST, level_use, mean_use, op_use
from hwsim.graph.op import Collective, Copy, Operand
from hwsim.specs.calibration import calibration_for
from hwsim.specs.catalogs import load_system

SYSTEM = load_system("dgx-a100-80gb-hdr-4")


def use(op, size, stride=1):
    calibration = calibration_for(SYSTEM.device, "structured")
    return level_use(op, size, system=SYSTEM, calibration=calibration, stride=stride)


def test_a_group_inside_a_node_takes_its_switch_alone():
    assert use("all_reduce", 8) == {0: 1.0}
    assert use("all_to_all", 4, 2) == {0: 1.0}
    assert use("all_reduce", 1) == {}


def test_a_group_across_nodes_takes_the_level_that_bounds_it_whole():
    for op in ("all_reduce", "all_gather", "all_to_all"):
        shares = use(op, 32)
        assert max(shares.values()) == pytest.approx(1.0)
        assert shares[1] > shares[0]  # NICs are slower than NVLink
    # One member in each node: nothing passes the switch inside.
    assert use("all_reduce", 4, 8) == {1: 1.0}
    assert use("send_recv", 2, 8) == {1: 1.0}


def test_shares_are_those_of_the_times_of_a_large_buffer():
    calibration = calibration_for(SYSTEM.device, "structured")
    nbytes = 1e11
    times = [
        collective_cost(
            "all_gather", nbytes, n, system=SYSTEM, calibration=calibration, stride=s
        ).interconnect
        for n, s in ((8, 1), (4, 8))
    ]
    shares = use("all_gather", 32)
    # A ring of 32 passes the switch with 31/32 of the buffer, one of 8 with 7/8.
    inside = times[0] * (31 / 32) / (7 / 8)
    outside = times[1] / 8 * (31 / 32) / (3 / 4)
    assert shares[0] == pytest.approx(inside / outside, rel=0.02)


def test_copies_take_the_host_link_and_several_add_up():
    calibration = calibration_for(SYSTEM.device, "structured")
    moved = (Operand("activation", 8.0, "bf16"),)
    copy = Copy(
        name="c", dtype="bf16", path="host_to_device", reads=moved, writes=moved
    )
    assert op_use(copy, SYSTEM, calibration) == {HOST: 1.0}
    wide = Collective(
        name="w", dtype="bf16", collective="all_reduce", message=8.0, group_size=4,
        stride=8,
    )  # fmt: skip
    assert op_use(wide, SYSTEM, calibration) == {1: 1.0}
    found = mean_use([({0: 1.0}, 1.0), ({0: 0.5, 1: 1.0}, 2.0)], 4.0)
    assert found == {0: 0.5, 1: 0.5}
