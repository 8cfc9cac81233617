"""Links as shared resources: transfers at the same time share their rates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import simpy

Use = Mapping[Hashable, float]


def fair_speeds(uses: Sequence[Use]) -> list[float]:
    """Return the max-min fair speeds of transfers that share links.

    All speeds grow alike until a link is full; transfers over it keep what they
    have, the others go on growing, up to the speed that each has alone.

    Parameters
    ----------
    uses : sequence of mapping of link to float
        Share of each link that a transfer takes at full speed, 0 to 1.

    Returns
    -------
    list of float
        Speed of each over that of the same transfer alone, 0 to 1.

    Examples
    --------
    >>> fair_speeds([{"nic": 1.0}, {"nic": 1.0, "nvlink": 0.2}, {"nvlink": 1.0}])
    [0.5, 0.5, 0.9]
    """
    speeds = [1.0] * len(uses)
    left = dict.fromkeys((link for use in uses for link in use), 1.0)
    growing = list(range(len(uses)))
    while growing:
        load = dict.fromkeys(left, 0.0)
        for one in growing:
            for link, share in uses[one].items():
                load[link] += share
        levels = {k: left[k] / load[k] for k in left if load[k] > 0.0}
        level = min(levels.values(), default=1.0)
        if level >= 1.0 - 1e-12:
            break
        full = {k for k, v in levels.items() if v <= level * (1.0 + 1e-12)}
        stopped = [i for i in growing if any(uses[i].get(k) for k in full)]
        for one in stopped:
            speeds[one] = level
            for link, share in uses[one].items():
                left[link] = max(0.0, left[link] - level * share)
        growing = [i for i in growing if i not in stopped]
    return speeds


class FairNetwork:
    """Links that transfers share, max-min fair, one direction each.

    Transfers are given by the time that they take alone, so that a transfer
    nobody disturbs ends after exactly that time.

    Parameters
    ----------
    env : simpy.Environment
        The clock.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._left: dict[int, float] = {}
        self._uses: dict[int, Use] = {}
        self._speeds: dict[int, float] = {}
        self._events: dict[int, simpy.Event] = {}
        self._since = 0.0
        self._next_id = 0
        self._alarm = 0
        self.contended = False

    def transfer(self, alone: float, use: Use) -> simpy.Event:
        """Start a transfer that takes ``alone`` seconds when undisturbed.

        Parameters
        ----------
        alone : float
            Its time alone. [s]
        use : mapping of link to float
            Share of each link that it takes then.

        Returns
        -------
        simpy.Event
            Succeeds when the transfer ends.
        """
        self._settle()
        self._left[self._next_id], self._uses[self._next_id] = alone, use
        event = self._events[self._next_id] = self._env.event()
        self._next_id += 1
        self._share()
        return event

    def _settle(self) -> None:
        """Take what has been sent since the last change off every transfer."""
        elapsed = self._env.now - self._since
        self._since = self._env.now
        if elapsed > 0:
            for key, speed in self._speeds.items():
                self._left[key] -= elapsed * speed

    def _share(self) -> None:
        """Set all speeds anew, and the alarm for the transfer that ends first."""
        self._alarm += 1
        if not self._left:
            self._speeds = {}
            return
        speeds = fair_speeds(list(self._uses.values()))
        self._speeds = dict(zip(self._uses, speeds, strict=True))
        self.contended = self.contended or min(speeds) < 1.0
        times = {key: left / self._speeds[key] for key, left in self._left.items()}
        first = min(times, key=times.__getitem__)
        delay = max(0.0, times[first])
        timeout = self._env.timeout(delay, value=(self._alarm, first))
        timeout.callbacks.append(self._ring)

    def _ring(self, event: Any) -> None:
        alarm, first = event.value
        if alarm != self._alarm:
            return
        self._settle()
        del self._left[first], self._uses[first], self._speeds[first]
        self._events.pop(first).succeed()
        self._share()


class FairLink(FairNetwork):
    """One direction of a link; n transfers at once each run at 1/n of its rate."""

    def transfer(self, alone: float, use: Use | None = None) -> simpy.Event:
        """Start a transfer over the link; see :class:`FairNetwork`."""
        return super().transfer(alone, _WHOLE if use is None else use)


_WHOLE: Use = {0: 1.0}
