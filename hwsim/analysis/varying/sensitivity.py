"""Which parameters an answer turns on: elasticities, tornado, Sobol indices.

References
----------
.. [1] A. Saltelli et al., "Variance based sensitivity analysis of model output",
   Computer Physics Communications 181, 2010, doi:10.1016/j.cpc.2009.09.018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hwsim.analysis.case import TIMES, Case
from hwsim.analysis.check import positive_int
from hwsim.analysis.comparing.cell import Money, answered
from hwsim.analysis.evidence import case_accuracy
from hwsim.analysis.resolve import unread
from hwsim.analysis.result import Result
from hwsim.analysis.varying.sobol import sobol_indices
from hwsim.analysis.varying.sweep import Interval, interval_of, metric_of
from hwsim.analysis.varying.vary import Parameter, parameter
from hwsim.errors import HwsimError, InputError
from hwsim.registry import draw
from hwsim.specs.base import Spec, find_source, iter_figures
from hwsim.specs.network import TREES

if TYPE_CHECKING:
    import pandas as pd

SWING = 0.2
_STEP = 0.01  # of the central difference; within what CPU peaks may differ by
_LEAST = 1e-4  # smaller elasticities are none
_COUNTS = ("devices_per_node", "nodes", "devices_per_host_port")
_NO_FIGURES = {"year", "schema_version"}
_OPTIONS = {
    "infer": ("batch", "prompt", "output"),
    "train": ("micro_batch", "seq"),
    "serve": ("rate",),
}


@dataclass(frozen=True)
class Sensitivity:
    """What one parameter does to the metric.

    Attributes
    ----------
    elasticity : float
        d ln(metric) / d ln(parameter), central difference: -0.8 means that
        one percent more takes 0.8 percent off.
    low, high : float or None
        Metric with the parameter a swing lower, and higher. [SI]
    low_interval, high_interval : (float, float) or None
        Their 90 % prediction intervals. [SI]
    source : str
        Kind of the figure's source: datasheet, measured, derived, assumed.
    s1, st : float or None
        First-order and total Sobol indices; with their 90 % half widths.
    """

    parameter: Parameter
    elasticity: float
    low: float | None
    high: float | None
    source: str
    s1: tuple[float, float] | None = None
    st: tuple[float, float] | None = None
    low_interval: Interval = None
    high_interval: Interval = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, in SI."""
        return {
            "parameter": self.parameter.key, "now": self.parameter.value,
            "unit": self.parameter.unit, "elasticity": self.elasticity,
            "low": self.low, "high": self.high,
            "low_interval_90": self.low_interval,
            "high_interval_90": self.high_interval, "source": self.source,
            "sobol_first": self.s1, "sobol_total": self.st,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class SensitivityResult(Result):
    """Sensitivities of one answer, strongest first.

    Attributes
    ----------
    metric : str
        Which figure; ``now`` is its value. [SI]
    interval : (float, float) or None
        90 % prediction interval of ``now``. [SI]
    swing : float
        Share that parameters swing by, either way. [1]
    rows : tuple of Sensitivity
        Parameters that move the metric.
    still : tuple of str
        Parameters that do not move it.
    apart : tuple of str
        Parameters that cannot change alone, as others must agree with them.
    """

    case: Case
    metric: str
    now: float
    swing: float
    rows: tuple[Sensitivity, ...]
    still: tuple[str, ...]
    apart: tuple[str, ...]
    samples: int = 0
    seed: int = 0
    interval: Interval = None
    complete: bool = True

    kind = "sensitivity"

    @property
    def title(self) -> str:
        """What is asked."""
        return f"{self.case.model.name} on {self.case.name}: what moves {self.metric}"

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the question as it stands."""
        case = self.case
        return {"model": case.model, "system": case.system, "stack": case.stack}

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of the question's answer."""
        return case_accuracy(self.case)

    def to_dict(self) -> dict[str, Any]:
        """Return all sensitivities with keys in SI."""
        return {
            **self.header(),
            "question": {"text": self.title, **self.case.to_dict()},
            "metric": self.metric, "now": self.now,
            "now_interval_90": self.interval, "swing": self.swing,
            "rows": [row.to_dict() for row in self.rows],
            "no_effect": list(self.still), "not_alone": list(self.apart),
            "sobol_samples": self.samples, "seed": self.seed,
            "complete": self.complete,
        }  # fmt: skip

    @property
    def table(self) -> pd.DataFrame:
        """One row per parameter that moves the metric."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() for row in self.rows])

    def plot(self, path: str | None = None) -> Any:
        """Draw the tornado; return the figure."""
        return draw("tornado", self, path=path)


Progress = Callable[[int, int], None] | None


def sensitivities(
    case: Case,
    money: Money,
    *,
    metric: str | None = None,
    swing: float = SWING,
    sobol: int = 0,
    most: int = 8,
    seed: int = 0,
    progress: Progress = None,
) -> SensitivityResult:
    """Return what each hardware, software and workload parameter does.

    Parameters
    ----------
    swing : float
        Share by which tornado and Sobol move parameters, either way.
    sobol : int
        Base samples of the Sobol indices, a power of two; 0 leaves them out.
    most : int
        Parameters with Sobol indices: those of the largest elasticity.
    """
    if not 0.0 < swing < 1.0:
        raise InputError(f"swing is {swing}; give a share above 0 and below 1")
    seed = positive_int("seed", seed, minimum=0)
    key = metric or TIMES[case.task][0]
    cell = answered(case, money)
    if not cell.ok:
        raise InputError(f"as it stands it cannot run: {cell.reason}")
    now = metric_of(cell, key)
    if not now > 0:
        raise InputError(f"{key} is {now:g}; elasticities need a figure above 0")
    probe = _Probe(case, key, money)
    rows, still, apart, complete = _swings(probe, swing, progress)
    if sobol and rows and complete:
        rows = _with_sobol(rows, probe, swing, sobol, most, seed, progress)
    return SensitivityResult(
        case, key, now, swing, tuple(rows), tuple(still), tuple(apart), sobol, seed,
        interval_of(cell, key), complete,
    )  # fmt: skip


def _swings(
    probe: _Probe, swing: float, progress: Progress
) -> tuple[list[Sensitivity], list[str], list[str], bool]:
    """Return what moves the metric, what does not, what cannot; and if that is all."""
    rows: list[Sensitivity] = []
    still: list[str] = []
    apart: list[str] = []
    every, complete = parameters(probe.case), True
    try:
        for done, p in enumerate(every):
            if progress is not None:
                progress(done, len(every))
            slope = probe.elasticity(p)
            if slope is None:
                apart.append(p.key)
            elif abs(slope) < _LEAST:
                still.append(p.key)
            else:
                rows.append(_swung(probe, p, slope, swing))
    except KeyboardInterrupt:
        if not rows:
            raise
        complete = False
    rows.sort(key=lambda row: -abs(row.elasticity))
    return rows, still, apart, complete


def _swung(probe: _Probe, p: Parameter, slope: float, swing: float) -> Sensitivity:
    low, high = probe(p, 1 - swing), probe(p, 1 + swing)
    return Sensitivity(
        p, slope, low[0], high[0], _source(probe.case, p),
        low_interval=low[1], high_interval=high[1],
    )  # fmt: skip


def parameters(case: Case) -> list[Parameter]:
    """Return all figures of device, system and stack that a time may depend on."""
    keys = [
        f"{target}.{path}"
        for target, spec in (
            ("device", case.system.device), ("system", case.system),
            ("stack", case.stack),
        )
        for path, value, _ in iter_figures(spec)
        if path not in _NO_FIGURES and value and not path.startswith("device.")
    ]  # fmt: skip
    skipped = set(unread([f"{key}=x1" for key in keys]))
    fixed = [f"system.{n}" for n in _COUNTS]
    fixed += [
        f"system.networks.{level.name}.oversubscription"
        for level in case.system.networks
        if level.kind not in TREES
    ]
    keys = [k for k in keys if k not in skipped and k not in fixed]
    found = [parameter(case, key) for key in keys if not _unused(key)]
    options = [parameter(case, name) for name in _OPTIONS[case.task]]
    return found + [p for p in options if p.value]


def _unused(key: str) -> bool:
    """Whether a figure of a network is its size or shape."""
    parts = key.split(".")
    if key.startswith("system.networks."):
        return parts[-1] not in {"bandwidth", "latency", "oversubscription"}
    return False


class _Probe:
    """The metric as a function of one parameter, or of several at once."""

    def __init__(self, case: Case, key: str, money: Money) -> None:
        self.case, self.key, self.money = case, key, money

    def at(self, changes: Sequence[tuple[Parameter, float]]) -> float | None:
        """Return the metric with parameters at values; None where it cannot run."""
        return self.told(changes)[0]

    def told(
        self, changes: Sequence[tuple[Parameter, float]]
    ) -> tuple[float | None, Interval]:
        """Return the metric and its 90 % interval; None where it cannot run."""
        case = self.case
        try:
            for p, value in changes:
                case = p.set(case, value)
        except HwsimError:
            return None, None
        cell = answered(case, self.money)
        if not cell.ok:
            return None, None
        return metric_of(cell, self.key), interval_of(cell, self.key)

    def __call__(self, p: Parameter, factor: float) -> tuple[float | None, Interval]:
        """Return the metric with one parameter times a factor, if that changes it."""
        value = float(p.value or 0.0) * factor
        if p.whole and round(value) == p.value:
            return None, None
        return self.told([(p, value)])

    def elasticity(self, p: Parameter) -> float | None:
        """Return d ln(metric) / d ln(p); None where it cannot change alone."""
        now = float(p.value or 0.0)
        low, high = now * (1 - _STEP), now * (1 + _STEP)
        if p.whole:
            low, high = min(round(low), now - 1), max(round(high), now + 1)
            low = max(low, 1.0)
        found = [(v, self.at([(p, v)])) for v in (low, now, high)]
        known = [(v, f) for v, f in found if f is not None and f > 0]
        if len(known) < 2 or known[0][0] == known[-1][0]:
            return None
        (a, fa), (b, fb) = known[0], known[-1]
        return math.log(fb / fa) / math.log(b / a)


def _source(case: Case, p: Parameter) -> str:
    target, _, path = p.key.partition(".")
    specs: dict[str, Any] = {
        "device": case.system.device, "system": case.system, "stack": case.stack,
    }  # fmt: skip
    if target not in specs:
        return "question"
    found = find_source(specs[target].sources, path)
    return found.kind if found else "assumed"


def _with_sobol(
    rows: Sequence[Sensitivity],
    probe: _Probe,
    swing: float,
    samples: int,
    most: int,
    seed: int,
    progress: Progress,
) -> list[Sensitivity]:
    """Add Sobol indices to the strongest parameters; the others stay still."""
    able = [r for r in rows if not r.parameter.whole and (r.low or r.high)]
    chosen = able[:most]

    def at(factors: Sequence[float]) -> float:
        found = probe.at(
            [
                (row.parameter, float(row.parameter.value or 0.0) * float(factor))
                for row, factor in zip(chosen, factors, strict=True)
            ]
        )
        if found is None:
            raise InputError(
                f"within ±{swing:.0%} some combinations cannot run; swing less"
            )
        return found

    bounds = {row.parameter.key: _bounds(row, swing) for row in chosen}
    indices = sobol_indices(bounds, at, samples=samples, seed=seed, progress=progress)
    return [
        replace(row, s1=indices[row.parameter.key][0], st=indices[row.parameter.key][1])
        if row.parameter.key in indices
        else row
        for row in rows
    ]


def _bounds(row: Sensitivity, swing: float) -> list[float]:
    """Return the factors that a parameter is drawn between; some end at today's."""
    low = 1.0 if row.low is None else 1.0 - swing
    return [low, 1.0 if row.high is None else 1.0 + swing]
