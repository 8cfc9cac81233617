"""Errors of hwsim: each says where, what and the remedy, on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class HwsimError(Exception):
    """Base of every error that hwsim raises on purpose; exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take other arguments; a worker process sends the finished line.
        return _rebuilt, (type(self), str(self), self.__dict__.copy())


class SpecError(HwsimError, ValueError):
    """A spec file, key or value is wrong.

    Parameters
    ----------
    where : str
        File and key, for example ``"my.toml: memory.hbm.bandwidth"``.
    what : str
        What is wrong, with the offending value.
    remedy : str
        What to write instead.
    """

    def __init__(self, where: str, what: str, remedy: str = "") -> None:
        self.where, self.what, self.remedy = where, what, remedy
        super().__init__(f"{where}: {what}" + (f"; {remedy}" if remedy else ""))


class UnknownNameError(HwsimError, LookupError):
    """A name is in no catalog; the message shows the nearest ones."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], remedy: str = ""
    ) -> None:
        known = sorted(known)
        self.kind, self.name = kind, name
        self.nearest = nearest(name, known)
        if self.nearest:
            hint = "did you mean " + ", ".join(self.nearest) + "?"
        elif len(known) <= 12:
            hint = "known: " + ", ".join(known)
        else:
            hint = f"{len(known)} are known"
        super().__init__(
            f"unknown {kind} {name[:80]!r}: {hint}" + (f" {remedy}" if remedy else "")
        )


class InputError(HwsimError, ValueError):
    """An argument cannot be answered (tp that does not divide, batch 0, …)."""


class GraphError(HwsimError, ValueError):
    """An operator graph is malformed."""


class OutputError(HwsimError, OSError):
    """A result could not be written."""


def _rebuilt(cls: type[HwsimError], message: str, state: dict[str, Any]) -> HwsimError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


def nearest(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """Return the known names that look most like ``name``, best first."""
    by_fold = {k.casefold(): k for k in known}
    text = name.casefold()[:120]
    hits = difflib.get_close_matches(text, list(by_fold), n=count, cutoff=0.5)
    inside = [k for k in by_fold if len(text) > 2 and text in k and k not in hits]
    return [by_fold[h] for h in (hits + sorted(inside, key=len))[:count]]
