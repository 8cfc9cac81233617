"""The deployment of a service that meets its limits at the least cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hwsim.analysis.economy import front
from hwsim.analysis.plan_serve.confirm import Confirmed
from hwsim.analysis.plan_serve.space import Choice
from hwsim.analysis.plan_serve.steady import Demand, Steady
from hwsim.analysis.result import Result
from hwsim.specs.base import Spec
from hwsim.specs.model import ModelSpec
from hwsim.specs.traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rejected:
    """A deployment that is not the answer, and why."""

    choice: Choice
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for tables."""
        return {**self.choice.to_dict(), "why": self.why}


@dataclass(frozen=True, repr=False)
class ServePlan(Result):
    """What a search over deployments found.

    Attributes
    ----------
    confirmed : tuple of Confirmed
        Deployments that meet all limits in simulation, cheapest first.
    rejected : tuple of Rejected
        All others.
    steady : tuple of Steady
        Closed forms of all that fit in memory.
    curve : tuple of dict
        Goodput of the cheapest against rate.
    """

    model: ModelSpec
    demand: Demand
    slo: dict[tuple[str, str], float]
    traffic: Traffic
    config: dict[str, Any]
    priced: bool
    confirmed: tuple[Confirmed, ...]
    rejected: tuple[Rejected, ...]
    steady: tuple[Steady, ...]
    curve: tuple[dict[str, Any], ...]
    passed_over: tuple[str, ...]
    candidates: int
    search_s: float
    simulate_s: float
    interrupted: bool

    kind = "serve_plan"

    @property
    def cheapest(self) -> Confirmed:
        """Least price; fewest devices where prices are not known."""
        return self.confirmed[0]

    @property
    def fastest(self) -> Confirmed:
        """Least mean time to the last token."""
        return min(self.confirmed, key=lambda c: c.result.e2e_s["mean"])

    @property
    def frugal(self) -> Confirmed | None:
        """Least energy per token; None where no device quotes its power."""
        known = [c for c in self.confirmed if c.result.energy_j_per_token is not None]
        return min(
            known, key=lambda c: c.result.energy_j_per_token or 0.0, default=None
        )

    @property
    def fidelity(self) -> str:
        """What the costs of the cheapest rest on."""
        return self.cheapest.result.fidelity

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family of the cheapest rest on."""
        return self.cheapest.result.fidelity_by_family

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the cheapest."""
        return self.cheapest.result.specs()

    def details(self) -> dict[str, Any]:
        """Return the cheapest service's."""
        return self.cheapest.result.details()

    @cached_property
    def table(self) -> pd.DataFrame:
        """Confirmed deployments, one a row, cheapest first."""
        import pandas as pd

        return pd.DataFrame([_row(c) for c in self.confirmed])

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """Loads at which no other deployment is better for users and for devices.

        In closed form, over all deployments and batches: tokens per second of
        one user against those of one device.
        """
        import pandas as pd

        rows = [
            {**s.choice.to_dict(), "batch": int(batch),
             "tokens_per_s_per_user": 1.0 / tpot,
             "tokens_per_s_per_device": rate * self.demand.output
             / s.choice.devices_per_replica}
            for s in self.steady
            for batch, tpot, rate in zip(s.batch, s.tpot, s.rate, strict=True)
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        seconds = [
            1.0 / frame[f"tokens_per_s_per_{whose}"].to_numpy()
            for whose in ("user", "device")
        ]
        best = frame.iloc[front(seconds)]
        return best.sort_values("tokens_per_s_per_user").reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        frugal = self.frugal
        return {
            **self.header(),
            "model": self.model.id,
            "systems": list(dict.fromkeys(s.choice.system.id for s in self.steady)),
            "rate_rps": self.demand.rate,
            "slo_s": {f"{key}.{stat}": v for (key, stat), v in self.slo.items()},
            "config": self.config,
            "candidates": self.candidates,
            "fit_in_memory": len(self.steady),
            "simulated": len(self.confirmed),
            "search_s": self.search_s,
            "simulate_s": self.simulate_s,
            "interrupted": self.interrupted,
            "cheapest_by": "price" if self.priced else "devices",
            "cheapest": self.cheapest.to_dict(),
            "fastest": self.fastest.to_dict(),
            "frugal": None if frugal is None else frugal.to_dict(),
            "ranking": [_row(c) for c in self.confirmed],
            "goodput_curve": list(self.curve),
            "pareto": self.pareto.to_dict("records"),
            "rejected": [r.to_dict() for r in self.rejected],
            "passed_over": list(self.passed_over),
        }


def _row(c: Confirmed) -> dict[str, Any]:
    result = c.result
    return {
        **c.choice.to_dict(),
        "replicas": c.replicas,
        "prompt_replicas": c.prompt_replicas,
        "devices": c.devices,
        "usd_per_hour": c.hourly,
        "usd_per_million_tokens": c.usd_per_million_tokens,
        "energy_j_per_token": result.energy_j_per_token,
        "ttft_p99_s": result.ttft_s["p99"],
        "tpot_p99_s": result.tpot_s["p99"],
        "e2e_mean_s": result.e2e_s["mean"],
        "tokens_per_s": result.tokens_per_s,
        "utilisation": result.utilisation,
        "least_margin": min(check.margin for check in c.checks),
        "holds_at_upper_model": None
        if any(check.holds is None for check in c.checks)
        else all(check.holds for check in c.checks),
    }
