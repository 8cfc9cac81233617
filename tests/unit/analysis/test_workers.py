"""Published rows predicted by several processes, and interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsim.analysis.validation.published import validate_published
from hwsim.errors import InputError

HEAD = "model,device,backend,precision,mode,isl,osl,concurrency,tp_size,ttft_ms,tpot_ms"
ROWS = [
    f"meta-llama/Llama-3.1-70B,{device},vllm,fp8,agg,128,{8 + i % 3},1,8,80,9"
    for i, device in enumerate(["h100_sxm", "no such device"] * 70)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([HEAD, *ROWS]) + "\n", encoding="utf-8")
    return file


def test_workers_give_what_one_process_gives_in_the_same_order(path: Path) -> None:
    seen: list[int] = []
    alone = validate_published(path)
    both = validate_published(path, jobs=2, progress=lambda done, _: seen.append(done))
    assert both.records == alone.records
    assert both.complete
    assert seen == sorted(seen)
    assert seen[-1] == len(ROWS)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_keeps_what_is_done(path: Path, jobs: int) -> None:
    told: list[int] = []

    def interrupt(done: int, _: int) -> None:
        told.append(done)
        if done >= 20:
            raise KeyboardInterrupt

    found = validate_published(path, jobs=jobs, progress=interrupt)
    assert not found.complete
    rows = {record["row"] for record in found.records}
    assert len(rows) == told[-1] < len(ROWS)


def test_no_process_at_all_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="jobs is 0"):
        validate_published(path, jobs=0)
