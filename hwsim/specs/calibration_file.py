"""What programs write about fits: ``calibration.json`` and ``intervals.json``."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hwsim.specs.base import Identifier, Name, Source, Spec, Text
from hwsim.specs.residual import ResidualSpec

Number = Annotated[float, Field(ge=-1e30, le=1e30)]
LogRatio = Annotated[float, Field(ge=-20.0, le=20.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rows = Annotated[int, Field(ge=0)]
EVERY = "every"
# Errors depend on how long a kernel runs: short ones are all start-up.
REGIME_EDGES = (5e-6, 20e-6, 100e-6, 1e-3)
REGIMES = (
    "below 5 us", "5 us to 20 us", "20 us to 100 us", "100 us to 1 ms", "above 1 ms",
)  # fmt: skip


class Figure(Spec):
    """A fitted parameter, in SI, and the bounds it was fitted within."""

    value: Number
    lower: Number
    upper: Number


class Regime(Spec):
    """Quantiles of ln(measured / predicted) that 90 % of rows lie between."""

    low: LogRatio
    high: LogRatio
    rows: Rows = 0

    @model_validator(mode="after")
    def _ordered(self) -> Regime:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        return self


class RegimeTable(Spec):
    """Spread of one operator family by regime.

    Attributes
    ----------
    regimes : dict of name to Regime
        ``every`` stands for regimes that are not listed.
    """

    regimes: dict[Name, Regime]

    @model_validator(mode="after")
    def _has_default(self) -> RegimeTable:
        if EVERY not in self.regimes:
            raise ValueError(f"regimes.{EVERY} is missing; other regimes use it")
        return self


class Spread:
    """How far measured times lie from predicted ones, ready to look up.

    Parameters
    ----------
    table : RegimeTable
        Quantiles by regime.
    """

    def __init__(self, table: RegimeTable) -> None:
        self.table = table
        found = [table.regimes.get(n, table.regimes[EVERY]) for n in REGIMES]
        self._low = np.array([r.low for r in found])
        self._high = np.array([r.high for r in found])

    def logs(
        self, time: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ln(lower / time) and ln(upper / time) of 90 % intervals."""
        regime = regime_index(time)
        return self._low[regime], self._high[regime]


def regime_index(time: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the regime of each predicted time."""
    return np.searchsorted(np.asarray(REGIME_EDGES), time)


class Errors(Spec):
    """Errors over rows; relative to the measured time."""

    rows: Rows
    median_ape: Annotated[float, Field(ge=0.0)]
    mape: Annotated[float, Field(ge=0.0)]
    p90_ape: Annotated[float, Field(ge=0.0)]
    bias: Number


class IntervalCheck(Spec):
    """Spread by regime, and what its intervals cover where it was not fitted.

    Attributes
    ----------
    coverage : float
        Share of held-out rows inside intervals made without their block. [1]
    width : float
        Mean of (upper - lower) / predicted. [1]
    """

    regimes: RegimeTable
    coverage: Share
    width: Annotated[float, Field(ge=0.0)]


class DataUsed(Spec):
    """A table behind a fit: its name and hash, whose rows, how many."""

    file: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sources: tuple[Text, ...]
    rows: Rows


class FamilyFit(Spec):
    """The fit of one operator family to one device.

    Attributes
    ----------
    parameters : dict of dotted path to Figure
        What was fitted.
    residual : ResidualSpec or None
        Learned factors, where they beat the physical form on held-out blocks.
    split : str
        What a block of rows is: held-out errors are of blocks not fitted.
    fitted_rows : int
        Rows that the parameters were fitted to: a sample, drawn with ``seed``.
    in_sample, held_out : Errors
        Of the final fit on all rows; of fits that never saw the row's block,
        None where no block was held out.
    physics_held_out : Errors
        As ``held_out``, without the residual.
    by_group : dict of name to Errors
        ``held_out`` by dtype or operator, and of large bf16 products.
    """

    parameters: dict[Name, Figure]
    residual: ResidualSpec | None = None
    data: tuple[DataUsed, ...]
    split: Text
    seed: int
    fitted_rows: Rows
    in_sample: Errors
    held_out: Errors | None = None
    physics_held_out: Errors | None = None
    by_group: dict[Name, Errors] = {}
    interval: IntervalCheck


class CalibrationFile(Spec):
    """What ``hwsim calibrate`` writes beside a device's spec."""

    schema_version: Literal[1] = 1
    device: Identifier
    generation: Identifier
    hwsim_version: Name
    date: dt.date
    families: dict[Name, FamilyFit]
    sources: tuple[Source, ...] = ()
    notes: tuple[Text, ...] = ()


class EndToEnd(Spec):
    """What operators do not explain: host, framework, scheduling.

    Attributes
    ----------
    low, high : float
        Half widths in ln(measured / predicted), added in quadrature to those
        of the operators.
    rows, sources : int
        Published figures behind it, and how many sources they come from.
    coverage, width : float
        Of the intervals of rows whose source was left out. [1]
    """

    low: LogRatio
    high: LogRatio
    rows: Rows
    sources: Rows
    coverage: Share
    width: Annotated[float, Field(ge=0.0)]


class KnowledgeTerm(EndToEnd):
    """As the term of a task, of one class of what is known of training runs.

    Attributes
    ----------
    operators : float
        Share of the operators' half widths that stands beside it. [1]
    """

    operators: Share = 1.0


class LeftOutTable(Spec):
    """What intervals made without a table cover of it.

    Attributes
    ----------
    coverage, width : float
        Of its rows. [1]
    """

    table: Name
    rows: Rows
    coverage: Share
    width: Annotated[float, Field(ge=0.0)]


class TrainingKnowledge(Spec):
    """How sure predictions of training are, by what is known of the run.

    Attributes
    ----------
    terms : dict of class to KnowledgeTerm
        As in :mod:`hwsim.analysis.training.knowledge`.
    documents : int
        How many have to bear out a stack on a kind of device to have checked it.
    checked : dict of kind to tuple of str
        Stacks that so many documents bear out, by kind of device.
    kinds : tuple of str
        Kinds of device whose whole runs so many documents tell of.
    tables : tuple of LeftOutTable
        Tables left out in turn.
    """

    terms: dict[Name, KnowledgeTerm]
    documents: Rows
    checked: dict[Name, tuple[Identifier, ...]]
    kinds: tuple[Name, ...]
    tables: tuple[LeftOutTable, ...] = ()


class LeftOut(Spec):
    """Errors on a device predicted by a fit to others alone.

    Attributes
    ----------
    origin : str
        ``generation``: another device of its own; ``kind``: other generations.
    part : str
        Dtype or operator; nothing for all rows.
    """

    family: Name
    device: Identifier
    origin: Literal["generation", "kind"]
    part: str = ""
    errors: Errors


class IntervalFile(Spec):
    """Spread of predictions for devices without a calibration of their own.

    Attributes
    ----------
    generations, kinds : tuple of str
        Generations and kinds of which some device was measured.
    tables : dict of origin to tables by family
        ``generation``: another device of the generation was measured;
        ``kind``: devices of its kind were; ``assumed``: none.
    end_to_end : dict of task to EndToEnd
        ``train``, ``infer``, ``serve``; ``every`` for the rest.
    serving : dict of group and metric to EndToEnd
        Of published serving points, whose clients and layouts are partly known.
    training : TrainingKnowledge or None
        Of steps of training, by what is known of their run.
    left_out : tuple of LeftOut
        Errors behind the tables, device by device.
    """

    schema_version: Literal[1] = 1
    hwsim_version: Name
    date: dt.date
    generations: tuple[Identifier, ...]
    kinds: tuple[Name, ...]
    tables: dict[Literal["generation", "kind", "assumed"], dict[Name, RegimeTable]]
    end_to_end: dict[Name, EndToEnd]
    serving: dict[Name, EndToEnd] = {}
    training: TrainingKnowledge | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[Text, ...] = ()
