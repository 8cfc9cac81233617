"""The requests that one engine runs: slots, blocks, tokens to go.

Every running request that decodes gets one token a step: when it ends is known
when it begins, as a value of the step counter. Nothing here knows how long a
step takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from hwsim.schedule.batching import BatchingPolicy
from hwsim.sim.serving.memory import Pages
from hwsim.sim.serving.records import Requests, StepLog


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and habits of one replica; see :class:`hwsim.specs.engine.EngineSpec`.

    Attributes
    ----------
    wait_tokens : float
        Tokens of a step for which waiting prompts do not wait any longer.
    lookahead : bool
        A step is put together while the one before it runs: with requests that
        had come when that one began.
    balance_steps : int
        Steps between looks at which a group in lock step with others may take
        prompts before each of the others has one too; 0: it takes them at once.
    swap_time : float or None
        Per block; preempted requests keep their blocks in the host's memory,
        and the next step waits while they go, and when they come. [s]
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    chunked: bool
    num_blocks: int
    block_size: int
    watermark_blocks: int = 0
    reserve: float = 0.0
    intake_interval: int = 1
    wait_steps: int = 0
    wait_tokens: float = 0.0
    swap_time: float | None = None
    lookahead: bool = False
    balance_steps: int = 0

    @property
    def ahead(self) -> bool:
        """Whether it sees arrivals a step late, and does not look less often."""
        return self.lookahead and self.intake_interval == 1


class Batch:
    """Requests that hold slots, and the queue behind them.

    Parameters
    ----------
    requests : Requests
        Columns that it reads and fills in.
    policy : BatchingPolicy
        Which requests share a step.
    limits : Limits
        Slots, tokens, blocks.
    log : StepLog
        Takes gaps between tokens that a preemption made.
    on_finish : callable or None
        Called with each request when it has its last token.
    """

    def __init__(
        self,
        requests: Requests,
        policy: BatchingPolicy,
        limits: Limits,
        log: StepLog,
        on_finish: Callable[[int], None] | None = None,
    ) -> None:
        self.requests, self.policy, self.limits = requests, policy, limits
        self.log, self.on_finish = log, on_finish
        self.pages = Pages(limits.num_blocks, limits.block_size)
        self.queue: deque[int] = deque()
        self.now = 0.0
        self.counter = 0  # decode steps so far
        self.running = 0  # requests with a slot
        self.outstanding = 0
        self.coming = 0  # requests whose keys and values are on their way
        self._size = max(len(requests), 1)
        self._ends: list[int] = []  # heap of (counter at the end, request)
        self._ends_at: dict[int, int] = {}
        self._base: dict[int, int] = {}  # context less counter, if decoding
        self._base_sum = 0
        self._order: list[int] = []  # as admitted; those gone are dropped late
        self._partial: tuple[int, int] | None = None  # request, tokens done
        self._claim: dict[int, int] = {}
        self._done = 0  # finished but holding their slots
        self._marks: list[list[float]] = []  # [time of last token, requests]
        self._lost: dict[int, float] = {}  # time of last token, if preempted
        self._stall = 0.0  # that the next step waits for swapped blocks

    def _preempt(self) -> None:
        """Send the request that was admitted last back to the queue's head."""
        order, requests = self._order, self.requests
        while order[-1] not in self._claim:
            order.pop()
        victim = order.pop()
        if self._partial is not None and self._partial[0] == victim:
            target = requests.inputs[victim] + requests.generated[victim]
            self.pages.held -= self.pages.blocks(target)
            self._partial = None
        else:
            left = self._ends_at[victim] - self.counter
            requests.generated[victim] = requests.outputs[victim] - left
            self._lost[victim] = self._unmark()
            self._drop(victim)
            if self.limits.swap_time is not None:
                requests.handed[victim] = 2
                self._swapped(victim)
        requests.preemptions[victim] += 1
        self.pages.claims -= self._claim.pop(victim)
        self.running -= 1
        self.queue.appendleft(victim)

    def _swapped(self, request: int) -> None:
        """Let the next step wait while a request's blocks move."""
        context = self.requests.inputs[request] + self.requests.generated[request]
        self._stall += self.pages.blocks(context) * (self.limits.swap_time or 0.0)

    def _resume(self, request: int) -> None:
        """Let an admitted request decode whose keys and values are there."""
        requests, pages = self.requests, self.pages
        had = requests.generated[request]
        context = requests.inputs[request] + had
        pages.held -= pages.blocks(context)
        if requests.handed[request] == 2:
            self._swapped(request)
        else:
            # Its first token came with its keys and values, and goes out now.
            requests.first[request] = self._lost[request] = self.now
        requests.handed[request] = 0
        active = pages.count - self._done
        if active and not self._marks:
            self._marks.append([self.now, active])
        self._marks.append([self._lost.pop(request), 1])
        self._decode(request, context, requests.outputs[request] - had)

    def _decode(self, request: int, context: int, left: int) -> None:
        """Let a request decode from so much context, for so many tokens."""
        base, end = context - self.counter, self.counter + left
        self._base[request] = base
        self._base_sum += base
        self._ends_at[request] = end
        heappush(self._ends, end * self._size + request)
        self.pages.add(base)

    def _unmark(self) -> float:
        """Return when the one who came last had its last token."""
        if not self._marks:
            return self.now
        mark = self._marks[-1]
        mark[1] -= 1
        if not mark[1]:
            self._marks.pop()
        return mark[0]

    def _drop(self, request: int) -> None:
        del self._ends_at[request]
        base = self._base.pop(request)
        self._base_sum -= base
        self.pages.add(base, -1)

    def _admit(self, request: int, target: int) -> bool:
        """Give a request a slot and blocks, if there are enough."""
        limits, pages, requests = self.limits, self.pages, self.requests
        need = pages.blocks(target)
        promised = limits.reserve * requests.outputs[request]
        claim = max(need, pages.blocks(requests.inputs[request] + promised))
        if self.running:
            most = pages.total - limits.watermark_blocks
            if pages.claims + claim > most:
                return False
            if pages.used(self.counter) + need > most:
                return False
        self.queue.popleft()
        pages.held += need
        pages.claims += claim
        self._claim[request] = claim
        self._order.append(request)
        self.running += 1
        return True

    def _finish_due(self) -> None:
        ends, size, known = self._ends, self._size, self._ends_at
        due = (self.counter + 1) * size
        while ends and ends[0] < due:
            end, request = divmod(heappop(ends), size)
            if known.get(request) == end:
                if self.policy.holds:
                    self._done += 1
                    del known[request]
                else:
                    self._drop(request)
                self._leave(request)
        if self._done and not known:
            self._release()

    def _leave(self, request: int) -> None:
        """Note a request's last token; free its slot unless it is held."""
        self.requests.finish[request] = self.now
        self.outstanding -= 1
        if not self.policy.holds:
            self.pages.claims -= self._claim.pop(request)
            self.running -= 1
            if len(self._order) > 2 * self.running + 64:
                self._order = [r for r in self._order if r in self._claim]
        if self.on_finish is not None:
            self.on_finish(request)

    def _release(self) -> None:
        """Clear a static batch, all of it done."""
        self.pages.clear()
        self._base.clear()
        self._claim.clear()
        self._order.clear()
        self._base_sum = self._done = self.running = 0

    def _join(self, request: int) -> None:
        """Give a request whose prompt is through its token and let it decode."""
        requests, pages = self.requests, self.pages
        had = requests.generated[request]
        target = requests.inputs[request] + had
        pages.held -= pages.blocks(target)
        if not had:
            requests.first[request] = self.now
        else:
            self.log.extra.append((self.now - self._lost.pop(request), 1))
        left = requests.outputs[request] - had - 1
        if not left:
            if self.policy.holds:
                self._done_at_once(request)
            self._leave(request)
            return
        self._decode(request, target + 1, left)

    def _done_at_once(self, request: int) -> None:
        """Free the slot of a static batch's request that has a single token."""
        self.pages.claims -= self._claim.pop(request)
        self.running -= 1

    # -- taken out early ---------------------------------------------------

    def _discard(self, request: int) -> None:
        """Take a request that holds a slot out, before its last token."""
        requests, pages = self.requests, self.pages
        self.outstanding -= 1
        self._lost.pop(request, None)
        if self._partial is not None and self._partial[0] == request:
            context = requests.inputs[request] + requests.generated[request]
            pages.held -= pages.blocks(context)
            self._partial = None
        elif self.policy.holds:
            del self._ends_at[request]
            self._done += 1
            if not self._ends_at:
                self._release()
            return
        else:
            if self._marks:
                self._marks[0][1] -= 1
                if not self._marks[0][1]:
                    self._marks.pop(0)
            self._drop(request)
        pages.claims -= self._claim.pop(request)
        self.running -= 1

    def _empty(self) -> list[int]:
        """Lose all requests, and what was kept of them; return them."""
        lost = [*(r for r in self._order if self._unfinished(r)), *self.queue]
        self.queue.clear()
        self._release()
        self._ends.clear()
        self._ends_at.clear()
        self._lost.clear()
        self._marks = []
        self._partial, self._stall = None, 0.0
        self.outstanding = 0
        return lost

    def _unfinished(self, request: int) -> bool:
        """Whether it has a slot and not yet its last token."""
        return request in self._claim and math.isnan(self.requests.finish[request])

    def load(self) -> tuple[int, float]:
        """Return sequences that decode, and tokens of their contexts."""
        batch = self.pages.count
        return batch, self._base_sum + batch * self.counter

    def _to_completion(self) -> int:
        ends, size, known = self._ends, self._size, self._ends_at
        while True:
            end, request = divmod(ends[0], size)
            if known.get(request) == end:
                return end - self.counter
            heappop(ends)
