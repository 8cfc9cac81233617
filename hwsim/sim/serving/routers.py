"""Routers: which of several replicas a request goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwsim.errors import UnknownNameError
from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.prefixes import Prefixes
from hwsim.sim.serving.replica import Replica

#: What routers choose among.
Engine = Replica | JointReplica
Router = Callable[[Sequence[Engine], int], Engine]
_WORD = 0xFFFFFFFFFFFFFFFF
# Defaults of SGLang's router: loads that differ by more than both are evened out
# first; less of a prompt than this is not worth a longer queue.
_UNEVEN, _UNEVEN_RATIO, _WORTH = 64, 1.5, 0.3


def round_robin(replicas: Sequence[Engine], request: int) -> Engine:
    """Return the replicas in turn."""
    return replicas[request % len(replicas)]


def least_outstanding(replicas: Sequence[Engine], request: int) -> Engine:  # noqa: ARG001
    """Return the replica with the fewest requests, the first of equals."""
    return min(replicas, key=_outstanding)


def power_of_two(replicas: Sequence[Engine], request: int) -> Engine:
    """Return the one with fewer requests of two that the request's number draws.

    References
    ----------
    .. [1] M. Mitzenmacher, "The power of two choices in randomized load
       balancing", IEEE TPDS 12(10), 2001, doi:10.1109/71.963420.
    """
    count = len(replicas)
    if count == 1:
        return replicas[0]
    # Mixed as SplitMix64 does, so that neighbours draw apart and runs repeat.
    z = (request + 1) * 0x9E3779B97F4A7C15 & _WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _WORD
    z ^= z >> 31
    first = (z & 0xFFFFFFFF) % count
    second = (first + 1 + (z >> 32) % (count - 1)) % count
    return min(replicas[first], replicas[second], key=_outstanding)


def session(replicas: Sequence[Engine], request: int) -> Engine:
    """Return who served the session's last request; else the one with the fewest."""
    requests = replicas[0].requests
    previous = -1 if requests.prefixes is None else requests.prefixes.previous[request]
    if previous >= 0 and not requests.status[previous]:
        last = requests.replica[previous]
        for replica in replicas:
            if replica.index == last:
                return replica
    return least_outstanding(replicas, request)


def _outstanding(replica: Engine) -> int:
    return replica.outstanding + replica.coming


class LongestPrefix:
    """Sends a prompt to the replica that was sent most of it before.

    It remembers prompts, not what engines still keep of them, and goes by load
    alone where loads are uneven or little of the prompt is known, as the
    cache-aware policy of SGLang's router does; where little is known, that
    policy takes the replica that was sent least, this one the one with the
    fewest requests.

    References
    ----------
    .. [1] SGLang, cache-aware load balancing, sgl-model-gateway
       (https://github.com/sgl-project/sglang): cache_threshold 0.3,
       balance_abs_threshold 64, balance_rel_threshold 1.5.
    """

    def __init__(self) -> None:
        # Tokens of a history, or units of a chain, by replica.
        self._sent: dict[int, dict[int, int]] = {}

    def __call__(self, replicas: Sequence[Engine], request: int) -> Engine:
        """Return the replica that has most of the prompt, of equals the idlest."""
        requests = replicas[0].requests
        prefixes = requests.prefixes
        if prefixes is None:
            return least_outstanding(replicas, request)
        tokens = requests.inputs[request]
        known = self._known(prefixes, request, tokens)
        loads = [_outstanding(r) for r in replicas]
        most = max(known.get(r.index, 0) for r in replicas)
        uneven = max(loads) - min(loads) > _UNEVEN
        if (uneven and max(loads) > _UNEVEN_RATIO * min(loads)) or (
            most <= _WORTH * tokens
        ):
            chosen = least_outstanding(replicas, request)
        else:
            chosen = least_outstanding(
                [r for r in replicas if known.get(r.index, 0) == most], request
            )
        self._remember(prefixes, request, tokens, chosen.index)
        return chosen

    def _known(self, prefixes: Prefixes, request: int, tokens: int) -> dict[int, int]:
        """Return the tokens of a prompt that each replica was sent."""
        if prefixes.chains is None:
            sent = self._sent.get(prefixes.histories[request], {})
            return {index: min(known, tokens) for index, known in sent.items()}
        known: dict[int, int] = {}
        for at, unit in enumerate(prefixes.chains[request], 1):
            # Whoever has a unit has those before it.
            if unit not in self._sent:
                break
            known |= dict.fromkeys(self._sent[unit], at * prefixes.span)
        return known

    def _remember(
        self, prefixes: Prefixes, request: int, tokens: int, index: int
    ) -> None:
        if prefixes.chains is None:
            sent = self._sent.setdefault(prefixes.histories[request], {})
            sent[index] = max(sent.get(index, 0), tokens)
            return
        for unit in prefixes.chains[request]:
            self._sent.setdefault(unit, {})[index] = prefixes.span


#: What makes a router of each name; those that remember are made for each run.
ROUTERS: dict[str, Callable[[], Router]] = {
    "round_robin": lambda: round_robin,
    "least_outstanding": lambda: least_outstanding,
    "power_of_two": lambda: power_of_two,
    "session": lambda: session,
    "longest_prefix": LongestPrefix,
}


def router_named(name: str) -> Router:
    """Return a router by name; one that remembers is new.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name]()
