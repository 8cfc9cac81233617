"""What a search over training layouts found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwsim.analysis.economy import Limits, front
from hwsim.analysis.plan_train.choices import RECOMPUTE
from hwsim.analysis.plan_train.reasons import Reasons
from hwsim.analysis.plan_train.rows import Names, command_of, layout_of, rows_of
from hwsim.analysis.plan_train.search import FIGURES, Batch, Candidate, Tally
from hwsim.analysis.result import Result
from hwsim.analysis.training.train import TrainResult
from hwsim.cost.cost import FloatArray
from hwsim.errors import InputError
from hwsim.specs.base import Spec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec

if TYPE_CHECKING:
    import pandas as pd

Objective = Literal["time", "energy", "money", "memory"]
COLUMN = {
    "time": "step_s", "energy": "energy_j", "money": "cost_usd",
    "memory": "memory_bytes",
}  # fmt: skip
_SHOWN = 10
_SAVED = 100  # layouts of the ranking in a saved file


@dataclass(frozen=True, repr=False)
class TrainPlan(Result):
    """What a search over layouts found.

    Attributes
    ----------
    batches : list of Batch
        Layouts that keep to all limits, in the order of the search.
    played : tuple of TrainResult
        The best ones, simulated exactly, fastest (or cheapest) first.
    predicted : tuple of float
        Their steps in closed form. [s]
    places : tuple of int
        Where they stand among the layouts of all batches.
    simulate_s : float
        Time that these simulations took. [s]
    """

    model: ModelSpec
    stack: StackSpec
    candidates: tuple[Candidate, ...]
    config: dict[str, Any]
    objective: Objective
    limits: Limits
    tally: Tally
    batches: list[Batch]
    played: tuple[TrainResult, ...] = ()
    predicted: tuple[float, ...] = ()
    places: tuple[int, ...] = ()
    simulate_s: float = 0.0
    passed_over: tuple[str, ...] = ()
    reasons: Reasons = field(default_factory=Reasons)
    names: Names | None = None

    kind = "train_plan"

    @property
    def layouts(self) -> int:
        """Valid layouts that were looked at."""
        return self.tally.layouts

    @property
    def search_s(self) -> float:
        """Time of the search, simulations apart. [s]"""
        return self.tally.search_s

    @cached_property
    def figures(self) -> dict[str, FloatArray]:
        """Figures of every layout that keeps to all limits, by name."""
        return {
            name: np.concatenate([b.figures[name] for b in self.batches])
            for name in FIGURES
        }

    @cached_property
    def order(self) -> Any:
        """Places of all layouts, best first; of equals the one with least memory."""
        return ranked(self.batches, self.objective)

    @property
    def best(self) -> TrainResult:
        """The best layout, simulated."""
        return self.played[0]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every layout that keeps to all limits, best first, in closed form.

        ``simulated_step_s`` is known of the layouts that were simulated.
        """
        return self._frame(self.order)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """As ``table``, but the simulated layouts first, as they rank then."""
        rest = self.order[~np.isin(self.order, self.places)]
        return self._frame(np.concatenate([np.array(self.places, int), rest]))

    @property
    def commands(self) -> list[str]:
        """Commands that predict the step of each simulated layout by itself."""
        names = self.names or Names(self.model.id, self.stack.id)
        return [command_of(result, names) for result in self.played]

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """Layouts that no other beats: time, memory, devices, energy, money."""
        figures = self.figures
        devices = np.concatenate(
            [
                np.full(len(b.space), self.candidates[b.candidate].devices, float)
                for b in self.batches
            ]
        )
        names = ("step_s", "memory_bytes", "energy_j", "cost_usd")
        return self._frame(front([*(figures[n] for n in names), devices]))

    def _frame(self, places: Any) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {"system": [], "devices": []}
        bounds = np.cumsum([0, *(len(b.space) for b in self.batches)])
        which = np.searchsorted(bounds, places, side="right") - 1
        of_batch = np.array([b.candidate for b in self.batches], dtype=np.int64)[which]
        names = np.array([c.system.id for c in self.candidates], dtype=object)
        sizes = np.array([c.devices for c in self.candidates])
        columns["system"], columns["devices"] = names[of_batch], sizes[of_batch]
        for name in self.batches[0].space.columns:
            column = np.concatenate([b.space[name] for b in self.batches])[places]
            columns[name] = self._named(name, column)
        for name in FIGURES:
            columns[name] = self.figures[name][places]
        exact = np.full(len(self.figures["step_s"]), np.nan)
        exact[list(self.places)] = [result.step_s for result in self.played]
        columns["simulated_step_s"] = exact[places]
        return pd.DataFrame(columns)

    def _named(self, name: str, column: Any) -> Any:
        if name == "schedule":
            return np.array(self.batches[0].space.schedules, dtype=object)[column]
        if name == "recompute":
            return np.array(RECOMPUTE, dtype=object)[column]
        return column.astype(bool) if name.startswith("offload") else column

    @property
    def fidelity(self) -> str:
        """What the costs of the best layout rest on."""
        return self.best.fidelity

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family of the best layout rest on."""
        return self.best.fidelity_by_family

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the best layout."""
        return self.best.specs()

    def details(self) -> dict[str, Any]:
        """Return the best layout's, and the first layouts of the ranking."""
        listed = rows_of(self.table.head(_SAVED))
        return {**self.best.details(), "table": listed}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        return {
            **self.header(),
            "model": self.model.id,
            "systems": list(dict.fromkeys(c.system.id for c in self.candidates)),
            "devices": sorted({c.devices for c in self.candidates}),
            "stack": self.stack.id,
            "config": self.config,
            "objective": self.objective,
            "limits": self.limits.to_dict(),
            **self.tally.to_dict(),
            "simulate_s": self.simulate_s,
            "step_s": self.best.step_s,
            "train_command": self.commands[0],
            "best": self.best.to_dict(),
            "ranking": [
                {**layout_of(r), "step_s": r.step_s, "closed_form_step_s": closed,
                 "mfu": r.mfu, "memory_bytes": r.footprint.total,
                 "breakdown": dict(r.parts), "train_command": command}
                for r, closed, command in zip(
                    self.played, self.predicted, self.commands, strict=True
                )
            ],
            "why": list(self.reasons.why),
            "runner_up_lacks": list(self.reasons.lacks),
            "one_change": self.reasons.changes,
            "pareto": rows_of(self.pareto),
            "passed_over": list(self.passed_over),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        from html import escape

        head = (
            f"{self.model.id}: {self.layouts:,} layouts in {self.search_s:.2f} s; "
            f"best step {self.best.step_s:.4g} s"
        )
        why = "".join(f"<li>{escape(w)}</li>" for w in self.reasons.why)
        shown: str = self.ranking.head(_SHOWN).to_html(index=False)
        return f"<p>{escape(head)}</p><ul>{why}</ul>{shown}"


def ranked(batches: Sequence[Batch], objective: Objective) -> Any:
    """Return the places of layouts, best first."""
    values = np.concatenate([b.figures[COLUMN[objective]] for b in batches])
    if len(values) and np.isnan(values).all():
        remedy = "give a price" if objective == "money" else "set device.power.tdp"
        raise InputError(f"objective {objective} is not known here; {remedy}")
    memory = np.concatenate([b.figures["memory_bytes"] for b in batches])
    step = np.concatenate([b.figures["step_s"] for b in batches])
    return np.lexsort((memory, step, values))
