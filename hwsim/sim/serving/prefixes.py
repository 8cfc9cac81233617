"""What prompts begin with: which requests could share keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.errors import InputError

#: Tokens that one of Mooncake's ids stands for.
HASH_TOKENS = 512
_SESSION = ("session_id", "session", "session id", "conversation_id", "chat_id")
_SHIFT = 24  # a history has fewer units than 2**24


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Identity of each request's tokens, in units that follow each other.

    Attributes
    ----------
    previous : sequence of int
        The request before it in its session; -1 is none.
    histories : sequence of int
        Number of the history that each request goes on with.
    chains : sequence of tuple of int or None
        Units of each prompt, each known by all before it; None: units are
        the engine's blocks of the history, prompt and answer.
    span : int
        Tokens of a unit of ``chains``.
    """

    previous: Sequence[int]
    histories: Sequence[int]
    chains: Sequence[tuple[int, ...]] | None = None
    span: int = HASH_TOKENS

    def first(self, count: int) -> Prefixes:
        """Return those of the first requests."""
        chains = None if self.chains is None else self.chains[:count]
        return Prefixes(
            self.previous[:count], self.histories[:count], chains, self.span
        )

    def unit(self, block_size: int) -> int:
        """Return the tokens of a unit."""
        return block_size if self.chains is None else self.span

    def chain(self, request: int, units: int) -> Sequence[int]:
        """Return the first units of a request, at most so many."""
        if self.chains is not None:
            return self.chains[request][:units]
        start = self.histories[request] << _SHIFT
        return range(start, start + units)


class PrefixColumns:
    """Collects identities from the rows of a trace.

    ``hash_ids`` count where they are given, else sessions. A session's prompt
    that is at least as long as the last prompt and answer goes on with them;
    a shorter one begins anew.

    Parameters
    ----------
    path : Path
        Named in messages.
    names : mapping
        Columns by folded name.
    """

    def __init__(self, path: Path, names: Mapping[str, Any]) -> None:
        self._path, self._hash = path, names.get("hash_ids")
        self._session = next((names[n] for n in _SESSION if n in names), None)
        self._last: dict[str, tuple[int, int]] = {}  # request, its context
        self._previous: list[int] = []
        self._histories: list[int] = []
        self._chains: list[tuple[int, ...]] = []
        self._units: dict[tuple[int, int], int] = {}

    def add(
        self, row: int, fields: Mapping[str, Any], prompt: int, answer: int
    ) -> None:
        """Take a request of so many tokens."""
        request = len(self._previous)
        name = "" if self._session is None else fields.get(self._session)
        key = "" if name is None else str(name).strip()
        previous, context = self._last.get(key, (-1, 0)) if key else (-1, 0)
        goes_on = previous >= 0 and prompt >= context
        self._previous.append(previous)
        self._histories.append(self._histories[previous] if goes_on else request)
        if key:
            self._last[key] = (request, prompt + answer)
        if self._hash is not None:
            self._chains.append(self._chain(row, fields.get(self._hash), prompt))

    def _chain(self, row: int, ids: Any, prompt: int) -> tuple[int, ...]:
        whole = isinstance(ids, list) and all(type(i) is int for i in ids)
        if not whole or (len(ids) - 1) * HASH_TOKENS >= prompt:
            raise InputError(
                f"{self._path}: row {row}: hash_ids is {str(ids)[:40]!r}; give a list "
                f"of whole numbers, one for each {HASH_TOKENS} tokens of the prompt"
            )
        chain, before = [], -1
        # The last id may stand for less than a whole unit: it is not shared.
        for one in ids[: prompt // HASH_TOKENS]:
            before = self._units.setdefault((before, one), len(self._units))
            chain.append(before)
        return tuple(chain)

    def found(self) -> Prefixes | None:
        """Return what was collected; None where the trace has no such column."""
        if self._hash is None and self._session is None:
            return None
        chains = self._chains if self._hash is not None else None
        return Prefixes(self._previous, self._histories, chains)
