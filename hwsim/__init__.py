"""hwsim: how long, how much memory, and what limits a Transformer on hardware.

Users import from here only. Names are loaded when first used, so that
``import hwsim`` and ``hwsim --version`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hwsim.version import __version__

if TYPE_CHECKING:
    from hwsim.analysis.comparing.compare import Comparison
    from hwsim.analysis.comparing.study import (
        Study,
        StudyBars,
        StudyLines,
        StudySection,
        StudyTable,
    )
    from hwsim.analysis.fitting.calibrate import calibrate
    from hwsim.analysis.graph_result import GraphResult
    from hwsim.analysis.inference import InferResult
    from hwsim.analysis.mixing.mixed import MixedResult
    from hwsim.analysis.mixing.train_result import MixedTrainResult
    from hwsim.analysis.operator import OpResult
    from hwsim.analysis.plan_serve.answer import ServePlan
    from hwsim.analysis.plan_train.plan import TrainPlan
    from hwsim.analysis.serving.serve import ServeResult
    from hwsim.analysis.training.train import TrainResult
    from hwsim.analysis.training.whole_run import TrainingRun
    from hwsim.analysis.validation.validate import validate
    from hwsim.analysis.varying.sensitivity import SensitivityResult
    from hwsim.analysis.varying.solve import Solved
    from hwsim.analysis.varying.sweep import WhatIf
    from hwsim.api.ask import estimate, infer, op, run_scenario, simulate, train
    from hwsim.api.catalog import (
        device_ids,
        engine_ids,
        load_device,
        load_engine,
        load_model,
        load_stack,
        load_system,
        model_ids,
        stack_ids,
        system_ids,
    )
    from hwsim.api.compare import compare
    from hwsim.api.live import live_check
    from hwsim.api.live_gpu import live_check_gpu
    from hwsim.api.mixed import mixed
    from hwsim.api.plan import plan_train
    from hwsim.api.plan_serve import plan_serve
    from hwsim.api.present import roofline, write_report, write_reports
    from hwsim.api.progress import progress_bar
    from hwsim.api.saved import (
        SavedResult,
        join_results,
        load_result,
        results_frame,
        save_result,
    )
    from hwsim.api.serving import serve
    from hwsim.api.train_mixed import train_mixed
    from hwsim.api.truth import compare_published
    from hwsim.api.whatif import question, sensitivity, solve_for, whatif
    from hwsim.api.whole_run import training_run
    from hwsim.errors import (
        GraphError,
        HwsimError,
        InputError,
        OutputError,
        SpecError,
        UnknownNameError,
    )
    from hwsim.measure.cpu import measure_cpu
    from hwsim.specs.device import DeviceSpec
    from hwsim.specs.engine import EngineSpec
    from hwsim.specs.model import ModelSpec
    from hwsim.specs.stack import StackSpec
    from hwsim.specs.system import SystemSpec

_HOMES = {
    "hwsim.analysis.serving.serve": ("ServeResult",),
    "hwsim.analysis.comparing.compare": ("Comparison",),
    "hwsim.analysis.mixing.mixed": ("MixedResult",),
    "hwsim.analysis.mixing.train_result": ("MixedTrainResult",),
    "hwsim.api.mixed": ("mixed",),
    "hwsim.api.train_mixed": ("train_mixed",),
    "hwsim.api.compare": ("compare",),
    "hwsim.api.live": ("live_check",),
    "hwsim.api.live_gpu": ("live_check_gpu",),
    "hwsim.api.saved": (
        "SavedResult",
        "join_results",
        "load_result",
        "results_frame",
        "save_result",
    ),
    "hwsim.api.serving": ("serve",),
    "hwsim.api.plan": ("plan_train",),
    "hwsim.api.plan_serve": ("plan_serve",),
    "hwsim.api.progress": ("progress_bar",),
    "hwsim.api.catalog": (
        "device_ids",
        "engine_ids",
        "load_device",
        "load_engine",
        "load_model",
        "load_stack",
        "load_system",
        "model_ids",
        "stack_ids",
        "system_ids",
    ),
    "hwsim.api.ask": (
        "estimate",
        "infer",
        "op",
        "run_scenario",
        "simulate",
        "train",
    ),
    "hwsim.analysis.varying.sensitivity": ("SensitivityResult",),
    "hwsim.analysis.varying.solve": ("Solved",),
    "hwsim.analysis.varying.sweep": ("WhatIf",),
    "hwsim.api.whatif": ("question", "sensitivity", "solve_for", "whatif"),
    "hwsim.api.whole_run": ("training_run",),
    "hwsim.api.truth": ("compare_published",),
    "hwsim.api.present": (
        "roofline",
        "write_report",
        "write_reports",
    ),
    "hwsim.analysis.validation.validate": ("validate",),
    "hwsim.analysis.fitting.calibrate": ("calibrate",),
    "hwsim.measure.cpu": ("measure_cpu",),
    "hwsim.errors": (
        "GraphError",
        "HwsimError",
        "InputError",
        "OutputError",
        "SpecError",
        "UnknownNameError",
    ),
    "hwsim.analysis.graph_result": ("GraphResult",),
    "hwsim.analysis.inference": ("InferResult",),
    "hwsim.analysis.operator": ("OpResult",),
    "hwsim.analysis.plan_serve.answer": ("ServePlan",),
    "hwsim.analysis.plan_train.planner": ("TrainPlan",),
    "hwsim.analysis.comparing.study": (
        "Study",
        "StudyBars",
        "StudyLines",
        "StudySection",
        "StudyTable",
    ),
    "hwsim.analysis.training.train": ("TrainResult",),
    "hwsim.analysis.training.whole_run": ("TrainingRun",),
    "hwsim.specs.device": ("DeviceSpec",),
    "hwsim.specs.engine": ("EngineSpec",),
    "hwsim.specs.model": ("ModelSpec",),
    "hwsim.specs.stack": ("StackSpec",),
    "hwsim.specs.system": ("SystemSpec",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Comparison",
    "DeviceSpec",
    "EngineSpec",
    "GraphError",
    "GraphResult",
    "HwsimError",
    "InferResult",
    "InputError",
    "MixedResult",
    "MixedTrainResult",
    "ModelSpec",
    "OpResult",
    "OutputError",
    "SavedResult",
    "SensitivityResult",
    "ServePlan",
    "ServeResult",
    "Solved",
    "SpecError",
    "StackSpec",
    "Study",
    "StudyBars",
    "StudyLines",
    "StudySection",
    "StudyTable",
    "SystemSpec",
    "TrainPlan",
    "TrainResult",
    "TrainingRun",
    "UnknownNameError",
    "WhatIf",
    "__version__",
    "calibrate",
    "compare",
    "compare_published",
    "device_ids",
    "engine_ids",
    "estimate",
    "infer",
    "join_results",
    "live_check",
    "live_check_gpu",
    "load_device",
    "load_engine",
    "load_model",
    "load_result",
    "load_stack",
    "load_system",
    "measure_cpu",
    "mixed",
    "model_ids",
    "op",
    "plan_serve",
    "plan_train",
    "progress_bar",
    "question",
    "results_frame",
    "roofline",
    "run_scenario",
    "save_result",
    "sensitivity",
    "serve",
    "simulate",
    "solve_for",
    "stack_ids",
    "system_ids",
    "train",
    "train_mixed",
    "training_run",
    "validate",
    "whatif",
    "write_report",
    "write_reports",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'hwsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
