"""Why a deployment is not the answer, and which limit is impossible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hwsim.analysis.plan_serve.confirm import Confirmer
from hwsim.analysis.plan_serve.steady import Steady, steady_state

_WORDS = {
    "ttft": "a prompt alone takes",
    "tpot": "a token of one request alone takes",
    "itl": "a token of one request alone takes",
    "e2e": "a request alone takes",
}


def why_not(one: Steady, confirmer: Confirmer, count: int) -> str:
    """Return what keeps a deployment from meeting the limits at any price."""
    broken = one.broken(confirmer.demand, confirmer.slo)
    if broken is not None:
        key, least, limit = broken
        return f"{key}: {_WORDS[key]} {least:.4g} s, more than {limit:.4g} s"
    if not one.holds(confirmer.demand):
        return (
            f"keys and values of {one.capacity.tokens:,} tokens find room, the largest "
            f"request has {confirmer.demand.largest:,}"
        )
    if count > confirmer.most:
        return f"needs at least {count} replicas, more than {confirmer.most}"
    return "no batch keeps to the limits"


def impossible(
    confirmer: Confirmer, steady: Sequence[Steady], reasons: Sequence[str]
) -> str:
    """Return which limit nobody can meet, and on which physics."""
    found = [(one.broken(confirmer.demand, confirmer.slo), one) for one in steady]
    broken = [(b, one) for b, one in found if b is not None]
    if len(broken) < len(steady) or not broken:
        often = Counter(reasons).most_common(1)
        return (
            "no deployment meets all limits in simulation; most often: "
            f"{often[0][0] if often else 'none was tried'}. Raise a limit, "
            "max_replicas, or name more systems"
        )
    (key, least, limit), best = min(broken, key=lambda pair: pair[0][1] / pair[0][2])
    light = steady_state(best.choice, confirmer.demand, "roofline")
    bound = light.broken(confirmer.demand, confirmer.slo)
    device = best.choice.system.device
    text = (
        f"no deployment meets {key} of {limit:.4g} s: {_WORDS[key]} {least:.4g} s "
        f"on the nearest, {best.choice}"
    )
    if bound is not None and bound[0] == key:
        text += (
            f"; at the full {device.bandwidth / 1e12:.3g} TB/s and peak rates of "
            f"{device.id} it would still take {bound[1]:.4g} s"
        )
    remedy = {
        "ttft": "shorter prompts, more devices per replica (tp) or a faster device",
        "e2e": "shorter answers, more devices per replica (tp) or a faster device",
    }.get(key, "narrower weights, more devices per replica (tp) or more bandwidth")
    return f"{text}. Needed: {remedy}, or a limit above {least:.4g} s"
