"""What an engine does next: a step with prompts, or a stretch of decode steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from hwsim.schedule.batching import BatchingPolicy
from hwsim.sim.serving.batch import Batch, Limits
from hwsim.sim.serving.cost import StepCost
from hwsim.sim.serving.records import Requests, StepLog

SAME_TIME = 1e-9
_INF = math.inf


class Planner(Batch):
    """A batch that knows how long its steps take, and when they end.

    Parameters
    ----------
    cost : StepCost
        Times of steps; the others are those of :class:`Batch`.
    """

    def __init__(
        self,
        requests: Requests,
        cost: StepCost,
        policy: BatchingPolicy,
        limits: Limits,
        log: StepLog,
        on_finish: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(requests, policy, limits, log, on_finish)
        self.cost = cost
        self.end = _INF
        self._prompts: list[tuple[int, int, int]] = []  # request, chunk, before
        self._aborted: list[int] = []
        self._steps, self._time, self._growth = 0, 0.0, 0.0
        self._idle = self._between = self._prompt_step = False
        self._seen, self._since = -_INF, 0  # last look; decode steps since then
        self._last = 0.0  # start of the step that ended last
        self._waited, self._holding = 0, False
        self._cut = False  # one came back to the queue: look again after a step

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

    def offers(self) -> bool:
        """Whether a prompt has come, and a slot is free for it."""
        if not self.running or self.limits.intake_interval == 1:
            self._look()
        return (
            bool(self.queue)
            and self.policy.opens(self.running)
            and self.running < self.limits.max_num_seqs
            and self.requests.ready[self.queue[0]] <= self._seen + SAME_TIME
        )

    def choose(self, *, barred: bool = False) -> None:
        """Make room and choose the prompts of the next step; none new if barred."""
        self._prompts = []
        self._prompt_step = self._holding = self._cut = False
        for request in self._aborted:
            if self._unfinished(request):
                self._discard(request)
        self._aborted = []
        if not self.running or self.limits.intake_interval == 1:
            self._look()
        room = (not self.policy.mixed or self.make_room()) and not barred
        if self._partial is not None or self.queue:
            self._choose_prompts(room)

    @property
    def watches(self) -> bool:
        """Whether the request that came last may end a stretch of steps."""
        return self._holding or len(self.queue) == 1

    def _look(self) -> None:
        """See all that has arrived by now, or when the last step began."""
        late = self.limits.ahead and self.running
        self._seen, self._since = self._last if late else self.now, 0

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
            if requests.handed[request]:
                if not self._admit(request, target):
                    break
                self._resume(request)
                self._waited, self._cut = 0, limits.wait_steps > 0
                budget -= self.policy.mixed
                continue
            known = self._known(request, target)
            whole_steps = not limits.chunked and target - known > budget
            if whole_steps and (self._prompts or (self.policy.mixed and decoding)):
                break
            if not self._admit(request, target):
                break
            if not requests.generated[request]:
                requests.scheduled[request] = self._seen
            self._waited = 0
            whole = (target - known) * whole_steps
            budget = self._take(request, known, max(budget, whole))

    def _known(self, request: int, target: int) -> int:  # noqa: ARG002
        """Return the tokens of a prompt that are in the cache already."""
        return 0

    def _waits(self, budget: int, decoding: int) -> bool:
        """Whether prompts that could join wait for more of them."""
        limits, tokens = self.limits, self._waiting_tokens(budget)
        if not decoding or not tokens or self.requests.handed[self.queue[0]]:
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
        if self._stall:
            self._time += self.take_stall()
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
        if self._stall:
            steps, self._time = 1, time + self.take_stall()
        self._steps = steps
        self.end = self.now + self._span(steps)
        self.shorten_for_queue()

    def steps_to_change(self) -> int:
        """Return the steps up to the next completion."""
        steps = self._to_completion() if self._ends_at else 1
        if self._holding:
            steps = min(steps, self.limits.wait_steps - self._waited)
        return 1 if self._cut else steps

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
            steps = self._next_look(steps + self.limits.ahead)
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

    def take_stall(self) -> float:
        """Return, once, how long the next step waits for swapped blocks. [s]"""
        stall, self._stall = self._stall, 0.0
        return stall
