"""One replica of a serving engine: steps of a batch, stretches in one event.

Between arrivals and completions a batch that decodes does not change, and the
time of its steps grows by the same amount each step until the cost's next
knot: such a stretch is one event, summed in closed form. What happens at one
time happens in this order: the step ends and gives its tokens, finished
requests leave (lowest number first), requests that have arrived by then are
seen, the next step is planned. Times within a nanosecond are the same time.

An engine may look at arrivals only every so many decode steps: those that came by
its last look are seen. It may also let prompts wait beside running requests, for so
many steps or until there are enough tokens for a step: every step that they could
have joined counts, and the count starts anew when one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from hwsim.schedule.batching import BatchingPolicy
from hwsim.sim.serving_batch import Batch, Limits
from hwsim.sim.serving_records import Requests, StepLog

SAME_TIME = 1e-9
_INF = math.inf
#: What one group does in a step: prompt chunks (tokens, tokens before),
#: sequences that decode, tokens of their contexts together.
Part = tuple[Sequence[tuple[int, int]], int, float]


class StepCost(Protocol):
    """Times of engine steps. [s]"""

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return a step's time, its growth per token of context, and up to where.

        ``contexts`` is the tokens of all sequences together; the growth holds
        up to and including the third figure.
        """

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks (tokens, tokens before)."""

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step with prompts of groups that run it together."""


class Replica(Batch):
    """An engine that serves the requests it is given, first come first served.

    Parameters
    ----------
    requests : Requests
        Columns that it reads and fills in.
    cost : StepCost
        Times of steps.
    policy : BatchingPolicy
        Which requests share a step.
    limits : Limits
        Slots, tokens, blocks.
    log : StepLog
        Takes one row per event.
    on_finish : callable or None
        Called with each request when it has its last token.
    index : int
        Its number among the replicas.
    """

    def __init__(
        self,
        requests: Requests,
        cost: StepCost,
        policy: BatchingPolicy,
        limits: Limits,
        log: StepLog,
        on_finish: Callable[[int], None] | None = None,
        index: int = 0,
    ) -> None:
        super().__init__(requests, policy, limits, log, on_finish)
        self.cost, self.index = cost, index
        self.end = _INF
        self._prompts: list[tuple[int, int, int]] = []  # request, chunk, before
        self._steps, self._time, self._growth = 0, 0.0, 0.0
        self._idle = self._between = self._prompt_step = False
        self._seen, self._since = -_INF, 0  # last look; decode steps since then
        self._waited, self._holding = 0, False
        self._cut = False  # one came back to the queue: look again after a step

    @property
    def logs(self) -> list[StepLog]:
        """What its groups keep of their steps."""
        return [self.log]

    # -- from outside ------------------------------------------------------

    def submit(self, request: int) -> None:
        """Take a request that enters the queue now or, before the run, later."""
        self.enqueue(request)
        if self._between:
            return
        if self.end == _INF:
            self._await(self.requests.ready[request])
        elif self.watches and not self._prompts:
            ready = self.requests.ready[request]
            if ready > self.now + SAME_TIME:
                self.shorten_for_queue()
            elif not self._idle:
                self.plan()  # it comes at the very time of the plan

    def enqueue(self, request: int) -> None:
        """Put a request into the queue, without a look at the plan."""
        self.queue.append(request)
        self.outstanding += 1
        self.requests.replica[request] = self.index

    def preload(self, requests: Sequence[int]) -> None:
        """Take requests that will come at known times, in order of time."""
        self.queue.extend(requests)
        self.outstanding += len(requests)
        for request in requests:
            self.requests.replica[request] = self.index
        self.plan()

    def advance(self, until: float) -> None:
        """Play all events that end before a time."""
        while self.end < until:
            self.commit()
            self.plan()

    # -- planning ----------------------------------------------------------

    def plan(self) -> None:
        """Decide the next step, or stretch of steps, and when it ends."""
        policy = self.policy
        self._between = self._idle = False
        self.choose()
        if self._prompts:
            self._plan_prompts()
        elif self.running:
            if not policy.mixed:
                self.make_room()
            self._plan_stretch()
        elif self.queue:
            self._await(self.requests.ready[self.queue[0]])
        else:
            self.end = _INF

    def choose(self) -> None:
        """Make room and choose the prompts of the next step."""
        self._prompts = []
        self._prompt_step = self._holding = self._cut = False
        if not self.running or self.limits.intake_interval == 1:
            self._look()
        room = not self.policy.mixed or self.make_room()
        if self._partial is not None or self.queue:
            self._choose_prompts(room)

    @property
    def watches(self) -> bool:
        """Whether the request that came last may end a stretch of steps."""
        return self._holding or len(self.queue) == 1

    def _look(self) -> None:
        """See all that has arrived by now."""
        self._seen, self._since = self.now, 0

    def _await(self, ready: float) -> None:
        """Sleep until a request enters the queue."""
        self._idle, self.end = True, max(self.now, ready)

    def make_room(self) -> bool:
        """Preempt until the next decode step fits; say if nobody had to go."""
        pages = self.pages
        if not self._base or self.policy.holds:
            return True
        if pages.used(self.counter) <= pages.total:
            return True
        while pages.used(self.counter) > pages.total:
            self._preempt()
        self._cut = self.limits.wait_steps > 0
        return False

    def _choose_prompts(self, room: bool) -> None:
        """Fill the step's budget: the prompt under way, then the queue."""
        limits, requests, queue = self.limits, self.requests, self.queue
        decoding = len(self._base) + self._done
        budget = self.policy.budget(limits.max_num_batched_tokens, decoding)
        if self._partial is not None:
            request, done = self._partial
            budget = self._take(request, done, budget)
        opened = room and self.policy.opens(self.running)
        latest = self._seen + SAME_TIME
        if opened and limits.wait_steps and not self._prompts:
            opened = not self._waits(budget, decoding)
        while (
            opened
            and queue
            and budget > 0
            and self.running < limits.max_num_seqs
            and requests.ready[queue[0]] <= latest
        ):
            request = queue[0]
            target = requests.inputs[request] + requests.generated[request]
            whole_steps = not limits.chunked and target > budget
            if whole_steps and (self._prompts or (self.policy.mixed and decoding)):
                break
            if not self._admit(request, target):
                break
            self._waited = 0
            budget = self._take(request, 0, max(budget, target * whole_steps))

    def _waits(self, budget: int, decoding: int) -> bool:
        """Whether prompts that could join wait for more of them."""
        limits, tokens = self.limits, self._waiting_tokens(budget)
        if not decoding or not tokens:
            return False
        enough = tokens + decoding >= limits.wait_tokens
        self._holding = not enough and self._waited < limits.wait_steps
        return self._holding

    def _waiting_tokens(self, budget: int) -> int:
        """Return the tokens of seen prompts that slots and a step's budget hold."""
        requests, latest, tokens = self.requests, self._seen + SAME_TIME, 0
        for _, request in zip(
            range(self.limits.max_num_seqs - self.running), self.queue, strict=False
        ):
            if requests.ready[request] > latest or tokens >= budget:
                break
            tokens += requests.inputs[request] + requests.generated[request]
        return min(tokens, budget)

    def _take(self, request: int, done: int, budget: int) -> int:
        """Put a chunk into the step; return the budget that is left."""
        if budget <= 0:
            return 0
        requests = self.requests
        left = requests.inputs[request] + requests.generated[request] - done
        chunk = min(left, budget)
        self._prompts.append((request, chunk, done))
        self._partial = (request, done + chunk) if chunk < left else None
        return budget - chunk

    def _plan_prompts(self) -> None:
        chunks = [(chunk, before) for _, chunk, before in self._prompts]
        batch = len(self._base) if self.policy.mixed else 0
        contexts = self._base_sum + batch * self.counter if batch else 0
        self._time, self._steps = self.cost.mixed(chunks, batch, contexts), 1
        self._prompt_step = True
        self.end = self.now + self._time

    def _plan_stretch(self) -> None:
        """Decode up to the next completion, knot, arrival or lack of blocks."""
        batch = self.pages.count
        contexts = self._base_sum + batch * self.counter
        time, slope, limit = self.cost.decode(batch, contexts)
        self._time, self._growth = time, slope * batch
        steps = self.steps_to_change()
        if contexts + (steps - 1) * batch > limit:
            steps = max(int((limit - contexts) // batch) + 1, 1)
        if steps > 1 and not self.policy.holds:
            steps = self.pages.steps_that_fit(self.counter, steps)
        self._steps = steps
        self.end = self.now + self._span(steps)
        self.shorten_for_queue()

    def shorten_for_queue(self) -> None:
        """End a stretch when a request that waits may have to be looked at."""
        if self._holding:
            self._shorten_wait()
        elif self.queue:
            self.shorten(self.requests.ready[self.queue[0]])

    def _shorten_wait(self) -> None:
        """End a stretch when prompts that wait become enough for a step."""
        requests, limits = self.requests, self.limits
        tokens: float = self.pages.count
        for _, request in zip(
            range(limits.max_num_seqs - self.running), self.queue, strict=False
        ):
            tokens += requests.inputs[request] + requests.generated[request]
            if tokens >= limits.wait_tokens:
                self.shorten(requests.ready[request])
                return

    def _span(self, steps: int) -> float:
        return steps * self._time + self._growth * (steps * (steps - 1) // 2)

    def shorten(self, ready: float) -> None:
        """End a stretch at the first step's end from which a request is seen."""
        if ready >= self.end or self.running >= self.limits.max_num_seqs:
            return
        if not self.policy.opens(self.running):
            return
        if ready <= self._seen + SAME_TIME:
            return  # it has been seen, and must wait for room
        wait = ready - SAME_TIME - self.now
        steps = self._steps_until(wait) if wait > 0 else 0
        if self.running:
            steps = self._next_look(steps)
        steps = min(max(steps, 1), self._steps)
        self._steps, self.end = steps, self.now + self._span(steps)

    def _next_look(self, steps: int) -> int:
        """Return the steps up to the first look that is no sooner."""
        interval = self.limits.intake_interval
        left = interval - self._since
        return left + max(-(-(steps - left) // interval), 0) * interval

    def _steps_until(self, wait: float) -> int:
        """Return the fewest steps that take at least so long."""
        time, growth = self._time, self._growth
        if growth:
            half = time - 0.5 * growth
            root = math.sqrt(max(half * half + 2.0 * growth * wait, 0.0))
            guess = 2.0 * wait / (half + root)
        else:
            guess = wait / time
        steps = max(math.ceil(guess), 1)
        if steps > 1 and self._span(steps - 1) >= wait:
            return steps - 1
        return steps if self._span(steps) >= wait else steps + 1

    # -- in lock step with others ------------------------------------------

    @property
    def has_prompts(self) -> bool:
        """Whether prompts have been chosen for the next step."""
        return bool(self._prompts)

    def part(self) -> Part:
        """Return what the next step has for it, prompts or not."""
        chunks = [(chunk, before) for _, chunk, before in self._prompts]
        return (chunks, *self.load()) if self.policy.mixed else (chunks, 0, 0)

    def load(self) -> tuple[int, float]:
        """Return sequences that decode, and tokens of their contexts."""
        batch = self.pages.count
        return batch, self._base_sum + batch * self.counter

    def steps_to_change(self) -> int:
        """Return the steps up to the next completion."""
        steps = self._to_completion() if self._ends_at else 1
        if self._holding:
            steps = min(steps, self.limits.wait_steps - self._waited)
        return 1 if self._cut else steps

    def hold(self, steps: int, time: float, growth: float) -> None:
        """Take over the steps that all run."""
        self._steps, self._time, self._growth = steps, time, growth

    def planned(self) -> tuple[int, float]:
        """Return the steps planned, and when they end. [s]"""
        return self._steps, self.end

    # -- carrying out ------------------------------------------------------

    def commit(self, *, idle: bool | None = None, prompts: bool | None = None) -> None:
        """Carry the planned event out: tokens, completions, first tokens.

        What it is may come from outside, where engines run their steps together.
        """
        start = self.now
        self.now, self._between = self.end, True
        if self._idle if idle is None else idle:
            return
        if self._prompt_step if prompts is None else prompts:
            self._commit_prompts(start)
        else:
            self._commit_stretch(start)

    def _commit_prompts(self, start: float) -> None:
        prompts = self._prompts
        self._look()
        self._waited += self._holding
        batch = self.pages.count if self.policy.mixed else 0
        span = self._time
        blocks = self._blocks_held(1, span)
        tokens = sum([chunk for _, chunk, _ in prompts])
        self.log.add((span, 1, batch, tokens, blocks, span, batch))
        if batch:
            self.counter += 1
            self._finish_due()
        stalled = 0 if self.policy.mixed else self.pages.count - self._done
        if stalled and not self._marks:
            self._marks.append([start, stalled])
        partial = self._partial[0] if self._partial is not None else -1
        before = self.pages.count
        for request, _, _ in prompts:
            if request != partial:
                self._join(request)
        joined = self.pages.count - before
        if joined and not self.policy.mixed and (stalled or self._marks):
            self._marks.append([self.now, joined])

    def _blocks_held(self, steps: int, span: float) -> float:
        """Return the mean blocks in use over a stretch; note the most.

        They grow along a line from step to step, as the steps' times do.
        """
        pages, log = self.pages, self.log
        first = last = min(pages.used(self.counter), pages.total)
        if steps > 1:
            last = min(pages.used(self.counter + steps - 1), pages.total)
        log.peak_blocks = max(log.peak_blocks, last)
        late = self._growth * steps * (steps + 1) / (12.0 * span) if steps > 1 else 0.0
        return 0.5 * (first + last) + (last - first) * late

    def _commit_stretch(self, start: float) -> None:
        steps, batch, time = self._steps, self.pages.count, self._time
        span = self.now - start
        blocks = self._blocks_held(steps, span)
        active = batch - self._done
        if self._marks or self._done:
            extra = self.log.extra
            for since, count in self._marks or [[start, active]]:
                extra.append((start + time - since, count))
            self._marks = []
            if steps > 1:
                rest = (span - time) / (steps - 1)
                extra.append((rest, (steps - 1.0) * active))
            self.log.add((span, steps, batch, 0, blocks, time, 0))
        else:
            gap = span / steps
            self.log.add((span, steps, batch, 0, blocks, gap, steps * batch))
        self.counter += steps
        self._pass(start, steps)
        self._finish_due()

    def _pass(self, start: float, steps: int) -> None:
        """Note looks at arrivals, and waiting, of a stretch."""
        if self._holding:
            self._waited += steps
        interval = self.limits.intake_interval
        if interval == 1:
            return  # it looks before every step
        passed = self._since + steps
        if passed >= interval:
            last = steps - passed % interval
            self._seen = start + self._span(last)
        self._since = passed % interval
