"""Fair sharing of a link against hand-made cases."""

import pytest
import simpy

from hwsim.sim.links import FairLink


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
