"""Fair sharing of links against hand-made cases, and what max-min means."""

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from hwsim.sim.links import FairLink, FairNetwork, fair_speeds


def run(starts_and_sizes):
    """Return the end of each transfer, given (start, time alone)."""
    env = simpy.Environment()
    link, ends = FairLink(env), {}

    def sender(name, start, alone):
        yield env.timeout(start)
        yield link.transfer(alone)
        ends[name] = env.now

    for name, (start, alone) in enumerate(starts_and_sizes):
        env.process(sender(name, start, alone))
    env.run()
    return [ends[i] for i in range(len(starts_and_sizes))], link.contended


def test_a_transfer_alone_takes_its_own_time():
    assert run([(0.25, 1.5)]) == ([1.75], False)


def test_two_equal_transfers_take_twice_as_long():
    ends, contended = run([(0.0, 1.0), (0.0, 1.0)])
    assert ends == pytest.approx([2.0, 2.0])
    assert contended


def test_a_late_transfer_takes_half_the_rate_from_then():
    ends, _ = run([(0.0, 2.0), (1.0, 2.0)])
    # One second alone, then both at half rate; the first has 1 s left.
    assert ends == pytest.approx([3.0, 4.0])


def test_work_is_conserved():
    ends, _ = run([(0.0, 1.0), (0.1, 2.0), (0.2, 0.5), (0.2, 3.0)])
    assert max(ends) == pytest.approx(6.5)


def test_transfers_one_after_another_do_not_contend():
    ends, contended = run([(0.0, 1.0), (1.5, 1.0)])
    assert ends == pytest.approx([1.0, 2.5])
    assert not contended


USES = st.lists(
    st.dictionaries(st.integers(0, 4), st.floats(0.01, 1.0), max_size=3),
    min_size=1, max_size=6,
)  # fmt: skip


@given(USES)
def test_speeds_are_max_min_fair(uses):
    speeds = fair_speeds(uses)
    load = {
        link: sum(s * use.get(link, 0.0) for s, use in zip(speeds, uses, strict=True))
        for use in uses
        for link in use
    }
    assert all(total <= 1.0 + 1e-9 for total in load.values())
    for speed, use in zip(speeds, uses, strict=True):
        assert 0.0 < speed <= 1.0
        if speed < 1.0:
            # Some link of it is full, and nobody on that link is faster.
            assert any(
                load[link] >= 1.0 - 1e-9
                and all(
                    s <= speed * (1.0 + 1e-9)
                    for s, other in zip(speeds, uses, strict=True)
                    if link in other
                )
                for link in use
            )


@given(USES)
def test_links_with_room_for_all_disturb_nobody(uses):
    wanted = {link: sum(u.get(link, 0.0) for u in uses) for use in uses for link in use}
    if all(total <= 1.0 for total in wanted.values()):
        assert fair_speeds(uses) == [1.0] * len(uses)
    else:
        assert min(fair_speeds(uses)) < 1.0


def play_network(transfers):
    env = simpy.Environment()
    network, ends = FairNetwork(env), {}

    def sender(name, start, alone, use):
        yield env.timeout(start)
        yield network.transfer(alone, use)
        ends[name] = env.now

    for name, transfer in enumerate(transfers):
        env.process(sender(name, *transfer))
    env.run()
    return [ends[i] for i in range(len(transfers))], network.contended


def test_levels_that_are_not_full_are_shared_for_free():
    ends, contended = play_network(
        [(0.0, 4.0, {"nic": 1.0, "nvlink": 0.2}), (1.0, 2.0, {"nvlink": 0.8})]
    )
    assert ends == pytest.approx([4.0, 3.0])
    assert not contended


def test_a_transfer_slowed_on_one_level_leaves_room_on_the_others():
    ends, contended = play_network([
        (0.0, 1.0, {"nic": 1.0, "nvlink": 0.5}),
        (0.0, 1.0, {"nic": 1.0}),
        (0.0, 1.0, {"nvlink": 0.75}),
    ])  # fmt: skip
    # The two at the NIC run at half speed, and take a quarter of NVLink.
    assert ends == pytest.approx([2.0, 2.0, 1.0])
    assert contended


def test_a_transfer_that_ends_gives_its_share_back():
    ends, _ = play_network([
        (0.0, 3.0, {"spine": 1.0, "leaf": 0.25}),
        (0.0, 1.0, {"spine": 1.0}),
        (0.0, 4.0, {"leaf": 1.0}),
    ])  # fmt: skip
    # Half speed until 2 s, then leaf: 0.25 and 1 of it at speed 0.8.
    assert ends[1] == pytest.approx(2.0)
    assert ends[0] == pytest.approx(2.0 + 2.0 / 0.8)
    leaf = 2.0 * 0.875 + 2.5 * 0.8
    assert ends[2] == pytest.approx(4.5 + (4.0 - leaf))
