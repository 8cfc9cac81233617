"""Links as shared resources: transfers at the same time share the rate."""

from __future__ import annotations

from typing import Any

import simpy


class FairLink:
    """One direction of a link; n transfers at once each run at 1/n of its rate.

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
        self._events: dict[int, simpy.Event] = {}
        self._since = 0.0
        self._next_id = 0
        self._alarm = 0
        self.contended = False

    def transfer(self, alone: float) -> simpy.Event:
        """Start a transfer that takes ``alone`` seconds when undisturbed.

        Returns
        -------
        simpy.Event
            Succeeds when the transfer ends.
        """
        self._settle()
        self._left[self._next_id] = alone
        event = self._events[self._next_id] = self._env.event()
        self._next_id += 1
        if len(self._left) > 1:
            self.contended = True
        self._arm()
        return event

    def _settle(self) -> None:
        """Take what has been sent since the last change off every transfer."""
        elapsed = self._env.now - self._since
        self._since = self._env.now
        if elapsed > 0 and self._left:
            sent = elapsed / len(self._left)
            for key in self._left:
                self._left[key] -= sent

    def _arm(self) -> None:
        """Set the alarm for the transfer that ends first."""
        self._alarm += 1
        if not self._left:
            return
        first = min(self._left, key=self._left.__getitem__)
        delay = max(0.0, self._left[first] * len(self._left))
        timeout = self._env.timeout(delay, value=(self._alarm, first))
        timeout.callbacks.append(self._ring)

    def _ring(self, event: Any) -> None:
        alarm, first = event.value
        if alarm != self._alarm:
            return
        self._settle()
        del self._left[first]
        self._events.pop(first).succeed()
        self._arm()
