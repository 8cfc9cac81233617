"""Whole training runs beside what was published of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.training.train import run_training
from hwsim.analysis.training.whole_run import DAY, TrainingRun, whole_run
from hwsim.cost.energy import JOULES_PER_KWH
from hwsim.errors import InputError
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.economics import load_economics
from hwsim.specs.published.totals import TOTAL_UNITS, PublishedTotal, load_totals


@dataclass(frozen=True)
class Factor:
    """One factor of a published total and its prediction, in its unit."""

    name: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """(predicted - published) / published, signed."""
        return self.predicted / self.published - 1.0


@dataclass(frozen=True)
class ComparedTotal:
    """One published figure of a whole run and its prediction, in its unit.

    Attributes
    ----------
    factors : tuple of Factor
        What the source says that the figure is made of.
    """

    published: PublishedTotal
    predicted: float
    days: float
    factors: tuple[Factor, ...] = ()

    @property
    def error(self) -> float:
        """(predicted - published) / published, signed."""
        return self.predicted / self.published.value - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for tables."""
        spec = self.published
        return {
            "id": spec.id, "name": spec.name, "metric": spec.metric,
            "unit": TOTAL_UNITS[spec.metric], "published": spec.value,
            "predicted": self.predicted, "relative_error": self.error,
            "days": self.days,
            "factors": {
                f.name: {"published": f.published, "predicted": f.predicted}
                for f in self.factors
            },
        }  # fmt: skip


def compare_totals() -> Iterator[ComparedTotal]:
    """Predict every published whole run that ships with hwsim, one by one."""
    done: dict[tuple[object, ...], TrainingRun] = {}
    for spec in load_totals():
        key = (spec.model, spec.stack, spec.pue, *spec.train_options().values())
        if key not in done:
            done[key] = predicted_run(spec)
        run = done[key]
        yield ComparedTotal(
            spec, _figure(spec, run), run.mean_wall_s / DAY, _factors(spec, run)
        )


def predicted_run(spec: PublishedTotal) -> TrainingRun:
    """Return the whole run that a published figure belongs to."""
    system = load_system(spec.system)
    if spec.devices > system.num_devices:
        system = system.with_nodes(-(-spec.devices // system.devices_per_node))
    step = run_training(
        load_model(spec.model), system, load_stack(spec.stack),
        optimizer="adam", engine="simulate", **spec.train_options(),
    )  # fmt: skip
    return whole_run(
        step, load_economics(), tokens=spec.tokens, pue=spec.pue, replications=5
    )


def _factors(spec: PublishedTotal, run: TrainingRun) -> tuple[Factor, ...]:
    told = spec.factors
    config = run.step.config
    rate = config.global_batch * config.seq / run.step.step_s / config.devices
    pairs = (
        ("tokens_per_s", told.tokens_per_s, rate),
        ("device_hours", told.device_hours, run.device_hours),
        ("power_w", told.power_w, _power(run)),
        ("pue", told.pue, run.config.pue),
    )
    return tuple(
        Factor(name, published, predicted)
        for name, published, predicted in pairs
        if published is not None and predicted is not None
    )


def _power(run: TrainingRun) -> float | None:
    board = run.power_per_device_w
    return None if board is None else board + run.host_power_w


def _figure(spec: PublishedTotal, run: TrainingRun) -> float:
    if spec.metric == "device_hours":
        return run.device_hours
    if spec.metric == "energy_mwh":
        if run.energy_j is None:
            raise InputError(f"device {spec.system}: no power is known")
        return run.energy_j / JOULES_PER_KWH / 1e3
    if spec.metric == "goodput":
        return run.goodput
    return (spec.days or 0.0) * DAY / run.mtbf_s
