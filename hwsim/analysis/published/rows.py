"""A row of published training runs: the run behind it, and its prediction."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.published.flop import (
    FIGURE_UNITS,
    figure_scale,
    measured_figure,
)
from hwsim.analysis.training.config import TrainConfig
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError, InputError, UnknownNameError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.catalogs import load_device, load_stack, load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.given_names import given_system
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.model import run_model
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import MappedRun
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

# What sources call the dtype of the matrix work.
DTYPE_WORDS = {
    "amp_fp16": "fp16", "float16": "fp16", "half": "fp16", "amp_bf16": "bf16",
    "amp": "fp16", "bfloat16": "bf16", "float32": "fp32", "fp8-cs": "fp8",
    "fp8-ds": "fp8", "fp8-sc": "fp8", "fp8-mx": "fp8", "fp8_full": "fp8",
    "mxfp8": "fp8", "fp8_e4m3": "fp8", "amp_fp8": "fp8", "nvfp4": "fp4",
    "mxfp4": "fp4", "float8": "fp8", "e4m3": "fp8", "16": "fp16", "32": "fp32",
}  # fmt: skip
_DEFAULT_DTYPES = ("bf16", "fp16", "fp32")
_OPTIONS = frozenset(field.name for field in dataclasses.fields(TrainConfig))
_PARALLEL = {
    "pp": "pipeline parallelism", "vpp": "interleaved pipeline stages",
    "cp": "context parallelism", "ep": "expert parallelism",
}  # fmt: skip
_RECOMPUTE = ("none", "selective", "full")
ANY_FAMILY = "decoder"  # of models that no name tells apart
ROUNDED = 0.5  # most that a batch is changed to suit the ranks, of itself
MICRO_BATCHES = tuple(2**i for i in range(7))


@dataclass(frozen=True)
class RunPrediction:
    """The prediction of one row.

    Attributes
    ----------
    value, lower, upper : float or None
        In the row's metric, SI; the bounds of the 90 % interval.
    step_s, published_step_s : float or None
        Predicted time of a step, and the one that the figure says. [s]
    result : TrainResult or None
        The run behind it.
    assumed : tuple of str
        What the row left open, as ``name = value``.
    reason : str
        Why there is no prediction; empty where there is one.
    """

    mapped: MappedRun
    measured: float | None = None
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    step_s: float | None = None
    published_step_s: float | None = None
    result: TrainResult | None = None
    assumed: tuple[str, ...] = ()
    reason: str = ""

    @property
    def metric(self) -> str:
        """What is compared."""
        return FIGURE_UNITS.get(self.mapped.run.figure, ("", ""))[0]

    @property
    def unit(self) -> str:
        """SI unit of what is compared."""
        return FIGURE_UNITS.get(self.mapped.run.figure, ("", ""))[1]


class RunPredictor:
    """Predicts rows; equal runs are run once.

    Parameters
    ----------
    fidelity : str
        What operator costs rest on.
    """

    def __init__(self, fidelity: Fidelity = "auto") -> None:
        self.fidelity: Fidelity = fidelity
        self._done: dict[tuple[Any, ...], TrainResult] = {}

    def predict(self, mapped: MappedRun) -> RunPrediction:
        """Return the prediction of a row, or why there is none."""
        run = mapped.run
        reason = mapped.unanswered or run.fault
        if not reason and not run.figure:
            reason = "the row gives neither a step time nor a rate or utilisation"
        if reason:
            return RunPrediction(mapped, measured=measured_figure(run), reason=reason)
        try:
            return self._answer(mapped)
        except HwsimError as error:
            return RunPrediction(
                mapped, measured=measured_figure(run), reason=str(error)
            )

    def _answer(self, mapped: MappedRun) -> RunPrediction:
        run, notes = completed(mapped.run)
        if mapped.one_pass:
            micro = max((run.global_batch or 1) // (run.dp or 1), 1)
            if micro != run.micro_batch:
                notes = (*notes, f"micro_batch = {micro}")
            run = dataclasses.replace(run, micro_batch=micro)
        model = run_model(dataclasses.replace(mapped, run=run))
        if model.family == ANY_FAMILY:
            notes = (*notes, "architecture = usual decoder")
        system = run_system(mapped, run)
        stack = load_stack(mapped.stack or "default-training")
        run, more = _with_dtype(run, system.device)
        asked = run
        if mapped.mean_seq is not None:
            asked = dataclasses.replace(run, seq_len=mapped.mean_seq)
            notes = (*notes, f"computed sequence = {mapped.mean_seq}")
        result = self._sharded(mapped, model, system, stack, asked)
        chosen = _chosen(run, result)
        measured, scale = measured_figure(run), figure_scale(mapped, run, model, result)
        rate = run.figure != "iter_time_s"
        if measured is None:
            raise InputError("the row gives no figure to compare")
        step_s = result.step_s
        low, high = step_interval(result)
        return RunPrediction(
            mapped,
            measured=measured,
            value=scale / step_s if rate else step_s,
            lower=_shift(scale / high if rate and high else low),
            upper=_shift(scale / low if rate and low else high),
            step_s=step_s,
            published_step_s=scale / measured if rate else measured,
            result=result,
            assumed=(*mapped.assumed, *notes, *more, *chosen),
        )

    def _sharded(
        self,
        mapped: MappedRun,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        run: PublishedRun,
    ) -> TrainResult:
        """Return the run, its states shared out where it would not fit otherwise."""
        stages = [run.zero_stage or 0]
        if run.zero_stage is None and (run.dp or 1) > 1:
            stages = [0, 1, 3]
        for stage in stages:
            result = self._fastest(
                model, system, stack, dataclasses.replace(run, zero_stage=stage),
                choose_vpp=mapped.choose_vpp,
            )  # fmt: skip
            if result.fits:
                break
        return result

    def _fastest(
        self,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        run: PublishedRun,
        *,
        choose_vpp: bool,
    ) -> TrainResult:
        """Return the run; of what is left open, the fastest that fits."""
        best: TrainResult | None = None
        fault: HwsimError | None = None
        for options in _open_choices(run, model, choose_vpp=choose_vpp):
            try:
                result = self._run(model, system, stack, run_options(run, options))
            except HwsimError as error:
                fault = fault or error
                continue
            if best is None or _rank(result) < _rank(best):
                best = result
        if best is None:
            raise fault or InputError("no micro-batch divides the global batch")
        return best

    def _run(
        self,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        options: Mapping[str, Any],
    ) -> TrainResult:
        key = (model, system.id, stack.id, *sorted(options.items()))
        if key not in self._done:
            self._done[key] = run_training(
                model, system, stack, fidelity=self.fidelity, engine="closed_form",
                **options,
            )  # fmt: skip
        return self._done[key]


def _rank(result: TrainResult) -> tuple[bool, float]:
    """Order of runs: what fits first, then by time; else by memory."""
    fits = result.fits
    return not fits, result.step_s if fits else result.memory.needed


def _shift(value: float | None) -> float | None:
    return value or None


def completed(run: PublishedRun) -> tuple[PublishedRun, tuple[str, ...]]:
    """Return a row with its degrees and batch filled, and what was filled.

    Where the degrees do not multiply to the devices, the devices are kept and
    ``dp`` (else ``pp``) is changed to fit.

    Raises
    ------
    InputError
        If no whole degree fits, or there is no batch or sequence length.
    """
    devices = run.num_devices or 1
    degrees = {n: getattr(run, n) or 1 for n in ("tp", "pp", "cp")}
    inner = degrees["tp"] * degrees["pp"] * degrees["cp"]
    notes: list[str] = []
    dp = run.dp
    if dp is None or inner * dp != devices:
        dp, degrees["pp"] = _fitted(run, devices, degrees)
        for name, value in (("dp", dp), ("pp", degrees["pp"])):
            if value != (getattr(run, name) or 1):
                notes.append(f"{name} = {value}")
    vpp = run.vpp if degrees["pp"] > 1 else None
    if run.vpp not in (None, 1, vpp):
        notes.append("vpp = 1")
    batch = run.global_batch
    if batch is None and run.micro_batch is not None:
        batch = run.micro_batch * dp
        notes.append(f"global_batch = {batch}")
    if batch is None or run.seq_len is None:
        what = "seq_len" if run.seq_len is None else "global_batch"
        raise InputError(f"{what} is not given")
    unit = dp * (run.micro_batch or 1)
    near = max(round(batch / unit), 1) * unit
    if batch % unit and abs(near - batch) <= ROUNDED * batch:
        # A published batch is often a round number of tokens.
        batch = near
        notes.append(f"global_batch = {batch}")
    etp = run.etp
    inner = dp * degrees["cp"]
    if etp is None and inner % (run.ep or 1):
        # Too many expert ranks for data parallelism alone: tensor ranks share too.
        etp = 1
        notes.append("etp = 1")
    return dataclasses.replace(
        run, tp=degrees["tp"], pp=degrees["pp"], cp=degrees["cp"], dp=dp,
        global_batch=batch, etp=etp, vpp=vpp,
    ), tuple(notes)  # fmt: skip


def _fitted(
    run: PublishedRun, devices: int, degrees: Mapping[str, int]
) -> tuple[int, int]:
    tp, pp, cp = degrees["tp"], degrees["pp"], degrees["cp"]
    if devices % (tp * pp * cp) == 0:
        return devices // (tp * pp * cp), pp
    dp = run.dp or 1
    if devices % (tp * cp * dp) == 0:
        return dp, devices // (tp * cp * dp)
    raise InputError(
        f"tp x pp x cp = {tp} x {pp} x {cp} does not divide {devices} devices"
    )


def run_system(mapped: MappedRun, run: PublishedRun) -> SystemSpec:
    """Return the cluster of a row, grown where the run is larger."""
    devices = run.num_devices or 1
    name = mapped.system
    if name is None:
        try:
            return given_system(load_device(run.device_id), devices)
        except UnknownNameError:
            raise InputError(f"device {run.device!r} is not in the catalog") from None
    system = load_system(name)
    if devices > system.num_devices:
        per_node = system.devices_per_node
        system = system.with_nodes(-(-devices // per_node))
    return system


def _with_dtype(
    run: PublishedRun, device: DeviceSpec
) -> tuple[PublishedRun, tuple[str, ...]]:
    word = run.dtype.casefold()
    if word:
        return dataclasses.replace(run, dtype=_matrix_dtype(word)), ()
    dtype = next((d for d in _DEFAULT_DTYPES if d in device.compute.matrix), "fp32")
    return dataclasses.replace(run, dtype=dtype), (f"dtype = {dtype}",)


def _matrix_dtype(cell: str) -> str:
    """Return the narrowest dtype that a cell names: matrices are multiplied in it."""
    words = [cell, *re.findall(r"[a-z0-9]+", cell)]
    known = [d for w in words if (d := DTYPE_WORDS.get(w, w)) in DTYPE_BYTES]
    return min(known, key=DTYPE_BYTES.__getitem__, default=cell)


def run_options(run: PublishedRun, open_: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a training run.

    Raises
    ------
    InputError
        If the row needs what training does not offer.
    """
    options: dict[str, Any] = {
        "devices": run.num_devices, "tp": run.tp or 1, "dp": run.dp,
        "global_batch": run.global_batch, "seq": run.seq_len, "dtype": run.dtype,
        "optimizer": run.optimizer or "adamw", "zero_stage": run.zero_stage or 0,
        "sequence_parallel": bool(run.sequence_parallel),
    } | dict(open_)  # fmt: skip
    degrees = {n: options.pop(n, None) or getattr(run, n) or 1 for n in _PARALLEL}
    lacking = [n for n, d in degrees.items() if d > 1 and n not in _OPTIONS]
    if lacking:
        raise InputError(f"needs {_PARALLEL[lacking[0]]}")
    more = (
        "offload_optimizer", "etp", "dp_shard", "recompute_every", "lora_rank",
        "lora_targets",
    )  # fmt: skip
    options |= {name: value for name in more if (value := getattr(run, name))}
    return options | {n: d for n, d in degrees.items() if n in _OPTIONS}


def _open_choices(
    run: PublishedRun, model: ModelSpec, *, choose_vpp: bool
) -> Iterator[dict[str, Any]]:
    """Yield every combination of what the row leaves open."""
    per_rank = (run.global_batch or 1) // (run.dp or 1)
    micro: Iterable[int] = [run.micro_batch or 1]
    if run.micro_batch is None:
        micro = [m for m in MICRO_BATCHES if per_rank % m == 0] or [1]
    stages: Iterable[int] = [run.vpp or 1]
    pp = run.pp or 1
    if choose_vpp and run.vpp is None and pp > 1 and "vpp" in _OPTIONS:
        each = model.layers // pp
        stages = [v for v in range(1, each + 1) if each % v == 0]
    for recompute, m, v in itertools.product(_recompute(run), micro, stages):
        yield {"recompute": recompute, "micro_batch": m, "vpp": v}


def _recompute(run: PublishedRun) -> Iterable[str]:
    word = run.recompute.casefold()
    if not word:
        return _RECOMPUTE
    for known in reversed(_RECOMPUTE):
        if word.startswith(known):
            return (known,)
    if word in {"no", "false", "off", "0"}:
        return ("none",)
    if re.search(r"yes|true|\bon\b|checkpoint|recompute|block|uniform|all", word):
        return ("full",)
    raise InputError(f"recompute {run.recompute!r} is not known")


def _chosen(run: PublishedRun, result: TrainResult) -> tuple[str, ...]:
    """Return what was chosen where the row is blank."""
    names = [
        "micro_batch",
        "recompute",
        "zero_stage",
        *(("vpp",) if (run.pp or 1) > 1 else ()),
    ]
    found = ((n, getattr(result.config, n, None)) for n in names)
    return tuple(
        f"{n} = {value}"
        for n, value in found
        if value is not None and getattr(run, n) in (None, "")
    )


def step_interval(result: TrainResult) -> tuple[float | None, float | None]:
    """Return the 90 % interval of the step's time, where there is one. [s]"""
    found = getattr(result, "interval_90", None)
    return tuple(found["step_s"]) if found else (None, None)
