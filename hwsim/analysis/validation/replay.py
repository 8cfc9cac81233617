"""One run of a request log, simulated with its own arrivals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.sim.serving.arrivals import Arrivals
from hwsim.specs.catalogs import load_stack
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec
from hwsim.specs.given_names import (
    given_device,
    given_dtypes,
    given_engine,
    given_model,
    given_system,
)
from hwsim.specs.model import ModelSpec
from hwsim.specs.request_log import LoggedRun
from hwsim.specs.traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
METRICS = ("ttft", "tpot", "latency")
_DEFAULT_ENGINE = "vllm-v1"
_V1 = frozenset({_DEFAULT_ENGINE, "vllm-v1-sync"})
# From vLLM's front end to its scheduler: validation, one message between
# processes (assumed; transport and tokenising come before a log's arrival). [s]
_FRONT, _LONGEST_FRONT = 1e-3, 0.05
_SAME = 1e-6  # times closer than this are the same. [s]
# Steps are captured up to twice the sequences (VllmConfig._set_cudagraph_sizes).
_CAPTURED = 512
_LARGE = 70 * 2**30  # memory of devices that vLLM gives larger steps. [B]
_FEW, _MOST = 8, 1000  # requests that tell, and that are looked at
_TICK = 1e-3  # queue times below this do not tell what a time counts from. [s]


@dataclass(frozen=True)
class Replay:
    """A run's simulation.

    Attributes
    ----------
    result : ServeResult
        What the simulated service did.
    measured, predicted : dict of str to ndarray, shape (n,)
        By metric, requests in the run's order. [s]
    notes : tuple of str
        What the log left open, and how its times were read.
    """

    result: ServeResult
    measured: dict[str, FloatArray]
    predicted: dict[str, FloatArray]
    notes: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Return what was simulated."""
        result = self.result
        return {
            "model": result.model.id, "system": result.system.id,
            "device": result.system.device.id, "stack": result.stack.id,
            "engine": result.engine.id, "fidelity": result.fidelity,
            "max_num_seqs": result.engine.max_num_seqs,
            "max_num_batched_tokens": result.engine.max_num_batched_tokens,
            **result.config.to_dict(),
            "kv_tokens": result.capacity.tokens,
            "preemptions": result.run.preemptions,
            "assumed": list(self.notes),
        }  # fmt: skip

    @cached_property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """90 % intervals by metric and statistic, over the prediction; {} has none."""
        known = self.result.interval_90
        if known is None:
            return {}
        figures = {"ttft": "ttft_s", "tpot": "tpot_s", "latency": "e2e_s"}
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for metric, name in figures.items():
            values: dict[str, float] = getattr(self.result, name)
            found[metric] = {
                key: (span[0] / values[key], span[1] / values[key])
                for key, span in known[name].items()
                if span is not None and values[key] > 0
            }
        return found

    def frame(self, run: LoggedRun) -> pd.DataFrame:
        """Return one line per request."""
        import pandas as pd

        columns: dict[str, Any] = {
            "run": run.name, "row": run.rows, "input_tokens": run.inputs,
            "output_tokens": run.outputs, "arrival_s": run.arrival,
        }  # fmt: skip
        for metric in METRICS:
            columns[f"measured_{metric}_s"] = self.measured[metric]
            columns[f"predicted_{metric}_s"] = self.predicted[metric]
        return pd.DataFrame(columns)


def replayed(run: LoggedRun, fidelity: Fidelity = "auto") -> Replay:
    """Simulate a run of a log.

    Raises
    ------
    HwsimError
        If device, model or dtype is not known or the run does not fit.
    """
    notes: list[str] = []
    device, model = _device(run.device, notes), given_model(run.model)
    dtypes = given_dtypes(run.dtype, run.model, device, run.kv_dtype)
    if not run.dtype:
        notes.append(f"dtype = {dtypes.dtype}")
    engine = _engine(run, device, notes)
    entry, engine = _entry(run, engine, notes)
    tp, pp, dp = run.tp or 1, run.pp or 1, run.dp or 1
    order = np.argsort(entry, kind="stable")
    layout = _layout(run, model)
    result = run_serving(
        _unbounded(model, run), given_system(device, tp * pp * dp),
        load_stack(run.stack or engine.stack), engine,
        Traffic(len(run), rate=_rate(entry)), router="least_outstanding",
        dtype=dtypes.dtype, weight_dtype=dtypes.weight_dtype,
        kv_dtype=dtypes.kv_dtype, fidelity=fidelity,
        arrivals=Arrivals(entry[order], run.inputs[order], run.outputs[order]),
        **layout,
    )  # fmt: skip
    measured = _measured(run, notes)
    predicted = _predicted(result, order)
    if _from_queue(run):
        notes.append("times count from the queue, not from arrival")
        before = _before_queue(result)[np.argsort(order, kind="stable")]
        predicted["ttft"] = predicted["ttft"] - before
        predicted["latency"] = predicted["latency"] - before
    return Replay(result, measured, predicted, tuple(notes))


def _unbounded(model: ModelSpec, run: LoggedRun) -> ModelSpec:
    """Return the model, long enough for requests that a server did answer."""
    longest = int((run.inputs + run.outputs).max())
    if model.max_context is None or longest <= model.max_context:
        return model
    return model.with_context(longest)


def _rate(entry: FloatArray) -> float:
    span = float(entry.max() - entry.min())
    return (entry.size - 1) / span if span > 0 else math.inf


def _device(text: str, notes: list[str]) -> DeviceSpec:
    """Return a server's device: of two editions under one name, that for servers."""
    device = given_device(text)
    edition = device.id.replace("-workstation", "-server")
    if edition == device.id or "work" in text.casefold():
        return device
    notes.append(f"device = {edition}")
    return given_device(edition)


def _engine(run: LoggedRun, device: DeviceSpec, notes: list[str]) -> EngineSpec:
    engine = given_engine(run.engine or _DEFAULT_ENGINE)
    asked = _defaults(engine, device)
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        value = getattr(run, name)
        if value is None:
            notes.append(f"{name} = {asked.get(name, getattr(engine, name))}")
        else:
            asked[name] = value
    if run.max_num_seqs is None and "max_num_seqs" in asked:
        asked["max_num_seqs"] = min(asked.values())
    if engine.id in _V1:
        asked["captured_tokens"] = min(_CAPTURED, 2 * asked["max_num_seqs"])
    return engine.model_copy(update=asked)


def _defaults(engine: EngineSpec, device: DeviceSpec) -> dict[str, int]:
    """Return what a server of vLLM is started with where nothing is asked for.

    ``EngineArgs``: devices of 70 GiB and more, but for the A100, take larger steps.
    """
    if engine.id not in _V1:
        return {}
    if (device.main_memory.size or 0.0) >= _LARGE and device.architecture != "ampere":
        return {"max_num_seqs": 1024, "max_num_batched_tokens": 8192}
    return {"max_num_seqs": 256, "max_num_batched_tokens": 2048}


def _entry(
    run: LoggedRun, engine: EngineSpec, notes: list[str]
) -> tuple[FloatArray, EngineSpec]:
    """Return when each request enters the scheduler's queue, and what is left.

    Times of a log begin at the engine's front end: transport and tokenising are
    over. What is left is the way to the scheduler; how long a request then waits
    there for a step to end follows from the steps that are simulated.
    """
    known = np.all(np.isfinite(run.handover))
    if known and not np.any(run.handover > _SAME):
        return run.arrival, engine.model_copy(update={"request_overhead": 0.0})
    front = _FRONT
    if known and 0.0 < run.front < _LONGEST_FRONT:
        front = run.front
    notes.append(f"hand-over to the queue = {front * 1e3:.3g} ms")
    return run.arrival, engine.model_copy(update={"request_overhead": front})


def _from_queue(run: LoggedRun) -> bool:
    """Whether times to the first token count from the queue, not from arrival.

    Then they do not grow with the time that a request took to get there. Requests
    that met an idle engine, or had to wait for a slot, say nothing.
    """
    known = np.isfinite(run.handover) & np.isfinite(run.ttft)
    if not np.any(run.handover[known] > _SAME):
        return False
    queue = np.where(np.isfinite(run.queue), run.queue, 0.0)
    busy = known & (run.handover > 0.1 * np.quantile(run.handover[known], 0.9))
    busy &= queue <= _TICK
    if busy.sum() < _FEW:
        return False
    from scipy.stats import theilslopes

    step = -(-int(busy.sum()) // _MOST)
    handover, rest = run.handover[busy][::step], (run.ttft - queue)[busy][::step]
    return bool(theilslopes(rest, handover).slope < 0.5)


def _layout(run: LoggedRun, model: ModelSpec) -> dict[str, Any]:
    """Return how the devices share the model, as arguments of a service.

    Data-parallel ranks of a dense model are engines of their own; those of a
    mixture run their steps together.
    """
    tp, pp, dp = run.tp or 1, run.pp or 1, run.dp or 1
    if model.moe is None:
        return {"tp": tp, "pp": pp, "replicas": dp}
    ep = tp * dp if run.expert_parallel else 1
    return {"tp": tp, "pp": pp, "attention_dp": dp, "ep": ep}


def _predicted(result: ServeResult, order: NDArray[np.int64]) -> dict[str, FloatArray]:
    run = result.run
    if run.outputs.size != order.size:
        raise InputError("the replay was interrupted before all requests were done")
    back = np.argsort(order, kind="stable")
    return {
        "ttft": run.ttft[back], "tpot": run.tpot[back], "latency": run.e2e[back],
    }  # fmt: skip


def _before_queue(result: ServeResult) -> FloatArray:
    """Return the time from each arrival to the queue, in order of simulation. [s]

    vLLM's engine looks at its messages between steps: a request is in the queue
    when the step ends during which it came.
    """
    run, front = result.run, result.engine.request_overhead
    if run.scheduled is None:
        raise InputError("the replay kept no times of scheduling")
    waited = run.scheduled - run.arrival - front
    return np.asarray(front + np.clip(waited, 0.0, result.itl_s["mean"]))


def _measured(run: LoggedRun, notes: list[str]) -> dict[str, FloatArray]:
    """Return the measured times, queueing included; what is missing follows."""
    ttft, tpot, latency = run.ttft.copy(), run.tpot.copy(), run.latency.copy()
    gaps = np.where(run.outputs > 1, run.outputs - 1.0, np.nan)
    if _without_queue(run):
        notes.append("ttft_us leaves the queue out: queue_us is added")
        whole = np.abs(latency - (run.queue + ttft + tpot * gaps))
        part = np.abs(latency - (ttft + tpot * gaps))
        ttft = ttft + run.queue
        if np.nanmedian(part - whole) < 0:
            notes.append("latency_us leaves the queue out: queue_us is added")
            latency = latency + run.queue
    tpot = np.where(np.isfinite(tpot), tpot, (latency - ttft) / gaps)
    tpot = np.where(run.outputs > 1, tpot, np.nan)
    latency = np.where(np.isfinite(latency), latency, ttft + tpot * gaps)
    ttft = np.where(np.isfinite(ttft), ttft, latency - tpot * gaps)
    return {"ttft": ttft, "tpot": tpot, "latency": latency}


def _without_queue(run: LoggedRun) -> bool:
    """Whether times to the first token count from scheduling, not from arrival."""
    longer = run.queue > run.ttft + _TICK
    return bool(np.mean(longer) > 0.01) if len(run) else False
