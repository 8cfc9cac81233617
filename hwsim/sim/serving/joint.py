"""Groups of one replica that run their steps together.

Each group has slots, a queue and memory of its own; their layers meet in the
experts, so that a step of one is a step of all and takes as long as that of
the slowest. Where prompts and running requests do not share steps, a prompt
in one group lets the running requests of all groups wait. A request goes to
the group with the fewest requests, the first of equals.

Prompts may wait until each group has one, so that they share a step: while all
groups have running requests, and up to the next of looks so many steps apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hwsim.sim.serving.plan import SAME_TIME
from hwsim.sim.serving.records import StepLog
from hwsim.sim.serving.replica import Replica

_INF = math.inf


class JointReplica:
    """A replica of several groups in lock step; looks as one engine from outside.

    Parameters
    ----------
    groups : sequence of Replica
        Engines that share costs and policy; their own clocks are not used.
    """

    def __init__(self, groups: Sequence[Replica]) -> None:
        self.groups = groups
        self.cost, self.policy = groups[0].cost, groups[0].policy
        self.requests, self.index = groups[0].requests, groups[0].index
        self.now, self.end = 0.0, _INF
        self.coming = 0
        self._steps, self._time, self._growth = 0, 0.0, 0.0
        self._idle = self._between = self._prompt_step = False
        self._since = 0  # steps since prompts could start
        self._barred = self._together = False
        self._offers: list[bool] = []

    @property
    def outstanding(self) -> int:
        """Requests that it has and has not answered."""
        return sum([g.outstanding for g in self.groups])

    @property
    def on_finish(self) -> Callable[[int], None] | None:
        """Called with each request when it has its last token."""
        return self.groups[0].on_finish

    @on_finish.setter
    def on_finish(self, call: Callable[[int], None] | None) -> None:
        for group in self.groups:
            group.on_finish = call

    @property
    def logs(self) -> list[StepLog]:
        """What its groups keep of their steps."""
        return [group.log for group in self.groups]

    @property
    def waiting(self) -> int:
        """Requests in its queues."""
        return sum([len(g.queue) for g in self.groups])

    def abort(self, request: int, time: float) -> None:
        """Take a request out at the end of the step that runs, or a queue."""
        group = next(g for g in self.groups if g.has(request))
        waited = group.take_out(request)
        if self._idle:
            self.plan()
        elif not waited and not self._prompt_step:
            group.now, group.end = self.now, self.end
            group.hold(self._steps, self._time, self._growth)
            group.cut(time)
            self._steps, self.end = group.planned()

    def fail(self, time: float) -> list[int]:
        """Stop at once; return the requests that are lost with its memory."""
        lost = []
        for group in self.groups:
            group.now = self.now
            group.waste(time, busy=self.end < _INF and not self._idle)
            lost += group.halt(time)
        self.now, self.end = max(time, self.now), _INF
        self._idle = self._between = self._prompt_step = False
        return lost

    def submit(self, request: int) -> None:
        """Take a request that enters a queue now or, before the run, later."""
        group = min(self.groups, key=_outstanding)
        group.enqueue(request)
        if self._between:
            return
        ready = self.requests.ready[request]
        if self.end == _INF:
            self._await(ready)
        elif self._idle:
            self.end = min(self.end, max(self.now, ready))
        elif group.watches and not self._prompt_step:
            if ready > self.now + SAME_TIME:
                self._shorten(group)
            else:
                self.plan()  # it comes at the very time of the plan

    def preload(self, requests: Sequence[int]) -> None:
        """Take requests that will come at known times, in order of time."""
        for request in requests:
            min(self.groups, key=_outstanding).enqueue(request)
        self.plan()

    def advance(self, until: float) -> None:
        """Play all events that end before a time."""
        while self.end < until:
            self.commit()
            self.plan()

    def plan(self) -> None:
        """Decide the next step, or stretch of steps, and when it ends."""
        self._between = self._idle = self._prompt_step = False
        self._barred = self._bars()
        for group in self.groups:
            group.choose(barred=self._barred)
        if any(g.has_prompts for g in self.groups):
            self._time = self.cost.joint([g.part() for g in self.groups])
            self._time += max(g.take_stall() for g in self.groups)
            self._steps, self._prompt_step = 1, True
            self.end = self.now + self._time
        elif any(g.running for g in self.groups):
            if not self.policy.mixed:
                for group in self.groups:
                    group.make_room()
            self._plan_stretch()
        else:
            heads = [self.requests.ready[g.queue[0]] for g in self.groups if g.queue]
            self.end = _INF
            if heads:
                self._await(min(heads))

    def _bars(self) -> bool:
        """Whether prompts wait until each group has one.

        As TensorRT-LLM's attention_dp_config with enable_balance: its count goes
        on where nothing waits, and starts anew at timeout_iters.
        """
        most = self.groups[0].limits.balance_steps
        if not most:
            return False
        offers = self._offers = [g.offers() for g in self.groups]
        self._together = all(offers) or not all(g.running for g in self.groups)
        return not self._together and self._since < most and any(offers)

    def _steps_barred(self) -> int:
        """Return the steps for which prompts are sure to wait."""
        if [g.offers() for g in self.groups] != self._offers:
            return 1  # a preempted request has joined those that wait
        return self.groups[0].limits.balance_steps - self._since

    def _count(self) -> None:
        """Count the steps since prompts could start."""
        most = self.groups[0].limits.balance_steps
        if self._together:
            self._since = 1
        elif most:
            self._since = (self._since + self._steps - 1) % most + 1

    def _await(self, ready: float) -> None:
        self._idle, self.end = True, max(self.now, ready)

    def _plan_stretch(self) -> None:
        """Decode while the same group has the most context, and nothing changes."""
        now = [g.load() for g in self.groups]
        contexts, batch = max((c, b) for b, c in now)
        time, slope, limit = self.cost.decode(max(b for b, _ in now), contexts)
        self._time, self._growth = time, slope * batch
        steps = min(g.steps_to_change() for g in self.groups if g.running)
        if contexts + (steps - 1) * batch > limit:
            steps = max(int((limit - contexts) // batch) + 1, 1)
        for other, seen in now:
            if other > batch:
                steps = min(steps, int((contexts - seen) // (other - batch)) + 1)
        if steps > 1 and not self.policy.holds:
            for group in self.groups:
                steps = group.pages.steps_that_fit(group.counter, steps)
        if self._barred:
            steps = min(steps, self._steps_barred())
        stall = max(g.take_stall() for g in self.groups)
        if stall:
            steps, time = 1, time + stall
            self._time = time
        self._steps = steps
        self.end = self.now + steps * time + self._growth * (steps * (steps - 1) // 2)
        for group in self.groups:
            if group.queue:
                self._shorten(group)

    def _shorten(self, group: Replica) -> None:
        """End a stretch when a group sees the head of its queue."""
        group.now, group.end = self.now, self.end
        group.hold(self._steps, self._time, self._growth)
        group.shorten_for_queue()
        self._steps, self.end = group.planned()

    def commit(self) -> None:
        """Carry the planned event out in all groups."""
        self._between = True
        for group in self.groups:
            group.end = self.end
            group.hold(self._steps, self._time, self._growth)
            group.commit(idle=self._idle, prompts=self._prompt_step)
        self.now = self.end
        if not self._idle:
            self._count()


def _outstanding(replica: Replica) -> int:
    return replica.outstanding
