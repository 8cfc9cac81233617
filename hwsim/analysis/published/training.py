"""Tables of published training runs: read, predict, one record a row."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from hwsim.analysis.published.kinds import Record, record
from hwsim.analysis.published.rows import RunPrediction, RunPredictor
from hwsim.cost.evaluate import Fidelity
from hwsim.specs.published.training import PublishedRun, read_published
from hwsim.specs.published.training_map import load_mappings, mapped


class TrainingPredictor:
    """Predicts tables of training runs; equal runs are run once.

    Parameters
    ----------
    fidelity : str
        What operator costs rest on.
    """

    def __init__(self, fidelity: Fidelity) -> None:
        self._runs = RunPredictor(fidelity)
        self._mappings = load_mappings()

    def read(self, path: Path) -> tuple[PublishedRun, ...]:
        """Return the rows of a file."""
        return read_published([path]).runs

    def predict(self, row: PublishedRun) -> list[Record]:
        """Return the record of a row."""
        return [_record(self._runs.predict(mapped(row, self._mappings)))]

    def sharing(self, row: PublishedRun) -> tuple[Hashable, Hashable]:
        """Return what runs of a row have in common with others."""
        return (row.source, row.model, row.device), row.row


def _record(p: RunPrediction) -> Record:
    run, result = p.mapped.run, p.result
    return record(
        file=run.file,
        row=run.row,
        source=run.source,
        op="train",
        model=run.model,
        device=run.device,
        devices=run.num_devices,
        dtype=run.dtype,
        stack=result.stack.id if result else (p.mapped.stack or ""),
        system=result.system.id if result else (p.mapped.system or ""),
        mapping=", ".join(p.mapped.maps),
        metric=p.metric,
        unit=p.unit,
        measured=p.measured,
        predicted=p.value,
        lower=p.lower,
        upper=p.upper,
        published_step_s=p.published_step_s,
        step_s=p.step_s,
        fits=None if result is None else result.fits,
        bound=result.bound if result else "",
        assumed="; ".join(p.assumed),
        confidence=run.confidence,
        knowledge=result.knowledge.name if result else "",
        reason=p.reason,
    )
