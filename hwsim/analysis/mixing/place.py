"""Places of a model that is spread over unlike devices: times and memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from hwsim.analysis.graph_result import GraphResult, run_graph
from hwsim.analysis.memory_fit import MemoryFit, memory_fit
from hwsim.cost.evaluate import Fidelity, cost_ops
from hwsim.cost.footprint_serving import part_footprint
from hwsim.errors import InputError
from hwsim.graph.inference import Part, decode_graph, prefill_graph
from hwsim.graph.op import Attention, Embedding, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.parameters import embedding_parameters
from hwsim.graph.precision import Precision, resolve
from hwsim.graph.shard import shard
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec, single_device_system

LATENCY = 5e-6  # s, of a hop over a host link or network whose own is not quoted


@dataclass(frozen=True)
class Work:
    """What is asked of all places: sizes, dtypes, and what the host takes over.

    Attributes
    ----------
    kv_host, embedding_host : SystemSpec or None
        Device that holds the KV cache and computes attention over it while
        decoding; that holds the table of embeddings.
    """

    model: ModelSpec
    batch: int
    prompt: int
    output: int
    dtype: str
    weight_dtype: str
    kv_dtype: str
    fidelity: Fidelity
    kv_host: SystemSpec | None = None
    embedding_host: SystemSpec | None = None

    @property
    def precision(self) -> Precision:
        """Dtypes by what they are of."""
        return resolve(self.dtype, self.kv_dtype, self.weight_dtype)

    @property
    def row_bytes(self) -> float:
        """One token's activations between two layers. [B]"""
        return float(self.model.hidden) * DTYPE_BYTES[self.precision.act]


@dataclass(frozen=True)
class Place:
    """Some layers of a model on some devices of one kind.

    Attributes
    ----------
    system : SystemSpec
        The ``tp`` devices.
    layers : tuple of two int
        (start, stop).
    """

    system: SystemSpec
    stack: StackSpec
    tp: int
    layers: tuple[int, int]
    first: bool
    last: bool

    @property
    def part(self) -> Part:
        """The layers, as graphs take them."""
        return Part(self.layers, self.first, self.last)

    def prefill(self, work: Work) -> PassTime:
        """Return the time of the prompts' pass."""
        graph = prefill_graph(
            work.model, batch=work.batch, prompt=work.prompt, **self._shapes(work)
        )
        return self._timed(work, graph)

    def decode(self, work: Work, context: int) -> PassTime:
        """Return the time of a decode step."""
        graph = decode_graph(
            work.model, batch=work.batch, context=context, **self._shapes(work)
        )
        return self._timed(work, graph)

    def _shapes(self, work: Work) -> dict[str, Any]:
        return {
            "tp": self.tp, "dtype": work.dtype, "weight_dtype": work.weight_dtype,
            "kv_dtype": work.kv_dtype, "stack": self.stack, "part": self.part,
        }  # fmt: skip

    def _timed(self, work: Work, graph: OpGraph) -> PassTime:
        run = run_graph(graph, self.system, self.stack, fidelity=work.fidelity)
        taken, host, link = 0.0, 0.0, 0.0
        decode = graph.name == "decode"
        for index, (_, _, node, repeat) in enumerate(graph.distinct()):
            there = _host_of(node.op, work, decode=decode)
            if there is None:
                continue
            taken += float(run.costs.time[index]) * repeat
            whole = _whole(node.op, self.tp)
            cost = cost_ops([whole], there, self.stack, work.fidelity)
            host += float(cost.time[0]) * repeat
            link += self.hop(_moved(whole, work), 2 if decode else 1) * repeat
        if not decode and work.kv_host is not None:
            # Keys and values leave while the next layers compute.
            link += max(self.hop(self.kv_bytes(work, work.prompt)) - run.time_s, 0.0)
        return PassTime(run, max(run.time_s - taken, 0.0), host, link)

    def hop(self, nbytes: float, times: int = 1) -> float:
        """Return the time over the links between devices and host. [s]"""
        link = self.system.device.host_link
        if link is None:
            raise InputError(
                f"device {self.system.device.id} has no host_link; set "
                "device.host_link in its spec to put work on a host"
            )
        latency = LATENCY if link.latency is None else link.latency
        rate = link.bandwidth * self.tp / self.system.host_sharers
        return float(nbytes / rate + times * latency)

    def kv_bytes(self, work: Work, context: int) -> float:
        """Return keys and values of all devices of this place. [B]"""
        return float(self.footprint_at(work, context).kv_cache or 0.0) * self.tp

    def footprint_at(self, work: Work, context: int) -> Any:
        """Return the memory of one device, nothing on a host."""
        return part_footprint(
            work.model, self.layers, first=self.first, last=self.last,
            batch=work.batch, context=context, tokens=max(work.prompt, 1), tp=self.tp,
            precision=work.precision, flash=self.stack.fusion.attention == "fused",
        )  # fmt: skip

    def table_bytes(self, work: Work) -> float:
        """Return the embedding table's bytes on one device, if only a lookup. [B]"""
        if not self.first or (self.last and work.model.tied_embeddings):
            return 0.0
        local = shard(work.model, self.tp)
        held = embedding_parameters(work.model, local)
        return float(held.total * DTYPE_BYTES[work.precision.table])

    def memory(self, work: Work, context: int) -> MemoryFit:
        """Return whether one device holds it."""
        held = self.footprint_at(work, context)
        needed = held.total
        if work.kv_host is not None:
            needed -= held.kv_cache or 0.0
        if work.embedding_host is not None:
            needed -= self.table_bytes(work)
        return memory_fit(needed, self.system.device, self.stack, ())


@dataclass(frozen=True)
class PassTime:
    """One pass of one place.

    Attributes
    ----------
    run : GraphResult
        The whole pass, were all of it on the devices.
    device_s, host_s, link_s : float
        On the devices; of what a host takes over; between them. [s]
    """

    run: GraphResult
    device_s: float
    host_s: float
    link_s: float

    @property
    def time_s(self) -> float:
        """All of it; a layer waits for its attention. [s]"""
        return self.device_s + self.host_s + self.link_s

    @functools.cached_property
    def parts(self) -> dict[str, float]:
        """Breakdown, with what the host does as ``host``. [s]"""
        share = self.device_s / self.run.time_s if self.run.time_s > 0 else 0.0
        parts = {name: value * share for name, value in self.run.parts.items()}
        parts["interconnect"] += self.link_s
        return {**parts, "host": self.host_s} if self.host_s else parts


def _host_of(op: Op, work: Work, *, decode: bool) -> SystemSpec | None:
    if isinstance(op, Attention) and decode:
        return work.kv_host
    return work.embedding_host if isinstance(op, Embedding) else None


def _whole(op: Op, tp: int) -> Op:
    """Return an operator of all tensor-parallel devices together."""
    if tp == 1 or not isinstance(op, Attention):
        return op
    return replace(
        op,
        heads=op.heads * tp,
        kv_heads=op.kv_heads * tp,
        reads=tuple(replace(o, nbytes=o.nbytes * tp) for o in op.reads),
        writes=tuple(replace(o, nbytes=o.nbytes * tp) for o in op.writes),
    )


def _moved(op: Op, work: Work) -> float:
    """Return what goes to the host and back for one operator. [B]"""
    act = DTYPE_BYTES[work.precision.act]
    if isinstance(op, Attention):
        rows = op.batch * op.seq_q
        widths = op.heads * (op.head_dim + op.v_head_dim)  # queries there, values back
        widths += op.kv_heads * (op.head_dim + op.v_head_dim)  # the new token's own
        return float(rows * widths * act)
    return float(getattr(op, "tokens", 0.0) * work.row_bytes)


def host_system(system: SystemSpec) -> SystemSpec:
    """Return one device of a system, as a host that takes work over."""
    return single_device_system(system.device)
