"""How well fits carry over to devices they have not seen.

Each device of a table is predicted by parameters fitted to others alone: to
other devices of its generation where there are any, else to devices of other
generations, all together. What is left gives the intervals of devices that
have no calibration of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.fitting.calibrate import device_names
from hwsim.analysis.fitting.checks import errors, regime_table
from hwsim.analysis.fitting.family import FitPlan, fit_values
from hwsim.analysis.fitting.rows import FitRows, fit_rows
from hwsim.analysis.fitting.trees import Boosting, factors, grow
from hwsim.cost.cost import FloatArray
from hwsim.specs.calibration import (
    GENERATIONS,
    Calibration,
    calibration_for,
    carried,
    with_parameters,
)
from hwsim.specs.calibration_file import LeftOut, Regime, RegimeTable
from hwsim.specs.carry import carried_values, traits
from hwsim.specs.catalogs import load_device
from hwsim.specs.device import DeviceSpec
from hwsim.specs.load import load_spec
from hwsim.specs.measurement.table import MeasurementTable

# An unmeasured kind of device: as far off again as an unmeasured generation.
UNKNOWN_KIND = 1.6
# How the attention kernels of a generation's library divide their work.
KERNELS = (
    "attention.prefill.tile_rows", "attention.prefill.tile_columns",
    "attention.prefill.packs_groups", "attention.decode.splits_ungrouped",
    "attention.decode.regroups_heads", "attention.decode.split_tokens",
    "attention.decode.window_padding",
)  # fmt: skip


@dataclass(frozen=True)
class Transfer:
    """Predictions of one device by fits to others.

    Attributes
    ----------
    device, family : str
        What was predicted.
    origin : str
        ``generation``: fitted to another device of its generation; ``kind``:
        to other generations.
    time, predicted : ndarray of float64
        Measured, and predicted by physical forms. [s]
    parts : dict of str to mask
        Rows of each dtype or operator.
    with_trees : ndarray of float64
        Predicted with trees grown on the errors of the other devices. [s]
    """

    device: str
    family: str
    origin: str
    time: FloatArray
    predicted: FloatArray
    with_trees: FloatArray
    parts: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def errors(self) -> list[LeftOut]:
        """Return errors on all rows and on each part."""
        every = {"": np.ones(len(self.time), dtype=bool)}
        return [
            LeftOut(
                family=self.family, device=self.device,
                origin="generation" if self.origin == "generation" else "kind",
                part=part, errors=errors(self.predicted[mask], self.time[mask]),
            )
            for part, mask in {**every, **self.parts}.items()
        ]  # fmt: skip


def transfers(
    table: MeasurementTable,
    devices: Sequence[str],
    families: Sequence[str],
    plan: FitPlan,
    progress: Callable[[str], None] | None = None,
) -> list[Transfer]:
    """Predict every device by fits that left it out.

    Parameters
    ----------
    table : MeasurementTable
        Rows of several devices.
    devices : sequence of str
        Ids of devices with rows.
    families : sequence of str
        As calibration files name them.
    """
    found = []
    for family in families:
        rows = {}
        for name in devices:
            spec = load_device(name)
            own = fit_rows(table, spec, device_names(table, spec), family)
            if own is not None:
                rows[name] = own
        for name in rows:
            for origin in ("generation", "kind"):
                made = _transfer(name, family, origin, rows, plan)
                if made is not None:
                    found.append(made)
                    if progress is not None:
                        progress(_line(made))
    return found


def _line(made: Transfer) -> str:
    def size(predicted: FloatArray) -> str:
        error = np.abs(predicted / made.time - 1)
        return f"{np.median(error):.1%}/{np.mean(error):.1%}"

    return (
        f"{made.family} of {made.device} from its {made.origin}: "
        f"{size(made.predicted)}, with trees {size(made.with_trees)}"
    )


def _transfer(
    name: str,
    family: str,
    origin: str,
    rows: Mapping[str, FitRows],
    plan: FitPlan,
) -> Transfer | None:
    generation = load_device(name).architecture
    same = {n for n in rows if load_device(n).architecture == generation}
    others = (
        sorted(same - {name}) if origin == "generation" else sorted(set(rows) - same)
    )
    if not others:
        return None
    priors = {n: _prior(n, name, origin) for n in (name, *others)}
    turn = _carried if origin == "kind" else _same_chip
    carries = {n: partial(turn, load_device(others[0]), load_device(n)) for n in priors}
    parts = [rows[n] for n in others]
    values, _, _ = fit_values(
        parts, [priors[n] for n in others], plan, starts=1, shares=_shares(others),
        carries=[carries[n] for n in others],
    )  # fmt: skip
    tuned = {n: with_parameters(p, carries[n](values)) for n, p in priors.items()}
    tuned[name] = _same_tiles(tuned[name], calibration_for(load_device(name)))
    predicted = rows[name].predict(tuned[name])
    return Transfer(
        name, family, origin, rows[name].time, predicted,
        _with_trees(rows[name], tuned[name], parts, [tuned[n] for n in others], plan),
        rows[name].parts(),
    )  # fmt: skip


def _same_tiles(tuned: Calibration, own: Calibration) -> Calibration:
    """Return a calibration with the tiles that the library of a device runs.

    Which tiles of experts a library takes is read in its tables, not learned
    from timings; their figures stay those of other devices.
    """
    kernels = dict(tuned.moe.kernels)
    for name, kernel in own.moe.kernels.items():
        usual = kernels.get(name) or kernels[name.rpartition("_")[2]]
        tiles = {
            key: getattr(kernel, key)
            for key in ("tile_rows", "tile_columns", "tile_choice")
        }
        kernels[name] = usual.model_copy(update=tiles)
    moe = {"kernels": kernels, "tuned": own.moe.tuned}
    return tuned.model_copy(update={"moe": tuned.moe.model_copy(update=moe)})


def _shares(names: Sequence[str]) -> list[float]:
    """Return each device's share of a fit in which generations count the same."""
    generations = [load_device(name).architecture for name in names]
    number = len(set(generations))
    return [1 / (number * generations.count(g)) for g in generations]


def _same_chip(
    first: DeviceSpec, device: DeviceSpec, values: Mapping[str, float]
) -> dict[str, float]:
    """Return parameters, stated for the first device, as its relatives have them."""
    return carried_values(values, traits(first), traits(device))


def _carried(
    first: DeviceSpec, device: DeviceSpec, values: Mapping[str, float]
) -> dict[str, float]:
    """Return parameters, stated for the first device, as others have them.

    Whether a cache is in halves that both keep a copy is each device's own.
    """
    kept = {k: v for k, v in values.items() if not k.startswith("cache_reach.")}
    return carried_values(kept, traits(first), traits(device))


def _prior(name: str, target: str, origin: str) -> Calibration:
    """Return what is known of a device without measurements of the target.

    Of other generations that is the kind's values; which library's kernels
    serve a generation is public, and so is how they cut up attention.
    """
    spec, own = load_device(name), calibration_for(load_device(name))
    if origin == "generation":
        return calibration_for(load_device(target))
    kind = carried(load_spec(GENERATIONS, Calibration, spec.kind), traits(spec))
    return with_parameters(kind, {path: _at(own, path) for path in KERNELS})


def _at(holder: object, path: str) -> object:
    for key in path.split("."):
        holder = getattr(holder, key)
    return holder


def _with_trees(
    target: FitRows,
    tuned: Calibration,
    parts: Sequence[FitRows],
    others: Sequence[Calibration],
    plan: FitPlan,
) -> FloatArray:
    """Return predictions with trees grown on the errors of other devices."""
    names: tuple[str, ...] = ()
    tables, errors = [], []
    for part, calibration in zip(parts, others, strict=True):
        names, table, own = part.features(calibration)
        other = part.predict(calibration) - own
        wanted = np.maximum(part.time - other, 0.3 * own)
        tables.append(table)
        errors.append(np.clip(np.log(wanted / own), -1.0, 1.0))
    how = replace(plan.trees or Boosting(), depth=4)
    grown = grow(names, np.hstack(tables), np.concatenate(errors), how, plan.seed)
    _, table, own = target.features(tuned)
    other = target.predict(tuned) - own
    summed: FloatArray = own * factors(grown, table) + other
    return summed


def spread_tables(
    made: Sequence[Transfer], families: Sequence[str]
) -> dict[str, dict[str, RegimeTable]]:
    """Return the spread by origin and family; kinds without data are wider."""
    tables: dict[str, dict[str, RegimeTable]] = {}
    for origin in ("generation", "kind"):
        tables[origin] = {}
        for family in families:
            some = [t for t in made if t.family == family and t.origin == origin]
            some = some or [t for t in made if t.family == family]
            if some:
                tables[origin][family] = regime_table(*_even(some))
    tables["assumed"] = {
        family: widened(table, UNKNOWN_KIND) for family, table in tables["kind"].items()
    }
    return tables


def _even(some: Sequence[Transfer]) -> tuple[FloatArray, FloatArray]:
    """Return rows of several devices, each device counting the same."""
    least = min(len(t.time) for t in some)
    rng = np.random.default_rng(0)
    picks = [np.sort(rng.permutation(len(t.time))[:least]) for t in some]
    predicted = [t.predicted[i] for t, i in zip(some, picks, strict=True)]
    measured = [t.time[i] for t, i in zip(some, picks, strict=True)]
    return np.concatenate(predicted), np.concatenate(measured)


def widened(table: RegimeTable, factor: float) -> RegimeTable:
    """Return a spread with half widths multiplied, and none of the bias."""
    regimes = {}
    for name, regime in table.regimes.items():
        reach = factor * max(abs(regime.low), abs(regime.high))
        regimes[name] = Regime(low=-reach, high=reach, rows=0)
    return RegimeTable(regimes=regimes)
