"""Kinds of tables of published figures, told apart by their columns.

Each kind has a predictor of its own; all give records with the same keys, so
that one command takes a mixed list of tables and sums them up together.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.measurement.file import raw_table
from hwsim.specs.published.names import published_device

# What every record holds, in SI: text keys are empty, others None where unknown.
# ``published_step_s`` and ``step_s`` are the time behind the figure (step, pass,
# request): there, above the published one always means too slow.
TEXT_KEYS = (
    "file", "source", "op", "model", "device", "dtype", "stack", "system", "mapping",
    "metric", "unit", "bound", "assumed", "confidence", "knowledge", "reason",
)  # fmt: skip
NUMBER_KEYS = (
    "row", "devices", "measured", "predicted", "lower", "upper", "relative_error",
    "published_step_s", "step_s", "fits",
)  # fmt: skip

Record = dict[str, Any]


class TablePredictor(Protocol):
    """Reads and predicts the tables of one kind; keeps what rows share."""

    def read(self, path: Path) -> Sequence[Any]:
        """Return the rows of a file, unusable ones included.

        Each has a ``device`` attribute: the cell as it stands.
        """

    def predict(self, row: Any) -> list[Record]:
        """Return one record per figure of a row; ``reason`` where unanswered."""

    def sharing(self, row: Any) -> tuple[Hashable, Hashable]:
        """Return what is equal for rows that share some work, and nearly all of it."""


@dataclass(frozen=True)
class TableKind:
    """A kind of table.

    Attributes
    ----------
    columns : tuple of str
        A table with one of these is of this kind; none means every table.
    factory : str
        ``module:class`` of its predictor, made with a fidelity.
    """

    name: str
    columns: tuple[str, ...]
    factory: str

    def predictor(self, fidelity: Fidelity) -> TablePredictor:
        """Return a new predictor."""
        module, name = self.factory.split(":")
        made: Callable[[Fidelity], TablePredictor] = getattr(
            importlib.import_module(module), name
        )
        return made(fidelity)


# In order: the first that fits.
KINDS = (
    TableKind(
        "serving",
        ("ttft_ms", "tpot_ms", "prefill_tp_size"),
        "hwsim.analysis.published.serving:ServingPredictor",
    ),
    TableKind(
        "inference",
        ("isl", "osl", "batch_or_concurrency"),
        "hwsim.analysis.published.inference:InferencePredictor",
    ),
    TableKind(
        "training", (), "hwsim.analysis.published.training:TrainingPredictor",
    ),
)  # fmt: skip


def table_kind(path: str | Path) -> TableKind:
    """Return the kind of a table by its columns.

    Raises
    ------
    SpecError
        If the file cannot be read.
    """
    columns = {name.strip().casefold() for name in raw_table(Path(path), []).columns}
    fitting = (k for k in KINDS if not k.columns or columns & set(k.columns))
    return next(fitting)


def record(**cells: Any) -> Record:
    """Return a record with all keys; the error follows from its figures.

    Raises
    ------
    InputError
        If there is a cell of another name.
    """
    unknown = sorted(set(cells) - {*TEXT_KEYS, *NUMBER_KEYS})
    if unknown:
        raise InputError(f"records have no key {unknown[0]!r}")
    made: Record = dict.fromkeys(TEXT_KEYS, "") | dict.fromkeys(NUMBER_KEYS)
    made |= cells
    predicted, measured = made["predicted"], made["measured"]
    if predicted is not None and measured:
        made["relative_error"] = predicted / measured - 1.0
    return made


def open_tables(
    paths: Iterable[str | Path], fidelity: Fidelity
) -> list[tuple[TablePredictor, Any]]:
    """Return every row of some tables with the predictor of its kind.

    Raises
    ------
    SpecError
        If a table cannot be read.
    """
    predictors: dict[str, TablePredictor] = {}
    rows: list[tuple[TablePredictor, Any]] = []
    for path in (Path(p).expanduser() for p in paths):
        kind = table_kind(path)
        if kind.name not in predictors:
            predictors[kind.name] = kind.predictor(fidelity)
        predictor = predictors[kind.name]
        rows += [(predictor, row) for row in predictor.read(path)]
    return rows


def selected(
    rows: Iterable[tuple[TablePredictor, Any]], device: Sequence[str] | None
) -> list[tuple[TablePredictor, Any]]:
    """Return the rows of some devices, however they are spelt; all without names."""
    if not device:
        return list(rows)
    wanted = {published_device(name) for name in device}
    return [r for r in rows if published_device(cast(str, r[1].device)) in wanted]
