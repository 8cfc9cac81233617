"""A service whose parts depend on each other while it runs, in SimPy.

Engines plan their own events; everything else (arrivals, transfers, deadlines,
failures, replicas that start) is an event of the environment. Events happen in
order of time; at one time those of the environment come first, then the step
that ends, then what follows from it (answers bring the next requests,
finished prompts start to move), and then that engine plans its next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from hwsim.sim.links import FairLink
from hwsim.sim.serving.plan import SAME_TIME
from hwsim.sim.serving.records import Requests
from hwsim.sim.serving.routers import Engine, Router

_WINDOWS = 200
REJECTED, TIMED_OUT, FAILED = 1, 2, 3
#: Why requests are given up.
LOST = {"rejected": REJECTED, "timed_out": TIMED_OUT, "failed": FAILED}


@dataclass(slots=True)
class Fleet:
    """Engines behind a router.

    Attributes
    ----------
    engines : list of Engine
        All of them.
    router : callable
        Chooses among those that are up.
    requests : Requests
        The columns that these engines fill in.
    up : list of Engine
        Those that take requests.
    """

    engines: list[Engine]
    router: Router
    requests: Requests
    up: list[Engine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.up = list(self.engines)


@dataclass(frozen=True, slots=True)
class Rules:
    """What clients and the service's door do.

    Attributes
    ----------
    concurrency : int or None
        Closed loop: so many clients, each with one request under way.
    max_queue : int or None
        Requests that wait at an engine; more are turned away.
    timeout : float or None
        Clients give up when there is no last token by then. [s]
    max_retries : int
        How often a request whose replica fails begins anew.
    follows : sequence of int or None
        The request whose answer each waits for; -1 is none.
    think : sequence of float or None
        Time between that answer and the request. [s]
    """

    concurrency: int | None = None
    max_queue: int | None = None
    timeout: float | None = None
    max_retries: int = 3
    follows: Sequence[int] | None = None
    think: Sequence[float] | None = None


@dataclass(slots=True)
class Handover:
    """Keys and values on their way from prompts' engines to others.

    A transfer shares its sender's and its receiver's link with the others
    there and ends when both are through with it.

    Attributes
    ----------
    latency : float
        Of each transfer. [s]
    per_token, fixed : float
        Time on an empty link per token of context, and besides. [s]
    """

    latency: float
    per_token: float
    fixed: float = 0.0

    def alone(self, tokens: int) -> float:
        """Return the time on an empty link. [s]"""
        return self.fixed + self.per_token * tokens


class Service:
    """Plays requests through engines.

    Parameters
    ----------
    env : simpy.Environment
        The clock of everything but engines.
    fleet : Fleet
        Engines that answer.
    rules : Rules
        What clients do.
    prompts : Fleet or None
        Engines that run prompts only, with columns of their own.
    handover : Handover or None
        How keys and values get from them to the others.
    progress : callable or None
        Called now and then with the simulated time. [s]
    """

    def __init__(
        self,
        env: simpy.Environment,
        fleet: Fleet,
        rules: Rules,
        prompts: Fleet | None = None,
        handover: Handover | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.env, self.fleet, self.rules = env, fleet, rules
        self.prompts, self.handover, self.progress = prompts, handover, progress
        self.door = prompts or fleet
        self.requests = fleet.requests
        self.engines = [*(prompts.engines if prompts else []), *fleet.engines]
        self.left = len(self.requests)
        self._sent = 0
        self._ended: list[int] = []
        self._children: dict[int, list[int]] = {}
        self._links: dict[int, FairLink] = {}
        self._at: dict[int, Engine] = {}  # who has a request, while deadlines count
        self._stranded: list[int] = []  # while no engine is up
        self.failed: set[int] = set()  # indices of engines of the fleet
        self._often = max(self.left // _WINDOWS, 1)
        for engine in self.engines:
            engine.on_finish = self._ended.append

    def run(self) -> None:
        """Serve all requests."""
        self._begin()
        while self.left:
            engine = min(self.engines, key=_end)
            coming, end = self.env.peek(), engine.end
            if coming <= end:
                if coming == math.inf:
                    return
                self.env.step()
                continue
            engine.commit()
            if self._ended:
                self._after(engine, end)
            while self.env.peek() <= end + SAME_TIME:
                self.env.step()
            engine.plan()

    # -- requests ----------------------------------------------------------

    def _begin(self) -> None:
        requests, rules = self.requests, self.rules
        roots: Sequence[int] = range(len(requests))
        if rules.follows is not None:
            for request, parent in enumerate(rules.follows):
                if parent >= 0:
                    self._children.setdefault(parent, []).append(request)
            roots = [r for r in roots if rules.follows[r] < 0]
        self._roots = roots
        if rules.concurrency is None:
            self.env.process(self._open(roots))
            return
        for _ in range(min(rules.concurrency, len(roots))):
            self._next(0.0)

    def _open(self, roots: Sequence[int]) -> Generator[simpy.Event, Any, None]:
        for request in roots:
            arrival = self.requests.arrival[request]
            if arrival > self.env.now:
                yield self.env.timeout(arrival - self.env.now)
            self._arrive(request, arrival)

    def _next(self, time: float) -> None:
        """Let a client without a request send the next one."""
        if self._sent < len(self._roots):
            self._sent += 1
            self._arrive(self._roots[self._sent - 1], time)

    def _arrive(self, request: int, time: float) -> None:
        """Take a request in, or turn it away."""
        self.requests.arrive(request, time)
        if self.prompts is not None:
            self.prompts.requests.arrive(request, time)
        if self.rules.timeout is not None:
            self.at(time + self.rules.timeout, self._expire, request)
        self._send(request, time)

    def _send(self, request: int, time: float) -> None:
        """Hand a request to an engine, if one is up and has room in its queue."""
        if not self.door.up:
            self._stranded.append(request)
            return
        engine = self.door.router(self.door.up, request)
        limit = self.rules.max_queue
        if limit is not None and engine.waiting >= limit:
            self._lose(request, time, REJECTED)
            return
        self._at[request] = engine
        engine.submit(request)

    def _expire(self, request: int, time: float) -> None:
        """Give up a request that is not answered by now."""
        requests = self.requests
        if requests.status[request] or requests.finish[request] <= time + SAME_TIME:
            return
        engine = self._at.pop(request, None)
        if engine is not None:
            engine.abort(request, time)
        elif request in self._stranded:
            self._stranded.remove(request)
        self._lose(request, time, TIMED_OUT)

    @property
    def stranded(self) -> int:
        """Requests that no engine could take, all of them being down."""
        return len(self._stranded)

    def is_up(self, engine: Engine) -> bool:
        """Whether an engine takes requests."""
        return engine in self._fleet_of(engine).up

    # -- engines that come and go ----------------------------------------------

    def take_down(self, engine: Engine, time: float) -> None:
        """Let an engine fail: its requests begin anew elsewhere."""
        fleet = self._fleet_of(engine)
        if engine in fleet.up:
            fleet.up.remove(engine)
        if fleet is self.fleet:
            self.failed.add(engine.index)
        for request in engine.fail(time):
            self._retry(request, time)

    def bring_up(self, engine: Engine, time: float) -> None:
        """Let an engine take requests."""
        fleet = self._fleet_of(engine)
        fleet.up.append(engine)
        if fleet is self.fleet:
            self.failed.discard(engine.index)
        stranded, self._stranded = self._stranded, []
        for request in stranded:
            if not self.requests.status[request]:
                self._send(request, time)

    def _retry(self, request: int, time: float) -> None:
        if self.requests.status[request]:
            return
        self._at.pop(request, None)
        self.requests.retries[request] += 1
        self.requests.restart(request, time)
        if self.prompts is not None:
            self.prompts.requests.restart(request, time)
        if self.requests.retries[request] > self.rules.max_retries:
            self._lose(request, time, FAILED)
        else:
            self._send(request, time)

    def _fleet_of(self, engine: Engine) -> Fleet:
        first = self.prompts
        return first if first is not None and engine in first.engines else self.fleet

    def _after(self, engine: Engine, time: float) -> None:
        """Let what follow from requests that an engine is through with."""
        ended, moving = self._ended[:], self._from_prompts(engine)
        self._ended.clear()
        for request in ended:
            if self.requests.status[request]:
                continue  # its client has gone
            if moving and self._moves(request, time):
                continue
            self._settle(request, time)

    def _settle(self, request: int, time: float) -> None:
        """Count a request as done, and let its client go on."""
        self.left -= 1
        self._at.pop(request, None)
        if self.progress is not None and self.left % self._often == 0:
            self.progress(time)
        children = self._children.get(request)
        if children:
            think = self.rules.think or ()
            for child in children:
                self.at(time + think[child], self._arrive, child)
        elif self.rules.concurrency is not None:
            self._next(time)

    def _lose(self, request: int, time: float, why: int) -> None:
        """Give a request up, and those that would have followed it."""
        self.requests.status[request] = why
        for child in self._children.pop(request, ()):
            self._lose(child, time, why)
        self._settle(request, time)

    def at(self, time: float, call: Callable[[int, float], None], what: int) -> None:
        """Call at a time. [s]"""
        event = self.env.timeout(max(time - self.env.now, 0.0))
        event.callbacks.append(lambda _: call(what, time))

    # -- keys and values on their way -----------------------------------------

    def _from_prompts(self, engine: Engine) -> bool:
        return self.prompts is not None and engine in self.prompts.engines

    def _moves(self, request: int, time: float) -> bool:
        """Start a prompt's transfer; a request of one token is done."""
        requests = self.requests
        if requests.outputs[request] == 1:
            requests.first[request] = requests.finish[request] = time
            return False
        self.at(time, self._start_move, request)
        return True

    def _start_move(self, request: int, _: float) -> None:
        self.env.process(self._move(request))

    def _move(self, request: int) -> Generator[simpy.Event, Any, None]:
        requests, handover, prompts = self.requests, self.handover, self.prompts
        assert handover is not None
        assert prompts is not None
        begun = self.env.now
        alone = handover.alone(requests.inputs[request])
        self._at.pop(request, None)
        if not self.fleet.up:
            self._retry(request, begun)
            return
        receiver = self.fleet.router(self.fleet.up, request)
        sender = prompts.requests.replica[request]
        receiver.coming += 1
        sent = self._link(-1 - sender).transfer(alone)
        taken = self._link(receiver.index).transfer(alone)
        yield self.env.all_of([sent, taken])
        if handover.latency:
            yield self.env.timeout(handover.latency)
        receiver.coming -= 1
        requests.generated[request], requests.handed[request] = 1, 1
        requests.ready[request] = self.env.now
        requests.moving[request] = self.env.now - begun
        if requests.status[request]:
            return
        if receiver not in self.fleet.up and receiver.index in self.failed:
            self._retry(request, self.env.now)
            return
        self._at[request] = receiver
        receiver.submit(request)

    def _link(self, key: int) -> FairLink:
        if key not in self._links:
            self._links[key] = FairLink(self.env)
        return self._links[key]


def _end(engine: Engine) -> float:
    return engine.end
