"""A study: one question that takes several results to answer, in its own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hwsim.analysis.comparing.waterfall import Waterfall
from hwsim.analysis.result import Result
from hwsim.errors import InputError
from hwsim.specs.base import Spec

Interval = tuple[float, float]
Value = str | float | None | tuple[float, float, float]


@dataclass(frozen=True)
class StudyTable:
    """A table of figures in SI units.

    Attributes
    ----------
    caption : str
        What it shows.
    columns : tuple of (str, str or None)
        Heading and unit of each: ``s``, ``B``, ``W``, ``USD``, ``%`` (of
        shares of one), ``""`` for plain numbers, None for text.
    rows : tuple of tuples
        Text, numbers, None, or (value, low, high) with a 90 % interval.
    """

    caption: str
    columns: tuple[tuple[str, str | None], ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(
                    f"table {self.caption!r}: a row of {len(row)} cells for "
                    f"{len(self.columns)} columns; give as many"
                )


@dataclass(frozen=True)
class StudyBars:
    """A bar for each case, with its 90 % interval.

    Attributes
    ----------
    what, unit : str
        What the bars measure, and their SI unit.
    values : dict of str to float
        Value by case.
    ends : dict of str to (float, float)
        90 % intervals of those that have one.
    best : str or None
        The case to set apart.
    limit, limit_name : float or None, str
        A value to compare with, drawn as a line, and what it is.
    """

    title: str
    what: str
    unit: str
    values: Mapping[str, float]
    ends: Mapping[str, Interval] = field(default_factory=dict)
    best: str | None = None
    limit: float | None = None
    limit_name: str = "the limit"


@dataclass(frozen=True)
class StudyLines:
    """Curves of one figure over another.

    Attributes
    ----------
    x, y : (str, str)
        What is on each axis, and its SI unit.
    series : dict of str to tuple of (float, float)
        Points by curve.
    log : bool
        Logarithmic axes.
    """

    title: str
    x: tuple[str, str]
    y: tuple[str, str]
    series: Mapping[str, tuple[tuple[float, float], ...]]
    log: bool = False


@dataclass(frozen=True)
class StudySection:
    """A heading with text, then bars, curves, waterfalls and tables under it.

    Waterfalls are those of a :func:`hwsim.compare`.
    """

    title: str
    text: tuple[str, ...] = ()
    bars: tuple[StudyBars, ...] = ()
    lines: tuple[StudyLines, ...] = ()
    waterfalls: tuple[Waterfall, ...] = ()
    tables: tuple[StudyTable, ...] = ()


@dataclass(frozen=True, repr=False)
class Study(Result):
    """Several results that answer one question, and the words that say so.

    A page of it has the sections, and then the sources, the accuracy evidence
    and the hashes of every result.

    Attributes
    ----------
    title, question, answer : str
        The answer is one sentence, with its 90 % interval.
    results : dict of str to Result
        What the answer rests on, by name.
    sections : tuple of StudySection
        What is shown.
    """

    title: str
    question: str
    answer: str
    results: Mapping[str, Result]
    sections: tuple[StudySection, ...] = ()

    kind = "study"

    def to_dict(self) -> dict[str, Any]:
        """Return words, tables and the answers of all results, in SI."""
        return {
            **self.header(),
            "title": self.title,
            "question": {"text": self.question},
            "answer": self.answer,
            "sections": [asdict(section) for section in self.sections],
            "results": {name: r.to_dict() for name, r in self.results.items()},
        }

    def specs(self) -> dict[str, Spec]:
        """Return the specs of all results, each once, as ``role:id``."""
        found: dict[str, Spec] = {}
        for role, spec in self._each_spec():
            key, at = f"{role}:{getattr(spec, 'id', '')}", 2
            while found.get(key, spec) != spec:
                key, at = f"{role}:{getattr(spec, 'id', '')} ({at})", at + 1
            found[key] = spec
        return found

    def _each_spec(self) -> Iterator[tuple[str, Spec]]:
        for result in self.results.values():
            for role, spec in result.specs().items():
                yield role.partition(":")[0], spec

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of each device, by its id.

        The families are those of all results on the device together.
        """
        found: dict[str, dict[str, Any]] = {}
        for result in self.results.values():
            told = result.accuracy()
            for one in [told] if "families" in told else told.values():
                mine = found.setdefault(one["device"], {**one, "families": []})
                known = {family["family"] for family in mine["families"]}
                mine["families"] += [
                    f for f in one["families"] if f["family"] not in known
                ]  # fmt: skip
        return found
