"""Speculative decoding: several tokens are drafted, then checked in one step.

A round drafts ``k`` tokens and checks them together; each is accepted with the
same probability, and the first that is not ends the round with one token of
the model's own. The mean of tokens per round is paid out evenly: a request
gets a token every round's time over that mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.check import positive_int
from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.analysis.serving.pipeline import PipelineTable
from hwsim.analysis.serving.pool import Pool, tabulated
from hwsim.analysis.serving.step_cost import Deployment, TableOf, step_table
from hwsim.analysis.serving.table import StepTable
from hwsim.errors import InputError, UnknownNameError
from hwsim.sim.serving.cost import Part, StepCost
from hwsim.specs.model import ModelSpec

_FIELDS = ("tokens", "acceptance", "draft")
_MOST = 32


@dataclass(frozen=True)
class Speculation:
    """How tokens are drafted.

    Attributes
    ----------
    tokens : int
        Drafted in a round.
    acceptance : float
        Probability that one is accepted, those before it being so.
    draft : str or ModelSpec
        ``ngram``: found in the text, free; ``mtp``: one more layer and the
        head, token by token; else a smaller model, token by token.
    """

    tokens: int
    acceptance: float
    draft: str | ModelSpec = "ngram"

    @property
    def per_round(self) -> float:
        """Mean tokens of a round.

        References
        ----------
        .. [1] Y. Leviathan et al., "Fast inference from transformers via
           speculative decoding", ICML 2023, arXiv:2211.17192, equation 1.
        """
        if self.acceptance == 1.0:
            return self.tokens + 1.0
        return float(
            (1.0 - self.acceptance ** (self.tokens + 1)) / (1.0 - self.acceptance)
        )

    def to_dict(self) -> dict[str, object]:
        """Return the fields, and the mean tokens of a round."""
        draft = self.draft if isinstance(self.draft, str) else self.draft.id
        return {
            "tokens": self.tokens, "acceptance": self.acceptance, "draft": draft,
            "tokens_per_round": self.per_round,
        }  # fmt: skip


def even_acceptance(rates: Sequence[float]) -> float:
    """Return the one acceptance that gives as many tokens per round as several do.

    Parameters
    ----------
    rates : sequence of float
        Of the first token drafted, the second and so on, each where those before
        it were accepted.

    Examples
    --------
    >>> even_acceptance([0.85])
    0.85
    >>> round(even_acceptance([0.85, 0.3]), 3)
    0.664
    """
    accepted = float(np.cumprod(np.asarray(rates, dtype=np.float64)).sum())
    # a + a^2 + ... = accepted has one root from 0 to 1.
    roots = np.roots([*np.ones(len(rates)), -accepted])
    real = roots[np.abs(roots.imag) < 1e-9].real
    return round(float(real[(real > -1e-9) & (real < 1.0 + 1e-9)][0]), 12)


def speculation_of(asked: Mapping[str, Any] | None) -> Speculation | None:
    """Return how tokens are drafted, checked; ``draft`` a name or a loaded model.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown or a value cannot be.
    """
    if asked is None:
        return None
    for name in asked:
        if name not in _FIELDS:
            raise UnknownNameError("speculative option", name, _FIELDS)
    tokens = positive_int("speculative tokens", asked.get("tokens", 4))
    if tokens > _MOST:
        raise InputError(f"speculative tokens is {tokens}; give at most {_MOST}")
    share = asked.get("acceptance")
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or share is None or not 0.0 <= share <= 1.0:
        raise InputError(
            f"acceptance is {share!r}; give the share of drafted tokens that are "
            "accepted, from 0 to 1"
        )
    return Speculation(tokens, float(share), asked.get("draft") or "ngram")


@dataclass(frozen=True)
class SpeculativeTable:
    """Step times per token; see :class:`hwsim.sim.serving.cost.StepCost`.

    Attributes
    ----------
    base : StepTable or PipelineTable
        Of the model; what drafts stands on the last stage of a pipeline.
    draft : StepCost or None
        Of a smaller model.
    layers : int
        Of the model: the layer that drafts is one more such.
    """

    base: StepTable | PipelineTable
    speculation: Speculation
    draft: StepCost | None
    layers: int

    @property
    def padded(self) -> list[int]:
        """Batch that runs for each number of sequences."""
        return self.base.padded

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return time per token, growth per token of context, and up to where."""
        s = self.speculation
        time, slope, limit = self.base.check(batch, contexts, s.tokens + 1)
        if s.draft == "mtp":
            own, grown = self.base.one_layer(batch, contexts, self.layers)
            time, slope = time + s.tokens * own, slope + s.tokens * grown
        elif self.draft is not None:
            some, seen, rounds = self.base.pace(batch, contexts)
            own, grown, known = self.draft.decode(some, seen)
            time += s.tokens * rounds * own
            slope += s.tokens * rounds * grown * seen / contexts
            limit = min(limit, known * contexts / seen)
        return time / s.per_round, slope / s.per_round, limit

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks and decoding sequences."""
        whole = self.base.mixed(chunks, batch, contexts)
        return whole + self._instead(batch, contexts)

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step of groups, each as ``mixed`` has it."""
        batch = max(part[1] for part in parts)
        contexts = max(part[2] for part in parts)
        return self.base.joint(parts) + self._instead(batch, contexts)

    def _instead(self, batch: int, contexts: float) -> float:
        """Return what a token costs more than a plain decode step's. [s]"""
        if not batch:
            return 0.0
        plain = self.base.decode(batch, contexts)[0]
        return self.decode(batch, contexts)[0] - plain


def draft_of(speculation: Speculation | None) -> ModelSpec | None:
    """Return the smaller model that drafts, if one does."""
    if speculation is None or isinstance(speculation.draft, str):
        return None
    return speculation.draft


def with_drafts(
    pool: Pool,
    model: ModelSpec,
    speculation: Speculation,
    config: Any,
    longest: int,
    tables: Callable[[Deployment], TableOf] = step_table,
) -> Pool:
    """Return a pool whose steps draft and check tokens.

    Parameters are those of :func:`~hwsim.analysis.serving.pool.tabulated`.
    """
    if not isinstance(pool.table, StepTable | PipelineTable):
        raise TypeError("the pool has no table of step times yet")
    draft = None
    if not isinstance(speculation.draft, str):
        own = replace(pool, layout=ReplicaLayout(pool.layout.tp))
        draft = tabulated(own, speculation.draft, config, longest, tables).table
    table = SpeculativeTable(pool.table, speculation, draft, len(model.layer_kinds))
    return replace(pool, table=table)
