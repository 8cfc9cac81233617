"""The facade: a changed public name is a decision, not an accident."""

import inspect

import pytest

import hwsim

PUBLIC = [
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


def test_public_names_are_these():
    assert sorted(hwsim.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_load_and_are_documented(name):
    value = getattr(hwsim, name)
    if name != "__version__":
        assert inspect.getdoc(value)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hwsim.nothing  # noqa: B018
