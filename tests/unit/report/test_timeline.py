from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from hwsim.analysis.graph_result import GraphResult
from hwsim.errors import InputError
from hwsim.report.figures.graphs import timeline_figure
from hwsim.report.figures.timeline import _busy_share, _layer_ends
from hwsim.sim.records import Record
from tests.unit.report.conftest import make_result


def record(name: str, start: float, end: float, **fields: object) -> Record:
    base = {
        "rank": 0, "stream": "compute", "block": "layer", "instance": 0,
        "name": name, "kind": "matmul", "phase": "forward",
    }  # fmt: skip
    return Record(**{**base, **fields}, start=start, end=end)  # type: ignore[arg-type]


def boxes(axes: object) -> dict[str, int]:
    found = [c for c in axes.collections if isinstance(c, PolyCollection)]  # type: ignore[attr-defined]
    return {
        str(c.get_gid()): len(c.get_paths())
        for c in found
        if str(c.get_gid()).startswith("ops-")
    }


def test_a_short_run_is_drawn_operator_by_operator(result: GraphResult) -> None:
    figure = timeline_figure(result.records)
    assert len(figure.axes) == 1
    assert boxes(figure.axes[0]) == {
        "ops-matrix product": 6, "ops-norm, activation": 3, "ops-data movement": 1,
    }  # fmt: skip
    assert "down" in {text.get_text() for text in figure.axes[0].texts}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["compute"]
    assert figure.axes[0].get_xlim() == pytest.approx(
        (0.0, max(r.end for r in result.records))
    )


def test_a_long_run_is_drawn_whole_and_its_first_layers_in_full() -> None:
    result = make_result(layers=400)
    figure = timeline_figure(result.records)
    whole, start = figure.axes
    assert whole.get_title(loc="left") == "Whole run, by layer"
    assert whole.get_xlim()[1] == pytest.approx(max(r.end for r in result.records))
    assert 3 <= sum(boxes(start).values()) <= 40
    assert start.get_xlim()[1] < 0.1 * whole.get_xlim()[1]
    assert "1,201 operators" in figure.caption


def test_each_rank_and_stream_has_a_row() -> None:
    records = [
        record("a", 0.0, 1.0),
        record("b", 0.5, 2.0, stream="tp", kind="collective"),
        record("a", 0.0, 1.5, rank=1),
    ]
    axes = timeline_figure(records).axes[0]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == ["rank 0 compute", "rank 0 tp", "rank 1 compute"]


def test_more_streams_than_fit_are_told_of() -> None:
    records = [record("a", 0.0, 1.0, rank=rank) for rank in range(40)]
    figure = timeline_figure(records)
    assert len(figure.axes[0].get_yticklabels()) == 16
    assert "24 more streams are not drawn" in figure.caption


def test_an_unknown_kind_is_drawn_as_other() -> None:
    assert boxes(timeline_figure([record("a", 0.0, 1.0, kind="new")]).axes[0]) == {
        "ops-other": 1
    }


def test_an_empty_timeline_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        timeline_figure([])


def test_busy_share_of_each_slice_is_exact() -> None:
    records = [record("a", 0.5, 1.5), record("b", 2.0, 2.25), record("c", 2.5, 3.0)]
    share = _busy_share(records, np.array([0.0, 1.0, 2.0, 3.0]))
    assert list(share) == pytest.approx([0.5, 0.5, 0.75])


def test_layers_end_where_their_last_operator_ends() -> None:
    records = [
        record("a", 0.0, 1.0), record("b", 1.0, 3.0),
        record("a", 3.0, 4.0, instance=1), record("c", 4.0, 4.5, block="head"),
    ]  # fmt: skip
    assert _layer_ends(records) == [3.0, 4.0, 4.5]
