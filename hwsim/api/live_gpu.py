"""The live check on a CUDA GPU: whole models against operators measured there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hwsim.analysis.fitting.calibrate import CalibrateResult, calibrate
from hwsim.analysis.validation.validate import Validation, validate
from hwsim.errors import InputError
from hwsim.measure.cuda.backend import load_torch
from hwsim.resources import USER_PATH
from hwsim.specs.measurement.read import read_measurements

Progress = Callable[[str], None]
BUDGET = 600.0
OPERATORS = 0.6  # of the budget; whole models have the rest
TABLES = ("gemm", "attention", "elementwise", "launch")
MODELS = ("gpt2", "llama-3.2-1b-layer", "bert-large")
LEAST_BUDGET = 60.0


def gpu_present() -> bool:
    """Return whether PyTorch is installed and finds a CUDA GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    return bool(load_torch().cuda.is_available())


def live_check_gpu(
    *,
    budget: float = BUDGET,
    gpu: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Measure small models on a CUDA GPU and predict them from its operators.

    The device is calibrated from operators measured first; steps of the models
    never enter that fit. PyTorch is needed.

    Parameters
    ----------
    budget : float
        Wall time of measuring; the fit comes on top. [s]
    gpu : int
        Number of the GPU.
    folder : path, optional
        Keeps the tables; the same folder again goes on where it stopped.
    progress : callable, optional
        Told what is being done.

    Returns
    -------
    Validation
        Rows and errors of the models.

    Raises
    ------
    InputError
        If the budget is too short, the GPU is not in the catalog, or nothing
        could be measured.
    """
    if not budget >= LEAST_BUDGET:
        raise InputError(
            f"budget {budget:g} s is too short for a GPU; give at least "
            f"{LEAST_BUDGET:g} s"
        )
    tell = progress or _quiet
    with contextlib.ExitStack() as stack:
        place = folder or stack.enter_context(tempfile.TemporaryDirectory())
        operators, models = Path(place) / "operators", Path(place) / "models"
        tell("measuring operators")
        collect(operators, budget * OPERATORS, gpu, "--only", ",".join(TABLES))
        tell("measuring models")
        collect(
            models, budget * (1.0 - OPERATORS), gpu,
            "--only", "end_to_end", "--models", ",".join(MODELS),
        )  # fmt: skip
        tell("fitting the operators")
        fitted = _fitted(operators)
        home = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_calibrated(fitted, Path(home)))
        return validate(_tables(models))


def _quiet(text: str) -> None:
    """Say nothing."""


def collect(out: Path, budget: float, gpu: int, *more: str) -> None:
    """Run the collector in a process of its own, as its faults may be final.

    Raises
    ------
    InputError
        With what it says, where it cannot run.
    """
    command = [
        sys.executable, "-m", "hwsim.measure.cuda", "--out", str(out), "--gpu",
        str(gpu), "--budget", f"{budget:.0f}", *more,
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603 -- our own module
        command, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 2:
        said = done.stderr.strip().splitlines()
        raise InputError(said[-1] if said else "the collector failed")
    if done.returncode == 130:
        raise KeyboardInterrupt


def _tables(folder: Path) -> list[Path]:
    found = [p for p in sorted(folder.glob("*.csv")) if p.name != "skipped.csv"]
    if not found:
        raise InputError(
            f"nothing was measured into {folder.name}; give a longer budget"
        )
    return found


def _fitted(folder: Path) -> CalibrateResult:
    table = read_measurements(_tables(folder), skip_bad=True)
    names = {str(n) for rows in table.families.values() for n in rows["device"]}
    return calibrate(min(names), table, holdout="none")


@contextlib.contextmanager
def _calibrated(result: CalibrateResult, home: Path) -> Iterator[None]:
    """Let a device have these parameters for a while."""
    place = home / "devices" / result.device.kind / result.device.id
    place.mkdir(parents=True)
    (place / "calibration.json").write_text(result.file_text(), encoding="utf-8")
    before = os.environ.get(USER_PATH)
    os.environ[USER_PATH] = os.pathsep.join(filter(None, (str(home), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[USER_PATH]
        else:
            os.environ[USER_PATH] = before
