"""The spreads that predictions of uncalibrated devices carry, from measurements."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

from hwsim.analysis.fitting.family import FitPlan
from hwsim.analysis.fitting.outside import (
    OutsideRow,
    outside_rows,
    outside_terms,
    serving_rows,
    serving_terms,
    table_rows,
)
from hwsim.analysis.fitting.training_terms import (
    TrainingRow,
    knowledge_rows,
    training_knowledge,
)
from hwsim.analysis.fitting.transfer import spread_tables, transfers
from hwsim.specs.calibration import FAMILIES
from hwsim.specs.calibration_file import EndToEnd, IntervalFile
from hwsim.specs.catalogs import load_device
from hwsim.specs.measurement.table import MeasurementTable
from hwsim.version import __version__

# Generations whose chips are those of a measured one, with units added or cut.
_SAME_CHIPS = {
    "blackwell": ("blackwell-ultra", "blackwell-ultra-1400w"),
    "hopper": ("hopper-cut",),
}


def make_intervals(
    table: MeasurementTable,
    devices: Sequence[str],
    *,
    training: Sequence[Path] = (),
    published: Sequence[Path] = (),
    serving: Sequence[Path] = (),
    plan: FitPlan | None = None,
    progress: Callable[[str], None] | None = None,
) -> IntervalFile:
    """Return what ``devices/generations/intervals.json`` holds.

    Parameters
    ----------
    table : MeasurementTable
        Rows of several devices of several generations.
    devices : sequence of str
        Their ids.
    training : sequence of path
        Tables of published training, for the term of training beside the runs
        that ship.
    published : sequence of path
        Tables of published inference, for the terms of inference and services
        beside the runs that ship.
    serving : sequence of path
        Tables of published serving points, for their terms.
    plan : FitPlan, optional
        How the fits to all devices but one are made.
    progress : callable, optional
        Told each transfer's errors.
    """
    plan = plan or FitPlan(sample=900, evaluations=20)
    trained = knowledge_rows(training)
    made = transfers(table, devices, FAMILIES, plan, progress)
    specs = [load_device(name) for name in devices]
    names = ", ".join(spec.name for spec in specs)
    return IntervalFile(
        hwsim_version=__version__,
        date=dt.datetime.now(tz=dt.UTC).date(),
        generations=_generations({spec.architecture for spec in specs}),
        kinds=tuple(sorted({spec.kind for spec in specs})),
        tables=spread_tables(made, FAMILIES),
        end_to_end=whole_terms(published, trained),
        serving=serving_terms(serving_rows(serving)),
        training=training_knowledge(trained) if trained else None,
        left_out=tuple(error for one in made for error in one.errors()),
        notes=(
            "generation: devices predicted by a fit to another of their generation; "
            "kind: by a fit to other generations; assumed: kind, half widths times "
            f"1.6; measured devices: {names}",
        ),
    )


def with_terms(
    file: IntervalFile,
    *,
    training: Sequence[Path] = (),
    published: Sequence[Path] = (),
    serving: Sequence[Path] = (),
    progress: Callable[[str], None] | None = None,
) -> IntervalFile:
    """Return a file with the terms of whole runs and services made again.

    Terms of which no table is given stay as they are.
    """
    trained = knowledge_rows(training, progress=progress)
    changes: dict[str, object] = {
        "hwsim_version": __version__, "date": dt.datetime.now(tz=dt.UTC).date(),
    }  # fmt: skip
    if published or trained:
        made = whole_terms(published, trained)
        kept = () if published else ("infer", "serve")
        changes["end_to_end"] = made | {
            task: file.end_to_end[task] for task in kept if task in file.end_to_end
        }
    if serving:
        changes["serving"] = serving_terms(serving_rows(serving))
    if trained:
        changes["training"] = training_knowledge(trained)
    return file.model_copy(update=changes)


def whole_terms(
    published: Sequence[Path], trained: Sequence[TrainingRow] = ()
) -> dict[str, EndToEnd]:
    """Return the terms of published runs, with the tables given beside them.

    That of training, for single graphs, is of runs whose stack is stated.
    """
    own = outside_rows()
    terms = outside_terms(own)
    runs = [
        OutsideRow("train", row.document, row.ratio, row.inside)
        for row in trained
        if row.mapped and row.facts.told.stack
    ]
    more = outside_terms([*own, *table_rows(published), *runs])
    asked = {"infer": published, "serve": published, "train": runs}
    return terms | {task: more[task] for task in asked if asked[task] and task in more}


def _generations(measured: set[str]) -> tuple[str, ...]:
    """Return the generations whose own chips were measured."""
    same = {name for known in measured for name in _SAME_CHIPS.get(known, ())}
    return tuple(sorted(measured | same))
