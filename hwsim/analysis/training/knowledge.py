"""What is known behind a prediction of training, and how sure it makes it.

Errors of published runs depend on few things: whether runs of several documents
bore out the stack, whether kernels of the device's generation were
measured, whether experts are spread over ranks, and whether settings had to be
chosen. Each class has a term of its own in ``intervals.json``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval, beside
from hwsim.specs.calibration import calibration_for, load_intervals, resolved_fidelity
from hwsim.specs.calibration_file import EndToEnd, KnowledgeTerm
from hwsim.specs.device import DeviceSpec
from hwsim.specs.stack import StackSpec

# From the surest to the least sure; the words say what holds.
CLASSES = {
    "known": "the stack was checked and kernels of this generation were measured",
    "known in part": "as known, but experts are spread over ranks or settings were "
    "chosen",
    "whole runs": "the stack was checked; no kernel of such devices was measured, "
    "whole runs were",
    "stack unchecked": "the stack is generic, or too few documents bear it out on such "
    "devices",
    "settings chosen": "the stack is unchecked, and settings were chosen",
    "device unmeasured": "no kernel of the device's generation was measured",
}
GENERIC = "default-training"
_MEASURED = ("calibrated", "borrowed")


@dataclass(frozen=True, slots=True)
class Told:
    """What a question says of its run.

    Attributes
    ----------
    stack : bool
        Whether the stack is stated, not taken from words about the run.
    chosen : tuple of str
        Settings that were left open and chosen.
    """

    stack: bool = True
    chosen: tuple[str, ...] = ()


STATED = Told()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the class of a prediction depends on.

    Attributes
    ----------
    origin : str
        Where the spread of the device's kernels comes from: ``generation``,
        ``kind`` or ``assumed``.
    experts : bool
        Whether experts are spread over ranks.
    """

    stack: str
    kind: str
    origin: str
    told: Told = STATED
    experts: bool = False


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The class of a prediction, and why it is in it."""

    name: str
    why: str

    @property
    def rank(self) -> int:
        """Place in the order from the surest class."""
        return list(CLASSES).index(self.name)

    def to_dict(self) -> dict[str, str]:
        """Return class and reason."""
        return {"class": self.name, "why": self.why}


def class_of(
    facts: Facts, checked: Mapping[str, Collection[str]], kinds: Collection[str]
) -> str:
    """Return the class of a prediction.

    Parameters
    ----------
    checked : mapping of str to collection of str
        Stacks that published runs checked, by kind of device.
    kinds : collection of str
        Kinds of device of which whole runs are known.
    """
    measured = facts.origin == "generation"
    if not measured and not (facts.origin == "assumed" and facts.kind in kinds):
        return "device unmeasured"
    if not facts.told.stack or facts.stack not in checked.get(facts.kind, ()):
        return "settings chosen" if facts.told.chosen else "stack unchecked"
    if not measured:
        return "whole runs"
    return "known in part" if facts.experts or facts.told.chosen else "known"


def facts_of(
    device: DeviceSpec,
    stack: StackSpec,
    *,
    experts: bool,
    fidelity: Fidelity = "auto",
    told: Told = STATED,
) -> Facts:
    """Return what the class of a run depends on."""
    measured = resolved_fidelity(device, fidelity) in _MEASURED
    origin = "generation" if measured else calibration_for(device).origin
    return Facts(stack.id, device.kind, origin, told, experts)


def knowledge_of(facts: Facts) -> Knowledge:
    """Return the class of a prediction, by what ships of published runs."""
    known = load_intervals().training
    if known is None:
        return Knowledge("device unmeasured", "no published run was compared")
    name = class_of(facts, known.checked, known.kinds)
    return Knowledge(name, "; ".join(_reasons(facts, name, known.documents)))


def _reasons(facts: Facts, name: str, documents: int) -> Iterable[str]:
    if name == "device unmeasured":
        yield "no kernel of the device's generation was measured"
        return
    if name in {"stack unchecked", "settings chosen"}:
        yield _unchecked(facts, documents)
    else:
        yield f"stack {facts.stack} was borne out by {documents} documents or more"
    if facts.origin == "generation":
        yield "kernels of the device's generation were measured"
    else:
        yield f"whole runs on {facts.kind} devices are known, no kernels"
    if name == "known in part" and facts.experts:
        yield "experts are spread over ranks"
    if facts.told.chosen and name != "stack unchecked":
        yield f"chosen: {', '.join(facts.told.chosen)}"


def _unchecked(facts: Facts, documents: int) -> str:
    if facts.stack == GENERIC:
        return "no stack is named, a generic one is taken"
    if not facts.told.stack:
        return f"stack {facts.stack} is taken from words of the source"
    return (
        f"stack {facts.stack} was not borne out by {documents} documents on "
        f"{facts.kind} devices"
    )


def least_sure(found: Iterable[Knowledge]) -> Knowledge:
    """Return the least sure of some classes."""
    return max(found, key=lambda one: one.rank)


def term_of(knowledge: Knowledge) -> EndToEnd:
    """Return the term of a class; of all training where it has none."""
    file = load_intervals()
    known = None if file.training is None else file.training.terms.get(knowledge.name)
    if known is not None:
        return known
    return file.end_to_end.get("train", file.end_to_end["every"])


def outside_of(knowledge: Knowledge) -> LogInterval:
    """Return what operators do not explain of a step, by what is known of it."""
    term = term_of(knowledge)
    return LogInterval(-term.low, term.high)


def with_term(inside: LogInterval, term: EndToEnd) -> LogInterval:
    """Return the interval of a step from that of its operators and a term."""
    share = term.operators if isinstance(term, KnowledgeTerm) else 1.0
    part = LogInterval(share * inside.low, share * inside.high)
    return beside(part, LogInterval(-term.low, term.high))


def whole_runs(knowledge: Knowledge) -> dict[str, Any]:
    """Return class, reason, and what is known of the accuracy of such runs."""
    term = term_of(knowledge)
    return {
        **knowledge.to_dict(), "rows": term.rows, "sources": term.sources,
        "coverage_90": term.coverage, "interval_width": term.width,
    }  # fmt: skip
