"""Terms of training by what is known of a run, from tables of published runs.

Each row is predicted twice: as its source's mapping says, and by the general
mapping alone, as a run of a source that nobody has mapped. What an interval needs
beside that of its operators makes the term of the row's class; whole documents
are left out in turn to see what it covers, and whole tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.fitting.transfer import UNKNOWN_KIND
from hwsim.analysis.published.rows import RunPrediction, RunPredictor
from hwsim.analysis.training.knowledge import (
    CLASSES,
    GENERIC,
    Facts,
    class_of,
    facts_of,
)
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval
from hwsim.specs.calibration_file import (
    KnowledgeTerm,
    LeftOutTable,
    TrainingKnowledge,
)
from hwsim.specs.catalogs import STACKS
from hwsim.specs.published.documents import document_of
from hwsim.specs.published.rules import ANY
from hwsim.specs.published.training import read_published
from hwsim.specs.published.training_map import load_mappings, mapped

COVERED = 0.9
LEAST_DOCUMENTS = 3  # that have to bear out a stack on a kind of device
_NEAR, _MOST = 0.15, 0.5  # median error of such a document; share of all documents
# From the surest on, each at least as wide as the one before.
_CHAIN = tuple(name for name in CLASSES if name != "whole runs")
_FACTORS = np.arange(0.5, 4.01, 0.05)
Checks = tuple[dict[str, tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One published figure: where it stands, how far off, and what is known.

    Attributes
    ----------
    ratio : float
        ln(published / predicted) of the step time.
    inside : LogInterval
        By errors of operators.
    mapped : bool
        Whether its source's own mapping was used.
    """

    table: str
    document: str
    ratio: float
    inside: LogInterval
    facts: Facts
    mapped: bool


def knowledge_rows(
    paths: Sequence[Path],
    fidelity: Fidelity = "auto",
    progress: Callable[[str], None] | None = None,
) -> list[TrainingRow]:
    """Predict tables of published training, with and without sources' mappings."""
    every = load_mappings()
    general = tuple(one for one in every if one.id == ANY)
    found: list[TrainingRow] = []
    for mappings in (every, general):
        predictor, own = RunPredictor(fidelity), mappings is every
        # Without a mapping of its own a row would be the same twice.
        twice = {row.document for row in found if row.facts.told.stack}
        for path in paths:
            for run in read_published([path]).runs:
                if not own and document_of(run.source) not in twice:
                    continue
                got = predictor.predict(mapped(run, mappings))
                row = _row(got, path.stem, own)
                found += [] if row is None else [row]
            if progress is not None:
                progress(f"{path.name}: {len(found)} rows")
    return found


def _row(got: RunPrediction, table: str, own: bool) -> TrainingRow | None:
    result = got.result
    if result is None or not got.step_s or not got.published_step_s:
        return None
    inside = result.made.operator_interval
    if inside is None:
        return None
    facts = facts_of(
        result.system.device, result.stack, experts=result.config.ep > 1,
        fidelity=result.fidelity, told=result.told,
    )  # fmt: skip
    ratio = float(np.log(got.published_step_s / got.step_s))
    document = document_of(got.mapped.run.source)
    return TrainingRow(table, document, ratio, inside, facts, own)


def training_knowledge(rows: Sequence[TrainingRow]) -> TrainingKnowledge:
    """Return the terms of all classes, and what they cover of tables left out."""
    checks = _checks(rows)
    names = dict.fromkeys(row.table for row in rows)
    tables = (found for name in names if (found := _left_out(rows, name)))
    return TrainingKnowledge(
        terms=_terms(rows, checks), documents=LEAST_DOCUMENTS, checked=checks[0],
        kinds=checks[1], tables=tuple(tables),
    )  # fmt: skip


def stack_families() -> dict[str, str]:
    """Return, for each stack that ships, the one that its line begins with."""
    return {name: STACKS.root_of(name) for name in STACKS}


def _checks(rows: Sequence[TrainingRow]) -> Checks:
    """Return the stacks by kind that documents bear out, and the kinds told of."""
    families = stack_families()
    errors: dict[tuple[str, str], dict[str, list[float]]] = {}
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kind = row.facts.kind
        if row.mapped:
            family = families.get(row.facts.stack, row.facts.stack)
            told = errors.setdefault((family, kind), {})
            told.setdefault(row.document, []).append(abs(np.expm1(row.ratio)))
        if row.facts.told.stack:
            kinds.setdefault(kind, set()).add(row.document)
    checked: dict[str, list[str]] = {}
    for family, kind in sorted(errors):
        if family != GENERIC and _borne_out(errors[family, kind].values()):
            line = (stack for stack, first in families.items() if first == family)
            checked.setdefault(kind, []).extend(line)
    enough = (k for k, told in kinds.items() if len(told) >= LEAST_DOCUMENTS)
    found = {kind: tuple(sorted(names)) for kind, names in checked.items()}
    return found, tuple(sorted(enough))


def _borne_out(documents: Collection[Sequence[float]]) -> bool:
    """Whether enough documents, and most of all, are near in the median."""
    near = sum(float(np.median(errors)) <= _NEAR for errors in documents)
    return near >= LEAST_DOCUMENTS and near >= _MOST * len(documents)


class _Sample:
    """Rows of one class as arrays.

    Attributes
    ----------
    reach : ndarray of float64, shape (2, row)
        Half widths, down and up, by errors of operators.
    need : ndarray of float64, shape (row,)
        Half width that a covering interval needs beside.
    weight : ndarray of float64, shape (row,)
        Documents of many rows count less for each.
    """

    def __init__(self, rows: Sequence[TrainingRow], share: float) -> None:
        self.rows, self.share = rows, share
        self.ratio = np.array([row.ratio for row in rows])
        low = np.array([max(-row.inside.low, 0.0) for row in rows])
        high = np.array([max(row.inside.high, 0.0) for row in rows])
        self.reach = share * np.array([low, high])
        near = np.where(self.ratio < 0, self.reach[0], self.reach[1])
        self.need = np.sqrt(np.maximum(self.ratio**2 - near**2, 0.0))
        documents = np.array([row.document for row in rows])
        self.names, self.which, count = np.unique(
            documents, return_inverse=True, return_counts=True
        )
        self.weight = 1.0 / np.sqrt(count[self.which])

    def half(self, kept: NDArray[np.bool_] | slice = slice(None)) -> float:
        """Return the half width that covers the rows that are kept, by weight."""
        values, weight = self.need[kept], self.weight[kept]
        order = np.argsort(values)
        reached = np.cumsum(weight[order]) / weight.sum()
        level = COVERED * (1 + 1 / len(values))
        place = min(int(np.searchsorted(reached, level)), len(values) - 1)
        return float(values[order][place])

    def left_out(self) -> FloatArray:
        """Return, of each row, the half width by all other documents."""
        halves = np.empty(len(self.rows))
        for number in range(len(self.names)):
            mine = self.which == number
            halves[mine] = self.half(~mine)
        return halves

    def inside(self, half: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return which rows intervals cover, and how wide these are."""
        low, high = np.hypot(self.reach, half)
        within = (-low <= self.ratio) & (self.ratio <= high)
        return within, np.exp(high) - np.exp(-low)

    def factor(self, halves: FloatArray) -> float:
        """Return the least factor on half widths that covers documents left out."""
        for factor in _FACTORS:
            within, _ = self.inside(factor * halves)
            if np.average(within, weights=self.weight) >= COVERED:
                break
        return float(factor)


def _terms(rows: Sequence[TrainingRow], checks: Checks) -> dict[str, KnowledgeTerm]:
    by_class: dict[str, list[TrainingRow]] = {name: [] for name in CLASSES}
    for row in rows:
        by_class[class_of(row.facts, *checks)].append(row)
    terms: dict[str, KnowledgeTerm] = {}
    for name, some in by_class.items():
        if _several(some):
            surer = [t.high for n, t in terms.items() if n in _CHAIN and name in _CHAIN]
            terms[name] = _term(some, _share(name), max(surer, default=0.0))
    return terms


def _share(name: str) -> float:
    """Return the share of operators' spread: nothing is assumed of known runs."""
    return 1.0 / UNKNOWN_KIND if name == "whole runs" else 1.0


def _several(rows: Sequence[TrainingRow]) -> bool:
    return len({row.document for row in rows}) > 1


def _term(
    rows: Sequence[TrainingRow], share: float = 1.0, least: float = 0.0
) -> KnowledgeTerm:
    sample = _Sample(rows, share)
    halves = sample.left_out()
    factor = sample.factor(halves)
    within, width = sample.inside(np.maximum(factor * halves, least))
    half = max(round(factor * sample.half(), 4), least)
    return KnowledgeTerm(
        low=half, high=half, rows=len(rows), sources=len(sample.names),
        coverage=round(float(within.mean()), 4), width=round(float(width.mean()), 4),
        operators=round(sample.share, 4),
    )  # fmt: skip


def _left_out(rows: Sequence[TrainingRow], table: str) -> LeftOutTable | None:
    """Return what terms made without a table and its documents cover of it.

    None where too few documents remain.
    """
    mine = [row for row in rows if row.table == table and row.mapped]
    documents = {row.document for row in mine}
    others = [r for r in rows if r.table != table and r.document not in documents]
    if not _several(others):
        return None
    checks = _checks(others)
    terms: Mapping[str, KnowledgeTerm] = _terms(others, checks)
    within, width = [], []
    for row in mine:
        name = class_of(row.facts, *checks)
        term = terms.get(name) or _term(others)
        sample = _Sample([row], term.operators)
        inside, wide = sample.inside(np.array([term.high]))
        within.append(bool(inside[0]))
        width.append(float(wide[0]))
    return LeftOutTable(
        table=table, rows=len(mine), coverage=round(float(np.mean(within)), 4),
        width=round(float(np.mean(width)), 4),
    )  # fmt: skip
