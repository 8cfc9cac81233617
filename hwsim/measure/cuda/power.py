"""Power, energy and clocks of one GPU: by NVML, else by nvidia-smi."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import threading
import time
from typing import Any

FIELDS = (
    "name", "uuid", "driver_version", "power.limit", "clocks.sm", "clocks.mem",
    "clocks.max.sm", "power.draw", "temperature.gpu", "pcie.link.gen.current",
    "pcie.link.width.current", "persistence_mode", "mig.mode.current",
)  # fmt: skip
INTERVAL = 0.05


class Sensors:
    """Reads one GPU; every reading is None where nothing can tell.

    Parameters
    ----------
    uuid : str
        Of the GPU, so that CUDA_VISIBLE_DEVICES cannot mislead.
    index : int
        Used where the uuid is not known.
    """

    def __init__(self, uuid: str = "", index: int = 0) -> None:
        self.uuid, self.index = uuid, index
        self._nvml: Any = None
        self._handle: Any = None
        with contextlib.suppress(Exception):  # any fault means: no NVML here
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._handle = (
                nvml.nvmlDeviceGetHandleByUUID(uuid)
                if uuid
                else nvml.nvmlDeviceGetHandleByIndex(index)
            )
            self._nvml = nvml
        self.how = "nvml" if self._nvml else "nvidia-smi" if _smi_path() else "none"

    def energy(self) -> float | None:
        """Return the energy counter; None where there is none. [J]"""
        return _scaled(self._call("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def power(self) -> float | None:
        """Return the power now. [W]"""
        if self._nvml:
            return _scaled(self._call("nvmlDeviceGetPowerUsage"), 1e-3)
        return _number(self._smi("power.draw").get("power.draw"))

    def clock(self) -> float | None:
        """Return the clock of the multiprocessors now. [MHz]"""
        if self._nvml:
            kind = getattr(self._nvml, "NVML_CLOCK_SM", 1)
            return _scaled(self._call("nvmlDeviceGetClockInfo", kind), 1.0)
        return _number(self._smi("clocks.sm").get("clocks.sm"))

    def facts(self) -> dict[str, str]:
        """Return what nvidia-smi says about the GPU, for the provenance."""
        known = self._smi(*FIELDS)
        if known or _smi_path() is None:
            return known
        for name in FIELDS:  # an old driver refuses a list with a name it has not
            known.update(self._smi(name))
        return known

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._nvml is None:
            return None
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except Exception:  # noqa: BLE001 -- NVML errors have no common importable base
            return None

    def _smi(self, *names: str) -> dict[str, str]:
        path = _smi_path()
        if path is None:
            return {}
        which = self.uuid or str(self.index)
        command = [path, f"--query-gpu={','.join(names)}",
                   "--format=csv,noheader,nounits", f"--id={which}"]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 -- a fixed program, no shell
                command, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return {}
        lines = done.stdout.strip().splitlines()
        values = [v.strip() for v in lines[0].split(",")] if lines else []
        return dict(zip(names, values)) if len(values) == len(names) else {}  # noqa: B905


class Watch:
    """Samples power and clock in the background while its block runs.

    Attributes
    ----------
    powers, clocks : list of float
        Readings. [W], [MHz]
    joules : float or None
        Energy of the block: by the counter, else mean power times time. [J]
    elapsed : float
        Time that the block took. [s]
    """

    def __init__(self, sensors: Sensors) -> None:
        self.sensors = sensors
        self.powers: list[float] = []
        self.clocks: list[float] = []
        self.joules: float | None = None
        self.elapsed = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._before, self._start = self.sensors.energy(), time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        elapsed = self.elapsed = time.perf_counter() - self._start
        after = self.sensors.energy()
        self._stop.set()
        self._thread.join()
        if self._before is not None and after is not None and after > self._before:
            self.joules = after - self._before
        elif self.powers:
            self.joules = sum(self.powers) / len(self.powers) * elapsed

    def _sample(self) -> None:
        stopped = False
        while not stopped:  # a busy host may leave time for one sample only
            power, clock = self.sensors.power(), self.sensors.clock()
            if power is not None:
                self.powers.append(power)
            if clock is not None:
                self.clocks.append(clock)
            stopped = self._stop.wait(INTERVAL)


def _smi_path() -> str | None:
    return shutil.which("nvidia-smi")


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:  # "[N/A]"
        return None
