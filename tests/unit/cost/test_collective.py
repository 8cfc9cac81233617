import math

import numpy as np
import pytest

from hwsim.cost.collective import collective_cost, p2p_cost
from hwsim.cost.network import spans
from hwsim.errors import InputError
from hwsim.specs.calibration import GENERATIONS, Calibration, calibration_for
from hwsim.specs.catalogs import load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec
from hwsim.specs.network import Network
from hwsim.specs.parameters.collective import CollectiveParameters, Protocol
from hwsim.specs.system import SystemSpec

OPS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "send_recv",
)
KINDS = ("switch", "mesh", "torus", "bus", "fat_tree", "dcn")
LINK, NIC = 400e9, 50e9


def make_device():
    return DeviceSpec(
        id="toy",
        name="Toy",
        sources=[{"kind": "assumed", "title": "test", "date": "2025-01-01"}],
        kind="gpu",
        vendor="x",
        architecture="gpu",
        year=2024,
        compute={"units": 100, "unit_kind": "SM", "matrix": {"bf16": 1e15}},
        memory={"hbm": {"size": 80e9, "bandwidth": 3e12}},
    )


def make_system(*networks, per_node=8, nodes=1):
    return SystemSpec(
        id="toys",
        name="Toys",
        device=make_device(),
        devices_per_node=per_node,
        nodes=nodes,
        networks=tuple(Network(**n) for n in networks),
    )


def net(kind, size, bandwidth=LINK, latency=1e-6, **more):
    fields = {"kind": kind, "size": size, "bandwidth": bandwidth}
    return {"name": kind, "latency": latency, **fields, **more}


def node(kind="switch", **more):
    return make_system(net(kind, 8, **more))


def cluster(nodes=4, nics=8, inner=None, **more):
    outer = net("fat_tree", 8 * nodes, NIC, 5e-6, nics_per_node=nics, **more)
    return make_system(net("switch", 8, **(inner or {})), outer, nodes=nodes)


@pytest.fixture(scope="module")
def calibration():
    return load_spec(GENERATIONS, Calibration, "gpu")


@pytest.fixture(scope="module")
def plain(calibration):
    """No software: no start, no protocol, every link at its full rate."""
    none = dict.fromkeys(KINDS, 0.0)
    bare = Protocol(step_time=none, bandwidth_ratio=1.0)
    parameters = CollectiveParameters(
        start_time=dict.fromkeys(OPS, 0.0),
        peer_time=0.0,
        protocols={"bare": bare},
        efficiency=dict.fromkeys(KINDS, 1.0),
        in_network_efficiency=1.0,
        in_network_step_time=0.0,
        copy_efficiency=1.0,
        ramp_bytes=1e6,
        ramp_exponent=0.4,
        bus_contention=0.0,
        host_bounce_efficiency=0.5,
        host_bounce_contention=1.0,
    )
    return calibration.model_copy(update={"collective": parameters})


def time_of(op, nbytes, n, system, calibration, stride=1):
    return collective_cost(
        op, nbytes, n, system=system, calibration=calibration, stride=stride
    ).time


@pytest.mark.parametrize(("draws", "left"), [(1, 1.0), (8, 4 * (1 - 0.75**8) / 8)])
def test_rows_go_once_to_each_rank_and_node(plain, draws, left):
    """Of eight copies among four nodes, 4 (1 - (3/4)^8) are sent."""
    given = {"system": cluster(), "calibration": plain}
    every = collective_cost("all_to_all", 1e10, 32, **given)
    once = collective_cost("all_to_all", 1e10, 32, fanout=draws, **given)
    assert once.interconnect == pytest.approx(left * every.interconnect)


def test_what_a_cluster_was_measured_to_reach_counts(plain):
    whole = time_of("all_gather", 1e10, 32, cluster(), plain)
    part = time_of("all_gather", 1e10, 32, cluster(achieved=0.25), plain)
    assert whole < part < 4.01 * whole


@pytest.mark.parametrize("n", [2, 4, 8])
def test_ring_all_reduce_is_the_closed_form(plain, n):
    nbytes = np.array([1e3, 1e6, 1e9])
    found = time_of("all_reduce", nbytes, n, node(), plain)
    np.testing.assert_allclose(found, 2 * (n - 1) * (1e-6 + nbytes / n / LINK))


def test_ring_gather_and_scatter_are_closed_forms(plain):
    for op in ("all_gather", "reduce_scatter"):
        cost = collective_cost(op, 1e9, 8, system=node(), calibration=plain)
        ring = 7 * (1e-6 + 1e9 / 8 / LINK)
        assert cost.time - cost.memory == pytest.approx(ring)
        assert cost.memory == pytest.approx(2 * 1e9 / 8 / 3e12)


@pytest.mark.parametrize("op", OPS)
def test_group_of_one_is_free(calibration, op):
    cost = collective_cost(op, [1.0, 1e9], 1, system=node(), calibration=calibration)
    np.testing.assert_array_equal(cost.time, [0.0, 0.0])


@pytest.mark.parametrize("op", OPS)
def test_parts_add_up_and_grow_with_bytes(calibration, op):
    nbytes = np.logspace(0, 10, 60)
    for system, n in ((node(), 8), (cluster(), 32)):
        cost = collective_cost(op, nbytes, n, system=system, calibration=calibration)
        total = cost.compute + cost.memory + cost.interconnect + cost.overhead
        np.testing.assert_allclose(total, cost.time, rtol=1e-12)
        assert (np.diff(cost.time) >= 0).all()
        assert cost.bound()[0] == "overhead"
        assert cost.bound()[-1] == "interconnect"


def test_in_switch_reduction_moves_less(plain):
    ring = time_of("all_reduce", 1e9, 8, node(), plain)
    summed = time_of("all_reduce", 1e9, 8, node(in_network_reduction=True), plain)
    assert summed == pytest.approx(2e-6 + 1e9 * (1 + 1 / 8) / LINK)
    assert summed < ring


def test_large_rings_use_all_nics_of_a_node(plain):
    n, nbytes = 32, 1e10
    found = time_of("all_reduce", nbytes, n, cluster(), plain)
    busbw = 2 * (n - 1) / n * nbytes / found
    assert busbw == pytest.approx(8 * NIC, rel=0.01)


def test_strided_groups_share_the_nics(plain):
    # Eight groups of four, one member of each on every node.
    found = time_of("all_reduce", 1e9, 4, cluster(), plain, stride=8)
    assert 2 * 3 / 4 * 1e9 / found == pytest.approx(NIC, rel=0.02)
    # Two NICs for eight devices: half a NIC's share each, whoever asks.
    assert spans(cluster(nics=2), 4, 8)[0].bandwidth == pytest.approx(NIC)


def test_lone_sender_gets_a_whole_nic(plain):
    few = cluster(nics=2)
    pair = make_system(
        net("switch", 1), net("fat_tree", 2, NIC, nics_per_node=1), per_node=1, nodes=2
    )
    assert p2p_cost(1e9, 1, system=pair, calibration=plain).time == pytest.approx(
        1e-6 + 1e9 / NIC
    )
    # Ranks eight apart: all eight pairs send, each has its share of the NICs.
    assert p2p_cost(1e9, 8, system=few, calibration=plain).time == pytest.approx(
        5e-6 + 1e9 / NIC
    )


def test_neighbours_stay_inside_the_node(plain):
    near = p2p_cost(1e9, 1, system=cluster(), calibration=plain).time
    far = p2p_cost(1e9, 8, system=cluster(), calibration=plain).time
    assert near == pytest.approx(1e-6 + 1e9 / LINK)
    assert far == pytest.approx(5e-6 + 1e9 / NIC)


def test_trees_beat_rings_for_small_messages_on_many_nodes(plain):
    wide = cluster(nodes=64)
    found = time_of("all_reduce", 8.0, 512, wide, plain)
    assert found < 2 * 63 * 5e-6
    assert found == pytest.approx(2 * 7 * 1e-6 + 2 * 6 * 5e-6, rel=0.01)


def test_all_to_all_is_bound_by_what_leaves_the_node(plain):
    n, nbytes = 32, 1e10
    cost = collective_cost("all_to_all", nbytes, n, system=cluster(), calibration=plain)
    assert cost.interconnect == pytest.approx(nbytes * 24 / 32 / NIC)
    tapered = collective_cost(
        "all_to_all", nbytes, n, system=cluster(oversubscription=2.0), calibration=plain
    )
    assert tapered.interconnect == pytest.approx(2 * cost.interconnect)


@pytest.mark.parametrize("op", OPS)
def test_fewer_up_links_slow_every_collective_that_needs_them(plain, op):
    def moved(size, stride=1, **more):
        system = cluster(**more)
        return collective_cost(
            op, 1e10, size, system=system, calibration=plain, stride=stride
        ).interconnect

    # Members are 8 devices apart, their siblings active: the nodes' NICs are full.
    wide, narrow = moved(4, 8), moved(4, 8, oversubscription=3.0)
    assert narrow == pytest.approx(3 * wide)
    inside = moved(2 if op == "send_recv" else 8)
    assert inside == moved(2 if op == "send_recv" else 8, oversubscription=3.0)


def two_levels(oversubscription):
    """Four leaves of four nodes of eight devices."""
    leaf = net("fat_tree", 32, NIC, nics_per_node=8)
    spine = net(
        "fat_tree", 128, NIC, nics_per_node=8, oversubscription=oversubscription
    )
    return make_system(net("switch", 8), leaf, spine, nodes=16)


def test_a_ring_crosses_the_spine_once_a_leaf_where_its_members_are_neighbours(plain):
    def time(size, stride, over):
        system = two_levels(over)
        cost = collective_cost(
            "all_reduce", 1e10, size, system=system, calibration=plain, stride=stride
        )
        return float(cost.interconnect)

    # One node's worth of traffic leaves a leaf that has four nodes' up-links.
    near = time(128, 1, 1.0)
    assert near == pytest.approx(2 * 127 / 128 * 1e10 / (8 * NIC))
    assert time(128, 1, 4.0) == pytest.approx(near)
    assert time(128, 1, 8.0) == pytest.approx(2 * near)
    # Members in different leaves: every hop crosses, with 32 siblings beside it.
    far = time(4, 32, 1.0)
    assert far == pytest.approx(2 * 3 / 4 * 1e10 / NIC)
    assert time(4, 32, 4.0) == pytest.approx(4 * far)


def test_a_leaf_of_many_nodes_has_each_node_s_nics_only(plain):
    # Two devices of different leaves, nobody beside them: one NIC each.
    cost = collective_cost(
        "send_recv", 1e10, 2, system=two_levels(1.0), calibration=plain, stride=32
    )
    assert cost.interconnect == pytest.approx(1e10 / NIC)
    (_, leaf, spine) = spans(two_levels(1.0), 128)
    assert leaf.bandwidth == spine.bandwidth == NIC


def test_pairs_of_a_mesh_have_their_own_link_only(plain):
    mesh = node("mesh")
    pair = time_of("all_reduce", 1e9, 2, mesh, plain)
    whole = time_of("all_reduce", 1e9, 8, mesh, plain)
    assert pair == pytest.approx(2e-6 + 1e9 / (LINK / 7))
    assert whole == pytest.approx(14e-6 + 2 * 7 / 8 * 1e9 / LINK)
    near = p2p_cost(1e9, 1, system=mesh, calibration=plain).time
    assert near == pytest.approx(1e-6 + 1e9 / (LINK / 7))


def test_bus_without_peer_access_collapses(plain):
    direct, bounced = node("bus"), node("bus", peer_to_peer=False)
    at = [
        time_of("all_gather", 1e9, n, s, plain) * n / (n - 1)
        for s in (direct, bounced)
        for n in (2, 8)
    ]
    assert at[0] == pytest.approx(at[1], rel=0.5)
    assert at[2] > 1.5 * at[0]
    assert at[3] > 3 * at[2]


def torus(dims, **more):
    return make_system(
        net("torus", math.prod(dims), dims=dims, **more), per_node=math.prod(dims)
    )


def test_torus_rings_use_every_axis_both_ways(plain):
    # Four links of LINK / 4 each way; both axes whole rings.
    whole = collective_cost(
        "all_gather", 1e9, 16, system=torus((4, 4)), calibration=plain
    )
    assert whole.interconnect == pytest.approx(15 / 16 * 1e9 / LINK)
    assert whole.overhead == pytest.approx(4e-6)
    # One axis: half the links.
    row = collective_cost("all_gather", 1e9, 4, system=torus((4, 4)), calibration=plain)
    assert row.interconnect == pytest.approx(3 / 4 * 1e9 / (LINK / 2))
    # Half an axis: a line, a quarter of the links.
    line = collective_cost(
        "all_gather", 1e9, 4, system=torus((8, 8)), calibration=plain
    )
    assert line.interconnect == pytest.approx(3 / 4 * 1e9 / (LINK / 4))


def test_axes_of_one_keep_their_links(plain):
    # A 2 x 2 x 1 slice of a 3D torus: a third of the six links, one way each.
    part = torus((2, 2, 1), wraparound=False)
    cost = collective_cost("all_gather", 1e9, 4, system=part, calibration=plain)
    assert cost.interconnect == pytest.approx(3 / 4 * 1e9 / (LINK / 3))


# All-gather on TPU v7x, 2 x 2 x 1 (tpu-recipes, Ironwood microbenchmarks):
# transferred bytes and their rate. [B, B/s]
@pytest.mark.parametrize(
    ("moved", "rate"), [(1.57e6, 71.8e9), (25.2e6, 161.9e9), (402.7e6, 178.8e9)]
)
def test_published_torus_gather_is_met(moved, rate):
    calibration = load_spec(GENERATIONS, Calibration, "tpu-v7")
    part = torus((2, 2, 1), wraparound=False, bandwidth=600e9)
    found = time_of("all_gather", moved / 0.75, 4, part, calibration)
    assert moved / found == pytest.approx(rate, rel=0.1)


def test_adding_up_is_slower_than_passing_on(plain):
    torus = make_system(net("torus", 16, dims=(4, 4), latency=0.0), per_node=16)
    slow = plain.model_copy(update={"collective": plain.collective.model_copy(
        update={"reduce_ratio": {"torus": 0.5}})})  # fmt: skip

    def moved(op, calibration, **more):
        return float(collective_cost(
            op, 1e9, 16, system=torus, calibration=calibration, **more
        ).interconnect)  # fmt: skip

    gather = moved("all_gather", plain)
    assert moved("all_gather", slow) == pytest.approx(gather)
    assert moved("reduce_scatter", slow) == pytest.approx(2 * gather)
    assert moved("all_reduce", slow) == pytest.approx(3 * gather)
    # What products beside it add up costs the transfer alone.
    assert moved("reduce_scatter", slow, within=True) == pytest.approx(gather)
    switch = node()
    for op in OPS:
        times = [
            float(collective_cost(op, 1e9, 8, system=switch, calibration=c).time)
            for c in (plain, slow)
        ]
        assert times[0] == times[1]


def test_published_torus_all_reduce_is_met():
    # tpu-recipes, Trillium: 606 MB on 256 chips of v6e in 5.12 ms.
    system = load_system("tpu-v6e-256")
    cost = collective_cost(
        "all_reduce", 606076928, 256, system=system,
        calibration=calibration_for(system.device, "structured"),
    )  # fmt: skip
    assert float(cost.time) == pytest.approx(5.121e-3, rel=0.05)


def test_torus_without_wraparound_is_slower(plain):
    ring, line = torus((4, 4)), torus((4, 4), wraparound=False)
    for op in ("all_reduce", "all_gather", "all_to_all"):
        fast = time_of(op, 1e9, 16, ring, plain)
        slow = time_of(op, 1e9, 16, line, plain)
        assert slow > 1.8 * fast


def test_torus_columns_are_strided_groups(plain):
    column = spans(torus((4, 4)), 4, stride=4)[0]
    assert [(a.size, a.ring, a.spacing) for a in column.axes] == [(4, True, 1)]
    spaced = spans(torus((4, 4)), 2, stride=2)[0]
    assert [(a.size, a.spacing) for a in spaced.axes] == [(2, 2)]


def test_torus_all_to_all_is_bound_by_its_bisection(plain):
    found = collective_cost(
        "all_to_all", 1e9, 64, system=torus((64,)), calibration=plain
    )
    # A ring of n: each link carries n/8 of one rank's buffer.
    assert found.interconnect == pytest.approx(64 / 8 * 1e9 / (LINK / 2))


@pytest.mark.parametrize("kind", ["switch", "mesh", "bus", "torus"])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_never_below_the_lower_bounds(calibration, kind, n):
    system = torus((8,)) if kind == "torus" else node(kind)
    nbytes = np.logspace(0, 10, 30)
    share = (n - 1) / n * nbytes / LINK
    for op in ("all_gather", "reduce_scatter", "all_to_all"):
        assert (time_of(op, nbytes, n, system, calibration) >= share).all()
    assert (time_of("all_reduce", nbytes, n, system, calibration) >= 2 * share).all()
    for op in ("broadcast", "send_recv"):
        assert (time_of(op, nbytes, n, system, calibration) >= nbytes / LINK).all()


def test_faster_links_are_not_slower(calibration):
    nbytes = np.logspace(0, 10, 30)
    for op in OPS:
        slow = time_of(op, nbytes, 8, node(), calibration)
        fast = time_of(op, nbytes, 8, node(bandwidth=2 * LINK), calibration)
        near = time_of(op, nbytes, 8, node(latency=1e-7), calibration)
        assert (fast <= slow).all()
        assert (near < slow).all()


@pytest.mark.parametrize(
    ("op", "n", "stride", "text"),
    [
        ("gossip", 2, 1, "not one of all_reduce"),
        ("all_reduce", 16, 1, "has 8"),
        ("all_reduce", 4, 4, "has 8"),
        ("all_reduce", 0, 1, "at least 1"),
        ("all_reduce", 2, 0, "at least 1"),
    ],
)
def test_bad_groups_are_refused(calibration, op, n, stride, text):
    with pytest.raises(InputError, match=text):
        time_of(op, 1e6, n, node(), calibration, stride)


def test_parameters_name_what_is_missing(plain):
    table = plain.collective.model_dump()
    del table["efficiency"]["dcn"]
    with pytest.raises(ValueError, match="efficiency lacks dcn"):
        CollectiveParameters(**table)


# Bus bandwidth of large all-reduces as measured (stas00/ml-engineering network
# README and NVIDIA GTC24 S62129 slide 12). [B/s]
@pytest.mark.parametrize(
    ("generation", "link", "in_network", "n", "busbw"),
    [
        ("ampere", 300e9, False, 8, 234e9),
        ("hopper", 450e9, False, 8, 366e9),
        ("hopper", 450e9, True, 8, 473e9),
        ("hopper", 450e9, True, 5, 414e9),
        ("blackwell", 900e9, False, 8, 682e9),
    ],
)
def test_published_bus_bandwidth_is_met(generation, link, in_network, n, busbw):
    calibration = load_spec(GENERATIONS, Calibration, generation)
    system = node(bandwidth=link, latency=0.5e-6, in_network_reduction=in_network)
    found = time_of("all_reduce", 16e9, n, system, calibration)
    assert 2 * (n - 1) / n * 16e9 / found == pytest.approx(busbw, rel=0.06)


def test_direct_all_reduces_are_faster_where_small_and_the_library_s_where_large(
    calibration,
):
    def times(direct):
        return collective_cost(
            "all_reduce", np.array([256.0, 65536.0, 2.0**23, 2.0**28]), 8,
            system=node(), calibration=calibration, direct=direct,
        ).time  # fmt: skip

    library, direct, eager = times(0.0), times(1.0), times(2.0)
    assert (direct[:2] < 0.6 * library[:2]).all()
    np.testing.assert_allclose(direct[2:], library[2:])
    host = calibration.collective.direct.host_time
    np.testing.assert_allclose(eager, np.maximum(direct, host))


def test_direct_all_reduces_read_all_or_a_share_of_each(calibration):
    p = calibration.collective.direct
    rate = LINK * p.efficiency
    small, medium = 2.0**10, 2.0**22
    cost = collective_cost(
        "all_reduce", np.array([small, medium]), 8, system=node(),
        calibration=calibration, direct=1.0,
    )  # fmt: skip
    hop = 1e-6
    start = p.start_time + 6 * p.peer_time + 2 * hop
    once = start + 7 * small / rate
    twice = start + p.exchange_time + hop + 2 * 7 / 8 * medium / rate
    np.testing.assert_allclose(cost.time, [once, twice])


def test_direct_all_reduces_on_a_bus_are_of_two(calibration):
    def saved(n):
        library, direct = (
            collective_cost(
                "all_reduce", 1024.0, n, system=node("bus"), calibration=calibration,
                direct=way,
            ).time
            for way in (0.0, 1.0)
        )  # fmt: skip
        return library - direct

    assert saved(2) > 0
    assert saved(4) == saved(8) == 0


def test_software_takes_as_many_clocks_on_each_device(calibration):
    reference = calibration.collective.reference_clock

    def time(scale, *networks):
        system = make_system(*networks, nodes=4 if len(networks) > 1 else 1)
        clock = {"clock": reference * scale, "max_clock": None}
        compute = system.device.compute.model_copy(update=clock)
        device = system.device.model_copy(update={"compute": compute})
        system = system.model_copy(update={"device": device})
        return time_of("all_reduce", 8.0, system.num_devices, system, calibration)

    inner = net("switch", 8, latency=1e-12)
    assert time(1.0, inner) == pytest.approx(2 * time(2.0, inner), rel=1e-4)
    outer = net("fat_tree", 32, NIC, 5e-6, nics_per_node=8)
    slow, fast = time(1.0, inner, outer), time(2.0, inner, outer)
    assert fast > 0.5 * slow + 0.5 * 4 * 5e-6  # steps between nodes are the host's


def test_bytes_in_flight_take_their_time_on_the_link(plain):
    def time(factor, size):
        ramps = {"ramp_size": dict.fromkeys(KINDS, size)} if size else {}
        bare = plain.collective.protocols["bare"].model_copy(update=ramps)
        tuned = plain.collective.model_copy(update={"protocols": {"bare": bare}})
        return time_of(
            "all_gather", 16e6, 8, make_system(net("switch", 8, factor * LINK)),
            plain.model_copy(update={"collective": tuned}),
        )  # fmt: skip

    ramp = 2e6 / LINK * 16**plain.collective.ramp_exponent
    assert time(1, 2e6) - time(1, 0) == pytest.approx(ramp)
    assert time(2, 2e6) - time(2, 0) == pytest.approx(ramp / 2)


def test_trees_of_two_nodes_send_each_byte_once(plain):
    def busbw(nodes):
        fast = cluster(nodes=nodes, inner={"bandwidth": 1e3 * LINK})
        n = 8 * nodes
        return 2 * (n - 1) / n * 1e12 / time_of("all_reduce", 1e12, n, fast, plain)

    assert busbw(2) == pytest.approx(8 * NIC * 2 * 15 / 16, rel=0.02)
    assert busbw(4) < 0.75 * busbw(2)


def test_a_host_that_was_measured_says_how_its_bus_is_shared(plain):
    usual = node("bus", peer_to_peer=False)
    steep = node("bus", peer_to_peer=False, contention=2.0)
    times = [time_of("all_gather", 1e9, 8, s, plain) for s in (usual, steep)]
    assert times[1] == pytest.approx(4 * times[0], rel=0.01)


def test_without_direct_parameters_the_library_does_it(calibration):
    bare = calibration.model_copy(
        update={
            "collective": calibration.collective.model_copy(update={"direct": None})
        }
    )
    both = [
        collective_cost(
            "all_reduce", 1024.0, 8, system=node(), calibration=bare, direct=direct
        ).time
        for direct in (0.0, 1.0)
    ]
    assert both[0] == both[1]
