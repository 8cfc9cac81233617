"""Closed loops of clients behind published serving points: resolved and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwsim.analysis.graph_result import GraphResult
from hwsim.analysis.published.layout import Degrees, degrees_of, pools_of, with_copies
from hwsim.analysis.published.spread import serving_group
from hwsim.analysis.serving.ask import PrefillAsked
from hwsim.analysis.serving.interval import operator_interval
from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.analysis.serving.mean_request import request_runs
from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.analysis.serving.speculative import Speculation, even_acceptance
from hwsim.analysis.serving.step_cost import Deployment, TableOf, step_table
from hwsim.cost.evaluate import Fidelity
from hwsim.cost.interval import LogInterval
from hwsim.errors import InputError
from hwsim.specs.catalogs import load_stack
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.given_names import (
    GivenDtypes,
    given_device,
    given_dtypes,
    given_model,
    given_system,
)
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.serving import ServingRow
from hwsim.specs.published.serving_map import (
    MappedServing,
    ServingMap,
    mapped_serving,
)
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Lengths, Traffic

FloatArray = npt.NDArray[np.float64]
SEED = 1
# Between nodes: one 400 Gb/s adapter beside each device, as on usual nodes. [B/s]
_NODE_LINK, _NODE = 50e9, 8
# Share of the tokens drafted by a model's own layers that are accepted, each where
# those before it are. The first: 81 to 82.3 % of DeepSeek-R1's (vLLM pull request
# 12755; the report on DeepSeek-V3, arXiv:2412.19437, section 5.4.3, has 85 to 90 %).
# Those after it: what three drafted tokens need to be 2.16 times as fast as none
# (TensorRT-LLM, tech blog 2: R1 in NVFP4, one request on eight B200), a round of theirs
# predicted at 1.17 steps: 2.53 tokens of it.
_ACCEPTED = (0.82, 0.557)
# Requests of a run that are simulated, and rounds of all clients at least: the
# first, whose prompts all come at once, the last, and those between, which are alike.
_MOST_REQUESTS, _ROUNDS = 4000, 3
_PRECISIONS = {
    "": "", "fp8": "fp8", "fp8_block": "fp8", "fp4": "fp4", "nvfp4": "fp4",
    "mxfp4": "mxfp4", "bf16": "bf16", "fp16": "fp16", "bfloat16": "bf16",
    "float16": "fp16", "int4": "int4", "w4a16": "int4", "int8": "int8",
}  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """Clients that each wait for an answer before they ask again, resolved.

    Attributes
    ----------
    degrees : Degrees
        Of the servers that give answers.
    prompts_on : Degrees or None
        Of those that run prompts only; None where all do both.
    clients, requests, asked : int
        How many at a time; requests that are simulated, and all of the run.
    prompts, outputs : Lengths
        Tokens.
    maps, assumed : tuple of str
        Mappings that apply; what the row left open or is read as.
    speculation : Speculation or None
        How tokens are drafted.
    recipes : int
        Published recipes that fit the row.
    """

    row: ServingRow
    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    dtypes: GivenDtypes
    degrees: Degrees
    clients: int
    requests: int
    prompts: Lengths
    outputs: Lengths
    maps: tuple[str, ...]
    assumed: tuple[str, ...]
    prompts_on: Degrees | None = None
    prompt_engine: EngineSpec | None = None
    speculation: Speculation | None = None
    asked: int = 0
    recipes: int = 0

    @property
    def weights(self) -> FloatArray:
        """How many requests of the whole run each simulated one stands for, by order.

        Rounds left out are like those between the first and the last.
        """
        weights = np.ones(self.requests)
        between = self.requests - 2 * self.clients
        if self.requests < self.asked and between > 0:
            weights[self.clients : self.clients + between] += (
                self.asked - self.requests
            ) / between
        return weights

    @property
    def group(self) -> str:
        """What is known of its layout."""
        return serving_group(self.prompts_on is not None, self.recipes)

    @property
    def devices(self) -> int:
        """Devices of the deployment."""
        first = self.prompts_on
        return self.degrees.devices + (0 if first is None else first.devices)

    @property
    def mean_output(self) -> float:
        """Mean tokens of an answer."""
        return self.outputs.mean

    @property
    def layout(self) -> ReplicaLayout:
        """How the devices of one server share the model."""
        d = self.degrees
        return ReplicaLayout(d.tp, d.pp, d.ep, d.attention_dp)


def loop_of(
    row: ServingRow,
    mappings: Sequence[ServingMap],
    systems: Callable[[DeviceSpec, int], SystemSpec] = given_system,
) -> Loop:
    """Return the closed loop behind a row; ``systems`` gives so many of a device.

    Raises
    ------
    HwsimError
        If the row leaves open what nothing stands in for, or names what the
        catalogs do not know.
    """
    device, model = given_device(row.device), given_model(row.model)
    assumed: list[str] = []
    row = _clients(row, assumed)
    pools, first = None, None
    if row.disaggregated:
        pools = pools_of(row, model, device, assumed)
        first, degrees = pools.prompts, pools.answers
        model = with_copies(model, (first.ep, degrees.ep), assumed)
    else:
        degrees = degrees_of(row.pool, model, device, assumed, row.concurrency)
    found = mapped_serving(row, degrees.tp, mappings)
    if found.unanswered:
        raise InputError(found.unanswered)
    isl, osl, clients = _counts(row)
    dtypes = _dtypes(row, model, found, assumed)
    prompts, outputs = _lengths(isl, found.shortest), _lengths(osl, found.shortest)
    groups = degrees.attention_dp * degrees.replicas
    engine = _engine(found, isl, -(-clients // groups), pools.slots if pools else None)
    asked = max(round(found.requests_per_client * clients), 1)
    requests = min(asked, max(_MOST_REQUESTS, _ROUNDS * clients))
    assumed += [f"{name} = {value:g}" for name, value in found.limits.items()]
    longest = isl + osl
    if model.max_context is not None and longest > model.max_context:
        model = model.with_context(longest)
    # Whole nodes, or a cluster of them: each server stands on devices of its own.
    most = max(degrees.server, first.server if first else 1)
    return Loop(
        row, model, systems(device, most),
        load_stack(found.stack or engine.stack), engine, dtypes, degrees, clients,
        requests, prompts, outputs, found.maps, (*assumed, *found.notes), first,
        None if first is None else _prompt_engine(engine, isl),
        speculation_by((pools.drafted if pools else 0) or found.drafted), asked,
        pools.recipes if pools else 0,
    )  # fmt: skip


def _clients(row: ServingRow, assumed: list[str]) -> ServingRow:
    """Return a row with its clients: where blank, those that fill its batches."""
    if row.concurrency is not None or not row.disaggregated:
        return row
    batch, workers = row.decode.batch_size, row.decode.num_workers or 1
    if batch is None:
        return row
    clients = batch * workers * (row.decode.attention_dp or 1)
    assumed.append(f"concurrency = {clients}")
    return dataclasses.replace(row, concurrency=clients)


def _prompt_engine(engine: EngineSpec, isl: int) -> EngineSpec:
    """Return the engine of servers that run prompts only: whole prompts."""
    budget = max(engine.max_num_batched_tokens, isl)
    return engine.model_copy(
        update={"max_num_batched_tokens": budget, "wait_steps": 0,
                "intake_interval": 1}
    )  # fmt: skip


def _counts(row: ServingRow) -> tuple[int, int, int]:
    for name in ("isl", "osl", "concurrency"):
        if not getattr(row, name):
            raise InputError(f"{name} is not given")
    return int(row.isl or 0), int(row.osl or 0), int(row.concurrency or 0)


def _dtypes(
    row: ServingRow, model: ModelSpec, found: MappedServing, assumed: list[str]
) -> GivenDtypes:
    """Return the dtypes: of the experts' products where the model has any."""
    words = [row.precision]
    words.insert(0, row.moe_quant_mode if model.moe else row.gemm_quant_mode)
    word = next((w for w in words if w), "").casefold()
    if word not in _PRECISIONS:
        raise InputError(f"precision {word!r} is not known; write for example fp8")
    device = given_device(row.device)
    dtype = _PRECISIONS[word]
    # Storage formats without arithmetic of their own go by the checkpoint's name.
    name = f"-{dtype}" if dtype in {"mxfp4", "int4"} else ""
    dtypes = given_dtypes(
        "" if name else dtype, name, device, found.kv_dtype or ""
    )  # fmt: skip
    if not word:
        assumed.append(f"dtype = {dtypes.dtype}")
    assumed.append(f"kv_dtype = {dtypes.kv_dtype}")
    return dtypes


def _lengths(longest: int, shortest: float) -> Lengths:
    if shortest >= 1.0:
        return Lengths("fixed", float(longest))
    return Lengths("uniform", float(max(int(longest * shortest), 1)), float(longest))


def _engine(
    found: MappedServing, isl: int, clients: int, most: int | None
) -> EngineSpec:
    """Return the engine as it was started, for so many clients of a group.

    Twice as many slots leave room where requests are not spread evenly; a recipe
    may allow fewer.
    """
    engine = load_engine(found.engine)
    changes: dict[str, Any] = {}
    for name, value in found.limits.items():
        kind = type(getattr(engine, name, None))
        if name not in EngineSpec.model_fields:
            raise InputError(f"engines have no field {name!r}")
        whole = {int: int, bool: bool, type(None): int}.get(kind)
        changes[name] = whole(value) if whole else value
    if changes:
        engine = EngineSpec.model_validate(engine.model_dump() | changes)
    budget, slots = engine.max_num_batched_tokens, engine.max_num_seqs
    if found.prompt_budget:
        # What the launch scripts compute: room for a prompt beside all clients.
        budget = max(budget, -(-(clients + isl + 64) // 64) * 64)
    slots = min(slots, most or max(2 * clients, 4))
    budget = max(budget, slots)
    return engine.model_copy(
        update={"max_num_batched_tokens": budget, "max_num_seqs": slots}
    )


class LoopRuns:
    """Runs loops; deployments that differ in limits only share step times."""

    def __init__(self, fidelity: Fidelity) -> None:
        self.fidelity: Fidelity = fidelity
        self._tables: dict[tuple[Any, ...], Any] = {}
        self._graphs: dict[tuple[Any, ...], GraphResult] = {}
        self._done: dict[tuple[Any, ...], ServeResult] = {}

    def run(self, loop: Loop) -> ServeResult:
        """Return the simulated service."""
        key = (
            loop.model.id, loop.system.id, loop.stack.id, loop.engine, loop.dtypes,
            loop.degrees, loop.clients, loop.requests, loop.prompts, loop.outputs,
            loop.prompts_on, loop.speculation,
        )  # fmt: skip
        if key not in self._done:
            self._done[key] = self._run(loop)
        return self._done[key]

    def _run(self, loop: Loop) -> ServeResult:
        d = loop.degrees
        traffic = Traffic(
            loop.requests, concurrency=loop.clients, inputs=loop.prompts,
            outputs=loop.outputs,
        )  # fmt: skip
        return run_serving(
            loop.model, loop.system, loop.stack, loop.engine, traffic,
            tp=d.tp, pp=d.pp, ep=d.ep, attention_dp=d.attention_dp,
            replicas=d.replicas, router="least_outstanding",
            dtype=loop.dtypes.dtype, weight_dtype=loop.dtypes.weight_dtype,
            kv_dtype=loop.dtypes.kv_dtype, fidelity=self.fidelity, seed=SEED,
            tables=self._table, prefill=_prefill(loop),
            speculation=loop.speculation,
        )  # fmt: skip

    def _table(self, deployment: Deployment) -> TableOf:
        """Return step times for any limits up to the next power of two."""
        d, engine = deployment, deployment.engine
        budget, slots = engine.max_num_batched_tokens, engine.max_num_seqs
        wide = engine.model_copy(
            update={"max_num_batched_tokens": max(_power(budget), 8192),
                    "max_num_seqs": max(_power(slots), 64)}
        )  # fmt: skip
        longest = max(d.longest, 16384)
        key = (
            d.model.id, d.system.id, d.stack.id, d.layout, d.dtype, d.weight_dtype,
            d.kv_dtype, d.fidelity, longest, wide.max_num_batched_tokens,
            wide.max_num_seqs, wide.captured_batches, wide.captured_tokens,
            wide.sequence_overhead, wide.step_overhead,
        )  # fmt: skip
        if key not in self._tables:
            self._tables[key] = step_table(
                Deployment(
                    d.model, d.system, d.stack, wide, d.layout, d.dtype,
                    d.weight_dtype, d.kv_dtype, d.fidelity, longest,
                )
            )  # fmt: skip
        found: TableOf = self._tables[key]
        return found

    def steps(self, loop: Loop) -> LogInterval | None:
        """Return the 90 % interval of step times by the errors of operators."""
        result = self.run(loop)
        if self.fidelity == "roofline" or not result.run.outputs.size:
            return None
        return operator_interval(request_runs(result))

    def bound(self, loop: Loop) -> str:
        """Return what most of a decode step goes to."""
        return self._decode(loop).bound

    def _decode(self, loop: Loop) -> GraphResult:
        groups = loop.degrees.attention_dp * loop.degrees.replicas
        batch = max(min(-(-loop.clients // groups), loop.engine.max_num_seqs), 1)
        context = int(loop.prompts.mean + loop.outputs.mean / 2)
        key = (loop.model.id, loop.system.id, loop.stack.id, loop.dtypes,
               loop.degrees, batch, context)  # fmt: skip
        if key not in self._graphs:
            self._graphs[key] = self._deployment(loop).run(
                self._deployment(loop).decode(batch, context)
            )
        return self._graphs[key]

    def _deployment(self, loop: Loop) -> Deployment:
        dtypes = loop.dtypes
        return Deployment(
            loop.model, loop.system, loop.stack, loop.engine, loop.layout,
            dtypes.dtype, dtypes.weight_dtype, dtypes.kv_dtype, self.fidelity, 16384,
        )  # fmt: skip


def _prefill(loop: Loop) -> PrefillAsked | None:
    d = loop.prompts_on
    if d is None or loop.prompt_engine is None:
        return None
    wide = [n.bandwidth for n in loop.system.networks if n.size > _NODE]
    return PrefillAsked(
        loop.system, loop.stack, loop.prompt_engine, tp=d.tp, pp=d.pp, ep=d.ep,
        attention_dp=d.attention_dp, replicas=d.replicas, router="least_outstanding",
        kv_bandwidth=max(wide, default=_NODE_LINK),
    )  # fmt: skip


def speculation_by(drafted: int) -> Speculation | None:
    """Return how a model's own layers draft so many tokens; None for none."""
    if not drafted:
        return None
    rates = [_ACCEPTED[min(i, len(_ACCEPTED) - 1)] for i in range(drafted)]
    return Speculation(drafted, even_acceptance(rates), "mtp")


def _power(value: int) -> int:
    """Return the next power of two."""
    return 1 << (max(value, 1) - 1).bit_length()
