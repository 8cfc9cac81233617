"""The recurrence at many points against the plain one at each of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.schedule.inorder import play_inorder
from hwsim.schedule.inorder_points import play_inorder_points
from tests.strategies.blocks import timed_graphs

NAMES = ("makespan", "compute_busy", "exposed_comm_time", "idle")


@settings(max_examples=150, deadline=None)
@given(
    timed_graphs(max_repeat=60),
    st.lists(st.floats(0.1, 3.0), min_size=1, max_size=4),
    st.sampled_from([0.0, 1.5]),
)
def test_each_point_is_what_the_plain_recurrence_gives(case, scales, start):
    graph, times, host = case
    # Points stretch every other node, so that each settles in its own pattern.
    grown = [
        [[t * (s if i % 2 else 1.0) for i, t in enumerate(block)] for block in times]
        for s in scales
    ]
    columns = [np.array(block).T for block in zip(*grown, strict=True)]
    played = play_inorder_points(graph, columns, host, start=start)
    for point, own in enumerate(grown):
        plain = play_inorder(graph, own, host, start=start)
        for name in NAMES:
            assert getattr(played, name)[point] == pytest.approx(
                getattr(plain, name), rel=1e-9, abs=1e-9
            ), name
