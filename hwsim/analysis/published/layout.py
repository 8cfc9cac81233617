"""Degrees of parallelism as tables of serving points print them, read plainly.

Tables derive some of their columns from others. Where what stands there does not
fit one node, it is read as the products that such tables are known to print; what
then still fits no model is refused, not guessed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.benchmark import DEFAULT, load_benchmark
from hwsim.specs.catalogs import load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.recipes import fitting_recipes
from hwsim.specs.published.serving import ServingRow, Workers

_NODE = 8  # devices of a node that nothing else is known of


@dataclass(frozen=True)
class Degrees:
    """Degrees of one pool of servers.

    Attributes
    ----------
    tp, pp, ep, attention_dp : int
        Of one server; see :class:`hwsim.analysis.serving.layout.ReplicaLayout`.
    replicas : int
        Servers.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    replicas: int = 1

    @property
    def server(self) -> int:
        """Devices of one server."""
        return self.tp * self.pp * self.attention_dp

    @property
    def devices(self) -> int:
        """Devices of all servers."""
        return self.server * self.replicas


def degrees_of(
    pool: Workers,
    model: ModelSpec,
    device: DeviceSpec,
    assumed: list[str],
    clients: int | None = None,
) -> Degrees:
    """Return the degrees of a pool; how they were read joins ``assumed``.

    Batches of ``clients`` in all are as many as there are servers, each with as
    many groups as have attention of their own.

    Raises
    ------
    InputError
        If no reading fits the model.
    """
    tp, dp = pool.tp or 1, pool.attention_dp or 1
    moe_tp, ep = pool.moe_tp or 1, pool.moe_ep or 1
    pp, replicas = pool.pp or 1, pool.num_workers or _servers(pool, clients, assumed)
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


class Pools(NamedTuple):
    """Servers of a disaggregated run.

    Attributes
    ----------
    prompts, answers : Degrees
        Of each pool.
    drafted : int
        Tokens drafted in a round; 0 is no speculation.
    recipes : int
        Published recipes that fit the row.
    slots : int or None
        Requests that each batch of answers holds at most; None: not given.
    """

    prompts: Degrees
    answers: Degrees
    drafted: int = 0
    recipes: int = 0
    slots: int | None = None


def pools_of(
    row: ServingRow, model: ModelSpec, device: DeviceSpec, assumed: list[str]
) -> Pools:
    """Return the servers for prompts and those for answers.

    How many there are, and whether attention of a mixture is each device's own,
    is often not printed. A published recipe for just these lengths, clients and
    devices of a server says it; of several the first without drafted tokens is
    taken. Without one: prompts have one server; answers have as many as recipes
    use for so many clients; attention is each device's own where experts are
    shared out and a server has many clients, or prompts.

    Raises
    ------
    InputError
        If a pool's degrees fit no reading.
    """
    told = row
    if _no_server(row, model, device):
        told = dataclasses.replace(row, prefill=Workers(), decode=Workers())
    recipes = fitting_recipes(told, model.id, device.id)
    if recipes:
        taken, *others = recipes
        assumed.append(f"recipe: {taken}")
        if others:
            assumed.append("or, as likely: " + "; ".join(str(r) for r in others))
        return Pools(
            _stated(taken.prefill), _stated(taken.decode), taken.drafted,
            len(recipes), taken.decode.batch_size,
        )  # fmt: skip
    first = degrees_of(row.prefill, model, device, assumed)
    second = degrees_of(row.decode, model, device, assumed)
    clients = row.concurrency or 1
    if row.decode.num_workers is None:
        count = _FEW if clients >= _MANY_CLIENTS else _USUAL
        second = dataclasses.replace(second, replicas=count)
        assumed.append(f"1 server for prompts, {count} for answers: not given")
    if row.prefill.attention_dp in (None, 1):
        first = _own_attention(first, model)
    crowded = clients / second.replicas >= _OWN_CLIENTS
    if row.decode.attention_dp in (None, 1) and crowded:
        second = _own_attention(second, model)
    return Pools(first, second)


def _no_server(row: ServingRow, model: ModelSpec, device: DeviceSpec) -> bool:
    """Whether the degrees are all 1 though no such device holds the model in fp4."""
    degrees = {
        value for pool in (row.prefill, row.decode)
        for value in (pool.tp, pool.pp, pool.attention_dp, pool.moe_tp, pool.moe_ep)
    }  # fmt: skip
    held = device.main_memory.size
    return degrees <= {None, 1} and model.num_parameters * DTYPE_BYTES["fp4"] > held


def _servers(pool: Workers, clients: int | None, assumed: list[str]) -> int:
    """Return how many servers are needed for all clients to be in a batch."""
    held = (pool.batch_size or 0) * (pool.attention_dp or 1)
    if not clients or not held or clients % held or clients == held:
        return 1
    assumed.append(f"{clients // held} servers: clients over batch_size")
    return clients // held


def with_copies(
    model: ModelSpec, ranks: Sequence[int], assumed: list[str]
) -> ModelSpec:
    """Return a model whose experts some ranks share evenly, some held twice if not.

    Engines place copies of busy experts on devices that would have fewer.
    """
    if model.moe is None:
        return model
    step = math.lcm(*ranks)
    count = -(-model.moe.experts // step) * step
    if count == model.moe.experts:
        return model
    assumed.append(f"{count} experts in a layer, copies included")
    moe = model.moe.model_copy(update={"experts": count})
    name = f"{model.id}-{count}-experts"
    return model.model_copy(update={"moe": moe, "id": name})


def _stated(servers: Workers) -> Degrees:
    """Return the degrees of a recipe's servers, which are all given."""
    own, size = servers.attention_dp or 1, servers.tp or 1
    return Degrees(size // own, 1, servers.moe_ep or 1, own, servers.num_workers or 1)


# Of the recipes of InferenceX for DeepSeek-R1 (github SemiAnalysisAI/InferenceX,
# nvidia-master.yaml): five servers for answers beside one for prompts up to a few
# hundred clients, two or fewer above; attention of each device from about a
# hundred clients a server on.
_USUAL, _FEW, _MANY_CLIENTS, _OWN_CLIENTS = 5, 2, 1500, 100


def _own_attention(degrees: Degrees, model: ModelSpec) -> Degrees:
    """Return a server whose devices share out experts and not attention."""
    if model.moe is None or degrees.tp == 1:
        return degrees
    width = degrees.tp
    ep = width if model.moe.experts % width == 0 else degrees.ep
    return dataclasses.replace(degrees, tp=1, attention_dp=width, ep=ep)


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
