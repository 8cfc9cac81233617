"""Predictions beside published runs, with the errors in plain sight."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsim.analysis.graph_result import Engine
from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.resolve import parsed, resolve
from hwsim.analysis.result import Result
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError
from hwsim.specs.load import validate
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.runs import (
    PublishedFile,
    PublishedRow,
    iter_rows,
    load_published,
)
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.analysis.saved import SavedResult

Specs = tuple[ModelSpec, SystemSpec, StackSpec]


@dataclass(frozen=True)
class ComparedRow:
    """One published figure and its prediction.

    Attributes
    ----------
    seconds : float or None
        Predicted time of what the row's task names. [s]
    reason : str
        Why there is no prediction; empty where there is one.
    bound : str
        What the predicted time mostly goes to.
    """

    source: PublishedFile
    row: PublishedRow
    seconds: float | None
    reason: str = ""
    bound: str = ""

    @property
    def predicted(self) -> float | None:
        """The prediction in the row's metric and unit."""
        return None if self.seconds is None else self.row.value_of(self.seconds)

    @property
    def error(self) -> float | None:
        """(predicted - published) / published, signed."""
        if self.seconds is None:
            return None
        return self.row.relative_error(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return the row for tables."""
        row = self.row
        return {
            "source": self.source.id,
            "row": row.id,
            "task": row.task,
            "model": row.model,
            "system": row.system,
            "devices": row.num_devices,
            "stack": row.stack,
            "metric": row.metric,
            "unit": row.unit,
            "published": row.value,
            "predicted": self.predicted,
            "relative_error": self.error,
            "bound": self.bound,
            "confidence": row.confidence,
            "reason": self.reason,
        }


@dataclass(frozen=True, repr=False)
class PublishedComparison(Result):
    """All published rows, answered or not."""

    rows: tuple[ComparedRow, ...]
    fidelity: Fidelity
    overrides: tuple[str, ...] = ()

    kind = "published"

    @property
    def answered(self) -> list[ComparedRow]:
        """Rows that have a prediction."""
        return [row for row in self.rows if row.seconds is not None]

    @property
    def unanswered(self) -> list[ComparedRow]:
        """Rows that have none, each with its reason."""
        return [row for row in self.rows if row.seconds is None]

    def errors(self) -> list[float]:
        """Return the signed relative errors of the answered rows."""
        return [row.error for row in self.answered if row.error is not None]

    def summary(self) -> dict[str, float]:
        """Return rows, median and mean absolute error, bias, worst."""
        return summarise(self.errors())

    def by(self, key: str) -> dict[str, dict[str, float]]:
        """Return summaries grouped by a key of the rows' dicts."""
        groups: dict[str, list[float]] = {}
        for row in self.answered:
            if row.error is not None:
                groups.setdefault(str(row.to_dict()[key]), []).append(row.error)
        return {name: summarise(errors) for name, errors in sorted(groups.items())}

    @property
    def table(self) -> pd.DataFrame:
        """One row per published figure."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() for row in self.rows])

    def details(self) -> dict[str, Any]:
        """Return the published rows as they stand in their files."""
        files = {row.source.id: row.source for row in self.rows}
        return {
            "files": [file.model_dump(mode="json") for file in files.values()],
            "seconds": [row.seconds for row in self.rows],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return summary, groups and rows."""
        return {
            **self.header(),
            "fidelity": self.fidelity,
            "overrides": list(self.overrides),
            **self.summary(),
            "by_task": self.by("task"),
            "by_source": self.by("source"),
            "table": [row.to_dict() for row in self.rows],
        }


def saved_comparison(saved: SavedResult) -> PublishedComparison | None:
    """Return a saved comparison as it was; None from a file that lacks its rows."""
    detail = saved.data.get("detail") or {}
    if "files" not in detail:
        return None
    files = [
        validate(PublishedFile, table, str(saved.origin), units_required=False)
        for table in detail["files"]
    ]
    known = {(file.id, row.id): (file, row) for file in files for row in file.rows}
    rows = tuple(
        ComparedRow(
            *known[told["source"], told["row"]], seconds, told["reason"], told["bound"]
        )
        for told, seconds in zip(saved.need("table"), detail["seconds"], strict=True)
    )
    overrides = tuple(saved.data.get("overrides") or ())
    return PublishedComparison(rows, saved.need("fidelity"), overrides)


def summarise(errors: Sequence[float]) -> dict[str, float]:
    """Return rows, median_ape, mape, bias (median signed) and worst_ape."""
    if not errors:
        return {"rows": 0}
    size = [abs(e) for e in errors]
    return {
        "rows": len(errors),
        "median_ape": statistics.median(size),
        "mape": statistics.fmean(size),
        "bias": statistics.median(errors),
        "worst_ape": max(size),
    }


def compare(
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "closed_form",
    overrides: Sequence[str] = (),
) -> PublishedComparison:
    """Predict every published row that ships with hwsim."""
    rows = tuple(compare_each(fidelity=fidelity, engine=engine, overrides=overrides))
    return PublishedComparison(rows, fidelity, tuple(overrides))


def compare_each(
    *,
    fidelity: Fidelity = "auto",
    engine: Engine = "closed_form",
    overrides: Sequence[str] = (),
) -> Iterator[ComparedRow]:
    """Yield the rows one by one, for progress."""
    parsed(overrides)  # what cannot be read is no matter of a row
    for file, row in iter_rows(load_published()):
        yield compare_row(file, row, fidelity, engine, overrides)


def compare_row(
    file: PublishedFile,
    row: PublishedRow,
    fidelity: Fidelity,
    engine: Engine,
    overrides: Sequence[str] = (),
) -> ComparedRow:
    """Predict one row; what cannot be predicted says why."""
    try:
        result = published_result(row, fidelity, engine, overrides)
        seconds, bound = _figure(row, result)
    except HwsimError as error:
        return ComparedRow(file, row, None, str(error))
    return ComparedRow(file, row, seconds, bound=bound)


def published_result(
    row: PublishedRow,
    fidelity: Fidelity = "auto",
    engine: Engine = "closed_form",
    overrides: Sequence[str] = (),
) -> TrainResult | InferResult:
    """Return the run that a published row describes, with what-if changes."""
    run = _train if row.task == "train" else _infer
    specs = resolve(row.model, row.system, row.stack, overrides)
    return run(row, specs, fidelity, engine)


def _figure(row: PublishedRow, result: TrainResult | InferResult) -> tuple[float, str]:
    """Return the time that a row's task names, and what binds it. [s]"""
    if isinstance(result, TrainResult):
        return result.step_s, result.bound
    if row.task in {"forward", "prefill"}:
        return result.ttft_s, result.graphs[0].bound
    if row.task == "decode":
        return float(result.tpot_s or 0.0), result.decode.bound if result.decode else ""
    return result.latency_s, result.bound


def _train(
    row: PublishedRow, specs: Specs, fidelity: Fidelity, engine: Engine
) -> TrainResult:
    model, system, stack = specs
    sizes = [row.micro_batch] if row.micro_batch else _micro_batches(row)
    for micro_batch in sizes:
        result = run_training(
            model, system, stack, devices=row.num_devices, tp=row.tp, dp=row.dp,
            pp=row.pp, vpp=row.vpp, cp=row.cp, ep=row.ep,
            micro_batch=micro_batch, global_batch=row.global_batch, seq=row.seq,
            dtype=row.dtype, recompute=row.recompute, optimizer="adamw",
            zero_stage=row.zero_stage, sequence_parallel=row.sequence_parallel,
            dp_shard=row.dp_shard,
            fidelity=fidelity, engine=engine,
        )  # fmt: skip
        if result.fits:
            break
    return result


def _micro_batches(row: PublishedRow) -> list[int]:
    """Where the source does not say: the largest power of two that fits."""
    per_rank = int(row.global_batch or 1) // row.dp
    sizes = [2**i for i in range(10, -1, -1) if per_rank % 2**i == 0]
    return sizes or [1]


def _infer(
    row: PublishedRow, specs: Specs, fidelity: Fidelity, engine: Engine
) -> InferResult:
    model, system, stack = specs
    prompt = row.seq if row.task == "forward" else row.prompt
    output = {"forward": 0, "prefill": 1}.get(row.task, row.output or 1)
    return run_inference(
        model, system, stack, batch=row.batch or 1, prompt=prompt or 0,
        output=output, tp=row.tp, dtype=row.dtype, weight_dtype=row.weight_dtype,
        kv_dtype=row.kv_dtype, fidelity=fidelity, engine=engine,
    )  # fmt: skip
