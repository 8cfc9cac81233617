"""Tables of published inference: read, predict, one record a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from pathlib import Path

from hwsim.analysis.published.kinds import Record, record
from hwsim.analysis.published.service import InferenceRuns
from hwsim.analysis.published.setting import (
    precisions,
    row_model,
    row_system,
)
from hwsim.analysis.published.work import Figure, Work
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError, InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.catalogs import load_device, load_stack
from hwsim.specs.engine import load_engine
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.inference import InferenceRow, read_inference
from hwsim.specs.published.inference_map import (
    MappedInference,
    load_inference_mappings,
    mapped_inference,
)
from hwsim.specs.published.training_map import load_mappings

# Share of memory that weights may fill where servers are laid out for throughput,
# and sequences of an encoder's batch on each replica where none is given.
HOLDING, ENCODED = 0.5, 64.0
UNITS = {"ttft": "s", "tpot": "s", "latency": "s", "throughput": "1/s"}


class InferencePredictor:
    """Predicts tables of inference figures; equal runs are run once.

    Parameters
    ----------
    fidelity : str
        What operator costs rest on.
    """

    def __init__(self, fidelity: Fidelity) -> None:
        self._runs = InferenceRuns(fidelity)
        self._mappings = load_inference_mappings()
        self._general = load_mappings()
        self._models: dict[ModelSpec, ModelSpec] = {}

    def read(self, path: Path) -> tuple[InferenceRow, ...]:
        """Return the rows of a file."""
        return read_inference(path)

    def figure(self, row: InferenceRow) -> Figure | None:
        """Return the prediction of a row; None where there is none."""
        found = mapped_inference(row, self._mappings)
        if row.fault or found.unanswered or _missing(found.row):
            return None
        try:
            return self._answer(found)
        except HwsimError:
            return None

    def predict(self, row: InferenceRow) -> list[Record]:
        """Return the record of a row."""
        found = mapped_inference(row, self._mappings)
        reason = row.fault or found.unanswered or _missing(found.row)
        if reason:
            return [_record(found, None, reason)]
        try:
            return [_record(found, self._answer(found), "")]
        except HwsimError as error:
            return [_record(found, None, str(error))]

    def sharing(self, row: InferenceRow) -> tuple[Hashable, Hashable]:
        """Return what runs of a row have in common with others."""
        return (row.source, row.model, row.device, row.tp), row.row

    def _answer(self, found: MappedInference) -> Figure:
        return self._runs.figure(self._work(found))

    def _work(self, found: MappedInference) -> Work:
        built = row_model(found, self._general)
        model = self._models.setdefault(built, built)  # tables go by identity
        row, notes = layout(spread_out(found.row, model))
        if row.layers is None and model.sources and model.sources[0].kind == "derived":
            size = f"{model.num_parameters / 1e9:.2g}"
            notes.append(f"architecture = usual decoder with {size} billion parameters")
        if model.kind == "encoder":
            row = _passes(row, notes)
        devices = (row.tp or 1) * (row.pp or 1) * (row.dp or 1)
        system = row_system(found, devices, self._general)
        precise, more = precisions(row, system.device)
        engine = load_engine(found.engine or "vllm-v1")
        if found.limits:
            engine = engine.model_copy(update=found.limits)
        served = row.load in {"closed", "open", "max"}
        usual = engine.stack if served else "default-inference"
        stack = load_stack(found.stack or usual)
        apart = found.attention_dp and model.moe is not None and (row.tp or 1) > 1
        if apart:
            notes.append(f"attention_dp = {row.tp}")
        return Work(
            row, model, system, stack, engine, precise, found.spread,
            found.microbatch, found.in_flight, found.filled,
            (*found.assumed, *notes, *more), apart,
        )  # fmt: skip


def layout(row: InferenceRow) -> tuple[InferenceRow, list[str]]:
    """Return a row whose degrees multiply to its devices, and what was filled.

    Devices that nothing is said of are tensor parallel; where degrees are
    given and do not fill them, the rest are replicas.

    Raises
    ------
    InputError
        If no whole number of replicas fits.
    """
    devices = row.num_devices or (row.tp or 1) * (row.pp or 1) * (row.dp or 1)
    tp, pp, notes = row.tp, row.pp or 1, list[str]()
    if tp is None:
        tp = max(devices // (pp * (row.dp or 1)), 1)
        if tp > 1:
            notes.append(f"tp = {tp}")
    if devices % (tp * pp):
        raise InputError(f"tp x pp = {tp} x {pp} does not divide {devices} devices")
    dp = devices // (tp * pp)
    if dp != (row.dp or 1):
        notes.append(f"dp = {dp}")
    load, size = row.load, row.size
    if not load:
        load = "closed" if _clients(row) else "fixed"
        if size is None and _loaded(row):
            load = "max"
        notes.append(f"load = {load}")
    if size is None and load in {"fixed", "closed"}:
        size = 1.0
        notes.append("batch = 1")
    return dataclasses.replace(
        row, tp=tp, pp=pp, dp=dp, load=load, size=size, num_devices=devices
    ), notes


def spread_out(row: InferenceRow, model: ModelSpec) -> InferenceRow:
    """Return a row under full load whose devices nothing is said of, as replicas.

    Throughput is best on the fewest devices that hold the weights and as much of
    their keys and values.
    """
    open_ = row.tp is None and row.pp is None and row.dp is None
    devices = row.num_devices or 1
    if row.load != "max" or not open_ or devices == 1:
        return row
    device = load_device(row.device)
    precise, _ = precisions(row, device)
    each = DTYPE_BYTES[precise.weight_dtype or precise.dtype]
    need = model.num_parameters * each / HOLDING
    tp = 1
    while tp < devices and tp * (device.main_memory.size or 0.0) < need:
        tp *= 2
    if devices % tp or model.heads % tp:
        return row
    return dataclasses.replace(row, tp=tp, dp=devices // tp)


def _passes(row: InferenceRow, notes: list[str]) -> InferenceRow:
    """Return an encoder's row as one of fixed batches: it has no steps to serve."""
    if row.load in {"max", "closed"}:
        size = row.size or ENCODED * (row.dp or 1)
        notes.append(f"batch = {size:g} of an encoder")
        row = dataclasses.replace(row, load="fixed", size=size)
    return row if row.phase else dataclasses.replace(row, phase="prefill")


def _loaded(row: InferenceRow) -> bool:
    """Whether a rate without a batch is that of a loaded server."""
    if row.kind != "throughput" or row.phase:
        return False
    words = ("vllm", "sglang", "tensorrt-llm", "trt-llm", "trtllm", "tgi", "triton")
    more = ("lmdeploy", "turbomind", "fastgen", "mii", "jetstream", "nim", "text-gen")
    return any(word in row.backend.casefold() for word in (*words, *more))


def _clients(row: InferenceRow) -> bool:
    """Whether a bare number is that of clients: the row speaks of concurrency."""
    text = f"{row.notes} {row.metric}".casefold()
    words = ("concurren", "closed-loop", "closed loop", "clients")
    spread = row.quantile is not None and row.kind in {"ttft", "latency"}
    return any(word in text for word in words) or spread


def _missing(row: InferenceRow) -> str:
    """Return what a row lacks to be a run."""
    if not row.kind:
        return f"metric {row.metric!r} is no time to first token, time per token, \
latency or throughput"
    if row.published is None:
        return "the row gives no figure"
    if row.isl is None and row.osl is None:
        return "neither prompt nor answer lengths are given"
    return ""


def _record(found: MappedInference, figure: Figure | None, reason: str) -> Record:
    row = found.row
    cells = {} if figure is None else figure.cells()
    measured = row.published
    return record(
        **{
            "file": row.file, "row": row.row, "source": row.source,
            "op": "infer", "model": row.model, "device": row.device,
            "devices": row.num_devices, "dtype": row.dtype,
            "stack": found.stack or "", "system": found.system or "",
            "mapping": ", ".join(found.maps), "metric": row.kind,
            "unit": UNITS.get(row.kind, ""), "measured": measured,
            "assumed": "; ".join(found.assumed), "confidence": row.confidence,
            "reason": reason,
        }
        | cells
    )  # fmt: skip
