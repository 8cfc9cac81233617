"""Published peak memory of training runs, beside what is predicted."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwsim.analysis.published.rows import RunPredictor
from hwsim.cost.footprint import Footprint
from hwsim.errors import SpecError
from hwsim.resources import builtin_path
from hwsim.specs.published.training import PublishedRun, read_published
from hwsim.specs.published.training_map import load_mappings, mapped

COLUMN = "peak_memory_gib"
GIB = float(2**30)


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of the fullest device of one run.

    Attributes
    ----------
    published : float
        What the source measured. [B]
    footprint : Footprint
        What is predicted, part by part; reserves are not in it. [B]
    """

    run: PublishedRun
    published: float
    footprint: Footprint

    @property
    def relative_error(self) -> float:
        """Predicted over published, less one."""
        return self.footprint.total / self.published - 1.0


def peak_memories(path: str | Path | None = None) -> Iterator[PeakMemory]:
    """Yield the runs of a table with the columns of published training runs.

    Parameters
    ----------
    path : str, Path or None
        A CSV file with a column ``peak_memory_gib``; None: the one that ships.

    Raises
    ------
    SpecError
        If a row gives no peak, or cannot be predicted.
    """
    if path is None:
        path = builtin_path("workloads") / "published" / "peak-memory.csv"
    with Path(path).open(newline="", encoding="utf-8") as lines:
        cells = [row.get(COLUMN) or "" for row in csv.DictReader(lines)]
    predictor, mappings = RunPredictor(), load_mappings()
    for run, cell in zip(read_published([path]).runs, cells, strict=True):
        where = f"{path}: row {run.row}"
        try:
            published = float(cell) * GIB
        except ValueError:
            raise SpecError(
                where, f"{COLUMN} is {cell!r}", "write a number of GiB"
            ) from None
        result = predictor.run(mapped(run, mappings))
        yield PeakMemory(run, published, result.footprint)
