"""Degrees of parallelism as tables of serving points print them, read plainly.

Tables derive some of their columns from others. Where what stands there does not
fit one node, it is read as the products that such tables are known to print; what
then still fits no model is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsim.errors import InputError
from hwsim.specs.benchmark import DEFAULT, load_benchmark
from hwsim.specs.catalogs import load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published_serving import Workers

_NODE = 8  # devices of a node that nothing else is known of


@dataclass(frozen=True)
class Degrees:
    """Degrees of one pool of servers.

    Attributes
    ----------
    tp, pp, ep, attention_dp : int
        Of one server; see :class:`hwsim.analysis.serving_layout.ReplicaLayout`.
    replicas : int
        Servers.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    replicas: int = 1

    @property
    def devices(self) -> int:
        """Devices of all servers."""
        return self.tp * self.pp * self.attention_dp * self.replicas


def degrees_of(
    pool: Workers, model: ModelSpec, device: DeviceSpec, assumed: list[str]
) -> Degrees:
    """Return the degrees of a pool; how they were read joins ``assumed``.

    Raises
    ------
    InputError
        If no reading fits the model.
    """
    tp, dp = pool.tp or 1, pool.attention_dp or 1
    moe_tp, ep = pool.moe_tp or 1, pool.moe_ep or 1
    pp, replicas = pool.pp or 1, pool.num_workers or 1
    if model.moe is None:
        _check_split(model, tp)
        return Degrees(tp, pp, 1, 1, replicas * dp)
    printed = (tp, dp, moe_tp, ep)
    node = _node(device)
    if tp == dp > 1:
        # One degree printed twice: attention of each device by itself.
        tp, ep = 1, min(ep, dp)
    elif tp * dp > node and moe_tp == ep and moe_tp * ep == tp * dp:
        # Both degrees of the experts and their product: each is the server's.
        tp, dp = (1, ep) if dp > 1 else (ep, 1)
    if (tp, dp, moe_tp, ep) != printed:
        named = ", ".join(
            f"{n} {v}" for n, v in zip(_PRINTED, printed, strict=True) if v > 1
        )
        assumed.append(f"{named} read as tp {tp}, attention_dp {dp}, ep {ep}")
    _check_split(model, tp)
    return Degrees(tp, pp, _experts(model, tp * dp, ep), dp, replicas)


_PRINTED = ("tp", "attention_dp", "moe_tp", "moe_ep")


def _node(device: DeviceSpec) -> int:
    """Return the devices of a usual node."""
    systems = load_benchmark(DEFAULT).systems
    if device.id not in systems:
        return _NODE
    return max(load_system(systems[device.id]).devices_per_node, _NODE)


def _check_split(model: ModelSpec, tp: int) -> None:
    if tp > 1 and model.heads % tp:
        raise InputError(
            f"tp {tp} does not divide the {model.heads} heads of {model.id}: it looks "
            "like all devices of a deployment, and how they share it is not given"
        )


def _experts(model: ModelSpec, devices: int, ep: int) -> int:
    moe = model.moe
    if moe is None or ep == 1:
        return 1
    if moe.experts % ep or devices % ep:
        raise InputError(
            f"moe_ep {ep} does not divide the {moe.experts} experts of {model.id} or "
            f"its {devices} devices"
        )
    return ep
