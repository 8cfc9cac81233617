"""An engine that keeps the blocks of prefixes, as long as there is room.

Blocks that a prompt or an answer has filled stay known by what they and all
before them hold. A request that begins with known blocks does not compute
them; requests that run at a time share them. When nobody uses them any more
they stay until memory is needed: least recently used first, the end of a
prefix before its beginning.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hwsim.sim.serving.memory import Pages
from hwsim.sim.serving.prefixes import Prefixes
from hwsim.sim.serving.replica import Replica


class PrefixCache:
    """Units of prefixes in one engine's memory, and who uses them.

    What requests share is taken off what ``pages`` holds and has promised.

    Attributes
    ----------
    idle : int
        Blocks that are kept and that no request uses.
    """

    def __init__(self, prefixes: Prefixes, pages: Pages) -> None:
        self._prefixes, self._pages = prefixes, pages
        self._unit = prefixes.unit(pages.block_size)
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()  # blocks of each
        self._pinned: dict[int, int] = {}  # units that a request uses
        self.idle = 0

    def find(self, request: int, tokens: int) -> tuple[int, int]:
        """Return the known units of a prompt's first tokens, and blocks in use."""
        known = used = 0
        for unit in self._prefixes.chain(request, tokens // self._unit):
            if unit in self._users:
                used += self._blocks(known)
            elif unit not in self._idle:
                break
            known += 1
        return known, used

    def tokens(self, units: int) -> int:
        """Return the tokens of whole blocks of so many units."""
        size = self._pages.block_size
        return units * self._unit // size * size

    def pin(self, request: int, units: int) -> None:
        """Let a request use its first units, and know those that are new."""
        shared, begin = 0, self._pinned.get(request, 0)
        chain = self._prefixes.chain(request, units)
        for at in range(begin, len(chain)):
            unit, blocks = chain[at], self._blocks(at)
            if unit in self._users:
                self._users[unit] += 1
                shared += blocks
                continue
            self._users[unit] = 1
            self.idle -= self._idle.pop(unit, 0)
        self._pinned[request] = max(begin, len(chain))
        self.share(shared)

    def keep(self, request: int, tokens: int) -> None:
        """Know all units of a request that has computed so many tokens."""
        self.pin(request, tokens // self._unit)

    def release(self, request: int) -> None:
        """Let a request go; what nobody uses becomes idle, its end first."""
        shared, count = 0, self._pinned.pop(request, 0)
        chain = self._prefixes.chain(request, count)
        for at in range(count - 1, -1, -1):
            unit, blocks = chain[at], self._blocks(at)
            if self._users[unit] > 1:
                self._users[unit] -= 1
                shared += blocks
                continue
            del self._users[unit]
            self._idle[unit] = blocks
            self.idle += blocks
        self.share(-shared)

    def share(self, blocks: int) -> None:
        """Count blocks once that one more request uses."""
        self._pages.held -= blocks
        self._pages.claims -= blocks

    def trim(self, used: int) -> None:
        """Drop idle units, oldest first, until so many blocks in use fit."""
        room = max(self._pages.total - used, 0)
        while self.idle > room:
            self.idle -= self._idle.popitem(last=False)[1]

    def clear(self) -> None:
        """Forget everything."""
        self._users.clear()
        self._idle.clear()
        self._pinned.clear()
        self.idle = 0

    def _blocks(self, at: int) -> int:
        """Return the blocks that end within a unit, by its place."""
        size = self._pages.block_size
        return (at + 1) * self._unit // size - at * self._unit // size


class CachingReplica(Replica):
    """An engine that skips what it knows of a prompt.

    Its requests have ``prefixes``; ``cached`` takes the tokens that each did
    not have to compute when it was last admitted. Static batches, whose
    blocks all end together, have no such cache.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.requests.prefixes is None or self.policy.holds:
            raise TypeError("nothing to know prefixes by, or static batches")
        self.cache = PrefixCache(self.requests.prefixes, self.pages)

    def _known(self, request: int, target: int) -> int:
        """Return the tokens that need no computing; one always does."""
        self.cache.trim(self.pages.used(self.counter))
        return self.cache.tokens(self.cache.find(request, target - 1)[0])

    def _admit(self, request: int, target: int) -> bool:
        cache, requests = self.cache, self.requests
        handed = requests.handed[request]
        units, used = (0, 0) if handed else cache.find(request, target - 1)
        cache.share(used)
        fits = super()._admit(request, target)
        cache.share(-used)
        if fits:
            cache.pin(request, units)
            if not handed:
                requests.cached[request] = cache.tokens(units)
            cache.trim(self.pages.used(self.counter))
        return fits

    def make_room(self) -> bool:
        """As other engines do; who had to go may share more, and fit, in a step."""
        room = super().make_room()
        self._cut = self._cut or not room
        return room

    def _blocks_held(self, steps: int, span: float) -> float:
        self.cache.trim(self.pages.used(self.counter + steps - 1))
        return super()._blocks_held(steps, span)

    def _join(self, request: int) -> None:
        requests = self.requests
        done = requests.inputs[request] + requests.generated[request]
        self.cache.keep(request, done)
        super()._join(request)

    def _leave(self, request: int) -> None:
        # The last token is given and never computed on.
        requests = self.requests
        done = requests.inputs[request] + requests.outputs[request] - 1
        self.cache.keep(request, done)
        self.cache.release(request)
        super()._leave(request)

    def _preempt(self) -> None:
        super()._preempt()
        self.cache.release(self.queue[0])

    def _discard(self, request: int) -> None:
        super()._discard(request)
        self.cache.release(request)

    def _empty(self) -> list[int]:
        lost = super()._empty()
        self.cache.clear()
        return lost
