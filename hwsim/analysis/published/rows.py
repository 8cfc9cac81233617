"""A row of published training runs: the run behind it, and its prediction."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwsim.analysis.published.cluster import network_notes, run_system
from hwsim.analysis.published.filled import (
    completed,
    layouts,
    open_choices,
    run_options,
    with_dtype,
    with_targets,
)
from hwsim.analysis.published.flop import (
    FIGURE_UNITS,
    figure_scale,
    measured_figure,
)
from hwsim.analysis.training.config import recompute_extent
from hwsim.analysis.training.knowledge import Told
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import HwsimError, InputError
from hwsim.specs.catalogs import load_stack
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.model import run_model
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import MappedRun
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

ANY_FAMILY = "decoder"  # of models that no name tells apart
# Settings whose choice makes a prediction less sure.
_OPEN = (
    "micro_batch", "vpp", "recompute", "global_batch", "seq_len", "tp", "pp", "cp",
)  # fmt: skip
LAYOUTS = 4  # that fit and are compared, where a row leaves the degrees open


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

    def run(self, mapped: MappedRun) -> TrainResult:
        """Return the run of a row, whatever figure it gives.

        Raises
        ------
        HwsimError
            If it cannot be predicted.
        """
        if mapped.unanswered or mapped.run.fault:
            raise InputError(mapped.unanswered or mapped.run.fault)
        return self._laid_out(mapped, *self._setting(mapped))[0]

    def _answer(self, mapped: MappedRun) -> RunPrediction:
        model, system, stack = self._setting(mapped)
        result, run, notes = self._laid_out(mapped, model, system, stack)
        chosen = _chosen(run, result)
        measured, scale = measured_figure(run), figure_scale(mapped, run, model, result)
        rate = run.figure != "iter_time_s"
        if measured is None:
            raise InputError("the row gives no figure to compare")
        told = Told(mapped.stated, left_open((*notes, *chosen)))
        result = dataclasses.replace(result, told=told)
        step_s = result.step_s
        low, high = step_interval(result)
        return RunPrediction(
            mapped,
            measured=measured,
            value=scale / step_s if rate else step_s,
            lower=scale / high if rate and high else low,
            upper=scale / low if rate and low else high,
            step_s=step_s,
            published_step_s=scale / measured if rate else measured,
            result=result,
            assumed=(*mapped.assumed, *network_notes(system), *notes, *chosen),
        )

    def _setting(self, mapped: MappedRun) -> tuple[ModelSpec, SystemSpec, StackSpec]:
        """Return what a row ran, on what, with what."""
        run = mapped.run
        model, system = run_model(mapped), run_system(mapped, run)
        stack = load_stack(mapped.stack or "default-training")
        return model, system, attending(stack, run)

    def _laid_out(
        self,
        mapped: MappedRun,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
    ) -> tuple[TrainResult, PublishedRun, tuple[str, ...]]:
        """Return a run in a layout that fits, its row, and what was filled.

        The row as it stands if that fits; else, of what it leaves open, the fastest
        of the layouts with the fewest ranks of a model.
        """
        found: list[tuple[TrainResult, PublishedRun, tuple[str, ...]]] = []
        fault: HwsimError | None = None
        tries = layouts(mapped.run, system.devices_per_node, model.layers)
        for number, asked in enumerate(tries):
            try:
                run, notes = self._filled(mapped, asked, model, system)
                if number and not self._could_fit(model, system, stack, run):
                    continue
                result = self._sharded(mapped, model, system, stack, run)
            except HwsimError as error:
                fault = fault or error
                continue
            tp = (f"tp = {run.tp}",) if run.tp != (mapped.run.tp or 1) else ()
            found.append((result, run, (*tp, *notes)))
            fitting = sum(kept[0].fits for kept in found)
            if fitting == LAYOUTS or (result.fits and not number):
                break
        if not found:
            raise fault or InputError("no layout fits the devices")
        return min(found, key=lambda kept: _pace(kept[0], kept[1]))

    def _filled(
        self,
        mapped: MappedRun,
        run: PublishedRun,
        model: ModelSpec,
        system: SystemSpec,
    ) -> tuple[PublishedRun, tuple[str, ...]]:
        """Return a row with batch, dtype and lengths filled, and what was filled."""
        run, notes = completed(run, model.max_context)
        if mapped.one_pass:
            micro = max((run.global_batch or 1) // (run.dp or 1), 1)
            if micro != run.micro_batch:
                notes = (*notes, f"micro_batch = {micro}")
            run = dataclasses.replace(run, micro_batch=micro)
        if model.family == ANY_FAMILY:
            notes = (*notes, "architecture = usual decoder" + of_size(run, model))
        if mapped.mean_seq is not None:
            notes = (*notes, f"computed sequence = {mapped.mean_seq}")
        run, more = with_dtype(run, system.device)
        run, targets = with_targets(run, model)
        return run, (*notes, *more, *targets)

    def _could_fit(
        self,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        run: PublishedRun,
    ) -> bool:
        """Whether a row fits at its smallest: all states shared, all recomputed."""
        sharded = 3 if run.zero_stage is None and (run.dp or 1) > 1 else run.zero_stage
        least = dataclasses.replace(run, zero_stage=sharded)
        choices = list(open_choices(least, model, choose_vpp=False))
        options = max(choices, key=lambda o: (recompute_extent(o["recompute"]),
                                              -o["micro_batch"]))  # fmt: skip
        return self._run(model, system, stack, run_options(least, options)).fits

    def _sharded(
        self,
        mapped: MappedRun,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        run: PublishedRun,
    ) -> TrainResult:
        """Return the run, its states shared out where it would not fit otherwise.

        Where the source leaves the schedule to us and ranks split the model,
        optimizer states are shared out. What still does not fit has its sequences
        divided among tensor-parallel ranks, if they divide.
        """
        if mapped.mean_seq is not None:
            run = dataclasses.replace(run, seq_len=mapped.mean_seq)
        stages = [run.zero_stage or 0]
        if run.zero_stage is None and (run.dp or 1) > 1:
            split = (run.tp or 1) * (run.pp or 1) > 1
            stages = [1, 3] if mapped.choose_vpp and split else [0, 1, 3]
        divided, tp = [bool(run.sequence_parallel)], run.tp or 1
        if run.sequence_parallel is None and tp > 1 and not (run.seq_len or 0) % tp:
            divided.append(True)
        for sequences, stage in itertools.product(divided, stages):
            tried = dataclasses.replace(
                run, zero_stage=stage, sequence_parallel=sequences
            )
            result = self._fastest(
                model, system, stack, tried, choose_vpp=mapped.choose_vpp
            )
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
        found: list[tuple[tuple[Any, Any], TrainResult]] = []
        fault: HwsimError | None = None
        # Larger micro-batches need more memory, more recomputing more time.
        full: set[tuple[Any, Any]] = set()
        done: set[tuple[Any, Any]] = set()
        for options in open_choices(run, model, choose_vpp=choose_vpp):
            recompute, micro, vpp = (
                options[n] for n in ("recompute", "micro_batch", "vpp")
            )
            if (recompute, vpp) in full or (micro, vpp) in done:
                continue
            try:
                result = self._run(model, system, stack, run_options(run, options))
            except HwsimError as error:
                fault = fault or error
                continue
            if result.fits:
                done.add((micro, vpp))
            else:
                full.add((recompute, vpp))
            found.append(((recompute, micro), result))
        if not found:
            raise fault or InputError("no micro-batch divides the global batch")
        return _best(found)

    def _run(
        self,
        model: ModelSpec,
        system: SystemSpec,
        stack: StackSpec,
        options: Mapping[str, Any],
    ) -> TrainResult:
        if options["cp"] > 1 and stack.fusion.attention == "unfused":
            # Blocks of keys that come round need partial softmaxes.
            options = {"cp_mode": "all_to_all", **options}
        key = (model, system.id, stack, *sorted(options.items()))
        if key not in self._done:
            self._done[key] = run_training(
                model, system, stack, fidelity=self.fidelity, engine="closed_form",
                **options,
            )  # fmt: skip
        return self._done[key]


def _best(found: Sequence[tuple[Hashable, TrainResult]]) -> TrainResult:
    """Return the fastest run that fits; if none does, of those nearest to it.

    These recompute and batch as the smallest does: interleaving costs little memory.
    """
    fitting = [result for _, result in found if result.fits]
    if not fitting:
        smallest = min(found, key=lambda one: one[1].memory.needed)[0]
        fitting = [result for choice, result in found if choice == smallest]
    return min(fitting, key=lambda result: result.step_s)


def _pace(result: TrainResult, run: PublishedRun) -> tuple[bool, float]:
    """Order of layouts: what fits first, then by time per sequence."""
    return not result.fits, result.step_s / (run.global_batch or 1)


def of_size(run: PublishedRun, model: ModelSpec) -> str:
    """Return what a model's shape was taken from where no column gives it."""
    if run.layers is not None:
        return ""
    return f" with {model.num_parameters / 1e9:.2g} billion parameters"


def attending(stack: StackSpec, run: PublishedRun) -> StackSpec:
    """Return a stack with the attention that a row says it had."""
    word = run.flash_attention.casefold()
    words = {"yes": "fused", "tru": "fused", "no": "unfused", "fal": "unfused"}
    wanted = words.get(word[:3], stack.fusion.attention)
    if wanted == stack.fusion.attention:
        return stack
    fusion = stack.fusion.model_copy(update={"attention": wanted})
    return stack.model_copy(update={"fusion": fusion})


def _chosen(run: PublishedRun, result: TrainResult) -> tuple[str, ...]:
    """Return what was chosen where the row is blank."""
    names = [
        "micro_batch",
        "recompute",
        "zero_stage",
        *(("sequence_parallel",) if result.config.sequence_parallel else ()),
        *(("vpp",) if (run.pp or 1) > 1 else ()),
    ]
    return tuple(
        f"{name} = {getattr(result.config, name)}"
        for name in names
        if getattr(run, name) in (None, "")
    )


def left_open(assumed: Sequence[str]) -> tuple[str, ...]:
    """Return the settings, of those in words, whose choice counts."""
    names = dict.fromkeys(text.partition(" = ")[0] for text in assumed)
    return tuple(name for name in names if name in _OPEN)


def step_interval(result: TrainResult) -> tuple[float | None, float | None]:
    """Return the 90 % interval of the step's time, where there is one. [s]"""
    found = result.interval_90
    return found["step_s"] if found else (None, None)
