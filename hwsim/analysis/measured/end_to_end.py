"""Whole steps and requests of measurement tables, each run as it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from hwsim.analysis.inference import run_inference
from hwsim.analysis.resolve import changed, changed_system
from hwsim.analysis.training.train import run_training
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError, InputError
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.catalogs import load_device, load_model, load_stack, load_system
from hwsim.specs.given_names import given_system
from hwsim.specs.load import spec_error
from hwsim.specs.measurement.table import FamilyRows
from hwsim.specs.model import ModelSpec
from hwsim.specs.override import Override
from hwsim.specs.system import SystemSpec

_STACKS = {"train": "default-training", "infer": "default-inference"}
_LABELS = frozenset({"source", "kernel", "metric", "value", "unit", "time", "measured"})


@dataclass(frozen=True)
class Predicted:
    """The prediction of one end-to-end row, in its metric's SI unit."""

    value: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    bound: str = ""
    device: str = ""
    fidelity: str = ""
    reason: str = ""


Row = Mapping[str, Any]


def end_to_end_rows(
    rows: FamilyRows, fidelity: str | None, changes: Sequence[Override] = ()
) -> Iterator[Predicted]:
    """Yield the prediction of each row; equal runs are run once."""
    done: dict[tuple[Any, ...], Any] = {}
    for index in range(len(rows)):
        row = {name: _plain(values[index]) for name, values in rows.columns.items()}
        key = tuple(row[name] for name in sorted(row) if name not in _LABELS)
        if key not in done:
            done[key] = _run(row, fidelity, changes)
        yield _answer(row, done[key])


def _plain(value: Any) -> Any:
    """Return a cell as text, a whole number, a number, or None where empty."""
    if isinstance(value, str):
        return value
    if np.isnan(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _run(row: Row, fidelity: str | None, changes: Sequence[Override]) -> Any:
    """Return the result of a row's run, or why there is none."""
    try:
        system = changed_system(_system(row), changes)
        used = cast("Fidelity", resolved_fidelity(system.device, fidelity or "auto"))
        run = _train if row["op"] == "train" else _infer
        stack = load_stack(row["stack"] or _usual_stack(row))
        stack = changed(stack, "stack", changes)
        models = [changed(model, "model", changes) for model in _models(row)]
        return (
            [run(row, model, system, stack, used) for model in models],
            system.device.id,
            used,
        )
    except HwsimError as error:
        return str(error)


def _system(row: Row) -> SystemSpec:
    if row["system"]:
        return load_system(row["system"])
    if row["num_devices"] == 1:
        return load_system(row["device"])
    return given_system(load_device(row["device"]), int(row["num_devices"]))


def _usual_stack(row: Row) -> str:
    return "pytorch-eager" if row["launch"] == "eager" else _STACKS[row["op"]]


def _models(row: Row) -> list[ModelSpec]:
    """Return the model, or two whose difference is what was measured.

    A name that ends in ``-layer`` means the model's layers without embedding
    and output: one more layer than that, and one layer.
    """
    name, layers = row["model"], row["layers"]
    if not name.endswith("-layer"):
        model = load_model(name)
        return [model if layers is None else _with_layers(model, layers)]
    model = load_model(name.removesuffix("-layer"))
    return [_with_layers(model, (layers or 1) + 1), _with_layers(model, 1)]


def _with_layers(model: ModelSpec, layers: int) -> ModelSpec:
    if layers == model.layers:
        return model
    fields = {name: getattr(model, name) for name in ModelSpec.model_fields}
    try:
        return ModelSpec.model_validate({**fields, "layers": layers})
    except ValidationError as error:
        raise spec_error(error, f"{model.id} of {layers} layers") from None


def _train(
    row: Row, model: ModelSpec, system: SystemSpec, stack: Any, fidelity: Fidelity
) -> Any:
    _only_one(row, "pp", "cp", "ep")
    dp = row["dp"] or max(row["num_devices"] // row["tp"], 1)
    per_rank = max(_step_batch(row) // dp, 1)
    sizes = [row["micro_batch"]]
    if sizes == [None]:  # the largest power of two that fits
        sizes = [2**i for i in range(10, -1, -1) if per_rank % 2**i == 0]
    for micro_batch in sizes:
        result = run_training(
            model, system, stack, devices=row["num_devices"], tp=row["tp"], dp=dp,
            micro_batch=micro_batch, global_batch=_step_batch(row),
            seq=row["seq_len"], dtype=row["dtype"], recompute=row["recompute"],
            optimizer=row["optimizer"], zero_stage=row["zero_stage"],
            sequence_parallel=bool(row["sequence_parallel"]), fidelity=fidelity,
            engine="closed_form",
        )  # fmt: skip
        if result.fits:
            break
    return result


def _step_batch(row: Row) -> int:
    return int(row["global_batch"] or row["batch"])


def _infer(
    row: Row, model: ModelSpec, system: SystemSpec, stack: Any, fidelity: Fidelity
) -> Any:
    _only_one(row, "pp", "cp", "dp", "ep")
    output = 1 if row["osl"] is None else row["osl"]
    prompt = row["isl"]
    if prompt is None:  # one decode step: the prompt's token and one more
        prompt, output = max(row["context"] - 1, 1), 2
    return run_inference(
        model, system, stack, batch=row["batch"], prompt=prompt, output=output,
        tp=row["tp"], dtype=row["dtype"], weight_dtype=row["weight_dtype"] or None,
        kv_dtype=row["kv_dtype"] or None, fidelity=fidelity, engine="closed_form",
    )  # fmt: skip


def _only_one(row: Row, *names: str) -> None:
    for name in names:
        if (row[name] or 1) > 1:
            raise InputError(f"{name} {row[name]}: end-to-end rows of it are not run")


def _answer(row: Row, done: Any) -> Predicted:
    if isinstance(done, str):
        return Predicted(reason=done)
    results, device, fidelity = done
    metric = row["metric"]
    times = [t for t in (_time(row, result) for result in results) if t is not None]
    if not times:
        return Predicted(device=device, reason=f"{row['op']} runs have no {metric}")
    seconds = times[0] - sum(times[1:])
    value = seconds
    if metric == "throughput":
        value = _amount(row) / seconds
    return Predicted(
        value=value, bound=results[0].bound, device=device, fidelity=fidelity
    )


def _amount(row: Row) -> float:
    """Return the work of a throughput: tokens or sequences, of one device or all."""
    sequences = _step_batch(row) if row["op"] == "train" else row["batch"]
    amount = float(sequences)
    if row["unit"].startswith("tokens"):
        each = row["seq_len"] if row["op"] == "train" else row["osl"] or row["isl"]
        amount *= each or 1
    return amount / row["num_devices"] if row["unit"].endswith("/device") else amount


def _time(row: Row, result: Any) -> float | None:
    """Return the time that a metric is about; None where there is none. [s]"""
    metric = row["metric"]
    if row["op"] == "train":
        return None if metric in {"ttft", "tpot"} else float(result.step_s)
    if metric == "step_time":
        return None
    if metric == "ttft":
        return float(result.ttft_s)
    if metric == "tpot":
        return None if result.tpot_s is None else float(result.tpot_s)
    return float(result.latency_s)
