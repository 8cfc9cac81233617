"""One replica of a serving engine: steps of a batch, stretches in one event.

Between arrivals and completions a batch that decodes does not change, and the
time of its steps grows by the same amount each step until the cost's next
knot: such a stretch is one event, summed in closed form. What happens at one
time happens in this order: the step ends and gives its tokens, finished
requests leave (lowest number first), requests that have arrived by then are
seen, the next step is planned. Times within a nanosecond are the same time.

An engine that puts a step together while the one before it runs sees what had come
when that one began; one with nothing to run sees everything.

An engine may look at arrivals only every so many decode steps: those that came by
its last look are seen. It may also let prompts wait beside running requests, for so
many steps or until there are enough tokens for a step: every step that they could
have joined counts, and the count starts anew when one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hwsim.schedule.batching import BatchingPolicy
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.cost import Part, StepCost
from hwsim.sim.serving.plan import SAME_TIME, Planner
from hwsim.sim.serving.records import Requests, StepLog

_INF = math.inf


class Replica(Planner):
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
        super().__init__(requests, cost, policy, limits, log, on_finish)
        self.index = index

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

    @property
    def waiting(self) -> int:
        """Requests in its queue."""
        return len(self.queue)

    def abort(self, request: int, time: float) -> None:
        """Take a request out at the end of the step that runs, or the queue."""
        if self.take_out(request):
            if self._idle and not self.queue:
                self.end = _INF
        elif not self._idle and not self._prompt_step:
            self.cut(time)

    def take_out(self, request: int) -> bool:
        """Take a request out of the queue, or mark it; say which."""
        if request in self.queue:
            self.queue.remove(request)
            self.outstanding -= 1
            return True
        self._aborted.append(request)
        return False

    def cut(self, time: float) -> None:
        """End a stretch with the first step that ends at a time or later."""
        wait = time - SAME_TIME - self.now
        steps = self._steps_until(wait) if wait > 0.0 else 1
        self._steps = min(steps, self._steps)
        self.end = self.now + self._span(self._steps)

    def fail(self, time: float) -> list[int]:
        """Stop at once; return the requests that are lost with its memory."""
        self.waste(time, busy=self.end < _INF and not self._idle)
        return self.halt(time)

    def waste(self, time: float, *, busy: bool) -> None:
        """Note a step that does not come to its end."""
        if busy and time > self.now:
            used, batch = self.pages.used(self.counter), self.pages.count
            self.log.add((time - self.now, 0, batch, 0, used, 0.0, 0))

    def halt(self, time: float) -> list[int]:
        """Forget everything; return the requests that are lost."""
        self.now, self.end = max(time, self.now), _INF
        self._idle = self._between = self._prompt_step = False
        self._prompts, self._aborted = [], []
        return self._empty()

    # -- in lock step with others ------------------------------------------

    @property
    def has_prompts(self) -> bool:
        """Whether prompts have been chosen for the next step."""
        return bool(self._prompts)

    def has(self, request: int) -> bool:
        """Whether a request waits or runs here."""
        return request in self.queue or request in self._claim

    def part(self) -> Part:
        """Return what the next step has for it, prompts or not."""
        chunks = [(chunk, before) for _, chunk, before in self._prompts]
        return (chunks, *self.load()) if self.policy.mixed else (chunks, 0, 0)

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
        self._last = start
        if self._prompt_step if prompts is None else prompts:
            self._commit_prompts(start)
        else:
            if self._steps > 1:
                self._last += self._span(self._steps - 1)
            self._commit_stretch(start)

    def _commit_prompts(self, start: float) -> None:
        prompts = self._prompts
        self._look()
        self._waited += self._holding
        batch = self.pages.count if self.policy.mixed else 0
        span = self._time
        blocks = self._blocks_held(1, span)
        tokens = sum([chunk for _, chunk, _ in prompts])
        known = self._marks if self.policy.mixed else []
        self.log.add((span, 1, batch, tokens, blocks, span, 0 if known else batch))
        if known:
            self.log.extra.extend((self.now - since, n) for since, n in known)
            self._marks = []
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
