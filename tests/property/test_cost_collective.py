"""Properties of collectives that hold on any network."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.cost.collective import collective_cost
from hwsim.specs.calibration import GENERATIONS, Calibration
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec
from hwsim.specs.network import Network
from hwsim.specs.parameters.collective import CollectiveParameters
from hwsim.specs.system import SystemSpec

CALIBRATION = load_spec(GENERATIONS, Calibration, "gpu")
OPS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "send_recv",
)
REDUCING = ("switch", "fat_tree")


def build(inner, outer, nodes, figures):
    link, nic, alpha, beta, memory = figures
    device = DeviceSpec(
        id="toy",
        name="Toy",
        sources=[{"kind": "assumed", "title": "test", "date": "2025-01-01"}],
        kind="gpu",
        vendor="x",
        architecture="gpu",
        year=2024,
        compute={"units": 100, "unit_kind": "SM", "matrix": {"bf16": 1e15}},
        memory={"hbm": {"size": 80e9, "bandwidth": memory}},
    )
    dims = {"dims": (2, 4)} if inner == "torus" else {}
    first = Network(
        name="in", kind=inner, size=8, bandwidth=link, latency=alpha, **dims
    )
    networks = [first]
    if nodes > 1:
        networks.append(
            Network(
                name="out",
                kind=outer,
                size=8 * nodes,
                bandwidth=nic,
                latency=beta,
                nics_per_node=4,
            )
        )
    return SystemSpec(
        id="toys",
        name="Toys",
        device=device,
        devices_per_node=8,
        nodes=nodes,
        networks=tuple(networks),
    )


cases = st.fixed_dictionaries(
    {
        "op": st.sampled_from(OPS),
        "inner": st.sampled_from(["switch", "mesh", "torus", "bus"]),
        "outer": st.sampled_from(["fat_tree", "dcn"]),
        "nodes": st.sampled_from([1, 2, 4, 16]),
        "stride": st.sampled_from([1, 2, 8]),
        "share": st.integers(0, 7),
        "figures": st.tuples(
            st.floats(1e10, 1e12),
            st.floats(1e9, 1e11),
            st.floats(1e-7, 1e-5),
            st.floats(1e-7, 1e-5),
            st.floats(1e11, 1e13),
        ),
        "nbytes": st.floats(1.0, 1e11),
    }
)


def group_of(case):
    most = 8 * case["nodes"] // case["stride"]
    return max(1, 2 ** (case["share"] % (int(math.log2(most)) + 1)))


def time_of(case, figures=None, calibration=CALIBRATION, nbytes=None):
    system = build(
        case["inner"], case["outer"], case["nodes"], figures or case["figures"]
    )
    cost = collective_cost(
        case["op"],
        case["nbytes"] if nbytes is None else nbytes,
        group_of(case),
        system=system,
        calibration=calibration,
        stride=case["stride"],
    )
    return cost.time


def sped_up(parameters, k):
    table = parameters.model_dump()

    def times(value):
        if isinstance(value, dict):
            return {key: times(item) for key, item in value.items()}
        return value / k

    for name in ("start_time", "peer_time", "in_network_step_time"):
        table[name] = times(table[name])
    for protocol in table["protocols"].values():
        protocol["step_time"] = times(protocol["step_time"])
    return CollectiveParameters(**table)


@settings(max_examples=100, deadline=None)
@given(cases, st.floats(0.1, 10.0))
def test_faster_by_k_is_faster_by_k(case, k):
    link, nic, alpha, beta, memory = case["figures"]
    faster = (link * k, nic * k, alpha / k, beta / k, memory * k)
    scaled = CALIBRATION.model_copy(
        update={"collective": sped_up(CALIBRATION.collective, k)}
    )
    before = time_of(case)
    after = time_of(case, faster, scaled)
    np.testing.assert_allclose(after * k, before, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(cases, st.integers(0, 4), st.floats(1.0, 10.0))
def test_better_hardware_is_never_slower(case, which, k):
    figures = list(case["figures"])
    figures[which] *= k if which in (0, 1, 4) else 1 / k
    assert time_of(case, tuple(figures)) <= time_of(case) * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(cases, st.floats(1.0, 100.0))
def test_more_bytes_take_no_less_time(case, k):
    few, many = time_of(case, nbytes=np.array([case["nbytes"], case["nbytes"] * k]))
    assert many >= few >= 0


@settings(max_examples=100, deadline=None)
@given(cases)
def test_no_member_moves_more_than_its_links_carry(case):
    n, nbytes = group_of(case), case["nbytes"]
    if n == 1:
        assert time_of(case) == 0
        return
    link, nic, *_ = case["figures"]
    # Inside a node or between nodes; one device may have a whole NIC (two shares).
    best = max(link, 2 * nic)
    share = {
        "all_reduce": 2 * (n - 1) / n,
        "all_gather": (n - 1) / n,
        "reduce_scatter": (n - 1) / n,
        "all_to_all": (n - 1) / n,
        "broadcast": 1.0,
        "send_recv": 1.0,
    }[case["op"]]
    # A group over all levels may use them side by side.
    assert time_of(case) >= share * nbytes / (link + 2 * nic) * (1 - 1e-9)
    if case["nodes"] == 1:
        assert time_of(case) >= share * nbytes / best * (1 - 1e-9)


@pytest.mark.parametrize("op", OPS)
def test_arrays_equal_scalars(op):
    system = build("switch", "fat_tree", 4, (4e11, 5e10, 1e-6, 5e-6, 3e12))
    sizes = np.logspace(0, 9, 19)
    whole = collective_cost(op, sizes, 32, system=system, calibration=CALIBRATION)
    each = [
        collective_cost(op, s, 32, system=system, calibration=CALIBRATION).time
        for s in sizes
    ]
    np.testing.assert_allclose(whole.time, each)
