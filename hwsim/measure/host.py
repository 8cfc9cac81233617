"""What the host says about its processor, libraries and clocks."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MEMINFO = Path("/proc/meminfo")
DEFAULT_CACHE = 32 << 20


def cpu_fields(text: str) -> dict[str, str]:
    """Return the first processor's fields of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            break  # the first processor ends with an empty line
        fields[name.strip()] = value.strip()
    return fields


def read_cpu() -> dict[str, str]:
    """Return this host's first processor; what Python knows where there is no /proc."""
    with contextlib.suppress(OSError):
        return cpu_fields(CPUINFO.read_text(encoding="utf-8"))
    return {"model name": platform.processor() or platform.machine()}


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_names(fields: dict[str, str], cores: int) -> list[str]:
    """Return names under which a catalog may have a processor, best first.

    Virtual machines often hide the model ("AMD EPYC") and rent a part of a
    socket, so family, model number and core count belong to the name.
    """
    name = fields.get("model name", "unknown-cpu")
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|\d+-Core|@.*", " ", name)
    slug = re.sub(r"[^a-z0-9+]+", "-", name.casefold()).strip("-")
    exact = slug
    if "cpu family" in fields:
        exact += f"-family-{fields['cpu family']}-model-{fields.get('model', '0')}"
    return [f"{exact}-{cores}-cores", f"{slug}-{cores}-cores", exact, slug]


def last_cache_bytes() -> float:
    """Return the size of the last cache. [B]"""
    sizes = []
    for path in sorted(CACHES.glob("index*/size")) if CACHES.is_dir() else []:
        found = re.fullmatch(r"(\d+)([KM])", path.read_text(encoding="utf-8").strip())
        if found:
            sizes.append(int(found[1]) << {"K": 10, "M": 20}[found[2]])
    return float(max(sizes, default=DEFAULT_CACHE))


def clocks() -> list[float]:
    """Return the clocks that the kernel reports now, of each core. [Hz]"""
    with contextlib.suppress(OSError):
        text = CPUINFO.read_text(encoding="utf-8")
        return [float(hit) * 1e6 for hit in re.findall(r"cpu MHz\s*:\s*([\d.]+)", text)]
    return []


def spin_clock() -> float:
    """Return how long a fixed piece of work takes now: a clock nobody masks. [s]

    Virtual machines report a constant frequency; this shows when it is not.
    """
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        total = 0
        for i in range(20_000):
            total += i
        best = min(best, time.perf_counter() - start)
    return best


def has_torch() -> bool:
    """Say whether PyTorch is installed, without loading it."""
    return importlib.util.find_spec("torch") is not None


def blas_facts() -> dict[str, str]:
    """Return NumPy's BLAS, and the kernels it chose for this processor."""
    build: Any = np.show_config(mode="dicts")
    blas = build.get("Build Dependencies", {}).get("blas", {})
    facts = {"name": str(blas.get("name", "")), "version": str(blas.get("version", ""))}
    facts["kernels"] = _openblas("get_corename")
    facts["configuration"] = _openblas("get_config")
    return facts


def _openblas(question: str) -> str:
    """Ask the OpenBLAS that NumPy has loaded; empty where there is none."""
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        for path in sorted(set(re.findall(r"(/\S*openblas\S*)", maps))):
            library = ctypes.CDLL(path)
            for pattern in ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}"):
                function = getattr(library, pattern.format(question), None)
                if function is not None:
                    function.restype = ctypes.c_char_p
                    return (function() or b"").decode(errors="replace")
    return ""


def host_facts(command: str) -> dict[str, Any]:
    """Return the provenance of a run on this host."""
    fields = read_cpu()
    keys = ("vendor_id", "model name", "cpu family", "model", "stepping", "microcode",
            "flags")  # fmt: skip
    return {
        "began": now(),
        "command": command,
        "cpu": {key: fields[key] for key in keys if key in fields},
        "cores": available_cores(),
        "cache_bytes": last_cache_bytes(),
        "memory": _memory_total(),
        "hypervisor": "hypervisor" in fields.get("flags", ""),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def state() -> dict[str, Any]:
    """Return what changes during a run: clocks and load."""
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    return {"clocks_hz": clocks(), "spin_s": spin_clock(), "load": load}


def now() -> str:
    """Return the time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _memory_total() -> str:
    with contextlib.suppress(OSError):
        return MEMINFO.read_text(encoding="utf-8").splitlines()[0].split(":")[1].strip()
    return ""
